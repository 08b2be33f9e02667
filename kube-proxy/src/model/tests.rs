use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};

use super::*;

fn model() -> Model {
    Model::new("n1", Timestamp::UNIX_EPOCH)
}

fn service(name: &str, spec: Value) -> Service {
    let mut object = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {
        "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ports": [{"name": "p", "port": 80}]}});
    for (field, value) in spec.as_object().unwrap() {
        if field == "status" { object["status"] = value.clone() } else { object["spec"][field] = value.clone() }
    }
    serde_json::from_value(object).unwrap()
}

fn slice(name: &str, of: &str, endpoints: Value) -> EndpointSlice {
    serde_json::from_value(
        json!({"addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "p", "port": 8080}],
        "metadata": {"name": name, "namespace": "ns", "labels": {"kubernetes.io/service-name": of}}}),
    )
    .unwrap()
}

fn ready(ip: &str, node: &str) -> Value {
    json!({"addresses": [ip], "nodeName": node})
}

fn cluster(model: &Model, service: &str) -> Vec<String> {
    let routed = model.route(service, Family::V4);
    routed.iter().flat_map(|port| &port.choice.cluster).map(|(ip, port)| format!("{ip}:{port}")).collect()
}

#[test]
fn a_service_has_ports_in_its_families() {
    let mut model = model();
    assert!(model.set_service(&service("a", json!({}))));
    assert!(!model.set_service(&service("a", json!({}))), "nothing new");
    for family in Family::BOTH {
        let routed = model.route("ns/a", family);
        assert_eq!(routed.len(), 1);
        assert_eq!(routed[0].name.to_string(), "ns/a:p");
        assert_eq!(Family::of(routed[0].service.cluster_ip), family);
    }
}

#[test]
fn what_is_not_ours_has_no_ports() {
    for spec in [json!({"clusterIP": "None", "clusterIPs": ["None"]}), json!({"type": "ExternalName"})] {
        let mut model = model();
        assert!(!model.set_service(&service("a", spec)));
        assert!(model.route_all(Family::V4).is_empty());
    }
}

#[test]
fn external_ways_are_read() {
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
        "externalIPs": ["192.0.2.1", "fd00::2", "192.0.2.1"], "loadBalancerSourceRanges": [" 10.1.2.3/8", "fd00::/8"],
        "ports": [{"name": "p", "port": 80, "nodePort": 30080}],
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}]}}});
    let mut model = model();
    model.set_service(&service("a", spec));
    let routed = model.route("ns/a", Family::V4);
    let external = routed[0].service.external.as_ref().unwrap();
    assert_eq!(external.external_ips, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(external.load_balancer_ips, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(external.source_ranges, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!((external.node_port, external.local, external.health_check_node_port), (Some(30080), true, Some(32000)));
    assert!(routed[0].service.uses_cluster() && routed[0].service.uses_local());
}

#[test]
fn slices_may_come_before_their_service_and_move_endpoints() {
    let mut model = model();
    assert!(model.set_slice(&slice("a-1", "a", json!([ready("10.0.0.1", "n1"), ready("10.0.0.2", "n2")]))));
    model.set_service(&service("a", json!({})));
    assert_eq!(cluster(&model, "ns/a"), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    // An endpoint in two slices counts once.
    model.set_slice(&slice("a-2", "a", json!([ready("10.0.0.2", "n2"), ready("10.0.0.3", "n2")])));
    assert_eq!(cluster(&model, "ns/a"), ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]);
    assert!(model.remove_slice(&slice("a-1", "a", json!([]))));
    assert!(!model.remove_slice(&slice("a-1", "a", json!([]))));
    assert_eq!(cluster(&model, "ns/a"), ["10.0.0.2:8080", "10.0.0.3:8080"]);
}

#[test]
fn a_running_pod_wins_over_a_terminating_one_with_its_address() {
    let leaving =
        json!({"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": false, "terminating": true}});
    let running = ready("10.0.0.1", "n1");
    for endpoints in [json!([leaving, running]), json!([running, leaving])] {
        let mut model = model();
        model.set_service(&service("a", json!({})));
        model.set_slice(&slice("a-1", "a", endpoints));
        assert_eq!(cluster(&model, "ns/a"), ["10.0.0.1:8080"]);
    }
}

#[test]
fn changes_remember_how_it_was_before_the_first_of_them() {
    let mut model = model();
    model.set_service(&service("a", json!({})));
    model.set_slice(&slice("a-1", "a", json!([ready("10.0.0.1", "n1")])));
    let changes = model.take_changes();
    assert_eq!(changes["ns/a"].old, [Vec::new(), Vec::new()]);
    let before = model.route("ns/a", Family::V4);
    model.set_slice(&slice("a-1", "a", json!([ready("10.0.0.2", "n1")])));
    model.set_slice(&slice("a-1", "a", json!([ready("10.0.0.3", "n1")])));
    let mut changes = model.take_changes();
    assert_eq!(changes.remove(&ServiceKey::from("ns/a")).unwrap().old[0], before);
    assert!(changes.is_empty() && model.take_changes().is_empty());
}

#[test]
fn a_new_list_removes_what_it_does_not_name() {
    let mut model = model();
    model.set_service(&service("a", json!({})));
    model.set_service(&service("b", json!({"clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2"]})));
    model.set_slice(&slice("a-1", "a", json!([ready("10.0.0.1", "n1")])));
    assert!(model.keep_services(&BTreeSet::from(["ns/a".to_owned()])));
    assert!(model.route("ns/b", Family::V4).is_empty());
    assert!(model.keep_slices(&BTreeSet::new()));
    assert!(cluster(&model, "ns/a").is_empty());
    assert!(!model.keep_slices(&BTreeSet::new()));
}

#[test]
fn health_checks_count_addresses_here() {
    let mut model = model();
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000});
    model.set_service(&service("a", spec));
    let leaving = json!({"addresses": ["10.0.0.9"], "nodeName": "n1", "conditions": {"ready": false, "serving": true}});
    model.set_slice(&slice("a-1", "a", json!([ready("10.0.0.1", "n1"), ready("10.0.0.2", "n2"), leaving])));
    assert_eq!(model.health_checks(Family::V4)["ns/a"], (32000, 1));
    assert_eq!(model.health_checks(Family::V6)["ns/a"], (32000, 0));
}
