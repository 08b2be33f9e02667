//! How many nodes of each zone are ready: kept up to date by events, so that no run has to look at every node.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;

use super::health::{ZoneState, zone_of, zone_state};
use super::ready_status;
use crate::shared::meta::MetaExt;
use crate::shared::metrics::{Counter, Gauge};

/// Nodes with this label do not speak for their zone.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

static SIZE: Gauge =
    Gauge::new("node_collector_zone_size", "Gauge measuring number of registered Nodes per zones.", &["zone"]);
static HEALTH: Gauge =
    Gauge::new("node_collector_zone_health", "Gauge measuring percentage of healthy nodes per zone.", &["zone"]);
static UNHEALTHY: Gauge = Gauge::new(
    "node_collector_unhealthy_nodes_in_zone",
    "Gauge measuring number of not Ready Nodes per zones.",
    &["zone"],
);
/// Nodes whose pods were told to go, by zone.
pub(super) static EVICTIONS: Counter = Counter::new(
    "node_collector_evictions_total",
    "Number of Node evictions that happened since current instance of NodeController started.",
    &["zone"],
);

/// Ready nodes and others.
pub(super) type Counts = (usize, usize);

#[derive(Default)]
struct State {
    /// Zone of each node, and whether it is ready.
    nodes: HashMap<String, (String, bool)>,
    counts: BTreeMap<String, Counts>,
}

impl State {
    fn count(&mut self, zone: &str, ready: bool, more: bool) {
        let counts = self.counts.entry(zone.to_owned()).or_default();
        let side = if ready { &mut counts.0 } else { &mut counts.1 };
        *side = if more { *side + 1 } else { side.saturating_sub(1) };
        let (ready, others) = *counts;
        let size = ready + others;
        SIZE.set(&[zone], size as f64);
        UNHEALTHY.set(&[zone], others as f64);
        HEALTH.set(&[zone], if size == 0 { 100.0 } else { 100.0 * ready as f64 / size as f64 });
        if size == 0 {
            self.counts.remove(zone);
        }
    }

    fn set(&mut self, name: &str, place: Option<(String, bool)>) {
        if self.nodes.get(name) == place.as_ref() {
            return;
        }
        let before = match &place {
            Some(place) => self.nodes.insert(name.to_owned(), place.clone()),
            None => self.nodes.remove(name),
        };
        if let Some((zone, ready)) = place {
            self.count(&zone, ready, true);
        }
        if let Some((zone, ready)) = before {
            self.count(&zone, ready, false);
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Zones {
    state: Mutex<State>,
}

impl Zones {
    /// A node as it is now.
    pub(super) fn note(&self, node: &Node) {
        let counts = node.label(EXCLUDED).is_none();
        let place = counts.then(|| (zone_of(node), ready_status(node) == "True"));
        self.state.lock().set(node.name_str(), place);
    }

    /// A node that is gone.
    pub(super) fn forget(&self, name: &str) {
        self.state.lock().set(name, None);
    }

    /// The nodes of a zone.
    pub(super) fn counts(&self, zone: &str) -> Counts {
        self.state.lock().counts.get(zone).copied().unwrap_or((0, 1))
    }

    /// Whether no zone has a ready node.
    pub(super) fn all_fully_disrupted(&self, threshold: f32) -> bool {
        let state = self.state.lock();
        let dark = |(ready, others): &Counts| zone_state(*ready, *others, threshold) == ZoneState::Full;
        !state.counts.is_empty() && state.counts.values().all(dark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn node(name: usize, zone: usize, ready: bool, excluded: bool) -> Node {
        let mut labels = json!({"topology.kubernetes.io/zone": format!("z{zone}")});
        if excluded {
            labels[EXCLUDED] = json!("");
        }
        let status = if ready { "True" } else { "Unknown" };
        serde_json::from_value(json!({"metadata": {"name": format!("n{name}"), "labels": labels},
            "status": {"conditions": [{"type": "Ready", "status": status}]}}))
        .unwrap()
    }

    proptest! {
        /// After any events the counts are those of a look at every node.
        #[test]
        fn counts_as_a_look_at_all_nodes(events in prop::collection::vec((0_usize..6, 0_usize..3, any::<bool>(), 0_u8..8), 0..40)) {
            let (zones, mut all) = (Zones::default(), BTreeMap::new());
            for (name, zone, ready, kind) in events {
                if kind == 0 {
                    zones.forget(&format!("n{name}"));
                    all.remove(&name);
                } else {
                    let node = node(name, zone, ready, kind == 1);
                    zones.note(&node);
                    all.insert(name, node);
                }
            }
            let mut want: BTreeMap<String, Counts> = BTreeMap::new();
            for node in all.values().filter(|node| node.label(EXCLUDED).is_none()) {
                let counts = want.entry(zone_of(node)).or_default();
                if ready_status(node) == "True" { counts.0 += 1 } else { counts.1 += 1 }
            }
            let dark = !want.is_empty() && want.values().all(|(ready, _)| *ready == 0);
            prop_assert_eq!(zones.all_fully_disrupted(0.55), dark);
            prop_assert_eq!(&zones.state.lock().counts, &want);
        }
    }
}
