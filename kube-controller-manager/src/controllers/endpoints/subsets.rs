//! Addresses and ports of a Service's pods in the old Endpoints form: as few subsets as possible, in a fixed order.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, ObjectReference, Pod, Service};

use crate::shared::{pods, services};

/// More addresses than this are cut off and the object marked.
pub(super) const MAX_CAPACITY: usize = 1000;

/// A port in sortable form: name, number, protocol, application protocol.
type Port = (String, i32, String, Option<String>);
/// Addresses by IP and pod UID, with their readiness.
type Addresses = BTreeMap<(String, String), (bool, EndpointAddress)>;

/// What the Service's pods amount to.
pub(super) fn of_service(service: &Service, list: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let publish = services::publishes_not_ready(service);
    let mut by_port: BTreeMap<Option<Port>, Addresses> = BTreeMap::new();
    for pod in list.iter().filter(|p| services::has_endpoint(p, publish)) {
        let Some(address) = address(service, pod) else { continue };
        let ready = publish || pods::is_ready(pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        for port in ports(service, pod) {
            let addresses = by_port.entry(port).or_default();
            addresses.insert((address.ip.clone(), uid.clone()), (ready, address.clone()));
        }
    }
    group(by_port)
}

/// The same subsets in the order and grouping of [`of_service`], for comparison.
pub(super) fn canonical(subsets: &[EndpointSubset]) -> Vec<EndpointSubset> {
    let mut by_port: BTreeMap<Option<Port>, Addresses> = BTreeMap::new();
    for subset in subsets {
        let ports: Vec<Option<Port>> = match subset.ports.as_deref() {
            None | Some([]) => vec![None],
            Some(list) => list.iter().map(|p| Some(port_key(p))).collect(),
        };
        let ready = subset.addresses.iter().flatten().map(|a| (true, a));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (false, a));
        let all: Vec<(bool, &EndpointAddress)> = ready.chain(not_ready).collect();
        for port in ports {
            let addresses = by_port.entry(port).or_default();
            for (ready, address) in &all {
                let uid = address.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
                addresses.insert((address.ip.clone(), uid), (*ready, (*address).clone()));
            }
        }
    }
    group(by_port)
}

/// Ports with exactly the same addresses share a subset.
fn group(by_port: BTreeMap<Option<Port>, Addresses>) -> Vec<EndpointSubset> {
    let mut groups: Vec<(Vec<Option<Port>>, Addresses)> = Vec::new();
    for (port, addresses) in by_port.into_iter().filter(|(_, a)| !a.is_empty()) {
        match groups.iter_mut().find(|(_, known)| *known == addresses) {
            Some((ports, _)) => ports.push(port),
            None => groups.push((vec![port], addresses)),
        }
    }
    groups.into_iter().map(|(ports, addresses)| subset(ports, addresses)).collect()
}

