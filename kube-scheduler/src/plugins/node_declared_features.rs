//! NodeDeclaredFeatures: a pod that uses a feature which not every kubelet has goes to a node that declares it (KEP-5328).

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::Node;

use crate::cache::snapshot::NodeView;
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::plugin::{CycleContext, EnqueueExtensions, Filter, Plugin, PreFilter, PreFiltered, StateData};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};

/// The plugin.
pub struct NodeDeclaredFeatures;

/// Upstream's name.
pub const NAME: &str = "NodeDeclaredFeatures";

static MISSING: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unresolvable(NAME, "node(s) didn't match Pod's required features"));

fn declared(node: &Node) -> &[String] {
    node.status.as_ref().and_then(|status| status.declared_features.as_deref()).unwrap_or_default()
}

extension_points!(NodeDeclaredFeatures { as_pre_filter: PreFilter, as_filter: Filter, as_enqueue: EnqueueExtensions });

impl PreFilter for NodeDeclaredFeatures {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        Ok(match cx.pod.template.features.is_empty() {
            true => PreFiltered::Skip,
            false => PreFiltered::Continue { state: None, nodes: None },
        })
    }
}

impl Filter for NodeDeclaredFeatures {
    fn filter(&self, cx: &CycleContext<'_>, _state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        let has = cx.snapshot.nodes[node.slot as usize].as_deref().map(declared).unwrap_or_default();
        if cx.pod.template.features.iter().all(|feature| has.iter().any(|declared| declared == feature)) {
            return Ok(());
        }
        Err(MISSING.clone())
    }
}

impl EnqueueExtensions for NodeDeclaredFeatures {
    fn interests(&self) -> Vec<Interest> {
        vec![
            Interest { resource: Resource::Node, action: action::ADD | action::NODE_FEATURES },
            Interest { resource: Resource::AssignedPod, action: action::UPDATE },
        ]
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        let queue = match (event.nodes(), event.pods()) {
            ((Some(old), Some(new)), _) => declared(old) != declared(new),
            (_, (Some(old), Some(new))) => new.uid == pod.uid && old.template.features != new.template.features,
            _ => true,
        };
        if queue { Hint::Queue } else { Hint::Skip }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, node, pod, pod_info};
    use serde_json::json;

    #[test]
    fn features_must_be_declared() {
        let cluster = Cluster::new(&[
            node("old"),
            node("one").features(&["UserNamespacesHostNetworkSupport"]),
            node("all").features(&["RestartAllContainersOnContainerExits", "UserNamespacesHostNetworkSupport"]),
        ]);
        let no = "node(s) didn't match Pod's required features";
        let restarts = json!([{"name": "c", "image": "i", "restartPolicyRules": [{"action": "RestartAllContainers",
            "exitCodes": {"operator": "In", "values": [1]}}]}]);
        for (pod, expected) in [
            (pod("p"), ["", "", ""]),
            (pod("p").spec("hostUsers", json!(false)), ["", "", ""]),
            (pod("p").spec("hostUsers", json!(false)).spec("hostNetwork", json!(true)), [no, "", ""]),
            (pod("p").spec("initContainers", restarts.clone()), [no, no, ""]),
            (pod("p").spec("containers", restarts), [no, no, ""]),
        ] {
            assert_eq!(cluster.verdicts(&NodeDeclaredFeatures, &pod_info(&pod)), expected);
        }
    }

    #[test]
    fn only_changes_of_features_matter() {
        let (old, new) = (node("n").build(), node("n").features(&["X"]).build());
        let events = crate::framework::events::node_changes(&old, &new);
        let [event] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(event.label, "NodeUpdateNodeDeclaredFeature");
        assert_eq!(NodeDeclaredFeatures.hint(&pod_info(&pod("p")), event), Hint::Queue);
        assert!(NodeDeclaredFeatures.interests().iter().any(|interest| interest.matches(event)));
    }
}
