//! Which endpoints traffic may reach: policies, hints, termination.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::world::{Endpoint, FAMILIES, Family, Outcome, World, allowed, ask, http, servers};

fn everywhere(family: Family) -> Vec<Endpoint> {
    vec![Endpoint::local(family.pod(5)), Endpoint::local(family.pod(6)), Endpoint::remote(family.remote())]
}

fn local_spec(family: Family) -> Value {
    json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32100,
        "ports": [{"name": "p", "port": 80, "nodePort": 30090}],
        "status": {"loadBalancer": {"ingress": [{"ip": family.outside(30).to_string()}]}}})
}

fn external_local(world: &World, family: Family) {
    let cluster = world.service(family, "outlocal", 20, local_spec(family), &everywhere(family));
    let (port, vip) = (SocketAddr::new(family.node(), 30090), SocketAddr::new(family.outside(30), 80));
    for to in [port, vip] {
        assert_eq!(servers(&world.client, to, 40), ["pod1", "pod2"], "{to}: only here");
        let Outcome::Answer(_, seen) = ask(&world.client, to) else { panic!("no answer") };
        assert_eq!(seen, family.client(), "{to}: the client is seen as itself");
        // Pods and the node are not outside.
        assert_eq!(servers(&world.pod1, to, 60), ["pod1", "pod2", "remote"], "{to}: from a pod");
        assert_eq!(servers(&world.node, to, 60), ["pod1", "pod2", "remote"], "{to}: from the node");
    }
    assert_eq!(servers(&world.pod1, cluster, 60), ["pod1", "pod2", "remote"]);

    let check = SocketAddr::new(family.node(), 32100);
    let mut answer = (0, String::new());
    world
        .eventually("the health check", || http(&world.client, check, "/").inspect(|got| answer = got.clone()).is_ok());
    let body: Value = serde_json::from_str(&answer.1).unwrap();
    assert_eq!((answer.0, &body["localEndpoints"]), (200, &json!(2)), "{body}");
    assert_eq!(body["service"], json!({"namespace": "test", "name": "outlocal"}));

    world.put_endpoints(family, "outlocal", &[Endpoint::remote(family.remote())]);
    world.settle(family);
    for to in [port, vip] {
        assert_eq!(ask(&world.client, to), Outcome::Silence, "{to}: nobody here");
        assert_eq!(servers(&world.pod1, to, 5), ["remote"], "{to}: from a pod");
        assert_eq!(servers(&world.node, to, 5), ["remote"], "{to}: from the node");
    }
    world.eventually("a red health check", || http(&world.client, check, "/").is_ok_and(|(code, _)| code == 503));
    world.put_endpoints(family, "outlocal", &[]);
    world.settle(family);
    assert_eq!(ask(&world.client, port), Outcome::Refused);
    world.remove("outlocal");
    world.settle(family);
    world.eventually("the end of the health check", || http(&world.client, check, "/").is_err());
}

fn internal_local(world: &World, family: Family) {
    let spec = json!({"internalTrafficPolicy": "Local", "externalIPs": [family.outside(31).to_string()]});
    let to = world.service(family, "inlocal", 21, spec, &everywhere(family));
    let external = SocketAddr::new(family.outside(31), 80);
    assert_eq!(servers(&world.pod1, to, 40), ["pod1", "pod2"]);
    assert_eq!(servers(&world.client, external, 60), ["pod1", "pod2", "remote"]);
    world.put_endpoints(family, "inlocal", &[Endpoint::remote(family.remote())]);
    world.settle(family);
    assert_eq!(ask(&world.pod1, to), Outcome::Silence);
    assert_eq!(servers(&world.client, external, 5), ["remote"]);
    world.remove("inlocal");
}

fn hints(world: &World, family: Family) {
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let zoned = [
        Endpoint::local(family.pod(5)).hints(zone("east")),
        Endpoint::local(family.pod(6)).hints(zone("west")),
        Endpoint::remote(family.remote()).hints(zone("west")),
    ];
    let to = world.service(family, "hinted", 22, json!({"trafficDistribution": "PreferSameZone"}), &zoned);
    assert_eq!(servers(&world.pod1, to, 30), ["pod1"]);
    // One without a hint: hints are not complete, so they do not count.
    let partly = [zoned[0].clone(), Endpoint::local(family.pod(6)), zoned[2].clone()];
    world.put_endpoints(family, "hinted", &partly);
    world.settle(family);
    assert_eq!(servers(&world.pod1, to, 60), ["pod1", "pod2", "remote"]);
    // None is for our zone.
    world.put_endpoints(family, "hinted", &zoned[1..]);
    world.settle(family);
    assert_eq!(servers(&world.pod1, to, 40), ["pod2", "remote"]);
    // A hint for our node counts before one for our zone.
    let node = |name: &str| json!({"forZones": [{"name": "east"}], "forNodes": [{"name": name}]});
    let pinned = [
        Endpoint::local(family.pod(5)).hints(node("n2")),
        Endpoint::local(family.pod(6)).hints(node("n1")),
        Endpoint::remote(family.remote()).hints(node("n2")),
    ];
    world.put_endpoints(family, "hinted", &pinned);
    world.settle(family);
    assert_eq!(servers(&world.pod1, to, 30), ["pod2"]);
    world.remove("hinted");
}

fn termination(world: &World, family: Family) {
    let (one, other) = (Endpoint::local(family.pod(5)), Endpoint::remote(family.remote()));
    let to = world.service(family, "leaving", 23, json!({}), &[one.clone().terminating(), other.clone()]);
    assert_eq!(servers(&world.pod1, to, 30), ["remote"], "a ready one before one that leaves");
    world.put_endpoints(family, "leaving", &[one.clone().terminating(), other.clone().terminating()]);
    world.settle(family);
    assert_eq!(servers(&world.pod1, to, 40), ["pod1", "remote"], "those that leave are better than none");
    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"name": "p", "port": 80, "nodePort": 30091}]});
    world.service(family, "leaving", 23, spec, &[one.terminating(), other]);
    let port = SocketAddr::new(family.node(), 30091);
    assert_eq!(servers(&world.client, port, 5), ["pod1"], "the local policy falls back by itself");
    world.remove("leaving");
}

fn everything(mode: &'static str) {
    if !allowed() {
        return;
    }
    let world = World::new(mode, &[]);
    for family in FAMILIES {
        external_local(&world, family);
        internal_local(&world, family);
        hints(&world, family);
        termination(&world, family);
    }
    // The node moves to another zone: everything is routed anew.
    let family = Family::V4;
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let zoned =
        [Endpoint::local(family.pod(5)).hints(zone("east")), Endpoint::local(family.pod(6)).hints(zone("west"))];
    let to = world.service(family, "hinted", 24, json!({"trafficDistribution": "PreferClose"}), &zoned);
    assert_eq!(servers(&world.pod1, to, 20), ["pod1"]);
    world.api.put(json!({"kind": "Node", "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "west"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.2"}, {"type": "InternalIP", "address": "fd00:50::2"}]}}));
    world.eventually("the other zone's endpoint", || servers(&world.pod1, to, 10) == ["pod2"]);
}

#[test]
fn nftables_policies() {
    everything("nftables");
}

#[test]
fn iptables_policies() {
    everything("iptables");
}
