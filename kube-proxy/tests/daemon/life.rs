//! Starts, ends, foreign hands, and what operators ask.

use std::net::SocketAddr;

use neighbour::Machine;
use serde_json::{Value, json};

use crate::world::{Endpoint, FAMILIES, Family, Outcome, SILENCE, World, allowed, ask, http, is_upstream, servers};

/// Also of chains that iptables-nft keeps: a firewall's restart does that.
const FLUSH: &str = "nft flush ruleset";

fn both(world: &World, family: Family) -> SocketAddr {
    let endpoints = [Endpoint::local(family.pod(5)), Endpoint::local(family.pod(6))];
    world.service(family, "plain", 40, json!({}), &endpoints)
}

/// A connection goes on over a restart; changes of the meantime are made good.
fn restart(world: &mut World, family: Family) {
    let to = both(world, family);
    let mut stream = world.pod1.connect(to, SILENCE * 5).unwrap();
    let before = Machine::ask_on(&mut stream).unwrap();
    world.stop();
    assert_eq!(servers(&world.pod1, to, 30), ["pod1", "pod2"], "rules stay");
    world.put_endpoints(family, "plain", &[Endpoint::local(family.pod(6))]);
    world.start();
    world.settle(family);
    assert_eq!(servers(&world.pod1, to, 20), ["pod2"]);
    assert_eq!(Machine::ask_on(&mut stream).unwrap(), before, "an open connection stays where it is");
}

/// Somebody removes all rules.
fn flushed(world: &World, family: Family) {
    let to = both(world, family);
    world.node.run(FLUSH).unwrap();
    world.eventually("the rules to come back", || matches!(ask(&world.pod1, to), Outcome::Answer(..)));
    world.settle(family);
    assert_eq!(servers(&world.pod1, to, 30), ["pod1", "pod2"]);
}

fn operators(world: &World) {
    // After the first sync, which is complete, one of a part.
    both(world, Family::V4);
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let get = |port, path: &str| http(&world.node, at(port), path).unwrap();
    assert_eq!(get(10249, "/proxyMode").1, world.mode);
    let (code, body) = get(10256, "/healthz");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["nodeEligible"], &body["healthy"]), (200, &json!(true), &json!(true)), "{body}");
    assert_eq!(body["status"]["IPv4"]["healthy"], true, "{body}");
    let (code, body) = get(10256, "/livez");
    assert_eq!(code, 200, "{body}");
    let (_, metrics) = get(10249, "/metrics");
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"}",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "kubeproxy_proxy_healthz_total{code=\"200\"}",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds_count",
    ] {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    let (code, body) = get(10249, "/configz");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["kubeproxy.config.k8s.io"]["mode"]), (200, &json!(world.mode)), "{body}");
    assert!(get(10249, "/statusz").1.contains("kube-proxy statusz"));
    world.eventually("the birth cry", || world.api.events().iter().any(|event| event["reason"] == "Starting"));
    // A node that is on its way out is alive, but no target.
    world.api.put(json!({"kind": "Node", "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "east"}},
        "spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.2"}, {"type": "InternalIP", "address": "fd00:50::2"}]}}));
    world.eventually("a red /healthz", || get(10256, "/healthz").0 == 503);
    assert_eq!(get(10256, "/livez").0, 200);
}

fn cleaned(world: &mut World) {
    world.stop();
    // Tables of somebody else stay.
    world.node.run("nft add table ip other; nft add chain ip other stays").unwrap();
    assert!(world.run_once(&["--cleanup"]).success());
    let left = world.node.run("nft list ruleset").unwrap();
    assert!(left.contains("other"), "{left}");
    assert!(!left.contains("kube-proxy") && !left.contains("KUBE-S"), "{left}");
    assert!(world.run_once(&["--cleanup"]).success(), "twice is not too often");
}

fn life(mode: &'static str) {
    if !allowed() {
        return;
    }
    let mut world = World::new(mode, &[]);
    for family in FAMILIES {
        restart(&mut world, family);
        // Upstream looks only once an hour whether nftables rules are still there.
        if !is_upstream() || mode == "iptables" {
            flushed(&world, family);
        }
    }
    operators(&world);
    cleaned(&mut world);
}

#[test]
fn nftables_life() {
    life("nftables");
}

#[test]
fn iptables_life() {
    life("iptables");
}

/// The mode changes: what the other one left does not stay in the way.
#[test]
fn modes_take_over_from_each_other() {
    if !allowed() {
        return;
    }
    let mut world = World::new("iptables", &[]);
    for (mode, gone) in [("nftables", "KUBE-SVC-"), ("iptables", "service-ips"), ("nftables", "KUBE-SVC-")] {
        let to = both(&world, Family::V4);
        assert_eq!(servers(&world.pod1, to, 30), ["pod1", "pod2"]);
        world.stop();
        world.mode = mode;
        world.start();
        world.settle(Family::V4);
        assert_eq!(servers(&world.pod1, to, 30), ["pod1", "pod2"]);
        let rules = world.node.run("nft list ruleset").unwrap();
        assert!(!rules.contains(gone), "{mode}: {rules}");
    }
}

/// Upstream's program goes on where ours ended, and ours where upstream's did, in both modes.
#[test]
fn programs_take_over_from_each_other() {
    let Some(upstream) = std::env::var_os("CORTEN_UPSTREAM_KUBE_PROXY").filter(|_| allowed()) else { return };
    for mode in ["nftables", "iptables"] {
        let mut world = World::new(mode, &[]);
        for program in [
            env!("CARGO_BIN_EXE_kube-proxy-tested").into(),
            upstream.clone(),
            env!("CARGO_BIN_EXE_kube-proxy-tested").into(),
        ] {
            let to = both(&world, Family::V4);
            assert_eq!(servers(&world.pod1, to, 30), ["pod1", "pod2"]);
            world.stop();
            assert_eq!(servers(&world.pod1, to, 30), ["pod1", "pod2"], "rules stay");
            world.program = program;
            world.put_endpoints(Family::V4, "plain", &[Endpoint::local(Family::V4.pod(6))]);
            world.start();
            world.settle(Family::V4);
            assert_eq!(servers(&world.pod1, to, 20), ["pod2"], "{mode}");
        }
    }
}

#[test]
fn wrong_configurations_end_the_start() {
    if !allowed() || is_upstream() {
        return;
    }
    let machine = Machine::new().unwrap();
    let refused = |flags: &[&str]| {
        let output = machine.command(env!("CARGO_BIN_EXE_kube-proxy-tested")).args(flags).output().unwrap();
        assert!(!output.status.success(), "{flags:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = refused(&["--proxy-mode=ipvs", "--master=http://127.0.0.1:1"]);
    assert!(error.contains("can't use the IPVS proxier"), "{error}");
    let error = refused(&["--nodeport-addresses=nowhere", "--master=http://127.0.0.1:1"]);
    assert!(error.contains("KubeProxyConfiguration.NodePortAddresses[0]: Invalid value: \"nowhere\""), "{error}");
    let error = refused(&["--config=/does/not/exist"]);
    assert!(error.contains("/does/not/exist"), "{error}");
}
