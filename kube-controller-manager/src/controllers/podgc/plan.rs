//! Which pods nobody will ever finish or remove. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::controllers::node_lifecycle::ready_status;
use crate::shared::meta::MetaExt;
use crate::shared::pods;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The oldest finished pods above the threshold; evicted ones first.
pub(super) fn terminated(list: &[Arc<Pod>], threshold: i64) -> Vec<Arc<Pod>> {
    let Some(threshold) = usize::try_from(threshold).ok().filter(|t| *t > 0) else { return Vec::new() };
    let mut finished: Vec<Arc<Pod>> = list.iter().filter(|p| pods::is_terminal(p)).cloned().collect();
    if finished.len() <= threshold {
        return Vec::new();
    }
    let evicted = |p: &Pod| p.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    finished.sort_by_key(|p| (!evicted(p), p.created(), p.name_str().to_owned()));
    finished.truncate(finished.len() - threshold);
    finished
}

/// Pods that are being deleted before any node got them: no kubelet will finish that.
pub(super) fn unscheduled_terminating(list: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    list.iter().filter(|p| p.is_deleting() && pods::node_name(p).is_empty()).cloned().collect()
}

/// Is the node down, and has an operator said that it stays so?
pub(super) fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or(&[]);
    ready_status(node) != "True" && taints.iter().any(|t| t.key == OUT_OF_SERVICE)
}

/// Pods that are being deleted on a node that is out of service.
pub(super) fn on_dead_nodes(list: &[Arc<Pod>], node: impl Fn(&str) -> Option<Arc<Node>>) -> Vec<Arc<Pod>> {
    let dead = |p: &&Arc<Pod>| p.is_deleting() && node(pods::node_name(p)).is_some_and(|n| is_out_of_service(&n));
    list.iter().filter(dead).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, node: &str, status: Value, deleting: bool) -> Arc<Pod> {
        let mut v = json!({"metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:0{}Z", name.len())},
            "spec": {"nodeName": node, "containers": []}, "status": status});
        if deleting {
            v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn names(list: &[Arc<Pod>]) -> Vec<&str> {
        list.iter().map(|p| p.name_str()).collect()
    }

    #[test]
    fn above_the_threshold() {
        let all = [
            pod("a", "n", json!({"phase": "Succeeded"}), false),
            pod("bb", "n", json!({"phase": "Failed"}), false),
            pod("ccc", "n", json!({"phase": "Failed", "reason": "Evicted"}), false),
            pod("dddd", "n", json!({"phase": "Running"}), false),
        ];
        assert_eq!(names(&terminated(&all, 1)), ["ccc", "a"]);
        assert_eq!(names(&terminated(&all, 2)), ["ccc"]);
        assert!(terminated(&all, 3).is_empty());
        assert!(terminated(&all, 0).is_empty() && terminated(&all, -1).is_empty());
    }

    #[test]
    fn lost_ones() {
        let all = [
            pod("a", "", json!({"phase": "Pending"}), true),
            pod("b", "", json!({"phase": "Pending"}), false),
            pod("c", "dead", json!({"phase": "Running"}), true),
            pod("d", "dead", json!({"phase": "Running"}), false),
            pod("e", "alive", json!({"phase": "Running"}), true),
        ];
        assert_eq!(names(&unscheduled_terminating(&all)), ["a"]);
        let node = |name: &str| {
            let ready = if name == "dead" { "Unknown" } else { "True" };
            let v = json!({"spec": {"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}});
            (!name.is_empty()).then(|| Arc::new(serde_json::from_value(v).unwrap()))
        };
        assert_eq!(names(&on_dead_nodes(&all, node)), ["c"]);
    }
}
