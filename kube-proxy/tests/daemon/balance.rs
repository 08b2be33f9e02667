//! Affinity, and flows that outlive their endpoint.

use std::time::Duration;

use serde_json::json;

use crate::world::{Endpoint, FAMILIES, Family, SILENCE, World, allowed, servers};

fn everywhere(family: Family) -> Vec<Endpoint> {
    vec![Endpoint::local(family.pod(5)), Endpoint::local(family.pod(6)), Endpoint::remote(family.remote())]
}

fn affinity(world: &World, family: Family) {
    let spec = |seconds: u32| {
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
            "externalIPs": [family.outside(40).to_string()]})
    };
    let to = world.service(family, "sticky", 30, spec(3600), &everywhere(family));
    assert_eq!(servers(&world.pod1, to, 30).len(), 1, "one client, one endpoint");
    let first = servers(&world.pod1, to, 1);
    // A client sticks to the endpoint whichever address it uses.
    assert_eq!(servers(&world.pod1, std::net::SocketAddr::new(family.outside(40), 80), 10), first);
    // An unrelated change keeps the memory.
    world.service(family, "other", 31, json!({}), &everywhere(family));
    assert_eq!(servers(&world.pod1, to, 10), first);
    world.remove("other");
    // Forgotten in time, every draw is a new one.
    let to = world.service(family, "sticky", 30, spec(1), &everywhere(family));
    let mut seen = servers(&world.pod1, to, 1);
    world.eventually("another endpoint after the time-out", || {
        std::thread::sleep(Duration::from_millis(1600));
        seen.extend(servers(&world.pod1, to, 1));
        seen.dedup();
        seen.len() > 1
    });
    // The endpoint goes: its clients go to another one.
    let to = world.service(family, "sticky", 30, spec(3600), &everywhere(family));
    let first = servers(&world.pod1, to, 1).remove(0);
    let rest: Vec<Endpoint> = ["pod1", "pod2", "remote"]
        .into_iter()
        .zip(everywhere(family))
        .filter(|(name, _)| *name != first)
        .map(|(_, endpoint)| endpoint)
        .collect();
    world.put_endpoints(family, "sticky", &rest);
    world.settle(family);
    assert!(!servers(&world.pod1, to, 10).contains(&first));
    world.remove("sticky");
}

fn datagrams_follow(world: &World, family: Family) {
    let to = world.service(family, "datagrams", 32, json!({}), &[Endpoint::local(family.pod(6))]);
    // One socket address sends on and on: the kernel keeps its flow.
    let ask = |port: u16| world.pod1.ask_udp(to, port, SILENCE).map(|reply| reply.server);
    assert_eq!(ask(40_000).unwrap(), "pod2");
    world.put_endpoints(family, "datagrams", &[Endpoint::remote(family.remote())]);
    world.settle(family);
    world.eventually("the new endpoint", || ask(40_000).is_ok_and(|server| server == "remote"));
    // A flow that began when nobody was there. The rules refuse it, so it must be made by hand: no rules, one datagram.
    world.remove("datagrams");
    world.settle(family);
    let _ = ask(40_001);
    world.service(family, "datagrams", 32, json!({}), &[]);
    world.service(family, "datagrams", 32, json!({}), &[Endpoint::local(family.pod(6))]);
    world.eventually("an answer on the early flow", || ask(40_001).is_ok_and(|server| server == "pod2"));
    world.remove("datagrams");
}

fn everything(mode: &'static str) {
    if !allowed() {
        return;
    }
    let world = World::new(mode, &[]);
    for family in FAMILIES {
        affinity(&world, family);
        datagrams_follow(&world, family);
    }
}

#[test]
fn nftables_affinity_and_flows() {
    everything("nftables");
}

#[test]
fn iptables_affinity_and_flows() {
    everything("iptables");
}
