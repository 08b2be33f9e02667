//! A pod's conditions. The kubelet owns five of them and leaves all others as they are. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{resize, spec};

const OWNED: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// The kubelet alone writes conditions of this type.
pub(crate) fn is_owned(type_: &str) -> bool {
    OWNED.contains(&type_) || type_ == RESTARTING || resize::is_condition(type_)
}

/// All containers are taken away, to start anew.
pub(crate) const RESTARTING: &str = "AllContainersRestarting";

/// Puts the condition that tells of it.
pub(crate) fn put_restarting(conditions: &mut Vec<PodCondition>, pod: &Pod, phase: &str, busy: bool, now: Timestamp) {
    let before: Vec<PodCondition> = conditions.extract_if(.., |c| c.type_ == RESTARTING).collect();
    let verdict = match phase {
        "Succeeded" => no("PodCompleted", String::new()),
        "Failed" => no("PodFailed", String::new()),
        _ if busy => Verdict {
            status: true,
            reason: "RestartAllContainersStarted",
            message: "container exited with restart policy rule".into(),
        },
        _ => no("", String::new()),
    };
    conditions.push(condition(pod, RESTARTING, verdict, before.first(), now));
}

/// Puts the conditions of a resize in the place of those of before; of a resize that is over none stays.
pub(crate) fn put_resize(conditions: &mut Vec<PodCondition>, resize: &[PodCondition], now: Timestamp) {
    let before: Vec<PodCondition> = conditions.extract_if(.., |c| resize::is_condition(&c.type_)).collect();
    for condition in resize {
        let same = before.iter().find(|before| before.type_ == condition.type_ && before.reason == condition.reason);
        let since = same.and_then(|same| same.last_transition_time.clone()).unwrap_or(Time(now));
        conditions.push(PodCondition { last_transition_time: Some(since), ..condition.clone() });
    }
}

/// The kubelet ends the pod, through no fault of its own.
pub(crate) const DISRUPTION: &str = "DisruptionTarget";

/// Puts the condition that tells of it; others may set it too.
pub(crate) fn put_disruption(conditions: &mut Vec<PodCondition>, pod: &Pod, message: &str, now: Timestamp) {
    let before: Vec<PodCondition> = conditions.extract_if(.., |c| c.type_ == DISRUPTION).collect();
    let verdict = Verdict { status: true, reason: "TerminationByKubelet", message: message.to_owned() };
    conditions.push(condition(pod, DISRUPTION, verdict, before.first(), now));
}

struct Verdict {
    status: bool,
    reason: &'static str,
    message: String,
}

fn yes() -> Verdict {
    Verdict { status: true, reason: "", message: String::new() }
}

fn no(reason: &'static str, message: String) -> Verdict {
    Verdict { status: false, reason, message }
}

/// All conditions of the pod: ours anew, others kept.
pub(crate) fn generate(
    pod: &Pod,
    previous: &PodStatus,
    statuses: &[ContainerStatus],
    phase: &str,
    sandbox_ready: bool,
    now: Timestamp,
) -> Vec<PodCondition> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let old = previous.conditions.as_deref().unwrap_or_default();
    let mut conditions = Vec::with_capacity(OWNED.len() + old.len());
    for type_ in OWNED {
        let verdict = match type_ {
            "PodReadyToStartContainers" if sandbox_ready => yes(),
            "PodReadyToStartContainers" => no("", String::new()),
            "Initialized" => initialized(spec, statuses, phase),
            "Ready" => ready(spec, old, statuses, phase),
            "ContainersReady" => containers_ready(spec, statuses, phase),
            _ => yes(),
        };
        let before = old.iter().find(|condition| condition.type_ == type_);
        conditions.push(condition(pod, type_, verdict, before, now));
    }
    conditions.extend(old.iter().filter(|condition| !OWNED.contains(&condition.type_.as_str())).cloned());
    conditions
}

fn condition(pod: &Pod, type_: &str, verdict: Verdict, before: Option<&PodCondition>, now: Timestamp) -> PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let unchanged =
        before.filter(|before| before.status == status).and_then(|before| before.last_transition_time.clone());
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: (!verdict.reason.is_empty()).then(|| verdict.reason.to_owned()),
        message: (!verdict.message.is_empty()).then_some(verdict.message),
        observed_generation: pod.metadata.generation,
        last_probe_time: None,
        last_transition_time: Some(unchanged.unwrap_or(Time(now))),
    }
}

