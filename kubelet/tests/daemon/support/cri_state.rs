//! What the fake runtime holds, and the scripts by which its containers live and end.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_cri::v1 as cri;

/// How containers of one name behave.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Ends by itself after this long with this code.
    pub exits: Option<(Duration, i32)>,
    /// How long it takes to end after its stop signal.
    pub stops_after: Duration,
    /// Creating it fails with this message.
    pub create_error: Option<String>,
}

pub(super) struct Sandbox {
    pub(super) config: cri::PodSandboxConfig,
    pub(super) ready: bool,
    pub(super) created_at: i64,
}

pub(super) struct Container {
    pub(super) sandbox: String,
    pub(super) config: cri::ContainerConfig,
    pub(super) log_path: String,
    pub(super) created_at: i64,
    pub(super) started_at: i64,
    pub(super) finished_at: i64,
    pub(super) exit_code: i32,
}

#[derive(Default)]
pub(super) struct State {
    next_id: u32,
    pub(super) sandboxes: BTreeMap<String, Sandbox>,
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) images: BTreeMap<String, cri::Image>,
    /// Images whose pull fails, with the message.
    pub(super) bad_images: HashMap<String, String>,
    /// By container name.
    pub(super) scripts: HashMap<String, Script>,
    /// Exit code by the first word of the command; others succeed.
    pub(super) exec_codes: HashMap<String, i32>,
    /// What was asked of the runtime, in order: `start web`, `stop web 30`, `exec web true`, ...
    pub(super) calls: Vec<String>,
}

pub(super) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap()
}

impl Container {
    pub(super) fn name(&self) -> String {
        self.config.metadata.clone().unwrap_or_default().name
    }

    pub(super) fn state(&self) -> cri::ContainerState {
        match (self.started_at, self.finished_at) {
            (0, 0) => cri::ContainerState::ContainerCreated,
            (_, 0) => cri::ContainerState::ContainerRunning,
            _ => cri::ContainerState::ContainerExited,
        }
    }

    pub(super) fn end(&mut self, at: i64, code: i32) {
        if self.finished_at == 0 {
            (self.finished_at, self.exit_code) = (at, code);
        }
    }

    pub(super) fn listed(&self, id: &str) -> cri::Container {
        cri::Container {
            id: id.to_owned(),
            pod_sandbox_id: self.sandbox.clone(),
            metadata: self.config.metadata.clone(),
            image: self.config.image.clone(),
            state: self.state().into(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            ..Default::default()
        }
    }

    pub(super) fn status(&self, id: &str) -> cri::ContainerStatus {
        let reason = match (self.state(), self.exit_code) {
            (cri::ContainerState::ContainerExited, 0) => "Completed",
            (cri::ContainerState::ContainerExited, _) => "Error",
            _ => "",
        };
        cri::ContainerStatus {
            id: id.to_owned(),
            metadata: self.config.metadata.clone(),
            state: self.state().into(),
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            exit_code: self.exit_code,
            image: self.config.image.clone(),
            image_ref: self.config.image.clone().unwrap_or_default().image,
            reason: reason.to_owned(),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            mounts: self.config.mounts.clone(),
            log_path: self.log_path.clone(),
            ..Default::default()
        }
    }
}

impl Sandbox {
    fn state(&self) -> i32 {
        let state = if self.ready { cri::PodSandboxState::SandboxReady } else { cri::PodSandboxState::SandboxNotready };
        state.into()
    }

    pub(super) fn listed(&self, id: &str) -> cri::PodSandbox {
        cri::PodSandbox {
            id: id.to_owned(),
            metadata: self.config.metadata.clone(),
            state: self.state(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            ..Default::default()
        }
    }

    pub(super) fn status(&self, id: &str) -> cri::PodSandboxStatus {
        cri::PodSandboxStatus {
            id: id.to_owned(),
            metadata: self.config.metadata.clone(),
            state: self.state(),
            created_at: self.created_at,
            network: Some(cri::PodSandboxNetworkStatus { ip: "127.0.0.1".into(), ..Default::default() }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            ..Default::default()
        }
    }
}

impl State {
    pub(super) fn id(&mut self, kind: &str) -> String {
        self.next_id += 1;
        format!("{kind}{}", self.next_id)
    }

    pub(super) fn script(&self, name: &str) -> Script {
        self.scripts.get(name).cloned().unwrap_or_default()
    }

    /// Ends containers whose time has come.
    pub(super) fn advance(&mut self) {
        let now = now();
        let scripts = &self.scripts;
        for container in self.containers.values_mut() {
            let Some((after, code)) = scripts.get(&container.name()).and_then(|script| script.exits) else { continue };
            let due = container.started_at + i64::try_from(after.as_nanos()).unwrap();
            if container.started_at > 0 && due <= now {
                container.end(due, code);
            }
        }
    }
}

/// Whether every label of the selector is there.
pub(super) fn selected(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