fn subset(ports: Vec<Option<Port>>, addresses: Addresses) -> EndpointSubset {
    let (ready, not_ready): (Vec<_>, Vec<_>) = addresses.into_values().partition(|(ready, _)| *ready);
    let list = |l: Vec<(bool, EndpointAddress)>| (!l.is_empty()).then(|| l.into_iter().map(|(_, a)| a).collect());
    let ports: Vec<EndpointPort> = ports
        .into_iter()
        .flatten()
        .map(|(name, port, protocol, app_protocol)| EndpointPort {
            name: (!name.is_empty()).then_some(name),
            port,
            protocol: Some(protocol),
            app_protocol,
        })
        .collect();
    EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

fn port_key(p: &EndpointPort) -> Port {
    let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
    (p.name.clone().unwrap_or_default(), p.port, protocol, p.app_protocol.clone())
}

fn ports(service: &Service, pod: &Pod) -> Vec<Option<Port>> {
    let list = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or(&[]);
    if list.is_empty() {
        // A headless Service without ports still names its pods.
        return if services::has_cluster_ip(service) { Vec::new() } else { vec![None] };
    }
    list.iter()
        .filter_map(|p| {
            let number = services::target_port(pod, p)?;
            let name = p.name.clone().unwrap_or_default();
            Some(Some((name, number, services::protocol(p).to_owned(), p.app_protocol.clone())))
        })
        .collect()
}

fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let spec = service.spec.as_ref()?;
    let ips = services::ips(pod);
    let v6 = match spec.cluster_ip.as_deref() {
        Some(ip) if services::has_cluster_ip(service) => ip.contains(':'),
        _ => match spec.ip_families.as_deref() {
            Some([first, ..]) => first == "IPv6",
            _ => ips.first()?.is_ipv6(),
        },
    };
    let ip = ips.into_iter().find(|ip| ip.is_ipv6() == v6)?;
    let node = pods::node_name(pod);
    Some(EndpointAddress {
        ip: ip.to_string(),
        hostname: services::hostname(pod, service).map(str::to_owned),
        node_name: (!node.is_empty()).then(|| node.to_owned()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    })
}

/// Cuts down to [`MAX_CAPACITY`] addresses, ready ones first, each subset in proportion; tells whether it cut.
pub(super) fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|s| count(&s.addresses)).sum();
    let not_ready: usize = subsets.iter().map(|s| count(&s.not_ready_addresses)).sum();
    if ready + not_ready <= MAX_CAPACITY {
        return false;
    }
    let cut_ready = ready > MAX_CAPACITY;
    let (room, total) = if cut_ready { (MAX_CAPACITY, ready) } else { (MAX_CAPACITY - ready, not_ready) };
    let mut left = room;
    for subset in subsets {
        let list = if cut_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let share = (count(list) * room).div_ceil(total).min(left);
        if let Some(list) = list {
            list.truncate(share);
        }
        left -= count(list);
        if cut_ready {
            subset.not_ready_addresses = None;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(ports: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.1", "ports": ports}}))
            .unwrap()
    }

    fn pod(n: u32, ready: bool) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": format!("p{n}"), "namespace": "ns", "uid": format!("u{n}")},
            "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": "Running", "podIP": format!("10.0.{}.{}", n / 250, n % 250),
            "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}})).unwrap())
    }

    #[test]
    fn ready_and_unready_share_a_subset_and_ports_too() {
        let s = service(json!([{"name": "b", "port": 2}, {"name": "a", "port": 1}]));
        let got = of_service(&s, &[pod(2, true), pod(1, true), pod(3, false)]);
        let target = |n: u32| json!({"ip": format!("10.0.0.{n}"), "nodeName": "n1", "targetRef": {"kind": "Pod", "namespace": "ns", "name": format!("p{n}"), "uid": format!("u{n}")}});
        assert_eq!(
            serde_json::to_value(&got).unwrap(),
            json!([{"addresses": [target(1), target(2)], "notReadyAddresses": [target(3)],
                "ports": [{"name": "a", "port": 1, "protocol": "TCP"}, {"name": "b", "port": 2, "protocol": "TCP"}]}])
        );
        assert_eq!(canonical(&got), got);
        assert!(of_service(&s, &[]).is_empty());
        let headless: Service =
            serde_json::from_value(json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None"}})).unwrap();
        assert_eq!(of_service(&headless, &[pod(1, true)])[0].ports, None);
        assert_eq!(canonical(&of_service(&headless, &[pod(1, true)])).len(), 1);
    }

    #[test]
    fn capacity() {
        let s = service(json!([{"port": 1}]));
        let total = |l: &[EndpointSubset]| {
            l.iter()
                .map(|s| s.addresses.as_ref().map_or(0, Vec::len) + s.not_ready_addresses.as_ref().map_or(0, Vec::len))
                .sum::<usize>()
        };
        for ready_below in [0, 400, 1000, 1200] {
            let pods: Vec<_> = (1..=1300).map(|n| pod(n, n <= ready_below)).collect();
            let mut subsets = of_service(&s, &pods);
            assert!(truncate(&mut subsets));
            assert_eq!(total(&subsets), MAX_CAPACITY);
        }
        assert!(!truncate(&mut of_service(&s, &[pod(1, true)])));
    }
}
