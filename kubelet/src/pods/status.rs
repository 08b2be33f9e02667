//! A pod's API status from its spec, the runtime, the probes and what was reported before. Pure.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::actions::{self, ProbeView};
use super::resize::ByContainer;
use super::{conditions, phase, spec};
use crate::runtime::{ContainerState, ContainerView, PodRuntime, resources};
use crate::volumes::recursive;

/// Readiness on top of what [`ProbeView`] knows.
pub(crate) trait ReadyView: ProbeView {
    /// The container passes its readiness probe, or has none.
    fn ready(&self, container: &Container, id: &str) -> bool;
}

/// Why a container was taken away that shall start anew with all others.
pub(super) const RESTARTING_ALL: &str = "RestartingAllContainers";

/// Why a container does not run, as reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Reason of a pod that ended for a critical one.
pub(super) const PREEMPTING: &str = "Preempting";
/// Reason of a pod that ended because the node shuts down.
pub(crate) const SHUTDOWN: &str = "Terminated";

impl Verdict {
    /// What the condition DisruptionTarget says, when it is not the pod's own fault.
    fn disruption(&self) -> Option<&str> {
        match self.reason.as_str() {
            "Evicted" => Some(&self.message),
            PREEMPTING => Some("Pod was preempted by Kubelet to accommodate a critical pod."),
            SHUTDOWN => Some("Pod was terminated in response to imminent node shutdown."),
            _ => None,
        }
    }
}

/// How a pod ended that the kubelet itself ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) phase: &'static str,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// All that a status depends on.
pub(crate) struct Input<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) runtime: &'a PodRuntime,
    pub(crate) previous: &'a PodStatus,
    /// By container name.
    pub(crate) waiting: &'a HashMap<String, Waiting>,
    pub(crate) probes: &'a dyn ReadyView,
    /// Termination messages by container id.
    pub(crate) messages: &'a HashMap<String, String>,
    pub(crate) host_ips: &'a [String],
    /// No container runs any more and none will.
    pub(crate) terminal: bool,
    pub(crate) verdict: Option<&'a Verdict>,
    /// Resources that containers were given, by name.
    pub(crate) actuated: &'a ByContainer,
    /// Conditions of a resize.
    pub(crate) resize: Vec<PodCondition>,
    /// The runtime makes mounts read-only all the way down.
    pub(crate) recursive_read_only: bool,
    pub(crate) runtime_name: &'a str,
    pub(crate) now: Timestamp,
}

/// Builds the status.
pub(crate) fn generate(input: &Input<'_>) -> PodStatus {
    let empty = PodSpec::default();
    let spec = input.pod.spec.as_ref().unwrap_or(&empty);
    let has_init = spec.init_containers.as_ref().is_some_and(|inits| !inits.is_empty());
    let initializing = has_init && !spec.containers.iter().any(|c| input.runtime.container(&c.name).is_some());
    let waiting_reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let of = |container: &Container, previous: &Option<Vec<ContainerStatus>>, kind: Kind| {
        let old = previous.iter().flatten().find(|status| status.name == container.name);
        container_status(input, spec, container, old, waiting_reason, kind)
    };
    let inits: Vec<_> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|c| {
            of(c, &input.previous.init_container_statuses, if spec::is_sidecar(c) { Kind::Sidecar } else { Kind::Init })
        })
        .collect();
    let mut regular: Vec<_> =
        spec.containers.iter().map(|c| of(c, &input.previous.container_statuses, Kind::Regular)).collect();
    regular.sort_by(|a, b| a.name.cmp(&b.name));
    let ephemeral: Vec<_> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|c| of(&spec::from_ephemeral(c), &input.previous.ephemeral_container_statuses, Kind::Ephemeral))
        .collect();

    let mut status = PodStatus {
        observed_generation: input.pod.metadata.generation,
        start_time: Some(input.previous.start_time.clone().unwrap_or(Time(input.now))),
        qos_class: Some(input.previous.qos_class.clone().unwrap_or_else(|| resources::qos(spec).name().to_owned())),
        nominated_node_name: input.previous.nominated_node_name.clone(),
        resource_claim_statuses: input.previous.resource_claim_statuses.clone(),
        reason: input.previous.reason.clone(),
        message: input.previous.message.clone(),
        ..PodStatus::default()
    };
    let computed = phase::compute(spec, &inits, &regular, input.terminal, !initializing);
    let ended = input.previous.phase.as_deref().filter(|phase| matches!(*phase, "Failed" | "Succeeded"));
    status.phase = Some(ended.map_or_else(|| computed.to_owned(), str::to_owned));
    if let Some(verdict) = input.verdict {
        status.phase = Some(verdict.phase.to_owned());
        status.reason = Some(verdict.reason.clone());
        status.message = Some(verdict.message.clone());
    }
    let all: Vec<ContainerStatus> = inits.iter().chain(&regular).cloned().collect();
    let needs_sandbox = actions::sandbox_changed(spec, input.runtime).is_some();
    let phase = status.phase.clone().unwrap_or_default();
    let mut conditions = conditions::generate(input.pod, input.previous, &all, &phase, !needs_sandbox, input.now);
    conditions::put_resize(&mut conditions, &input.resize, input.now);
    if spec::may_restart_all(spec) {
        let busy =
            actions::restarts_all(spec, input.runtime, input.previous) && !actions::is_reset(spec, input.runtime);
        conditions::put_restarting(&mut conditions, input.pod, &phase, busy, input.now);
    }
    if let Some(message) = input.verdict.and_then(Verdict::disruption) {
        conditions::put_disruption(&mut conditions, input.pod, message, input.now);
    }
    status.conditions = Some(conditions);
    status.init_container_statuses = (!inits.is_empty()).then_some(inits);
    status.container_statuses = Some(regular);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    set_addresses(&mut status, spec, input);
    status
}

