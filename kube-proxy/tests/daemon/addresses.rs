//! The addresses on which a Service answers, and to whom.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;

use crate::world::{Endpoint, FAMILIES, Family, Outcome, World, allowed, ask, ask_udp, servers};

fn answer(server: &str, client: IpAddr) -> Outcome {
    Outcome::Answer(server.to_owned(), client)
}

/// Who answers, whoever it seems to be for.
fn name(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Answer(name, _) => name,
        Outcome::Refused => "refused",
        Outcome::Silence => "silence",
    }
}

/// Both local pods and the remote one.
fn all(family: Family) -> Vec<Endpoint> {
    vec![Endpoint::local(family.pod(5)), Endpoint::local(family.pod(6)), Endpoint::remote(family.remote())]
}

fn cluster_ip(world: &World, family: Family) {
    let to = world.service(family, "plain", 10, json!({}), &[Endpoint::local(family.pod(6))]);
    // Pods are seen as themselves, over both transports.
    assert_eq!(ask(&world.pod1, to), answer("pod2", family.pod(5)));
    assert_eq!(ask_udp(&world.pod1, to), answer("pod2", family.pod(5)));
    assert_eq!(name(&ask(&world.node, to)), "pod2");
    // Who is outside of the pods' networks comes back through this node.
    let Outcome::Answer(server, seen) = ask(&world.client, to) else { panic!("{:?}", ask(&world.client, to)) };
    assert_eq!(server, "pod2");
    assert_ne!(seen, family.client(), "traffic from outside is masqueraded");
    // A pod that reaches itself must not see itself as the client, or it would answer itself.
    let Outcome::Answer(server, seen) = ask(&world.pod2, to) else { panic!("{:?}", ask(&world.pod2, to)) };
    assert_eq!(server, "pod2");
    assert_ne!(seen, family.pod(6), "hairpin traffic is masqueraded");

    world.put_endpoints(family, "plain", &all(family));
    world.settle(family);
    assert_eq!(servers(&world.pod1, to, 60), ["pod1", "pod2", "remote"]);
    world.put_endpoints(family, "plain", &all(family)[1..]);
    world.settle(family);
    assert_eq!(servers(&world.pod1, to, 40), ["pod2", "remote"]);

    if world.mode == "nftables" {
        assert_eq!(ask(&world.pod1, SocketAddr::new(to.ip(), 81)), Outcome::Refused, "no such port of a cluster IP");
    }
    world.remove("plain");
    world.settle(family);
    assert_ne!(name(&ask(&world.pod1, to)), "pod2", "the Service is gone");
}

fn no_endpoints(world: &World, family: Family) {
    let spec = json!({"type": "NodePort", "externalIPs": [family.outside(1).to_string()],
        "ports": [{"name": "p", "port": 80, "nodePort": 30081}, {"name": "u", "port": 80, "nodePort": 30081, "protocol": "UDP"}]});
    let to = world.service(family, "empty", 11, spec, &[]);
    for (from, to) in [
        (&world.pod1, to),
        (&world.node, to),
        (&world.client, SocketAddr::new(family.node(), 30081)),
        (&world.client, SocketAddr::new(family.outside(1), 80)),
    ] {
        assert_eq!(ask(from, to), Outcome::Refused, "{to}");
    }
    assert_eq!(ask_udp(&world.pod1, to), Outcome::Refused);
    world.put_endpoints(family, "empty", &[Endpoint::local(family.pod(6))]);
    world.settle(family);
    assert_eq!(name(&ask(&world.pod1, to)), "pod2");
    world.put_endpoints(family, "empty", &[]);
    world.settle(family);
    assert_eq!(ask(&world.pod1, to), Outcome::Refused);
    world.remove("empty");
}

fn node_port(world: &World, family: Family) {
    let spec = json!({"type": "NodePort",
        "ports": [{"name": "p", "port": 80, "nodePort": 30082}, {"name": "u", "port": 80, "nodePort": 30082, "protocol": "UDP"}]});
    world.service(family, "ported", 12, spec, &all(family));
    let to = SocketAddr::new(family.node(), 30082);
    assert_eq!(servers(&world.client, to, 60), ["pod1", "pod2", "remote"]);
    assert_eq!(servers(&world.pod1, to, 60), ["pod1", "pod2", "remote"]);
    assert_ne!(name(&ask(&world.node, to)), "refused");
    let Outcome::Answer(_, seen) = ask(&world.client, to) else { panic!("no answer") };
    assert_ne!(seen, family.client(), "the answer must come back through this node");
    assert!(matches!(ask_udp(&world.client, to), Outcome::Answer(..)));
    assert!(matches!(ask(&world.client, SocketAddr::new(family.node_other(), 30082)), Outcome::Answer(..)));
    let loopback = SocketAddr::new(family.ip("127.0.0.1", "::1"), 30082);
    let answers = matches!(ask(&world.node, loopback), Outcome::Answer(..));
    assert_eq!(answers, world.mode == "iptables" && family == Family::V4, "node ports on loopback");
    world.remove("ported");
}

