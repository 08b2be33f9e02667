//! Tables and properties of slice packing.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn service(ports: Value) -> Service {
    serde_json::from_value(
        json!({"metadata": {"name": "web", "namespace": "ns", "uid": "su", "labels": {"l": "v", MANAGED_BY: "me"}},
        "spec": {"clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "selector": {"a": "b"}, "ports": ports}}),
    )
    .unwrap()
}

fn pod(n: usize, ready: bool) -> Arc<Pod> {
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": format!("p{n:04}"), "namespace": "ns", "uid": format!("u{n}")},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080 + (n % 2)}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.{}.{}", n / 250, n % 250)}],
                "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}}))
        .unwrap(),
    )
}

fn known(_: &str) -> NodeInfo {
    NodeInfo::Known { zone: Some("z1".into()) }
}

fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
    max_endpoints: usize,
    node: &dyn Fn(&str) -> NodeInfo,
) -> Plan {
    let input = Input { service, node, max_endpoints, hints: Hints::of(service), shares: None };
    reconcile(&input, pods, existing)
}

fn run(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>], max: usize) -> Changes {
    plan(service, pods, existing, max, &known).changes
}

/// The slices after the changes, as a server would hold them.
fn apply(existing: &[Arc<EndpointSlice>], changes: &Changes) -> Vec<Arc<EndpointSlice>> {
    let gone =
        |s: &EndpointSlice| changes.delete.iter().chain(&changes.update).any(|d| d.metadata.name == s.metadata.name);
    let mut next: Vec<_> = existing.iter().filter(|s| !gone(s)).cloned().collect();
    next.extend(changes.update.iter().cloned().map(Arc::new));
    for slice in &changes.create {
        let mut slice = slice.clone();
        let taken = |n: &String| next.iter().any(|s: &Arc<EndpointSlice>| s.metadata.name.as_ref() == Some(n));
        slice.metadata.name = (0..).map(|i| format!("web-{i}")).find(|n| !taken(n));
        next.push(Arc::new(slice));
    }
    next
}

fn addresses(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
    let mut list: Vec<String> =
        slices.iter().flat_map(|s| s.endpoints.iter().flatten()).flat_map(|e| e.addresses.clone()).collect();
    list.sort();
    list
}

#[test]
fn one_pod() {
    let s = service(json!([{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}]));
    let c = run(&s, &[pod(1, true)], &[], 100);
    let slice = &c.create[0];
    let got = serde_json::to_value(slice).unwrap();
    assert_eq!(got["metadata"]["labels"], json!({"l": "v", MANAGED_BY: CONTROLLER, SERVICE_NAME: "web"}));
    assert_eq!(got["metadata"]["ownerReferences"][0]["uid"], "su");
    assert_eq!(got["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"}]));
    assert_eq!(
        got["endpoints"],
        json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "n1", "zone": "z1", "targetRef": {"kind": "Pod", "namespace": "ns", "name": "p0001", "uid": "u1"}}])
    );
    // The same again changes nothing.
    let have = apply(&[], &c);
    assert_eq!(run(&s, &[pod(1, true)], &have, 100), Changes::default());
    // Readiness is an update in place.
    let c = run(&s, &[pod(1, false)], &have, 100);
    assert_eq!((c.create.len(), c.update.len(), c.delete.len()), (0, 1, 0));
    let conditions = c.update[0].endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
    assert_eq!((conditions.ready, conditions.serving), (Some(false), Some(false)));
}

#[test]
fn without_pods_one_empty_slice() {
    let s = service(json!([{"port": 80}]));
    let c = run(&s, &[], &[], 100);
    assert_eq!(c.create.len(), 1);
    let have = apply(&[], &c);
    assert_eq!(run(&s, &[], &have, 100), Changes::default());
    // The empty slice becomes the first real one.
    let c = run(&s, &[pod(1, true)], &have, 100);
    assert_eq!((c.create.len(), c.update.len(), c.delete.len()), (0, 1, 0));
    let have = apply(&have, &c);
    let c = run(&s, &[], &have, 100);
    assert_eq!((c.create.len(), c.update.len(), c.delete.len()), (0, 1, 0));
    assert!(addresses(&apply(&have, &c)).is_empty());
}

#[test]
fn named_ports_split_by_number() {
    let s = service(json!([{"port": 80, "targetPort": "web"}]));
    let c = run(&s, &[pod(1, true), pod(2, true), pod(3, true)], &[], 100);
    let mut ports: Vec<_> = c.create.iter().map(|s| (s.ports.as_ref().unwrap()[0].port, len(s))).collect();
    ports.sort();
    assert_eq!(ports, [(Some(8080), 1), (Some(8081), 2)]);
}

#[test]
fn headless_without_ports_and_terminating_pods() {
    let mut s = service(json!([]));
    let spec = s.spec.as_mut().unwrap();
    spec.cluster_ip = Some("None".into());
    spec.publish_not_ready_addresses = Some(true);
    let mut p = (*pod(1, false)).clone();
    p.metadata.deletion_timestamp = Some(crate::shared::meta::now_time());
    let unknown = |_: &str| NodeInfo::Unknown;
    let c = plan(&s, &[Arc::new(p)], &[], 100, &unknown).changes;
    let slice = &c.create[0];
    assert_eq!(slice.label(services::HEADLESS), Some(""));
    let conditions = slice.endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
    assert_eq!((conditions.ready, conditions.serving, conditions.terminating), (Some(true), Some(false), Some(true)));
    // An unknown node holds a pod back otherwise.
    let s = service(json!([{"port": 80}]));
    let c = plan(&s, &[pod(1, true)], &[], 100, &unknown).changes;
    assert_eq!(c.unknown_nodes, ["p0001"]);
    assert!(addresses(&apply(&[], &c)).is_empty());
}