fn set_addresses(status: &mut PodStatus, spec: &PodSpec, input: &Input<'_>) {
    if let Some(first) = input.host_ips.first() {
        status.host_ip = Some(first.clone());
        status.host_ips = Some(input.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    }
    let ips: &[String] = if spec.host_network == Some(true) { input.host_ips } else { input.runtime.ips() };
    if ips.is_empty() {
        // The last known address stays visible after the sandbox is gone.
        status.pod_ip = input.previous.pod_ip.clone();
        status.pod_ips = input.previous.pod_ips.clone();
    } else {
        status.pod_ip = ips.first().cloned();
        status.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect());
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Init,
    Sidecar,
    Regular,
    Ephemeral,
}

fn container_status(
    input: &Input<'_>,
    spec: &PodSpec,
    container: &Container,
    old: Option<&ContainerStatus>,
    waiting_reason: &str,
    kind: Kind,
) -> ContainerStatus {
    let mut views = input.runtime.containers.iter().filter(|view| view.name == container.name);
    let mut status = match views.next() {
        Some(newest) => {
            let last_ended = views.find(|view| view.state == ContainerState::Exited);
            from_view(input, spec, container, newest, last_ended, waiting_reason)
        }
        None => without_view(input, spec, container, old, waiting_reason),
    };
    status.volume_mounts = volume_mounts(container, input.recursive_read_only);
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    let id = input.runtime.container(&container.name).map_or("", |view| view.id.as_str());
    let started = running && input.probes.started(container, id);
    match kind {
        Kind::Init => {
            let done = status.state.as_ref().and_then(|state| state.terminated.as_ref());
            status.ready = done.is_some_and(|done| done.exit_code == 0);
            status.started = Some(false);
        }
        Kind::Regular | Kind::Sidecar => {
            status.started = Some(started);
            status.ready = started && input.probes.ready(container, id);
        }
        Kind::Ephemeral => {
            status.started = None;
            status.ready = false;
        }
    }
    if running
        && kind != Kind::Ephemeral
        && let Some(resources) = &container.resources
    {
        status.allocated_resources = resources.requests.clone().filter(|requests| !requests.is_empty());
        status.resources = Some(input.actuated.get(&container.name).unwrap_or(resources).clone());
    }
    status
}

fn from_view(
    input: &Input<'_>,
    spec: &PodSpec,
    container: &Container,
    newest: &ContainerView,
    last_ended: Option<&ContainerView>,
    waiting_reason: &str,
) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: if newest.image.is_empty() { container.image.clone().unwrap_or_default() } else { newest.image.clone() },
        image_id: newest.image_ref.clone(),
        container_id: Some(format!("{}://{}", input.runtime_name, newest.id)),
        restart_count: newest.restart_count,
        last_state: Some(ApiState {
            terminated: last_ended.map(|view| terminated(input, view)),
            ..ApiState::default()
        }),
        ..ContainerStatus::default()
    };
    let waiting = input.waiting.get(&container.name);
    status.state = Some(match newest.state {
        ContainerState::Running => {
            let started_at = time(newest.started_at);
            ApiState { running: Some(ContainerStateRunning { started_at }), ..ApiState::default() }
        }
        ContainerState::Exited => match waiting {
            Some(why) if !input.terminal && actions::should_start(spec, container, Some(newest)) => {
                // The newest end is now the last one; what we wait for is the state.
                status.last_state =
                    Some(ApiState { terminated: Some(terminated(input, newest)), ..ApiState::default() });
                waiting_state(&why.reason, &why.message)
            }
            _ => ApiState { terminated: Some(terminated(input, newest)), ..ApiState::default() },
        },
        ContainerState::Created | ContainerState::Unknown => match waiting {
            Some(why) => waiting_state(&why.reason, &why.message),
            None => waiting_state(waiting_reason, ""),
        },
    });
    status
}

