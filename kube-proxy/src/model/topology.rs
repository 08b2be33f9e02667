//! Which endpoints traffic of each policy may reach from this node.

use std::collections::{BTreeMap, BTreeSet};

use super::{Endpoint, Here, ServicePort, Target};

/// The endpoints of one service port that rules name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// For policy `Cluster`; empty when no policy of the port is.
    pub cluster: Vec<Target>,
    /// For policy `Local`; empty when no policy of the port is.
    pub local: Vec<Target>,
    /// Those of the above that are on this node: they may meet themselves.
    pub here: Vec<Target>,
    /// Whether anybody answers, wherever it is.
    pub any: bool,
}

/// Where hints lead.
enum Mode {
    Anywhere,
    SameNode,
    SameZone,
}

/// Picks endpoints: ready ones, or while none is ready, serving terminating ones (KEP-1669); hints narrow the
/// cluster-wide choice when every ready endpoint carries one and one of them is for us (KEP-2433, KEP-3015).
pub(crate) fn choose(service: &ServicePort, all: &BTreeMap<Target, &Endpoint>, here: &Here) -> Choice {
    let mut choice = Choice::default();
    let mut local_targets = BTreeSet::new();
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<Target> {
        all.iter().filter(|(_, endpoint)| wanted(endpoint)).map(|(target, _)| *target).collect()
    };
    let leaving = |endpoint: &Endpoint| endpoint.serving && endpoint.terminating;
    if service.uses_cluster() {
        let mode = mode(all, here);
        choice.cluster = pick(&|endpoint| endpoint.ready && available(endpoint, &mode, here));
        if choice.cluster.is_empty() {
            choice.cluster = pick(&leaving);
        }
        choice.any = !choice.cluster.is_empty();
    }
    if service.uses_local() {
        choice.any |= all.values().any(|endpoint| endpoint.ready || leaving(endpoint));
        choice.local = pick(&|endpoint| endpoint.local && endpoint.ready);
        if choice.local.is_empty() {
            choice.local = pick(&|endpoint| endpoint.local && leaving(endpoint));
        }
    }
    for target in choice.cluster.iter().chain(&choice.local) {
        if all.get(target).is_some_and(|endpoint| endpoint.local) {
            local_targets.insert(*target);
        }
    }
    choice.here = local_targets.into_iter().collect();
    choice
}

fn mode(all: &BTreeMap<Target, &Endpoint>, here: &Here) -> Mode {
    let mut ready = all.values().filter(|endpoint| endpoint.ready).peekable();
    if ready.peek().is_none() {
        return Mode::Anywhere;
    }
    let (mut every_node, mut every_zone, mut our_node, mut our_zone) = (true, true, false, false);
    for endpoint in ready {
        let (nodes, zones) = endpoint.hints.as_ref().map_or((&[][..], &[][..]), |hints| (&hints.nodes, &hints.zones));
        every_node &= !nodes.is_empty();
        every_zone &= !zones.is_empty();
        our_node |= nodes.contains(&here.node);
        our_zone |= here.zone.as_ref().is_some_and(|zone| zones.contains(zone));
    }
    match (every_node && our_node, every_zone && our_zone) {
        (true, _) => Mode::SameNode,
        (false, true) => Mode::SameZone,
        (false, false) => Mode::Anywhere,
    }
}

fn available(endpoint: &Endpoint, mode: &Mode, here: &Here) -> bool {
    let hints = endpoint.hints.as_ref();
    match mode {
        Mode::Anywhere => true,
        Mode::SameNode => hints.is_some_and(|hints| hints.nodes.contains(&here.node)),
        Mode::SameZone => here.zone.as_ref().is_some_and(|zone| hints.is_some_and(|hints| hints.zones.contains(zone))),
    }
}
