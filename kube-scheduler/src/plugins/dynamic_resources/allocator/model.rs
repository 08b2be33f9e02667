//! The search beside an obviously right model: try every choice of devices for every request.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::plugins::dynamic_resources::cel::Programs;

const MEMORY: u32 = 6;

/// A device: its colour, whether it is tainted or in use, and how much memory of the shared card it takes.
#[derive(Clone, Debug)]
struct Piece {
    colour: i64,
    tainted: bool,
    used: bool,
    memory: u32,
}

/// One way to satisfy a request: devices of at least this colour.
#[derive(Clone, Debug)]
struct Way {
    colour: i64,
    count: usize,
    tolerates: bool,
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    None,
    Same,
    Different,
}

#[derive(Clone, Debug)]
struct Case {
    pieces: Vec<Piece>,
    /// Per claim its requests, per request its alternatives.
    claims: Vec<Vec<Vec<Way>>>,
    rule: Rule,
}

fn case() -> impl Strategy<Value = Case> {
    let piece = (0..3i64, prop::bool::weighted(0.2), prop::bool::weighted(0.2), 0..4u32)
        .prop_map(|(colour, tainted, used, memory)| Piece { colour, tainted, used, memory });
    let way =
        (0..3i64, 1..3usize, any::<bool>()).prop_map(|(colour, count, tolerates)| Way { colour, count, tolerates });
    let claim = prop::collection::vec(prop::collection::vec(way, 1..3), 1..3);
    let rule = prop_oneof![Just(Rule::None), Just(Rule::Same), Just(Rule::Different)];
    (prop::collection::vec(piece, 1..6), prop::collection::vec(claim, 1..3), rule)
        .prop_map(|(pieces, claims, rule)| Case { pieces, claims, rule })
}

impl Case {
    /// Whether a set of devices (bits) satisfies a way.
    fn suits(&self, set: u32, way: &Way) -> bool {
        set.count_ones() as usize == way.count
            && self.of(set).all(|piece| !piece.used && piece.colour >= way.colour && (way.tolerates || !piece.tainted))
    }

