//! What the cloud's knowledge of a machine makes of its node. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, NodeAddress};
use serde_json::{Value, json};

use crate::controllers::nodes::{self, UNINITIALIZED};
use crate::provider::InstanceMetadata;

/// The kubelet's `--node-ip`, when it leaves the node's addresses to the cloud.
const PROVIDED_IP: &str = "alpha.kubernetes.io/provided-node-ip";
/// Each label that the cloud sets under its old and its new name.
const ZONE: [&str; 2] = ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"];
const REGION: [&str; 2] = ["failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"];
const INSTANCE_TYPE: [&str; 2] = ["beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"];

/// New labels whose value is not that of the old one, which is the source of truth as upstream's.
pub(super) fn labels_to_reconcile(node: &Node) -> BTreeMap<&'static str, String> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let differs = |[old, new]: [&'static str; 2]| {
        let value = labels.get(old)?;
        (labels.get(new) != Some(value)).then(|| (new, value.clone()))
    };
    [ZONE, REGION, INSTANCE_TYPE].into_iter().filter_map(differs).collect()
}

/// Labels of Kubernetes' own name space are not the provider's to set.
fn is_reserved(key: &str) -> bool {
    key.split_once('/').is_some_and(|(domain, _)| {
        ["kubernetes.io", "k8s.io"].iter().any(|reserved| {
            domain.strip_suffix(reserved).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        })
    })
}

fn labels(node: &Node, machine: &InstanceMetadata) -> BTreeMap<String, String> {
    let pairs = [(INSTANCE_TYPE, &machine.instance_type), (ZONE, &machine.zone), (REGION, &machine.region)];
    let known = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    let mut labels: BTreeMap<String, String> =
        known.flat_map(|(keys, value)| keys.map(|key| (key.to_owned(), value.clone()))).collect();
    let present = node.metadata.labels.clone().unwrap_or_default();
    for (key, value) in &machine.labels {
        if is_reserved(key) || present.get(key).is_some_and(|other| other != value) {
            tracing::warn!(node = nodes::name(node), key, "label of the cloud provider discarded: reserved or present");
        } else {
            labels.insert(key.clone(), value.clone());
        }
    }
    labels
}

/// The merge patch that makes a tainted node an initialized one; nothing when it is one already.
pub(super) fn initialize(node: &Node, machine: &InstanceMetadata) -> Result<Option<Value>, String> {
    if !nodes::has_taint(node, UNINITIALIZED) {
        return Ok(None);
    }
    let current = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref()).unwrap_or_default();
    let mut spec = json!({});
    if current.is_empty() {
        if machine.provider_id.is_empty() {
            return Err(format!("cloud provider does not set node provider ID for node {}", nodes::name(node)));
        }
        // Never changed once it is there.
        spec["providerID"] = json!(machine.provider_id);
    }
    prefer_node_ip(node, machine.addresses.clone())
        .map_err(|error| format!("provided node ip for node {:?} is not valid: {error}", nodes::name(node)))?;
    let taints: Vec<_> = nodes::taints(node).iter().filter(|taint| taint.key != UNINITIALIZED).collect();
    spec["taints"] = if taints.is_empty() { Value::Null } else { json!(taints) };
    let labels = labels(node, machine);
    let metadata = if labels.is_empty() { json!({}) } else { json!({"labels": labels}) };
    Ok(Some(json!({"metadata": metadata, "spec": spec})))
}

/// The addresses that the node's status should have; nothing when it has them.
pub(super) fn addresses(node: &Node, machine: &InstanceMetadata) -> Result<Option<Vec<NodeAddress>>, String> {
    if machine.addresses.is_empty() {
        return Ok(None);
    }
    let is_hostname = |address: &&NodeAddress| address.type_ == "Hostname";
    let mut wanted = machine.addresses.clone();
    if !wanted.iter().any(|address| is_hostname(&address)) {
        wanted.extend(nodes::addresses(node).iter().filter(is_hostname).cloned());
    }
    let wanted = prefer_node_ip(node, wanted)?;
    let sorted = |list: &[NodeAddress]| {
        let mut pairs: Vec<_> = list.iter().map(|a| (a.type_.clone(), a.address.clone())).collect();
        pairs.sort();
        pairs
    };
    Ok((sorted(nodes::addresses(node)) != sorted(&wanted)).then_some(wanted))
}

