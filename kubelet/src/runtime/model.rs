//! What the runtime holds for one pod, in the form that decisions are taken from.

use k8s_cri::v1 as cri;

use super::labels;

/// State of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Runs.
    Running,
    /// Has ended.
    Exited,
    /// The runtime lost track.
    Unknown,
}

impl From<i32> for ContainerState {
    fn from(state: i32) -> Self {
        match cri::ContainerState::try_from(state) {
            Ok(cri::ContainerState::ContainerCreated) => Self::Created,
            Ok(cri::ContainerState::ContainerRunning) => Self::Running,
            Ok(cri::ContainerState::ContainerExited) => Self::Exited,
            _ => Self::Unknown,
        }
    }
}

/// A container that exists in the runtime.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "named as the CRI names them")]
pub struct ContainerView {
    pub id: String,
    pub name: String,
    pub sandbox_id: String,
    pub state: ContainerState,
    /// Nanoseconds since the epoch, as all times here; 0 = never.
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub image: String,
    pub image_ref: String,
    pub reason: String,
    pub message: String,
    pub hash: String,
    pub restart_count: i32,
    pub log_path: String,
    pub annotations: labels::ContainerAnnotations,
    /// Container path -> host path and read-only of each mount.
    pub termination_log: Option<String>,
}

/// A sandbox that exists in the runtime.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "named as the CRI names them")]
pub struct SandboxView {
    pub id: String,
    pub ready: bool,
    pub created_at: i64,
    pub attempt: u32,
    pub ips: Vec<String>,
    pub host_network: bool,
}

/// Everything the runtime holds for one pod, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodRuntime {
    /// Sandboxes.
    pub sandboxes: Vec<SandboxView>,
    /// Containers of all of them.
    pub containers: Vec<ContainerView>,
}

impl PodRuntime {
    pub(crate) fn add_sandbox(&mut self, status: cri::PodSandboxStatus) {
        let network = status.network.unwrap_or_default();
        let ips = std::iter::once(network.ip)
            .chain(network.additional_ips.into_iter().map(|ip| ip.ip))
            .filter(|ip| !ip.is_empty())
            .collect();
        let options = status.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);
        self.sandboxes.push(SandboxView {
            id: status.id,
            ready: status.state == cri::PodSandboxState::SandboxReady as i32,
            created_at: status.created_at,
            attempt: status.metadata.map(|metadata| metadata.attempt).unwrap_or_default(),
            ips,
            host_network: options.is_some_and(|options| options.network == cri::NamespaceMode::Node as i32),
        });
    }

    pub(crate) fn add_container(&mut self, status: cri::ContainerStatus, sandbox_id: &str) {
        let annotations = labels::ContainerAnnotations::parse(&status.annotations);
        let termination_log = status
            .mounts
            .iter()
            .find(|mount| {
                !annotations.termination_message_path.is_empty()
                    && mount.container_path == annotations.termination_message_path
            })
            .map(|mount| mount.host_path.clone());
        self.containers.push(ContainerView {
            id: status.id,
            name: status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default(),
            sandbox_id: sandbox_id.to_owned(),
            state: status.state.into(),
            created_at: status.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            image: status.image.map(|image| image.image).unwrap_or_default(),
            image_ref: if status.image_ref.is_empty() { status.image_id } else { status.image_ref },
            reason: status.reason,
            message: status.message,
            hash: annotations.hash.clone(),
            restart_count: annotations.restart_count,
            log_path: status.log_path,
            annotations,
            termination_log,
        });
    }

    pub(crate) fn sort(&mut self) {
        self.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
        self.containers.sort_by_key(|container| std::cmp::Reverse((container.created_at, container.restart_count)));
    }

    /// The newest container of that name.
    pub fn container(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// Containers that run.
    pub fn running(&self) -> impl Iterator<Item = &ContainerView> {
        self.containers.iter().filter(|container| container.state == ContainerState::Running)
    }

    /// The newest sandbox, when it is ready.
    pub fn ready_sandbox(&self) -> Option<&SandboxView> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// Addresses of the newest ready sandbox.
    pub fn ips(&self) -> &[String] {
        self.ready_sandbox().map_or(&[], |sandbox| &sandbox.ips)
    }
}
