//! What the controllers of nodes share: reading a node, and writing it in spite of conflicts.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeAddress, ObjectReference, Taint};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// The kubelet's taint on a node that no cloud has looked at yet.
pub(crate) const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// The taint of a node whose machine is switched off.
pub(crate) const SHUTDOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";

const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

pub(crate) fn has_taint(node: &Node, key: &str) -> bool {
    taints(node).iter().any(|taint| taint.key == key)
}

pub(crate) fn addresses(node: &Node) -> &[NodeAddress] {
    node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default()
}

/// How events name a node.
pub(crate) fn reference(node: &Node) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        api_version: Some("v1".into()),
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// A merge patch that applies only to this version of the node: it may carry whole lists.
pub(crate) fn versioned(node: &Node, mut patch: Value) -> Value {
    patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
    patch["metadata"]["uid"] = json!(node.metadata.uid);
    patch
}

/// Writes what `change` makes of the node; after a conflict again, from the live node. `change` gives nothing when
/// nothing is left to do. Answers whether something was written.
pub(crate) async fn modify<E: From<kube::Error>>(
    client: &Client,
    node: &Node,
    change: impl Fn(&Node) -> Result<Option<Value>, E>,
) -> Result<bool, E> {
    let api: Api<Node> = Api::all(client.clone());
    let mut live: Option<Node> = None;
    for attempt in 1.. {
        let current = live.as_ref().unwrap_or(node);
        let Some(patch) = change(current)? else { return Ok(false) };
        let patch = versioned(current, patch);
        match api.patch(name(node), &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if crate::apierr::is_conflict(&error) && attempt < TRIES => {
                tokio::time::sleep(PAUSE).await;
                let fresh = api.get(name(node)).await?;
                if fresh.metadata.uid != node.metadata.uid {
                    return Err(error.into());
                }
                live = Some(fresh);
            }
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(true),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_conflict_is_met_with_the_live_node() {
        let stale: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "1"}})).unwrap();
        let (client, calls) = testing::client(|(method, _, body)| match body["metadata"]["resourceVersion"].as_str() {
            Some("1") => testing::status(409, "Conflict"),
            _ if method == http::Method::GET => {
                (200, json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "2"}}))
            }
            _ => (200, json!({"metadata": {"name": "n"}})),
        });
        let change = |_: &Node| Ok::<_, kube::Error>(Some(json!({"spec": {"taints": null}})));
        assert!(modify(&client, &stale, change).await.unwrap());
        let calls = calls.lock();
        assert_eq!(calls.len(), 3);
        assert_eq!(calls[2].2["metadata"]["resourceVersion"], "2");
    }
}
