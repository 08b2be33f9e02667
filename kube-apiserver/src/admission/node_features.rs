//! NodeDeclaredFeatureValidator: a running pod changes only in ways that its node declares to support.

use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::{
    request::ApiResult,
    resources::value::{list_at, same_at, str_at},
};

/// Whether a change of a pod, from the second to the first, needs something.
type Needs = fn(&Value, &Value) -> bool;

/// Features that an update may need, in the order in which they are told.
const FEATURES: [(&str, Needs); 2] = [
    ("InPlacePodLevelResourcesVerticalScaling", |new, old| !same_at(new, old, "spec.resources")),
    ("InPlacePodVerticalScalingInitContainers", resizes_init_containers),
];

pub(super) struct NodeDeclaredFeatureValidator;

#[async_trait]
impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let about_pods = request.group.is_empty() && request.resource == "pods";
        let (Some(new), Some(old)) = (object, request.old) else { return Ok(()) };
        if request.operation != Operation::Update || !about_pods || !matches!(request.subresource, "" | "resize") {
            return Ok(());
        }
        let node = str_at(new, "spec.nodeName");
        if node.is_empty() || same_at(new, old, "metadata.generation") {
            return Ok(());
        }
        let needed = needed(new, old);
        if needed.is_empty() {
            return Ok(());
        }
        let Some(found) = request.call.registry.core("nodes")?.glance("", node).await? else {
            return Err(request.forbidden(format!("node {node:?} not found")));
        };
        let declared = list_at(&found.object, "status.declaredFeatures");
        let missing: Vec<&str> = needed.into_iter().filter(|name| !declared.iter().any(|d| d == name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing = missing.join(", ");
        Err(request
            .forbidden(format!("pod update requires features {missing} which are not available on node {node:?}")))
    }
}

fn needed(new: &Value, old: &Value) -> Vec<&'static str> {
    FEATURES.iter().filter(|(_, is_needed)| is_needed(new, old)).map(|(name, _)| *name).collect()
}

/// Sidecars are containers in this.
fn resizes_init_containers(new: &Value, old: &Value) -> bool {
    let pairs = list_at(old, "spec.initContainers").iter().zip(list_at(new, "spec.initContainers"));
    let mut plain = pairs.filter(|(old, _)| str_at(old, "restartPolicy") != "Always");
    plain.any(|(old, new)| !same_at(new, old, "resources"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_need_features() {
        let pod = |cpu: &str, policy: &str, whole: &str| {
            json!({"spec": {"resources": {"limits": {"cpu": whole}},
                "initContainers": [{"restartPolicy": policy, "resources": {"limits": {"cpu": cpu}}}]}})
        };
        let base = pod("1", "", "1");
        assert!(needed(&base, &base).is_empty());
        assert_eq!(needed(&pod("2", "", "1"), &base), ["InPlacePodVerticalScalingInitContainers"]);
        assert!(needed(&pod("2", "Always", "1"), &pod("1", "Always", "1")).is_empty());
        assert_eq!(needed(&pod("1", "", "2"), &base), ["InPlacePodLevelResourcesVerticalScaling"]);
    }
}
