//! What a Service wants of the cloud, and which changes matter. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::config::parse_go_bool;
use k8s_openapi::api::core::v1::{Node, Service, ServicePort, ServiceSpec};

/// Keeps a Service until its load balancer is gone.
pub(super) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The cluster autoscaler's mark on nodes that it will delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

fn spec(service: &Service) -> ServiceSpec {
    service.spec.clone().unwrap_or_default()
}

fn is_balancer_type(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
}

/// Whether the Service asks for the cloud's own load balancer; one with a class is somebody else's.
pub(super) fn wants_balancer(service: &Service) -> bool {
    is_balancer_type(service) && service.spec.as_ref().is_none_or(|spec| spec.load_balancer_class.is_none())
}

pub(super) fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Whether our finalizer says that a load balancer has to go.
pub(super) fn needs_cleanup(service: &Service) -> bool {
    has_finalizer(service) && (service.metadata.deletion_timestamp.is_some() || !is_balancer_type(service))
}

/// Whether the Service concerns us when it is first seen: also what a dead predecessor left undone.
pub(super) fn is_relevant(service: &Service) -> bool {
    wants_balancer(service) || needs_cleanup(service)
}

/// What to do with a Service's load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Delete,
    Ensure,
}

pub(super) fn operation(service: &Service) -> Operation {
    if !wants_balancer(service) || needs_cleanup(service) { Operation::Delete } else { Operation::Ensure }
}

/// Whether a change matters to the load balancer. The status and our finalizer don't: they are our own doing.
pub(super) fn needs_update(old: &Service, new: &Service) -> bool {
    let (wanted, wants) = (wants_balancer(old), wants_balancer(new));
    if !wanted && !wants {
        return false;
    }
    if wanted != wants || old.metadata.uid != new.metadata.uid {
        return true;
    }
    if old.metadata.annotations.clone().unwrap_or_default() != new.metadata.annotations.clone().unwrap_or_default() {
        return true;
    }
    let (old, new) = (spec(old), spec(new));
    let families = |spec: &ServiceSpec| spec.ip_families.as_ref().map_or(0, Vec::len);
    // Families can't change their order, only their number.
    families(&old) != families(&new)
        || ports(&old) != ports(&new)
        || old.load_balancer_source_ranges.unwrap_or_default() != new.load_balancer_source_ranges.unwrap_or_default()
        || old.session_affinity != new.session_affinity
        || old.session_affinity_config != new.session_affinity_config
        || old.load_balancer_ip.unwrap_or_default() != new.load_balancer_ip.unwrap_or_default()
        || old.external_ips.unwrap_or_default() != new.external_ips.unwrap_or_default()
        || old.external_traffic_policy != new.external_traffic_policy
        || old.health_check_node_port != new.health_check_node_port
}

fn ports(spec: &ServiceSpec) -> &[ServicePort] {
    spec.ports.as_deref().unwrap_or_default()
}

/// Whether the node's label lets load balancers send traffic to it. A value that is no boolean excludes it.
pub(super) fn is_included(node: &Node) -> bool {
    let label = node.metadata.labels.as_ref().and_then(|labels| labels.get(EXCLUDE_LABEL));
    label.is_none_or(|value| parse_go_bool(value) == Ok(false))
}

fn is_eligible(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    node.metadata.deletion_timestamp.is_none()
        && is_included(node)
        && taints.iter().all(|taint| taint.key != TO_BE_DELETED)
}

/// The nodes that load balancers send traffic to. Readiness does not count: the load balancer's own checks do.
pub(super) fn eligible(nodes: Vec<Arc<Node>>) -> Vec<Arc<Node>> {
    nodes.into_iter().filter(|node| is_eligible(node)).collect()
}

fn provider_id(node: &Node) -> &str {
    node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref()).unwrap_or_default()
}

/// Whether a node's change can change a load balancer's set of nodes.
pub(super) fn node_matters(old: &Node, new: &Node) -> bool {
    is_included(old) != is_included(new) || provider_id(old) != provider_id(new)
}

/// Names and provider IDs: what a load balancer was told.
pub(super) type NodeSet = BTreeMap<String, String>;

pub(super) fn node_set(nodes: &[Arc<Node>]) -> NodeSet {
    nodes.iter().map(|n| (n.metadata.name.clone().unwrap_or_default(), provider_id(n).to_owned())).collect()
}

