//! The node's conditions. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What the conditions are made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    pub(crate) memory_pressure: bool,
    pub(crate) disk_pressure: bool,
    pub(crate) pid_pressure: bool,
    /// What keeps the node from being ready.
    pub(crate) problems: Vec<String>,
}

struct Verdict {
    type_: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

fn pressure(type_: &'static str, on: bool, reasons: [&'static str; 2], messages: [&str; 2]) -> Verdict {
    let index = usize::from(on);
    Verdict { type_, status: on, reason: reasons[index], message: messages[index].into() }
}

fn verdicts(health: &Health) -> [Verdict; 4] {
    let ready = health.problems.is_empty();
    [
        pressure(
            "MemoryPressure",
            health.memory_pressure,
            ["KubeletHasSufficientMemory", "KubeletHasInsufficientMemory"],
            ["kubelet has sufficient memory available", "kubelet has insufficient memory available"],
        ),
        pressure(
            "DiskPressure",
            health.disk_pressure,
            ["KubeletHasNoDiskPressure", "KubeletHasDiskPressure"],
            ["kubelet has no disk pressure", "kubelet has disk pressure"],
        ),
        pressure(
            "PIDPressure",
            health.pid_pressure,
            ["KubeletHasSufficientPID", "KubeletHasInsufficientPID"],
            ["kubelet has sufficient PID available", "kubelet has insufficient PID available"],
        ),
        Verdict {
            type_: "Ready",
            status: ready,
            reason: if ready { "KubeletReady" } else { "KubeletNotReady" },
            message: if ready {
                "kubelet is posting ready status".into()
            } else if health.problems.len() == 1 {
                health.problems[0].clone()
            } else {
                format!("[{}]", health.problems.join(", "))
            },
        },
    ]
}

/// An event that goes with a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change(pub(crate) &'static str);

/// The conditions, and the changes worth an event.
pub(crate) fn generate(health: &Health, old: &[NodeCondition], now: Timestamp) -> (Vec<NodeCondition>, Vec<Change>) {
    let mut changes = Vec::new();
    let mut conditions: Vec<NodeCondition> = Vec::new();
    for verdict in verdicts(health) {
        let before = old.iter().find(|condition| condition.type_ == verdict.type_);
        let status = if verdict.status { "True" } else { "False" };
        let same = before.filter(|before| before.status == status);
        if same.is_none() {
            changes.push(Change(match (verdict.type_, verdict.status) {
                ("MemoryPressure", false) => "NodeHasSufficientMemory",
                ("MemoryPressure", true) => "NodeHasInsufficientMemory",
                ("DiskPressure", false) => "NodeHasNoDiskPressure",
                ("DiskPressure", true) => "NodeHasDiskPressure",
                ("PIDPressure", false) => "NodeHasSufficientPID",
                ("PIDPressure", true) => "NodeHasInsufficientPID",
                (_, true) => "NodeReady",
                (_, false) => "NodeNotReady",
            }));
        }
        conditions.push(NodeCondition {
            type_: verdict.type_.into(),
            status: status.into(),
            reason: Some(verdict.reason.into()),
            message: Some(verdict.message),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: same.and_then(|same| same.last_transition_time.clone()).or(Some(Time(now))),
        });
    }
    let ours = |type_: &str| matches!(type_, "MemoryPressure" | "DiskPressure" | "PIDPressure" | "Ready");
    conditions.extend(old.iter().filter(|condition| !ours(&condition.type_)).cloned());
    (conditions, changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_node_is_ready_and_says_so_once() {
        let now = Timestamp::UNIX_EPOCH;
        let (first, changes) = generate(&Health::default(), &[], now);
        let names: Vec<_> = changes.iter().map(|change| change.0).collect();
        assert_eq!(names, ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"]);
        assert_eq!(first[3].message.as_deref(), Some("kubelet is posting ready status"));
        let later = Timestamp::from_second(100).expect("time");
        let (second, changes) = generate(&Health::default(), &first, later);
        assert!(changes.is_empty());
        assert_eq!(second[3].last_transition_time, Some(Time(now)));
        let sick = Health { problems: vec!["a".into(), "b".into()], ..Health::default() };
        let (third, changes) = generate(&sick, &second, later);
        assert_eq!(changes, [Change("NodeNotReady")]);
        assert_eq!(third[3].message.as_deref(), Some("[a, b]"));
    }
}