    fn of(&self, set: u32) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().enumerate().filter(move |(at, _)| set & (1 << at) != 0).map(|(_, piece)| piece)
    }

    fn obeys(&self, set: u32) -> bool {
        let colours: Vec<i64> = self.of(set).map(|piece| piece.colour).collect();
        let mut distinct = colours.clone();
        distinct.sort_unstable();
        distinct.dedup();
        match self.rule {
            Rule::None => true,
            Rule::Same => distinct.len() <= 1,
            Rule::Different => distinct.len() == colours.len(),
        }
    }

    fn memory(&self, set: u32) -> u32 {
        let used: u32 = self.pieces.iter().filter(|piece| piece.used).map(|piece| piece.memory).sum();
        used + self.of(set).map(|piece| piece.memory).sum::<u32>()
    }

    /// The alternatives, request by request, of the first solution in order of preference.
    fn solve(&self) -> Option<Vec<usize>> {
        let requests: Vec<(usize, &Vec<Way>)> =
            self.claims.iter().enumerate().flat_map(|(at, claim)| claim.iter().map(move |ways| (at, ways))).collect();
        self.try_request(&requests, &mut vec![0; self.claims.len()])
    }

    fn try_request(&self, requests: &[(usize, &Vec<Way>)], taken: &mut Vec<u32>) -> Option<Vec<usize>> {
        let Some(((claim, ways), rest)) = requests.split_first() else {
            let everything = taken.iter().fold(0, |all, set| all | set);
            let sound =
                taken.iter().all(|set| self.obeys(*set)) && (everything == 0 || self.memory(everything) <= MEMORY);
            // A device that takes nothing needs no counters, however few there are.
            let free = self.of(everything).all(|piece| piece.memory == 0);
            let obeyed = taken.iter().all(|set| self.obeys(*set));
            return (sound || (obeyed && free)).then(Vec::new);
        };
        let everything = taken.iter().fold(0, |all, set| all | set);
        for (choice, way) in ways.iter().enumerate() {
            for set in 0..1u32 << self.pieces.len() {
                if set & everything == 0 && self.suits(set, way) {
                    taken[*claim] |= set;
                    let found = self.try_request(rest, taken);
                    taken[*claim] &= !set;
                    if let Some(mut choices) = found {
                        choices.insert(0, choice);
                        return Some(choices);
                    }
                }
            }
        }
        None
    }

    fn slices(&self) -> Vec<Arc<ResourceSlice>> {
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
        let device = |(at, piece): (usize, &Piece)| {
            let mut device = json!({"name": format!("d{at}"), "attributes": {"colour": {"int": piece.colour}}});
            if piece.memory > 0 {
                let counters = json!({"memory": {"value": piece.memory.to_string()}});
                device["consumesCounters"] = json!([{"counterSet": "card", "counters": counters}]);
            }
            if piece.tainted {
                device["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
            }
            device
        };
        let devices: Vec<_> = self.pieces.iter().enumerate().map(device).collect();
        let counters = json!([{"name": "card", "counters": {"memory": {"value": MEMORY.to_string()}}}]);
        let slice = |name: &str, field: &str, value: serde_json::Value| {
            let mut spec = json!({"driver": "d", "pool": pool, "nodeName": "n"});
            spec[field] = value;
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
        };
        vec![slice("a", "sharedCounters", counters), slice("b", "devices", json!(devices))]
    }

    fn objects(&self) -> Vec<Arc<ResourceClaim>> {
        let way = |name: String, way: &Way| {
            let selector = format!("device.attributes['d'].colour >= {}", way.colour);
            let mut json = json!({"name": name, "deviceClassName": "c", "allocationMode": "ExactCount", "count": way.count,
                                  "selectors": [{"cel": {"expression": selector}}]});
            if way.tolerates {
                json["tolerations"] = json!([{"operator": "Exists"}]);
            }
            json
        };
        let request = |(at, ways): (usize, &Vec<Way>)| {
            let choices: Vec<_> = ways.iter().enumerate().map(|(c, w)| way(c.to_string(), w)).collect();
            json!({"name": format!("r{at}"), "firstAvailable": choices})
        };
        let claim = |(at, requests): (usize, &Vec<Vec<Way>>)| {
            let requests: Vec<_> = requests.iter().enumerate().map(request).collect();
            let constraints = match self.rule {
                Rule::None => json!([]),
                Rule::Same => json!([{"matchAttribute": "d/colour"}]),
                Rule::Different => json!([{"distinctAttribute": "d/colour"}]),
            };
            let spec = json!({"devices": {"requests": requests, "constraints": constraints}});
            let meta = json!({"name": format!("c{at}"), "namespace": "n"});
            Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
        };
        self.claims.iter().enumerate().map(claim).collect()
    }

    fn allocated(&self) -> Allocated {
        let used = self.pieces.iter().enumerate().filter(|(_, piece)| piece.used);
        let results: Vec<_> = used
            .map(|(at, _)| json!({"driver": "d", "pool": "p", "device": format!("d{at}"), "request": "x"}))
            .collect();
        let mut allocated = Allocated::default();
        allocated.add(&serde_json::from_value(json!({"devices": {"results": results}})).unwrap(), true);
        allocated
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn finds_what_the_model_finds(case in case()) {
        let class: Arc<DeviceClass> = Arc::new(serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {}})).unwrap());
        let programs = Programs::default();
        let features = Features::default();
        let problem = Problem::new(&case.objects(), |_| Some(class.clone()), &programs, features).unwrap();
        let inventory = Inventory::new(features, case.slices(), &Inventory::default());
        let node: Arc<Node> = Arc::new(serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap());
        let found = allocate(&problem, &inventory, &case.allocated(), &node, None);
        let Some(choices) = case.solve() else {
            prop_assert_eq!(found, Err(Failure::Unfit));
            return Ok(());
        };
        let found = found.unwrap();
        let mut all = 0u32;
        let mut used = Vec::new();
        for (claim, result) in case.claims.iter().zip(&found) {
            let results = result.devices.as_ref().unwrap().results.as_ref().unwrap();
            let mut whole = 0;
            for (at, ways) in claim.iter().enumerate() {
                let prefix = format!("r{at}/");
                let own: Vec<_> = results.iter().filter(|result| result.request.starts_with(&prefix)).collect();
                let choice: usize = own[0].request[prefix.len()..].parse().unwrap();
                let set = own.iter().fold(0u32, |set, result| set | 1 << result.device[1..].parse::<u32>().unwrap());
                prop_assert!(case.suits(set, &ways[choice]));
                prop_assert_eq!(all & set, 0);
                all |= set;
                whole |= set;
                used.push(choice);
            }
            prop_assert!(case.obeys(whole));
        }
        prop_assert!(case.memory(all) <= MEMORY || case.of(all).all(|piece| piece.memory == 0));
        prop_assert_eq!(used, choices);
    }
}
