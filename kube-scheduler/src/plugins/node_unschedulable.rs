//! NodeUnschedulable: cordoned nodes take no pods but those that tolerate the cordon.

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::Taint;

use crate::cache::snapshot::NodeView;
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::plugin::{CycleContext, EnqueueExtensions, Filter, Plugin, Scope, StateData};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};
use common::meta::tolerations::any_tolerates;

/// The plugin.
pub struct NodeUnschedulable;

/// Upstream's name.
pub const NAME: &str = "NodeUnschedulable";

static CORDONED: LazyLock<Arc<Status>> = LazyLock::new(|| Status::unresolvable(NAME, "node(s) were unschedulable"));
static TAINT: LazyLock<Taint> = LazyLock::new(|| Taint {
    key: "node.kubernetes.io/unschedulable".into(),
    effect: "NoSchedule".into(),
    ..Taint::default()
});

fn tolerates_cordon(pod: &PodInfo) -> bool {
    any_tolerates(&pod.template.tolerations, &TAINT)
}

extension_points!(NodeUnschedulable { as_filter: Filter, as_enqueue: EnqueueExtensions });

impl Filter for NodeUnschedulable {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn filter(&self, cx: &CycleContext<'_>, _state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        if cx.snapshot.unschedulable.contains(node.slot) && !tolerates_cordon(cx.pod) {
            return Err(CORDONED.clone());
        }
        Ok(())
    }
}

impl EnqueueExtensions for NodeUnschedulable {
    fn interests(&self) -> Vec<Interest> {
        vec![
            Interest { resource: Resource::Node, action: action::ADD | action::NODE_TAINT },
            Interest { resource: Resource::UnscheduledPod, action: action::POD_TOLERATION },
        ]
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        if let (_, Some(changed)) = event.pods() {
            return if changed.uid == pod.uid && tolerates_cordon(changed) { Hint::Queue } else { Hint::Skip };
        }
        let cordoned = |node: &k8s_openapi::api::core::v1::Node| {
            node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true))
        };
        match event.nodes() {
            (old, Some(new)) if !cordoned(new) && old.is_none_or(|old| cordoned(old)) => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, node, pod, pod_info};

    #[test]
    fn cordoned_unless_tolerated() {
        let cluster = Cluster::new(&[node("n1"), node("n2").cordoned()]);
        let plain = pod_info(&pod("p"));
        assert_eq!(cluster.verdicts(&NodeUnschedulable, &plain), ["", "node(s) were unschedulable"]);
        let daemon = pod_info(&pod("d").toleration("node.kubernetes.io/unschedulable", "Exists", "", "NoSchedule"));
        assert_eq!(cluster.verdicts(&NodeUnschedulable, &daemon), ["", ""]);
    }
}
