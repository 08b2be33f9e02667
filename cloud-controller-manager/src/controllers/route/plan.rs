//! Which routes go and which come, and what that says of each node. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use serde_json::{Value, json};

use crate::controllers::nodes;
use crate::provider::Route;

const CONDITION: &str = "NetworkUnavailable";

/// What has to be done at the cloud. Deletions come first: a route whose node got another address is made anew.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) delete: Vec<Route>,
    pub(super) create: Vec<Route>,
    /// By name, the nodes that are told: how many of their networks have no route yet, or None without any network.
    pub(super) missing: BTreeMap<String, Option<usize>>,
}

fn pod_networks(node: &Node) -> Vec<IpNet> {
    let networks = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_ref());
    networks.into_iter().flatten().filter_map(|text| text.parse::<IpNet>().ok()).map(|net| net.trunc()).collect()
}

/// The node's addresses that routes may lead to, its internal ones first.
fn gateways(node: &Node) -> Vec<IpAddr> {
    let of_type = |kind: &'static str| nodes::addresses(node).iter().filter(move |address| address.type_ == kind);
    of_type("InternalIP").chain(of_type("ExternalIP")).filter_map(|address| address.address.parse().ok()).collect()
}

/// Whether a route is within the pods' networks; others are not ours.
fn is_ours(route: &Route, clusters: &[IpNet]) -> bool {
    let net = route.destination;
    clusters.iter().any(|cluster| cluster.contains(&net.network()) || cluster.contains(&net.broadcast()))
}

/// Compares what is with what the nodes need.
pub(super) fn plan(all: &[Arc<Node>], routes: &[Route], clusters: &[IpNet]) -> Plan {
    let mut plan = Plan::default();
    let mut kept: Vec<&Route> = Vec::new();
    for node in all {
        let name = nodes::name(node);
        let (networks, gateways) = (pod_networks(node), gateways(node));
        let mut current = routes.iter().filter(|route| route.node == name).peekable();
        if networks.is_empty() {
            if current.peek().is_some() {
                plan.missing.insert(name.to_owned(), None);
            }
            continue;
        }
        let current: Vec<&Route> = current.collect();
        let mut missing = 0;
        for network in networks {
            let good = |route: &&&Route| {
                route.destination.trunc() == network && route.via.is_none_or(|via| gateways.contains(&via))
            };
            if let Some(route) = current.iter().find(good) {
                kept.push(route);
                continue;
            }
            missing += 1;
            plan.create.push(Route {
                // A hint that is unique in the cloud, as upstream gives.
                name: node.metadata.uid.clone().unwrap_or_default(),
                node: name.to_owned(),
                destination: network,
                via: gateways.iter().copied().find(|ip| ip.is_ipv4() == network.addr().is_ipv4()),
            });
        }
        plan.missing.insert(name.to_owned(), Some(missing));
    }
    let goes = |route: &&Route| is_ours(route, clusters) && !kept.iter().any(|other| other == route);
    plan.delete = routes.iter().filter(goes).cloned().collect();
    plan
}

/// The strategic merge patch that tells a node whether its network is there; nothing when the node says so already.
pub(super) fn condition_patch(node: &Node, created: bool, now: &str) -> Option<Value> {
    let (status, reason, message) = if created {
        ("False", "RouteCreated", "RouteController created a route")
    } else {
        ("True", "NoRouteCreated", "RouteController failed to create a route")
    };
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let same = |c: &NodeCondition| c.type_ == CONDITION && c.status == status && c.reason.as_deref() == Some(reason);
    if conditions.iter().any(same) {
        return None;
    }
    let condition = json!({"type": CONDITION, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": now, "lastHeartbeatTime": now});
    Some(json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": [condition]}}))
}

/// Whether a change of a node can change a route.
pub(super) fn node_matters(old: &Node, new: &Node) -> bool {
    pod_networks(old) != pod_networks(new) || nodes::addresses(old) != nodes::addresses(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, networks: &[&str], ip: &str) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "uid": format!("uid-{name}")},
            "spec": {"podCIDRs": networks},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}]}}))
            .unwrap(),
        )
    }

    fn route(node: &str, destination: &str, via: &str) -> Route {
        Route {
            name: format!("uid-{node}"),
            node: node.into(),
            destination: destination.parse().unwrap(),
            via: via.parse().ok(),
        }
    }

    #[test]
    fn plans() {
        let clusters = ["10.244.0.0/16".parse().unwrap()];
        let nodes = [
            node("kept", &["10.244.0.0/24"], "172.31.0.1"),
            node("new", &["10.244.1.0/24"], "172.31.0.2"),
            node("moved", &["10.244.2.0/24"], "172.31.0.3"),
            node("waiting", &[], "172.31.0.4"),
            node("stripped", &[], "172.31.0.5"),
        ];
        let routes = [
            route("kept", "10.244.0.0/24", ""),
            route("moved", "10.244.2.0/24", "172.31.9.9"),
            route("stripped", "10.244.7.0/24", ""),
            route("gone", "10.244.8.0/24", ""),
            route("gone", "192.168.0.0/24", ""),
        ];
        let plan = plan(&nodes, &routes, &clusters);
        let of = |routes: &[Route]| routes.iter().map(|r| r.destination.to_string()).collect::<Vec<_>>();
        assert_eq!(of(&plan.delete), ["10.244.2.0/24", "10.244.7.0/24", "10.244.8.0/24"]);
        let expected = [route("new", "10.244.1.0/24", "172.31.0.2"), route("moved", "10.244.2.0/24", "172.31.0.3")];
        assert_eq!(plan.create, expected);
        let missing: Vec<_> = plan.missing.iter().map(|(name, missing)| (name.as_str(), *missing)).collect();
        assert_eq!(missing, [("kept", Some(0)), ("moved", Some(1)), ("new", Some(1)), ("stripped", None)]);
    }

    #[test]
    fn a_condition_is_written_once() {
        let mut node = (*node("n", &["10.244.0.0/24"], "172.31.0.1")).clone();
        let patch = condition_patch(&node, false, "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(patch["status"]["conditions"][0]["reason"], "NoRouteCreated");
        let conditions = serde_json::from_value(patch["status"]["conditions"].clone()).unwrap();
        node.status.as_mut().unwrap().conditions = Some(conditions);
        assert_eq!(condition_patch(&node, false, "x"), None);
        assert_eq!(condition_patch(&node, true, "x").unwrap()["status"]["conditions"][0]["status"], "False");
    }

    #[test]
    fn changes_of_nodes() {
        let old = node("n", &["10.244.0.0/24"], "172.31.0.1");
        assert!(!node_matters(&old, &old));
        assert!(node_matters(&old, &node("n", &["10.244.1.0/24"], "172.31.0.1")));
        assert!(node_matters(&old, &node("n", &["10.244.0.0/24"], "172.31.0.2")));
    }
}
