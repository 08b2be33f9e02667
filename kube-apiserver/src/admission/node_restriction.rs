//! NodeRestriction: kubelets write only their own node, their own pods and what belongs to them.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin, is_mirror};
use crate::{authz::node::node_of, request::ApiResult, resources::field::go_quote};

const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

pub(super) struct NodeRestriction;

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn admit(&self, request: &Attributes<'_>, object: &mut Value) -> ApiResult<()> {
        check(request, Some(object)).await
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        if request.operation == Operation::Delete { check(request, object).await } else { Ok(()) }
    }
}

async fn check(request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
    let Some(node) = node_of(&request.call.user) else { return Ok(()) };
    let quoted = go_quote(node);
    if node.is_empty() {
        let user = go_quote(&request.call.user.name);
        return Err(request.forbidden(format!("could not determine node from user {user}")));
    }
    match (request.group, request.resource, request.subresource) {
        ("", "pods", "") => pod(request, node, object).await,
        ("", "pods", "status") => pod_status(request, node, object),
        ("", "pods", "eviction") => {
            let found = request.call.registry.core("pods")?.get(request.namespace, request.name).await?;
            if found.object["spec"]["nodeName"] == node {
                return Ok(());
            }
            Err(request.forbidden(format!("node {node} can only evict pods with spec.nodeName set to itself")))
        }
        ("", "pods", other) => Err(request.forbidden(format!(
            "unexpected pod subresource {}, only 'status' and 'eviction' are allowed",
            go_quote(other)
        ))),
        ("", "nodes", _) => own_node(request, node, object),
        ("", "persistentvolumeclaims", "status") => Ok(()),
        ("", "persistentvolumeclaims", _) => Err(request.forbidden("may only update PVC status")),
        ("", "serviceaccounts", "token") if request.operation == Operation::Create => {
            token(request, node, object).await
        }
        ("coordination.k8s.io", "leases", _) => {
            let scope = request.namespace;
            if scope != "kube-node-lease" {
                return Err(request.forbidden(format!(
                    "can only access leases in the {} system namespace",
                    go_quote("kube-node-lease")
                )));
            }
            if request.name == node {
                return Ok(());
            }
            Err(request.forbidden("can only access node lease with the same name as the requesting node"))
        }
        ("storage.k8s.io", "csinodes", _) if request.name != node => {
            Err(request.forbidden("can only access CSINode with the same name as the requesting node"))
        }
        ("resource.k8s.io", "resourceslices", _) => slice(request, node, &quoted, object),
        _ => Ok(()),
    }
}

async fn pod(request: &Attributes<'_>, node: &str, object: Option<&Value>) -> ApiResult<()> {
    let quoted = go_quote(node);
    match (request.operation, object) {
        (Operation::Create, Some(pod)) => mirror_pod(request, node, pod).await,
        (Operation::Delete, _) => match request.old {
            Some(old) if old["spec"]["nodeName"] != node => {
                Err(request.forbidden(format!("node {quoted} can only delete pods with spec.nodeName set to itself")))
            }
            _ => Ok(()),
        },
        _ => Err(request.forbidden(format!(
            "unexpected operation \"UPDATE\", node {quoted} can only create and delete mirror pods"
        ))),
    }
}

async fn mirror_pod(request: &Attributes<'_>, node: &str, pod: &Value) -> ApiResult<()> {
    let quoted = go_quote(node);
    if !is_mirror(pod) {
        return Err(request.forbidden(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node {quoted} can only create mirror pods"
        )));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(request.forbidden(format!("node {quoted} can only create pods with spec.nodeName set to itself")));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let owner = match owners {
        [owner] => owner,
        [] => {
            return Err(
                request.forbidden(format!("node {quoted} can only create pods with an owner reference set to itself"))
            );
        }
        _ => {
            return Err(request
                .forbidden(format!("node {quoted} can only create pods with a single owner reference set to itself")));
        }
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Err(
            request.forbidden(format!("node {quoted} can only create pods with an owner reference set to itself"))
        );
    }
    if owner["controller"] != true {
        return Err(request
            .forbidden(format!("node {quoted} can only create pods with a controller owner reference set to itself")));
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(request.forbidden(format!("node {quoted} must not set blockOwnerDeletion on an owner reference")));
    }
    let found = request.call.registry.core("nodes")?.get("", node).await?;
    let (wanted, uid) =
        (owner["uid"].as_str().unwrap_or_default(), found.object["metadata"]["uid"].as_str().unwrap_or_default());
    if wanted != uid {
        return Err(request.forbidden(format!("node {node} UID mismatch: expected {wanted} got {uid}")));
    }
    match super::referenced_kind(pod) {
        Some(kind) => Err(request.forbidden(format!("node {quoted} can not create pods that reference {kind}"))),
        None => Ok(()),
    }
}