/// Puts the addresses that the kubelet was told first; of their types no others stay.
fn prefer_node_ip(node: &Node, cloud: Vec<NodeAddress>) -> Result<Vec<NodeAddress>, String> {
    let annotation = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(PROVIDED_IP));
    let Some(text) = annotation else { return Ok(cloud) };
    let mut wanted: Vec<NodeAddress> = Vec::new();
    for part in text.split(',') {
        let ip: IpAddr = part
            .trim()
            .parse()
            .map_err(|_| format!("failed to parse node IP {text:?}: could not parse {part:?} as an IP"))?;
        let matching: Vec<_> = cloud.iter().filter(|address| address.address.parse() == Ok(ip)).cloned().collect();
        if matching.is_empty() {
            return Err(format!("failed to get node address from cloud provider that matches ip: {ip}"));
        }
        wanted.extend(matching);
    }
    let enforced: Vec<String> = wanted.iter().map(|address| address.type_.clone()).collect();
    wanted.extend(cloud.into_iter().filter(|address| !enforced.contains(&address.type_)));
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(value: Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    fn list(pairs: &[(&str, &str)]) -> Vec<NodeAddress> {
        pairs.iter().map(|(t, a)| NodeAddress { type_: (*t).into(), address: (*a).into() }).collect()
    }

    fn machine() -> InstanceMetadata {
        InstanceMetadata {
            provider_id: "local://n".into(),
            instance_type: "big".into(),
            addresses: list(&[("InternalIP", "10.0.0.1"), ("InternalIP", "10.0.0.2"), ("ExternalIP", "192.0.2.1")]),
            zone: "z".into(),
            region: String::new(),
            labels: [("rack", "r1"), ("node.kubernetes.io/x", "y"), ("taken", "other")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        }
    }

    #[test]
    fn a_tainted_node_is_initialized() {
        let tainted = node(json!({"metadata": {"name": "n", "labels": {"taken": "mine"}}, "spec": {"taints": [
            {"key": UNINITIALIZED, "effect": "NoSchedule", "value": "true"}, {"key": "a", "effect": "NoExecute"}]}}));
        let patch = initialize(&tainted, &machine()).unwrap().unwrap();
        assert_eq!(patch["spec"]["providerID"], "local://n");
        assert_eq!(patch["spec"]["taints"], json!([{"key": "a", "effect": "NoExecute"}]));
        let labels = &patch["metadata"]["labels"];
        assert_eq!(labels["topology.kubernetes.io/zone"], "z");
        assert_eq!(labels["failure-domain.beta.kubernetes.io/zone"], "z");
        assert_eq!(labels["node.kubernetes.io/instance-type"], "big");
        assert_eq!(labels["rack"], "r1");
        assert_eq!(labels.as_object().unwrap().len(), 5);
        assert_eq!(initialize(&node(json!({"metadata": {"name": "n"}})), &machine()), Ok(None));
    }

    #[test]
    fn a_provider_id_is_needed_and_kept() {
        let tainted = json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": UNINITIALIZED, "effect": "x"}]}});
        let nameless = InstanceMetadata::default();
        assert!(initialize(&node(tainted.clone()), &nameless).unwrap_err().contains("provider ID for node n"));
        let mut with_id = tainted;
        with_id["spec"]["providerID"] = json!("old://n");
        let patch = initialize(&node(with_id), &machine()).unwrap().unwrap();
        assert_eq!(patch["spec"], json!({"taints": null}));
    }

    #[test]
    fn addresses_keep_the_hostname_and_prefer_the_kubelets_ip() {
        let plain = json!({"metadata": {"name": "n"}, "status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n"}]}});
        let wanted = addresses(&node(plain.clone()), &machine()).unwrap().unwrap();
        assert_eq!(wanted.last().unwrap().type_, "Hostname");
        assert_eq!(wanted.len(), 4);
        let mut told = plain.clone();
        told["metadata"]["annotations"] = json!({PROVIDED_IP: "10.0.0.2"});
        let wanted = addresses(&node(told.clone()), &machine()).unwrap().unwrap();
        let expected = list(&[("InternalIP", "10.0.0.2"), ("ExternalIP", "192.0.2.1"), ("Hostname", "n")]);
        assert_eq!(wanted, expected);
        told["metadata"]["annotations"] = json!({PROVIDED_IP: "10.9.9.9"});
        assert!(addresses(&node(told), &machine()).unwrap_err().contains("matches ip: 10.9.9.9"));
        let same = InstanceMetadata { addresses: list(&[("InternalIP", "10.0.0.1")]), ..Default::default() };
        assert_eq!(addresses(&node(plain), &same), Ok(None));
    }

    #[test]
    fn old_labels_lead_new_ones() {
        let labels = json!({ZONE[0]: "a", ZONE[1]: "b", REGION[1]: "r", INSTANCE_TYPE[0]: "t"});
        let got = labels_to_reconcile(&node(json!({"metadata": {"labels": labels}})));
        assert_eq!(got, BTreeMap::from([(ZONE[1], "a".to_owned()), (INSTANCE_TYPE[1], "t".to_owned())]));
        assert!(is_reserved("k8s.io/x") && is_reserved("a.kubernetes.io/x") && !is_reserved("notk8s.io/x"));
    }
}