/// Go prints a list of strings so.
fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn describe(unknown: &[&str], word: &str, others: &[&str]) -> String {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: {}", list(unknown)));
    }
    if !others.is_empty() {
        parts.push(format!("containers with {word} status: {}", list(others)));
    }
    parts.join(", ")
}

fn sort_out<'a>(
    containers: impl Iterator<Item = &'a Container>,
    statuses: &[ContainerStatus],
    good: impl Fn(&Container, &ContainerStatus) -> bool,
) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut unknown, mut bad) = (Vec::new(), Vec::new());
    for container in containers {
        match statuses.iter().find(|status| status.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !good(container, status) => bad.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    (unknown, bad)
}

fn initialized(spec: &PodSpec, statuses: &[ContainerStatus], phase: &str) -> Verdict {
    let (unknown, incomplete) = sort_out(spec.init_containers.iter().flatten(), statuses, |container, status| {
        if spec::is_sidecar(container) { status.started == Some(true) } else { status.ready }
    });
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict { status: true, reason: "PodCompleted", message: String::new() };
    }
    let any_started = spec.containers.iter().any(|container| {
        statuses.iter().filter(|status| status.name == container.name).any(|status| {
            let ran = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
                state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            };
            ran(&status.state) || ran(&status.last_state)
        })
    });
    let message = describe(&unknown, "incomplete", &incomplete);
    if any_started || message.is_empty() { yes() } else { no("ContainersNotInitialized", message) }
}

fn containers_ready(spec: &PodSpec, statuses: &[ContainerStatus], phase: &str) -> Verdict {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| spec::is_sidecar(container));
    let (unknown, unready) = sort_out(sidecars.chain(&spec.containers), statuses, |_, status| status.ready);
    if phase == "Succeeded" && unknown.is_empty() {
        return no("PodCompleted", String::new());
    }
    if phase == "Failed" {
        return no("PodFailed", String::new());
    }
    let message = describe(&unknown, "unready", &unready);
    if message.is_empty() { yes() } else { no("ContainersNotReady", message) }
}

fn ready(spec: &PodSpec, old: &[PodCondition], statuses: &[ContainerStatus], phase: &str) -> Verdict {
    let containers = containers_ready(spec, statuses, phase);
    if !containers.status {
        return containers;
    }
    let mut messages = Vec::new();
    for gate in spec.readiness_gates.iter().flatten() {
        let type_ = &gate.condition_type;
        match old.iter().find(|condition| condition.type_ == *type_) {
            None => messages.push(format!("corresponding condition of pod readiness gate {type_:?} does not exist.")),
            Some(condition) if condition.status != "True" => messages
                .push(format!("the status of pod readiness gate {type_:?} is not \"True\", but {}", condition.status)),
            Some(_) => {}
        }
    }
    if messages.is_empty() { yes() } else { no("ReadinessGatesNotReady", messages.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unready_containers_are_named_and_foreign_conditions_kept() {
        let container = |name: &str| Container { name: name.into(), ..Default::default() };
        let spec = PodSpec { containers: vec![container("a"), container("b"), container("c")], ..Default::default() };
        let pod = Pod { spec: Some(spec), ..Default::default() };
        let status = |name: &str, ready| ContainerStatus { name: name.into(), ready, ..Default::default() };
        let foreign = PodCondition { type_: "example.com/gate".into(), status: "True".into(), ..Default::default() };
        let previous = PodStatus { conditions: Some(vec![foreign.clone()]), ..Default::default() };
        let found =
            generate(&pod, &previous, &[status("a", true), status("b", false)], "Running", true, Timestamp::now());
        let ready = found.iter().find(|condition| condition.type_ == "Ready").expect("Ready");
        assert_eq!(
            ready.message.as_deref(),
            Some("containers with unknown status: [c], containers with unready status: [b]")
        );
        assert_eq!(found.last(), Some(&foreign));
    }
}
