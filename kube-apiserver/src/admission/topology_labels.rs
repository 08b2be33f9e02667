//! PodTopologyLabels: pods learn the zone and region of their node.

use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::{
    request::ApiResult,
    resources::value::{member, set, str_at},
};

const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

pub(super) struct PodTopologyLabels;

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    /// A binding's labels are copied to the pod when it is bound.
    async fn admit(&self, request: &Attributes<'_>, object: &mut Value) -> ApiResult<()> {
        if !request.group.is_empty() || request.resource != "pods" || request.operation != Operation::Create {
            return Ok(());
        }
        let node = match request.subresource {
            "" => str_at(object, "spec.nodeName"),
            "binding" if str_at(object, "target.kind") == "Node" => str_at(object, "target.name"),
            _ => "",
        };
        if node.is_empty() {
            return Ok(());
        }
        if let Some(node) = request.call.registry.core("nodes")?.glance("", node).await? {
            copy_labels(&node.object, object);
        }
        Ok(())
    }
}

fn copy_labels(node: &Value, object: &mut Value) {
    for label in LABELS {
        if let Some(value) = node["metadata"]["labels"].get(label)
            && let Some(labels) = member(object, "metadata").and_then(|meta| member(meta, "labels"))
        {
            set(labels, label, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_topology_is_copied() {
        let node = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z", "other": "x"}}});
        let mut pod = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "wrong", "app": "a"}}});
        copy_labels(&node, &mut pod);
        assert_eq!(pod["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z", "app": "a"}));
        let mut bare = json!({"metadata": {}});
        copy_labels(&json!({"metadata": {}}), &mut bare);
        assert_eq!(bare, json!({"metadata": {}}));
    }
}
