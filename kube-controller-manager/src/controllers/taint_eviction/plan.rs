//! How long a pod may stay on a tainted node. Pure.

use common::meta::tolerations::tolerates;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use crate::shared::meta::MetaExt;
use crate::shared::pods;

/// What the taints of its node mean for a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stay {
    Forever,
    Until(Timestamp),
    Leave,
}

/// The NoExecute taints of a node.
pub(super) fn no_execute(node: &Node) -> Vec<&Taint> {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute").collect()
}

/// The pod's time is that of its shortest matching toleration, from the moment the taint and the pod met.
pub(super) fn stay(pod: &Pod, taints: &[&Taint]) -> Stay {
    let none = Vec::new();
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_ref()).unwrap_or(&none);
    if pods::is_terminal(pod) || taints.is_empty() {
        return Stay::Forever;
    }
    let mut seconds: Option<i64> = None;
    for taint in taints {
        let mut matching = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if matching.peek().is_none() {
            return Stay::Leave;
        }
        for limit in matching.filter_map(|t| t.toleration_seconds) {
            seconds = Some(seconds.map_or(limit, |s| s.min(limit)));
        }
    }
    let Some(seconds) = seconds else { return Stay::Forever };
    if seconds <= 0 {
        return Stay::Leave;
    }
    let tainted = taints.iter().filter_map(|t| t.time_added.as_ref()).map(|t| t.0).max();
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0).or_else(|| pod.created());
    let Some(met) = tainted.max(started) else { return Stay::Leave };
    // Times are cut to whole seconds; never evict early because of that.
    Stay::Until(met + SignedDuration::from_secs(seconds.min(i64::from(i32::MAX)) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(tolerations: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "tolerations": tolerations}, "status": {"phase": "Running"}}))
        .unwrap()
    }

    #[test]
    fn stays() {
        let taint: Taint = serde_json::from_value(
            json!({"key": "k", "value": "v", "effect": "NoExecute", "timeAdded": "2026-01-01T00:01:00Z"}),
        )
        .unwrap();
        let until = |s: &str| Stay::Until(s.parse().unwrap());
        for (tolerations, want) in [
            (json!([]), Stay::Leave),
            (json!([{"operator": "Exists"}]), Stay::Forever),
            (json!([{"key": "k", "operator": "Exists", "effect": "NoExecute"}]), Stay::Forever),
            (json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]), Stay::Leave),
            (json!([{"key": "k", "value": "v"}]), Stay::Forever),
            (json!([{"key": "k", "value": "x"}]), Stay::Leave),
            (json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 300}]), until("2026-01-01T00:06:01Z")),
            (
                json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 300}, {"operator": "Exists", "tolerationSeconds": 5}]),
                until("2026-01-01T00:01:06Z"),
            ),
            (json!([{"operator": "Exists", "tolerationSeconds": 0}]), Stay::Leave),
            (json!([{"operator": "Exists", "tolerationSeconds": -1}]), Stay::Leave),
        ] {
            assert_eq!(stay(&pod(tolerations.clone()), &[&taint]), want, "{tolerations}");
        }
        assert_eq!(stay(&pod(json!([])), &[]), Stay::Forever);
        let other: Taint = serde_json::from_value(json!({"key": "o", "effect": "NoExecute"})).unwrap();
        assert_eq!(stay(&pod(json!([{"key": "k", "operator": "Exists"}])), &[&taint, &other]), Stay::Leave);
    }
}