#[test]
fn foreign_slices_and_families_go() {
    let s = service(json!([{"port": 80, "targetPort": 8080}]));
    let have = apply(&[], &run(&s, &[pod(1, true)], &[], 100));
    let mut v6 = (*have[0]).clone();
    v6.address_type = "IPv6".into();
    v6.metadata.name = Some("v6".into());
    let mut other = (*have[0]).clone();
    other.metadata.owner_references.as_mut().unwrap()[0].uid = "earlier".into();
    other.metadata.name = Some("earlier".into());
    let all = [have[0].clone(), Arc::new(v6), Arc::new(other)];
    let c = run(&s, &[pod(1, true)], &all, 100);
    let names: Vec<_> = c.delete.iter().map(|s| s.name_str().to_owned()).collect();
    assert_eq!((c.create.len(), c.update.len(), names), (0, 0, vec!["v6".to_owned(), "earlier".to_owned()]));
}

#[test]
fn adding_one_touches_one_slice() {
    let s = service(json!([{"port": 80, "targetPort": 8080}]));
    let pods: Vec<_> = (0..250).map(|n| pod(n, true)).collect();
    let have = apply(&[], &run(&s, &pods, &[], 100));
    assert_eq!(have.len(), 3);
    let more: Vec<_> = (0..251).map(|n| pod(n, true)).collect();
    let c = run(&s, &more, &have, 100);
    assert_eq!((c.create.len(), c.update.len(), c.delete.len()), (0, 1, 0));
    assert_eq!(len(&c.update[0]), 51);
}

#[test]
fn hints_come_and_go_with_the_field() {
    let mut s = service(json!([{"port": 80, "targetPort": 8080}]));
    let pods = [pod(1, true), pod(2, false)];
    let have = apply(&[], &run(&s, &pods, &[], 100));
    s.spec.as_mut().unwrap().traffic_distribution = Some("PreferSameNode".into());
    let c = run(&s, &pods, &have, 100);
    assert_eq!((c.create.len(), c.update.len(), c.delete.len()), (0, 1, 0));
    let hints = |c: &Changes| serde_json::to_value(&c.update[0].endpoints).unwrap();
    let both = json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]});
    assert_eq!((&hints(&c)[0]["hints"], &hints(&c)[1]["hints"]), (&both, &Value::Null));
    let have = apply(&have, &c);
    assert_eq!(run(&s, &pods, &have, 100), Changes::default(), "nothing more to write");
    let ready = [pod(1, true), pod(2, true)];
    assert_eq!(hints(&run(&s, &ready, &have, 100))[1]["hints"], both, "of those that become ready too");
    s.spec.as_mut().unwrap().traffic_distribution = None;
    let c = run(&s, &pods, &have, 100);
    assert_eq!((c.update.len(), &hints(&c)[0]["hints"]), (1, &Value::Null));
}

#[test]
fn the_tally_counts_endpoints_and_slices() {
    let s = service(json!([{"port": 80, "targetPort": 8080}]));
    let pods: Vec<_> = (0..25).map(|n| pod(n, true)).collect();
    let first = plan(&s, &pods, &[], 10, &known);
    let tally = |moved, endpoints, slices, ideal_slices| Tally { moved: vec![moved], endpoints, slices, ideal_slices };
    assert_eq!(first.tally, tally((25, 0), 25, 3, 3));
    let have = apply(&[], &first.changes);
    assert_eq!(plan(&s, &pods[..5], &have, 10, &known).tally.moved, [(0, 20)]);
    let have = apply(&[], &plan(&s, &[], &have, 10, &known).changes);
    assert_eq!(plan(&s, &[], &have, 10, &known).tally, tally((0, 0), 0, 1, 1), "the placeholder");
}

proptest! {
    /// Whatever the pods do, one pass gives exactly the wanted addresses, no slice is too large, and a second pass does nothing.
    #[test]
    fn converges(steps in prop::collection::vec(prop::collection::btree_set(0_usize..60, 0..50), 1..6), max in 1_usize..12) {
        let s = service(json!([{"port": 80, "targetPort": "web"}]));
        let mut have = Vec::new();
        for step in steps {
            let pods: Vec<_> = step.iter().map(|n| pod(*n, n % 3 == 0)).collect();
            let changes = run(&s, &pods, &have, max);
            have = apply(&have, &changes);
            let mut want: Vec<String> = pods.iter().map(|p| services::ips(p)[0].to_string()).collect();
            want.sort();
            prop_assert_eq!(addresses(&have), want);
            prop_assert!(have.iter().all(|s| len(s) <= max));
            prop_assert!(!have.is_empty());
            prop_assert_eq!(run(&s, &pods, &have, max), Changes::default());
        }
    }
}
