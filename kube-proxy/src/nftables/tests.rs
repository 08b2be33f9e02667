//! Differences against the slow way: whatever happens to Services, the elements and chains are those of a fresh table.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{
    changes::Changes,
    claims::Claims,
    element::{CONTAINERS, Key, Value},
    render::{Fragment, by_service, render, skeleton},
};
use crate::{
    model::{Family, Model},
    settings::{LocalDetector, NodePortAddresses, Settings},
};

fn settings() -> Settings {
    Settings {
        family: Family::V4,
        masquerade_all: false,
        mark: 1 << 14,
        detector: LocalDetector::Cidr("10.244.0.0/16".parse().unwrap()),
        node_ip: "172.18.0.2".parse().unwrap(),
        node_ports: NodePortAddresses::new(&[], Family::V4),
        localhost_node_ports: false,
    }
}

/// One of few Services in one of few states.
#[derive(Clone, Debug)]
enum Event {
    Service(u8, u8),
    Endpoints(u8, Vec<u8>),
    Remove(u8),
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..4_u8, 0..6_u8).prop_map(|(name, shape)| Event::Service(name, shape)),
        (0..4_u8, proptest::collection::vec(0..8_u8, 0..5)).prop_map(|(name, pods)| Event::Endpoints(name, pods)),
        (0..4_u8).prop_map(Event::Remove),
    ]
}

fn spec(name: u8, shape: u8) -> Json {
    let port = json!([{"name": "p", "port": 80, "nodePort": 30000 + u16::from(name)}]);
    let mut spec = match shape {
        0 => json!({"ports": [{"name": "p", "port": 80}]}),
        1 => json!({"type": "NodePort", "ports": port}),
        // Several want this address.
        2 => json!({"ports": [{"name": "p", "port": 80}], "externalIPs": ["203.0.113.1"]}),
        3 => {
            json!({"type": "NodePort", "ports": port, "externalTrafficPolicy": "Local", "externalIPs": ["203.0.113.1"]})
        }
        4 => {
            json!({"type": "LoadBalancer", "ports": port, "sessionAffinity": "ClientIP", "loadBalancerSourceRanges": ["10.0.0.0/8"]})
        }
        _ => json!({"ports": [{"name": "p", "port": 80}], "internalTrafficPolicy": "Local"}),
    };
    spec["clusterIP"] = format!("10.96.0.{}", name + 1).into();
    spec
}

