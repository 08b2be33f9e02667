//! Table columns of pods: the STATUS and RESTARTS logic that everybody knows from `kubectl get pods`.

use jiff::Timestamp;
use serde_json::Value;

use crate::resources::{
    table::{AGE, Column, NAME, Row, age, containers, labels, name, or_none, since, text, wide},
    value::{at, bool_at, int_at, is_set, list_at, str_at},
};

pub(crate) const COLUMNS: &[Column] = &[
    NAME,
    text("Ready"),
    text("Status"),
    text("Restarts"),
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

pub(crate) const TEMPLATE_COLUMNS: &[Column] = &[NAME, text("Containers"), text("Images"), text("Pod Labels")];

pub(crate) fn template_row(obj: &Value, _: Timestamp) -> Row {
    let [names, images] = containers(obj, "template.spec.containers");
    vec![name(obj), names, images, labels(obj, "template.metadata.labels")]
}

pub(crate) fn row(pod: &Value, now: Timestamp) -> Row {
    let summary = Summary::of(pod);
    let restarts = match summary.restarted_at.filter(|_| summary.restarts > 0) {
        Some(at) => format!("{} ({} ago)", summary.restarts, since(at, now)),
        None => summary.restarts.to_string(),
    };
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        or_none(list_at(pod, "status.podIPs").first().map(|ip| str_at(ip, "ip")).unwrap_or_default()),
        or_none(str_at(pod, "spec.nodeName")),
        or_none(str_at(pod, "status.nominatedNodeName")),
        readiness_gates(pod).into(),
    ]
}

#[derive(Default)]
struct Summary<'a> {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    restarted_at: Option<&'a str>,
}

/// The later of two RFC 3339 times in the API's fixed form.
fn later<'a>(a: Option<&'a str>, status: &'a Value) -> Option<&'a str> {
    let finished = str_at(status, "lastState.terminated.finishedAt");
    if finished.is_empty() { a } else { a.max(Some(finished)) }
}

fn ended_reason(terminated: &Value) -> String {
    match (str_at(terminated, "reason"), int_at(terminated, "signal").unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", int_at(terminated, "exitCode").unwrap_or_default()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_string(),
    }
}

impl<'a> Summary<'a> {
    fn of(pod: &'a Value) -> Summary<'a> {
        let phase = str_at(pod, "status.phase");
        let mut summary = Summary {
            reason: match str_at(pod, "status.reason") {
                "" => phase.to_string(),
                reason => reason.to_string(),
            },
            total: list_at(pod, "spec.containers").len()
                + list_at(pod, "spec.initContainers").iter().filter(|c| is_sidecar(c)).count(),
            ..Summary::default()
        };
        let gated = |c: &Value| str_at(c, "type") == "PodScheduled" && str_at(c, "reason") == "SchedulingGated";
        if list_at(pod, "status.conditions").iter().any(gated) {
            summary.reason = "SchedulingGated".to_string();
        }
        let initializing = summary.init_containers(pod);
        if !initializing || condition_true(pod, "Initialized") {
            summary.containers(pod);
        }
        if is_set(pod, "metadata.deletionTimestamp") {
            if str_at(pod, "status.reason") == "NodeLost" {
                summary.reason = "Unknown".to_string();
            } else if !matches!(phase, "Failed" | "Succeeded") {
                summary.reason = "Terminating".to_string();
            }
        }
        summary
    }

    /// Walks the init containers in order up to the first that is not done; true while one is not.
    fn init_containers(&mut self, pod: &'a Value) -> bool {
        let specs = list_at(pod, "spec.initContainers");
        for (i, status) in list_at(pod, "status.initContainerStatuses").iter().enumerate() {
            self.restarts += int_at(status, "restartCount").unwrap_or_default();
            self.restarted_at = later(self.restarted_at, status);
            let sidecar = specs.iter().any(|c| c.get("name") == status.get("name") && is_sidecar(c));
            let ended = at(status, "state.terminated");
            if ended.is_some_and(|t| int_at(t, "exitCode").unwrap_or_default() == 0) {
                continue;
            }
            if sidecar && bool_at(status, "started") {
                self.ready += usize::from(bool_at(status, "ready"));
                continue;
            }
            let waiting = str_at(status, "state.waiting.reason");
            self.reason = match ended {
                Some(ended) => format!("Init:{}", ended_reason(ended)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                None => format!("Init:{i}/{}", specs.len()),
            };
            return true;
        }
        false
    }

    fn containers(&mut self, pod: &'a Value) {
        let specs = list_at(pod, "spec.initContainers");
        self.restarts = 0;
        self.restarted_at = None;
        for status in list_at(pod, "status.initContainerStatuses") {
            if specs.iter().any(|c| c.get("name") == status.get("name") && is_sidecar(c)) {
                self.restarts += int_at(status, "restartCount").unwrap_or_default();
                self.restarted_at = later(self.restarted_at, status);
            }
        }
        let (mut running, mut failure) = (false, String::new());
        for status in list_at(pod, "status.containerStatuses").iter().rev() {
            self.restarts += int_at(status, "restartCount").unwrap_or_default();
            self.restarted_at = later(self.restarted_at, status);
            let waiting = str_at(status, "state.waiting.reason");
            if !waiting.is_empty() {
                self.reason = waiting.to_string();
            } else if let Some(ended) = at(status, "state.terminated") {
                self.reason = ended_reason(ended);
                if int_at(ended, "exitCode").unwrap_or_default() != 0 {
                    failure.clone_from(&self.reason);
                }
            } else if bool_at(status, "ready") && at(status, "state.running").is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            if running && condition_true(pod, "Ready") {
                self.reason = "Running".to_string();
            } else if !failure.is_empty() {
                self.reason = failure;
            } else if running {
                self.reason = "NotReady".to_string();
            }
        }
    }
}

fn is_sidecar(container: &Value) -> bool {
    str_at(container, "restartPolicy") == "Always"
}

fn condition_true(pod: &Value, kind: &str) -> bool {
    list_at(pod, "status.conditions").iter().any(|c| str_at(c, "type") == kind && str_at(c, "status") == "True")
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list_at(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".to_string();
    }
    let passed = gates.iter().filter(|gate| condition_true(pod, str_at(gate, "conditionType"))).count();
    format!("{passed}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_column() {
        let pod = |status: Value| json!({"spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}, "status": status});
        let cases = [
            (json!({"phase": "Pending"}), "Pending"),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                "Init:0/1",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                "Init:CrashLoopBackOff",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}]}),
                "Running",
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 3}}}]}),
                "ExitCode:3",
            ),
        ];
        for (status, want) in cases {
            assert_eq!(Summary::of(&pod(status)).reason, want);
        }
    }
}
