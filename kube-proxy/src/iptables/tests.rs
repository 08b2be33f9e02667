//! Names and rules that upstream's program must recognise as its own.

use jiff::Timestamp;
use serde_json::json;

use super::{
    program::chains,
    render::{is_own_chain, render},
};
use crate::{
    model::{Family, Model, Routed},
    settings::{LocalDetector, NodePortAddresses, Settings},
};

fn settings() -> Settings {
    Settings {
        family: Family::V4,
        masquerade_all: false,
        mark: 1 << 14,
        detector: LocalDetector::Cidr("10.0.0.0/8".parse().unwrap()),
        node_ip: "172.18.0.2".parse().unwrap(),
        node_ports: NodePortAddresses::new(&[], Family::V4),
        localhost_node_ports: false,
    }
}

/// The Service and endpoint of upstream's own tests.
fn routed(affinity: bool) -> Vec<Routed> {
    let mut model = Model::new("n1", Timestamp::UNIX_EPOCH);
    let mut service = json!({"metadata": {"name": "svc1", "namespace": "ns1"}, "spec": {"clusterIP": "172.30.0.41",
        "ports": [{"name": "p80", "port": 80, "protocol": "TCP"}]}});
    if affinity {
        service["spec"]["sessionAffinity"] = "ClientIP".into();
    }
    model.set_service(&serde_json::from_value(service).unwrap());
    let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.180.0.1"]}], "ports": [{"name": "p80", "port": 80}],
        "metadata": {"name": "svc1-1", "namespace": "ns1", "labels": {"kubernetes.io/service-name": "svc1"}}});
    model.set_slice(&serde_json::from_value(slice).unwrap());
    model.route("ns1/svc1", Family::V4)
}

#[test]
fn chains_have_upstreams_names_and_rules() {
    let fragment = render(&routed(false), &settings(), false);
    assert_eq!(
        fragment.shared.nat[0],
        "-A KUBE-SERVICES -m comment --comment \"ns1/svc1:p80 cluster IP\" -m tcp -p tcp -d 172.30.0.41 --dport 80 -j KUBE-SVC-XPGD46QRK7WJZT7O\n"
    );
    assert_eq!(
        fragment.chains["KUBE-SVC-XPGD46QRK7WJZT7O"],
        [
            "-m comment --comment \"ns1/svc1:p80 cluster IP\" -m tcp -p tcp -d 172.30.0.41 --dport 80 ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ",
            "-m comment --comment \"ns1/svc1:p80 -> 10.180.0.1:80\" -j KUBE-SEP-SXIVWICOYRO3J4NJ",
        ]
    );
    assert_eq!(
        fragment.chains["KUBE-SEP-SXIVWICOYRO3J4NJ"],
        [
            "-m comment --comment ns1/svc1:p80 -s 10.180.0.1 -j KUBE-MARK-MASQ",
            "-m comment --comment ns1/svc1:p80 -m tcp -p tcp -j DNAT --to-destination 10.180.0.1:80",
        ]
    );
}

#[test]
fn large_clusters_have_no_comments_on_endpoints() {
    let fragment = render(&routed(true), &settings(), true);
    let chain = "KUBE-SEP-SXIVWICOYRO3J4NJ";
    assert_eq!(
        fragment.chains["KUBE-SVC-XPGD46QRK7WJZT7O"][1..],
        [format!("-m recent --name {chain} --rcheck --seconds 10800 --reap -j {chain}"), format!("-j {chain}")]
    );
    assert_eq!(
        fragment.chains[chain][1],
        format!("-m recent --name {chain} --set -m tcp -p tcp -j DNAT --to-destination 10.180.0.1:80")
    );
}

#[test]
fn only_chains_of_service_ports_are_deleted() {
    let saved =
        "*nat\n:PREROUTING ACCEPT [1:2]\n:KUBE-SVC-XPGD46QRK7WJZT7O - [0:0]\n:KUBE-MARK-DROP - [0:0]\n-A X -j Y\n";
    let own: Vec<&str> = chains(saved).into_iter().filter(|name| is_own_chain(name)).collect();
    assert_eq!(own, ["KUBE-SVC-XPGD46QRK7WJZT7O"]);
}