fn pod_status(request: &Attributes<'_>, node: &str, object: Option<&Value>) -> ApiResult<()> {
    let quoted = go_quote(node);
    let (Some(old), Some(new)) = (request.old, object) else { return Ok(()) };
    if old["spec"]["nodeName"] != node {
        return Err(request
            .forbidden(format!("node {quoted} can only update pod status for pods with spec.nodeName set to itself")));
    }
    if old["metadata"]["labels"] != new["metadata"]["labels"] {
        return Err(request.forbidden(format!("node {quoted} cannot update labels through pod status")));
    }
    if old["status"]["resourceClaimStatuses"] != new["status"]["resourceClaimStatuses"] {
        return Err(request.forbidden(format!("node {quoted} cannot update resource claim statues")));
    }
    Ok(())
}

fn own_node(request: &Attributes<'_>, node: &str, object: Option<&Value>) -> ApiResult<()> {
    let quoted = go_quote(node);
    if request.name != node {
        return Err(
            request.forbidden(format!("node {quoted} is not allowed to modify node {}", go_quote(request.name)))
        );
    }
    let Some(new) = object else { return Ok(()) };
    let empty = Value::Null;
    let old = request.old.unwrap_or(&empty);
    let forbidden: Vec<String> = changed_labels(old, new).into_iter().filter(|l| is_forbidden(l)).collect();
    let same = |at: fn(&Value) -> &Value| {
        let is_empty = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
        at(old) == at(new) || (is_empty(at(old)) && is_empty(at(new)))
    };
    match request.operation {
        Operation::Create if !forbidden.is_empty() => Err(request
            .forbidden(format!("node {quoted} is not allowed to set the following labels: {}", forbidden.join(", ")))),
        Operation::Update if !same(|o| &o["spec"]["taints"]) => {
            Err(request.forbidden(format!("node {quoted} is not allowed to modify taints")))
        }
        Operation::Update if !same(|o| &o["metadata"]["ownerReferences"]) => {
            Err(request.forbidden(format!("node {quoted} is not allowed to modify ownerReferences")))
        }
        Operation::Update if !forbidden.is_empty() => {
            Err(request.forbidden(format!("is not allowed to modify labels: {}", forbidden.join(", "))))
        }
        _ => Ok(()),
    }
}

fn changed_labels(old: &Value, new: &Value) -> BTreeSet<String> {
    let (old, new) = (&old["metadata"]["labels"], &new["metadata"]["labels"]);
    let keys = |v: &Value| v.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    keys(old).into_iter().chain(keys(new)).filter(|k| old.get(k) != new.get(k)).collect()
}

fn is_forbidden(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let within = |domain: &str| namespace == domain || namespace.ends_with(&format!(".{domain}"));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let ours = OWN_LABELS.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    (within("kubernetes.io") || within("k8s.io")) && !ours
}

async fn token(request: &Attributes<'_>, node: &str, object: Option<&Value>) -> ApiResult<()> {
    let reference = object.map(|o| &o["spec"]["boundObjectRef"]);
    let text = |field: &str| reference.and_then(|r| r[field].as_str()).unwrap_or_default();
    if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
        return Err(request.forbidden("node requested token not bound to a pod"));
    }
    if text("uid").is_empty() {
        return Err(request.forbidden("node requested token with a pod binding without a uid"));
    }
    let pod = request.call.registry.core("pods")?.get(request.namespace, text("name")).await?.object;
    if pod["metadata"]["uid"] != text("uid") {
        return Err(request.forbidden(format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            text("uid")
        )));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(request.forbidden("node requested token bound to a pod scheduled on a different node"));
    }
    Ok(())
}

fn slice(request: &Attributes<'_>, node: &str, quoted: &str, object: Option<&Value>) -> ApiResult<()> {
    let owner = object.or(request.old).map(|o| &o["spec"]["nodeName"]);
    if owner.is_some_and(|o| o == node) {
        return Ok(());
    }
    Err(request.forbidden(format!(
        "can only create or delete ResourceSlice with the same NodeName as the requesting node ({quoted})"
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_of_others_are_forbidden() {
        for (label, forbidden) in [
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("x.kubelet.kubernetes.io/y", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("node-restriction.kubernetes.io/a", true),
            ("example.com/a", false),
            ("plain", false),
        ] {
            assert_eq!(is_forbidden(label), forbidden, "{label}");
        }
        let old = json!({"metadata": {"labels": {"a": "1", "b": "1"}}});
        let new = json!({"metadata": {"labels": {"a": "1", "b": "2", "c": "3"}}});
        assert_eq!(changed_labels(&old, &new).into_iter().collect::<Vec<_>>(), ["b", "c"]);
    }
}