fn apply(model: &mut Model, event: &Event) {
    match event {
        Event::Service(name, shape) => {
            let service = json!({"metadata": {"name": format!("s{name}"), "namespace": "ns"}, "spec": spec(*name, *shape),
                "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}});
            model.set_service(&serde_json::from_value(service).unwrap());
        }
        Event::Endpoints(name, pods) => {
            let endpoint = |pod: &u8| json!({"addresses": [format!("10.244.0.{pod}")], "nodeName": if *pod < 3 { "n1" } else { "n2" }});
            let endpoints: Vec<Json> = pods.iter().map(endpoint).collect();
            let slice = json!({"addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "p", "port": 8080}],
                "metadata": {"name": format!("s{name}-1"), "namespace": "ns", "labels": {"kubernetes.io/service-name": format!("s{name}")}}});
            model.set_slice(&serde_json::from_value(slice).unwrap());
        }
        Event::Remove(name) => drop(model.remove_service("ns", &format!("s{name}"))),
    }
}

/// A table as data.
#[derive(Debug, Default)]
struct Table {
    elements: BTreeMap<Key, Value>,
    chains: BTreeMap<String, Vec<String>>,
    sets: BTreeMap<String, u32>,
}

impl Table {
    /// What the kernel would do, with its complaints.
    fn commit(&mut self, changes: Changes) {
        for name in &changes.stale {
            assert!(self.chains.remove(name).is_some(), "no chain {name}");
        }
        for key in &changes.delete {
            assert!(self.elements.remove(key).is_some(), "no element {key:?}");
        }
        for (key, value) in changes.add {
            assert!(self.elements.insert(key, value).is_none(), "element {key:?} exists");
        }
        for name in &changes.old_sets {
            assert!(self.sets.remove(name).is_some(), "no set {name}");
        }
        self.sets.extend(changes.new_sets);
        self.chains.extend(changes.chains);
        for chain in self.elements.values().filter_map(|value| match value {
            Value::Goto(chain) if chain.contains('/') => Some(chain),
            _ => None,
        }) {
            assert!(self.chains.contains_key(chain), "an element leads to {chain}, which is gone");
        }
    }
}

proptest! {
    #[test]
    fn differences_lead_to_what_a_fresh_table_holds(rounds in proptest::collection::vec(proptest::collection::vec(events(), 1..4), 1..12)) {
        let settings = settings();
        let mut model = Model::new("n1", Timestamp::UNIX_EPOCH);
        let (mut table, mut claims) = (Table::default(), Claims::default());
        for round in rounds {
            round.iter().for_each(|event| apply(&mut model, event));
            let mut services: Vec<_> = model.take_changes().into_iter().map(|(key, change)| {
                let new = render(&model.route(&key, Family::V4), &settings);
                (key, render(&change.old[0], &settings), new)
            }).collect();
            services.sort_by(|one, other| one.0.cmp(&other.0));
            let mut changes = Changes::default();
            changes.services(&services, &mut claims);
            table.commit(changes);
        }
        let all = model.route_all(Family::V4);
        let fresh: Vec<Fragment> = by_service(&all).map(|ports| render(ports, &settings)).collect();
        let keys: BTreeSet<Key> = fresh.iter().flat_map(|fragment| fragment.elements.keys()).copied().collect();
        prop_assert_eq!(table.elements.keys().copied().collect::<BTreeSet<_>>(), keys);
        for (key, value) in &table.elements {
            // Who came first has a shared one; anybody who wants it may be that.
            prop_assert!(fresh.iter().any(|fragment| fragment.elements.get(key) == Some(value)), "{:?} {:?}", key, value);
        }
        let chains: BTreeMap<_, _> = fresh.iter().flat_map(|fragment| fragment.chains.clone()).collect();
        prop_assert_eq!(&table.chains, &chains);
        let sets: BTreeMap<_, _> = fresh.iter().flat_map(|fragment| fragment.affinity.clone()).collect();
        prop_assert_eq!(&table.sets, &sets);
    }
}

#[test]
fn a_change_of_endpoints_is_a_change_of_elements() {
    let mut model = Model::new("n1", Timestamp::UNIX_EPOCH);
    apply(&mut model, &Event::Service(0, 0));
    apply(&mut model, &Event::Endpoints(0, vec![1, 2]));
    let before = render(&model.route("ns/s0", Family::V4), &settings());
    apply(&mut model, &Event::Endpoints(0, vec![1, 5]));
    let after = render(&model.route("ns/s0", Family::V4), &settings());
    assert!(before.chains.is_empty(), "a simple Service needs no chain of its own");
    let mut changes = Changes::default();
    changes.services(&[("ns/s0".into(), before, after)], &mut Claims::default());
    assert!(changes.only_elements());
    assert_eq!(changes.delete.len(), 2, "one for each address: {changes:?}");
}

#[test]
fn base_chains_are_upstreams() {
    let chains = skeleton(&settings(), &[], None);
    let hooks: Vec<&str> = chains.iter().filter(|chain| !chain.1.is_empty()).map(|chain| chain.0).collect();
    let upstream = [
        "filter-prerouting-pre-dnat",
        "filter-output-pre-dnat",
        "filter-input",
        "filter-forward",
        "filter-output",
        "nat-prerouting",
        "nat-output",
        "nat-postrouting",
    ];
    assert_eq!(hooks, upstream);
    assert!(CONTAINERS.iter().all(|container| container.declaration(Family::V6, "ip6 t").contains("ip6 t")));
}