/// Names for a message, in Go's list format; not more than twenty.
pub(super) fn loggable(nodes: &NodeSet) -> String {
    const LIMIT: usize = 20;
    let mut names: Vec<&str> = nodes.keys().take(LIMIT).map(String::as_str).collect();
    let more = format!("<{} more>", nodes.len().saturating_sub(LIMIT));
    if nodes.len() > LIMIT {
        names.push(&more);
    }
    format!("[{}]", names.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(metadata: Value, spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn who_wants_what() {
        let lb = json!({"type": "LoadBalancer"});
        let ours = json!({"name": "a", "finalizers": [FINALIZER]});
        let dying = json!({"name": "a", "finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let table = [
            (json!({"name": "a"}), lb.clone(), true, Operation::Ensure),
            (ours.clone(), lb.clone(), true, Operation::Ensure),
            (dying, lb.clone(), true, Operation::Delete),
            (ours.clone(), json!({"type": "ClusterIP"}), true, Operation::Delete),
            (json!({"name": "a"}), json!({"type": "ClusterIP"}), false, Operation::Delete),
            (
                json!({"name": "a"}),
                json!({"type": "LoadBalancer", "loadBalancerClass": "x/y"}),
                false,
                Operation::Delete,
            ),
        ];
        for (metadata, spec, relevant, wanted) in table {
            let service = service(metadata, spec);
            assert_eq!((is_relevant(&service), operation(&service)), (relevant, wanted), "{service:?}");
        }
    }

    #[test]
    fn which_changes_matter() {
        let base = json!({"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}]});
        let old = service(json!({"name": "a", "uid": "1"}), base.clone());
        let with = |key: &str, value: Value| {
            let mut spec = base.clone();
            spec[key] = value;
            service(json!({"name": "a", "uid": "1"}), spec)
        };
        for (key, value) in [
            ("type", json!("ClusterIP")),
            ("ports", json!([{"port": 81, "nodePort": 30000, "protocol": "TCP"}])),
            ("loadBalancerSourceRanges", json!(["10.0.0.0/8"])),
            ("sessionAffinity", json!("ClientIP")),
            ("loadBalancerIP", json!("192.0.2.1")),
            ("externalIPs", json!(["192.0.2.1"])),
            ("externalTrafficPolicy", json!("Local")),
            ("healthCheckNodePort", json!(30001)),
            ("ipFamilies", json!(["IPv4", "IPv6"])),
        ] {
            assert!(needs_update(&old, &with(key, value)), "{key}");
        }
        assert!(!needs_update(&old, &with("selector", json!({"a": "b"}))));
        assert!(needs_update(&old, &service(json!({"name": "a", "uid": "2"}), base.clone())));
        assert!(needs_update(
            &old,
            &service(json!({"name": "a", "uid": "1", "annotations": {"a": "b"}}), base.clone())
        ));
        assert!(!needs_update(&old, &service(json!({"name": "a", "uid": "1", "finalizers": [FINALIZER]}), base)));
        let plain = |port: i32| service(json!({"name": "a"}), json!({"type": "ClusterIP", "ports": [{"port": port}]}));
        assert!(!needs_update(&plain(1), &plain(2)));
    }

    fn node(name: &str, labels: Value, taint: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels},
            "spec": {"providerID": format!("local://{name}"), "taints": [{"key": taint, "effect": "NoSchedule"}]}}))
        .unwrap()
    }

    #[test]
    fn which_nodes_serve() {
        let nodes = vec![
            node("a", json!({}), "any"),
            node("b", json!({EXCLUDE_LABEL: ""}), "any"),
            node("c", json!({EXCLUDE_LABEL: "false"}), "any"),
            node("d", json!({}), TO_BE_DELETED),
        ];
        let set = node_set(&eligible(nodes.into_iter().map(Arc::new).collect()));
        assert_eq!(set.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(loggable(&set), "[a c]");
        let many: NodeSet = (0..23).map(|n| (format!("{n:02}"), String::new())).collect();
        assert!(loggable(&many).ends_with("19 <3 more>]"));
        assert!(node_matters(&node("a", json!({}), "x"), &node("a", json!({EXCLUDE_LABEL: "true"}), "x")));
        assert!(!node_matters(&node("a", json!({}), "x"), &node("a", json!({"l": "v"}), TO_BE_DELETED)));
    }
}