fn without_view(
    input: &Input<'_>,
    spec: &PodSpec,
    container: &Container,
    old: Option<&ContainerStatus>,
    waiting_reason: &str,
) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting_state(waiting_reason, "")),
        last_state: Some(ApiState::default()),
        ..ContainerStatus::default()
    };
    if let Some(why) = input.waiting.get(&container.name) {
        status.state = Some(waiting_state(&why.reason, &why.message));
    }
    let Some(old) = old else { return status };
    let old_state = old.state.clone().unwrap_or_default();
    let anew = !input.terminal && actions::restarts_all(spec, input.runtime, input.previous);
    if anew && old_state.waiting.is_none() {
        let message = "The container is removed because RestartAllContainers in place";
        status.state = Some(waiting_state(RESTARTING_ALL, message));
        let taken_away = ContainerStateTerminated {
            exit_code: 137,
            reason: Some(RESTARTING_ALL.into()),
            message: Some(message.into()),
            ..ContainerStateTerminated::default()
        };
        status.last_state = Some(ApiState { terminated: Some(taken_away), ..ApiState::default() });
        status.restart_count = old.restart_count + 1;
        return status;
    }
    if old_state.terminated.is_some() {
        return old.clone();
    }
    status.restart_count = old.restart_count;
    status.last_state = old.last_state.clone();
    if old_state.running.is_some() {
        let over = input.terminal || spec::restart_policy(spec, container) == spec::RestartPolicy::Never;
        let lost = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(
                if over {
                    "The container could not be located when the pod was terminated"
                } else {
                    "The container could not be located when the pod was deleted.  The container used to be Running"
                }
                .into(),
            ),
            ..ContainerStateTerminated::default()
        };
        if over {
            status.state = Some(ApiState { terminated: Some(lost), ..ApiState::default() });
        } else {
            status.last_state = Some(ApiState { terminated: Some(lost), ..ApiState::default() });
            status.restart_count += 1;
        }
    }
    status
}

fn waiting_state(reason: &str, message: &str) -> ApiState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    ApiState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ApiState::default()
    }
}

fn terminated(input: &Input<'_>, view: &ContainerView) -> ContainerStateTerminated {
    let message = input.messages.get(&view.id).cloned().unwrap_or_else(|| view.message.clone());
    ContainerStateTerminated {
        exit_code: view.exit_code,
        reason: (!view.reason.is_empty()).then(|| view.reason.clone()),
        message: (!message.is_empty()).then_some(message),
        started_at: time(view.started_at),
        finished_at: time(view.finished_at),
        container_id: Some(format!("{}://{}", input.runtime_name, view.id)),
        signal: None,
    }
}

/// API times have whole seconds.
fn time(nanos: i64) -> Option<Time> {
    (nanos > 0).then(|| Timestamp::from_second(nanos / 1_000_000_000).ok().map(Time)).flatten()
}

fn volume_mounts(container: &Container, recursive: bool) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let of = |mount: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: (mount.read_only == Some(true)).then(|| {
            let recursive = recursive::resolve(mount, recursive).unwrap_or(false);
            if recursive { "Enabled" } else { "Disabled" }.to_owned()
        }),
        ..VolumeMountStatus::default()
    };
    Some(mounts.iter().map(of).collect())
}