fn external(world: &World, family: Family) {
    let (external, vip, proxied) = (family.outside(10), family.outside(11), family.outside(12));
    let spec = json!({"type": "LoadBalancer", "externalIPs": [external.to_string()],
        "status": {"loadBalancer": {"ingress": [{"ip": vip.to_string(), "ipMode": "VIP"}, {"ip": proxied.to_string(), "ipMode": "Proxy"}]}}});
    world.service(family, "outer", 13, spec.clone(), &all(family));
    for ip in [external, vip] {
        let to = SocketAddr::new(ip, 80);
        assert_eq!(servers(&world.client, to, 60), ["pod1", "pod2", "remote"], "{ip}");
        assert_eq!(servers(&world.pod2, to, 60), ["pod1", "pod2", "remote"], "{ip}");
    }
    let to_proxied = ask(&world.client, SocketAddr::new(proxied, 80));
    assert!(!matches!(to_proxied, Outcome::Answer(..)), "the load balancer wants that traffic for itself");

    // Only some may use the load balancer; other addresses are open to all.
    let mut ranged = spec;
    ranged["loadBalancerSourceRanges"] =
        json!([format!("{}/128", family.pod(5)).replace("/128", if family == Family::V4 { "/32" } else { "/128" })]);
    world.service(family, "outer", 13, ranged.clone(), &all(family));
    let to = SocketAddr::new(vip, 80);
    assert!(matches!(ask(&world.pod1, to), Outcome::Answer(..)));
    assert_eq!(ask(&world.pod2, to), Outcome::Silence);
    assert_eq!(ask(&world.client, to), Outcome::Silence);
    assert!(matches!(ask(&world.client, SocketAddr::new(external, 80)), Outcome::Answer(..)));
    // A range that holds everybody is no range.
    ranged["loadBalancerSourceRanges"] = json!([family.ip("0.0.0.0", "::").to_string() + "/0"]);
    world.service(family, "outer", 13, ranged, &all(family));
    assert!(matches!(ask(&world.client, to), Outcome::Answer(..)));
    world.remove("outer");
}

fn two_services_want_one_address(world: &World, family: Family) {
    let shared = family.outside(20);
    let spec = json!({"externalIPs": [shared.to_string()]});
    world.service(family, "first", 14, spec.clone(), &[Endpoint::local(family.pod(5))]);
    world.service(family, "second", 15, spec, &[Endpoint::local(family.pod(6))]);
    let to = SocketAddr::new(shared, 80);
    assert!(matches!(ask(&world.client, to), Outcome::Answer(..)));
    world.remove("first");
    world.settle(family);
    assert_eq!(name(&ask(&world.client, to)), "pod2", "who is left has it");
    world.remove("second");
}

fn everything(mode: &'static str) {
    if !allowed() {
        return;
    }
    let world = World::new(mode, &[]);
    for family in FAMILIES {
        cluster_ip(&world, family);
        no_endpoints(&world, family);
        node_port(&world, family);
        external(&world, family);
        two_services_want_one_address(&world, family);
    }
}

#[test]
fn nftables_addresses() {
    everything("nftables");
}

#[test]
fn iptables_addresses() {
    everything("iptables");
}

/// Node ports only at some addresses.
fn filtered(mode: &'static str) {
    if !allowed() {
        return;
    }
    for flag in ["--nodeport-addresses=primary", "--nodeport-addresses=192.168.50.2/32,fd00:50::2/128"] {
        let world = World::new(mode, &[flag]);
        for family in FAMILIES {
            let spec = json!({"type": "NodePort", "ports": [{"name": "p", "port": 80, "nodePort": 30082}]});
            world.service(family, "ported", 12, spec, &all(family));
            let at = |ip| SocketAddr::new(ip, 30082);
            assert!(matches!(ask(&world.client, at(family.node())), Outcome::Answer(..)), "{flag}");
            assert_eq!(ask(&world.client, at(family.node_other())), Outcome::Refused, "{flag}");
        }
    }
}

#[test]
fn nftables_node_port_addresses() {
    filtered("nftables");
}

#[test]
fn iptables_node_port_addresses() {
    filtered("iptables");
}

/// How pods are told from others, and masquerading of everything.
fn detection(mode: &'static str) {
    if !allowed() {
        return;
    }
    for flags in [
        vec!["--detect-local-mode=NodeCIDR"],
        vec!["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=pod"],
        vec!["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=pod1"],
        vec!["--masquerade-all=true"],
    ] {
        let world = World::new(mode, &flags);
        for family in FAMILIES {
            let to = world.service(family, "plain", 10, json!({}), &[Endpoint::local(family.pod(6))]);
            let seen = |outcome: Outcome| match outcome {
                Outcome::Answer(_, seen) => seen,
                other => panic!("{flags:?}: {other:?}"),
            };
            let all = flags[0].contains("masquerade-all");
            assert_eq!(seen(ask(&world.pod1, to)) == family.pod(5), !all, "{flags:?}");
            assert_ne!(seen(ask(&world.client, to)), family.client(), "{flags:?}");
        }
    }
}

#[test]
fn nftables_detection_of_pods() {
    detection("nftables");
}

#[test]
fn iptables_detection_of_pods() {
    detection("iptables");
}
