//! When a node counts as dead, and what its conditions and taints should say. Pure.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use crate::shared::meta::MetaExt;

pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition type, its bad status, and the taint for it.
const TAINT_OF: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// When a node last gave a sign of life, by our clock. The kubelet's clock is compared with itself only.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Health {
    heartbeat: Option<Time>,
    renewed: Option<MicroTime>,
    pub(super) seen: Instant,
    /// The pods have been told that their node is not ready: once, or a live kubelet would contradict it for ever.
    pub(super) pods_marked: bool,
}

impl Health {
    /// First sight of a node counts as a sign of life.
    pub(super) fn new(node: &Node, renewed: Option<&MicroTime>, now: Instant) -> Self {
        Self { heartbeat: heartbeat(node), renewed: renewed.cloned(), seen: now, pods_marked: false }
    }

    /// Notes what the node shows now.
    pub(super) fn note(&mut self, node: &Node, renewed: Option<&MicroTime>, now: Instant) {
        let beat = heartbeat(node);
        if beat != self.heartbeat && beat.is_some() {
            self.seen = now;
        }
        self.heartbeat = beat;
        if renewed.is_some_and(|r| self.renewed.as_ref().is_none_or(|old| old.0 < r.0)) {
            self.renewed = renewed.cloned();
            self.seen = now;
        }
    }

    /// How long the node may still be silent; None: too long already.
    pub(super) fn remaining(&self, grace: Duration, now: Instant) -> Option<Duration> {
        grace.checked_sub(now.duration_since(self.seen)).filter(|left| !left.is_zero())
    }
}

fn heartbeat(node: &Node) -> Option<Time> {
    condition(node, "Ready").and_then(|c| c.last_heartbeat_time.clone())
}

pub(super) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_deref()?.iter().find(|c| c.type_ == kind)
}

/// The status of condition Ready; a node that never reported is Unknown.
pub(crate) fn ready_status(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |c| c.status.as_str())
}

/// Turns the kubelet's conditions into Unknown; tells whether anything changed.
pub(super) fn mark_unknown(node: &mut Node, now: Timestamp) -> bool {
    let created = node.metadata.creation_timestamp.clone();
    let list = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let (reason, message) = match list.iter_mut().find(|c| c.type_ == kind) {
            Some(c) if c.status == "Unknown" => continue,
            Some(c) => {
                c.status = "Unknown".into();
                c.reason = Some("NodeStatusUnknown".into());
                c.message = Some("Kubelet stopped posting node status.".into());
                c.last_transition_time = Some(Time(now));
                changed = true;
                continue;
            }
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        list.push(NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: created.clone(),
            last_transition_time: Some(Time(now)),
        });
        changed = true;
    }
    changed
}

fn taint(key: &str, effect: &str, added: Option<Timestamp>) -> Taint {
    Taint { key: key.into(), effect: effect.into(), value: None, time_added: added.map(Time) }
}

fn is_ours(t: &Taint) -> bool {
    let by_condition = TAINT_OF.iter().any(|(_, _, key)| *key == t.key);
    match t.effect.as_str() {
        "NoSchedule" => by_condition || t.key == UNSCHEDULABLE,
        "NoExecute" => t.key == NOT_READY || t.key == UNREACHABLE,
        _ => false,
    }
}

/// Which NoExecute taint the node's state asks for.
pub(super) fn eviction_taint(node: &Node) -> Option<&'static str> {
    match ready_status(node) {
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    }
}

/// Does it carry one of our NoExecute taints?
pub(super) fn has_eviction_taint(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or(&[]);
    taints.iter().any(|t| t.effect == "NoExecute" && (t.key == NOT_READY || t.key == UNREACHABLE))
}

/// The taints the node should have, in the order it has them; None when they are right. `evict` allows a new
/// NoExecute taint; one that is there already is swapped for the right one in any case.
pub(super) fn desired_taints(node: &Node, evict: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let spec = node.spec.clone().unwrap_or_default();
    let current = spec.taints.unwrap_or_default();
    let mut wanted: Vec<Taint> = Vec::new();
    for c in node.status.iter().flat_map(|s| s.conditions.iter().flatten()) {
        let found = TAINT_OF.iter().find(|(kind, status, _)| *kind == c.type_ && *status == c.status);
        wanted.extend(found.map(|(_, _, key)| taint(key, "NoSchedule", None)));
    }
    if spec.unschedulable == Some(true) {
        wanted.push(taint(UNSCHEDULABLE, "NoSchedule", Some(now)));
    }
    if let Some(key) = eviction_taint(node).filter(|_| evict || has_eviction_taint(node)) {
        wanted.push(taint(key, "NoExecute", Some(now)));
    }
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    let mut result: Vec<Taint> =
        current.iter().filter(|t| !is_ours(t) || wanted.iter().any(|w| same(w, t))).cloned().collect();
    let missing: Vec<Taint> = wanted.into_iter().filter(|w| !current.iter().any(|t| same(w, t))).collect();
    let changed = result.len() != current.len() || !missing.is_empty();
    result.extend(missing);
    changed.then_some(result)
}

/// How much of a zone is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZoneState {
    Normal,
    Partial,
    Full,
}

/// From the counts of ready and other nodes.
pub(super) fn zone_state(ready: usize, not_ready: usize, threshold: f32) -> ZoneState {
    let share = not_ready as f32 / (ready + not_ready).max(1) as f32;
    match (ready, not_ready) {
        (0, 1..) => ZoneState::Full,
        (_, 3..) if share >= threshold => ZoneState::Partial,
        _ => ZoneState::Normal,
    }
}

/// The zone that a node says it is in.
pub(super) fn zone_of(node: &Node) -> String {
    let label = |key: &str| node.label(key).unwrap_or("");
    format!("{}:\u{0}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
