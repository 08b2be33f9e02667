//! Which CPUs to take, so that as much as possible of the machine's structure stays whole. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::super::hints::combinations;
use super::{CpuSet, Topology};
use crate::placement::topology::Place;

/// In which order single CPUs are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// Core by core.
    Packed,
    /// One of each core first.
    Spread,
}

type Level = fn(&Place) -> usize;

const NODE: Level = |place| place.node;
const SOCKET: Level = |place| place.socket;
const CORE: Level = |place| place.core;
const CACHE: Level = |place| place.cache;

struct Accumulator<'a> {
    topology: &'a Topology,
    free: BTreeMap<usize, Place>,
    needed: usize,
    taken: CpuSet,
    strategy: Strategy,
    /// The larger unit first: NUMA nodes on most machines, sockets where nodes are parts of them.
    outer: Level,
    inner: Level,
}

fn members(of: &BTreeMap<usize, Place>, level: Level, id: usize) -> CpuSet {
    of.iter().filter(|(_, place)| level(place) == id).map(|(cpu, _)| *cpu).collect()
}

impl<'a> Accumulator<'a> {
    fn new(topology: &'a Topology, available: &CpuSet, needed: usize, strategy: Strategy) -> Self {
        let free = topology.places.iter().filter(|(cpu, _)| available.contains(**cpu));
        let nodes_first = topology.sockets() >= topology.cpu_nodes().len();
        let (outer, inner) = if nodes_first { (NODE, SOCKET) } else { (SOCKET, NODE) };
        let free = free.map(|(cpu, place)| (*cpu, *place)).collect();
        Self { topology, free, needed, taken: CpuSet::default(), strategy, outer, inner }
    }

    fn satisfied(&self) -> bool {
        self.needed == 0
    }

    fn take(&mut self, cpus: &CpuSet) {
        for cpu in cpus.iter() {
            if self.free.remove(&cpu).is_some() && self.taken.0.insert(cpu) {
                self.needed = self.needed.saturating_sub(1);
            }
        }
    }

    /// Units of a level among the free CPUs that `within` says, the fullest last.
    fn units(&self, level: Level, within: impl Fn(&Place) -> bool) -> Vec<usize> {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        let ids: BTreeSet<usize> = self.free.values().filter(|place| within(place)).map(level).collect();
        for place in self.free.values().filter(|place| ids.contains(&level(place))) {
            *counts.entry(level(place)).or_default() += 1;
        }
        let mut ids: Vec<usize> = ids.into_iter().collect();
        ids.sort_by_key(|id| (counts.get(id).copied().unwrap_or(0), *id));
        ids
    }

    fn outers(&self) -> Vec<usize> {
        self.units(self.outer, |_| true)
    }

    fn below(&self, parents: Vec<usize>, parent: Level, level: Level) -> Vec<usize> {
        let mut found: Vec<usize> = Vec::new();
        for id in parents {
            for unit in self.units(level, |place| parent(place) == id) {
                if !found.contains(&unit) {
                    found.push(unit);
                }
            }
        }
        found
    }

    fn inners(&self) -> Vec<usize> {
        self.below(self.outers(), self.outer, self.inner)
    }

    fn cores(&self) -> Vec<usize> {
        self.below(self.inners(), self.inner, CORE)
    }

    fn nodes(&self) -> Vec<usize> {
        let sockets_first = self.topology.sockets() < self.topology.cpu_nodes().len();
        if sockets_first { self.inners() } else { self.outers() }
    }

    fn sockets(&self) -> Vec<usize> {
        let sockets_first = self.topology.sockets() < self.topology.cpu_nodes().len();
        if sockets_first { self.outers() } else { self.inners() }
    }

    /// Takes units that are wholly free, as long as a whole one is needed.
    fn take_whole(&mut self, level: Level, ids: Vec<usize>) {
        for id in ids {
            let whole = members(&self.topology.places, level, id);
            let free = members(&self.free, level, id).len() == whole.len();
            if free && self.needed >= whole.len() {
                self.take(&whole);
            }
        }
    }

    fn caches(&self) -> Vec<usize> {
        self.below(self.nodes(), NODE, CACHE)
    }

    /// Whole caches, then what is left from one cache if one has it.
    fn take_caches(&mut self) {
        for cache in self.caches() {
            if self.needed >= self.topology.cpus_per_cache() {
                self.take_whole(CACHE, self.caches());
            }
            if self.satisfied() {
                return;
            }
            self.take_part_of_cache(cache);
            if self.satisfied() {
                return;
            }
        }
    }

    fn take_part_of_cache(&mut self, cache: usize) {
        let per_core = self.topology.cpus_per_core();
        let cores: BTreeSet<usize> =
            self.free.values().filter(|place| place.cache == cache).map(|place| place.core).collect();
        let cores: Vec<usize> = cores.into_iter().take(self.needed.div_ceil(per_core)).collect();
        let mut cpus: CpuSet = self.free.iter().filter(|(_, p)| cores.contains(&p.core)).map(|(cpu, _)| *cpu).collect();
        if !self.needed.is_multiple_of(2) && per_core > 1 && cpus.len() > self.needed {
            cpus.0.pop_last();
        }
        if cpus.len() == self.needed {
            self.take(&cpus);
        }
    }

    fn take_single(&mut self) {
        let (units, level): (Vec<usize>, Level) = match self.strategy {
            Strategy::Packed => (self.cores(), CORE),
            Strategy::Spread => (self.sockets(), SOCKET),
        };
        for id in units {
            for cpu in members(&self.free, level, id).iter() {
                if self.satisfied() {
                    return;
                }
                self.take(&CpuSet::from_iter([cpu]));
            }
        }
    }
}

fn enough<'a>(
    topology: &'a Topology,
    available: &CpuSet,
    count: usize,
    strategy: Strategy,
) -> Result<Accumulator<'a>, String> {
    let accumulator = Accumulator::new(topology, available, count, strategy);
    if count > accumulator.free.len() {
        return Err(format!(
            "not enough cpus available to satisfy request: requested={count}, available={}",
            available.len()
        ));
    }
    Ok(accumulator)
}

/// On as few NUMA nodes, sockets and cores as possible.
pub(super) fn packed(
    topology: &Topology,
    available: &CpuSet,
    count: usize,
    strategy: Strategy,
    by_cache: bool,
) -> Result<CpuSet, String> {
    let mut acc = enough(topology, available, count, strategy)?;
    acc.take_whole(acc.outer, acc.outers());
    acc.take_whole(acc.inner, acc.inners());
    if by_cache && !acc.satisfied() {
        acc.take_caches();
    }
    if strategy == Strategy::Packed {
        acc.take_whole(CORE, acc.cores());
    }
    acc.take_single();
    if acc.satisfied() { Ok(acc.taken) } else { Err("failed to allocate cpus".into()) }
}

#[allow(clippy::cast_precision_loss, reason = "numbers of CPUs")]
fn deviation(values: &BTreeMap<usize, usize>) -> f64 {
    let round = |x: f64| (x * 1000.0).round() / 1000.0;
    let count = values.len().max(1) as f64;
    let mean = round(values.values().sum::<usize>() as f64 / count);
    let squares: f64 = values.values().map(|value| (*value as f64 - mean).powi(2)).sum();
    round((squares / count).sqrt())
}

/// Evenly over as few NUMA nodes as have room, in groups of `group` CPUs; packed when that is not possible.
pub(super) fn distributed(
    topology: &Topology,
    available: &CpuSet,
    count: usize,
    group: usize,
    strategy: Strategy,
) -> Result<CpuSet, String> {
    if !count.is_multiple_of(group) || count == 0 {
        return packed(topology, available, count, strategy, false);
    }
    let mut acc = enough(topology, available, count, strategy)?;
    let nodes = acc.nodes();
    let free: BTreeMap<usize, usize> = nodes.iter().map(|id| (*id, members(&acc.free, NODE, *id).len())).collect();
    let groups_per_node = topology.places.len().div_ceil(group).div_ceil(topology.cpu_nodes().len().max(1));
    let groups = count.div_ceil(group);
    for size in groups.div_ceil(groups_per_node)..=groups.min(nodes.len()) {
        let Some(plan) = best_plan(&nodes, &free, count, group, size) else { continue };
        for (node, share) in plan {
            let from = members(&acc.free, NODE, node);
            let cpus = packed(topology, &from, share, strategy, false)?;
            acc.take(&cpus);
        }
        return match acc.satisfied() {
            true => Ok(acc.taken),
            false => Err(format!("accounting error, not enough CPUs allocated, remaining: {}", acc.needed)),
        };
    }
    packed(topology, available, count, strategy, false)
}

/// CPUs to take of each node, in the order of taking.
type Plan = Vec<(usize, usize)>;

/// The way to share `count` CPUs among `size` nodes that leaves the nodes most alike.
fn best_plan(nodes: &[usize], free: &BTreeMap<usize, usize>, count: usize, group: usize, size: usize) -> Option<Plan> {
    let mut best: Option<(f64, Plan)> = None;
    combinations(nodes, size, &mut |chosen| {
        if let Some((balance, plan)) = plan(chosen, free, count, group)
            && best.as_ref().is_none_or(|(least, _)| balance < *least)
        {
            best = Some((balance, plan));
        }
        best.as_ref().is_none_or(|(balance, _)| *balance > 0.0)
    });
    best.map(|(_, plan)| plan)
}

fn plan(chosen: &[usize], free: &BTreeMap<usize, usize>, count: usize, group: usize) -> Option<(f64, Plan)> {
    let have = |node: &usize| free.get(node).copied().unwrap_or(0);
    let share = count / chosen.len() / group * group;
    let whole: usize = chosen.iter().map(|node| have(node) / group * group).sum();
    if whole < count || chosen.iter().any(|node| have(node) < share) {
        return None;
    }
    let mut left = free.clone();
    for node in chosen {
        *left.entry(*node).or_default() -= share;
    }
    let mut even: Plan = chosen.iter().map(|node| (*node, share)).filter(|(_, share)| *share > 0).collect();
    let rest = count - share * chosen.len();
    if rest == 0 {
        return Some((deviation(&left), even));
    }
    let roomy: Vec<usize> = chosen.iter().copied().filter(|node| left[node] >= group).collect();
    let mut best: Option<(f64, Plan)> = None;
    for size in (1..=roomy.len()).rev() {
        combinations(&roomy, size, &mut |subset| {
            if let Some((balance, extra)) = spread_rest(subset, &left, rest, group)
                && best.as_ref().is_none_or(|(least, _)| balance < *least)
            {
                best = Some((balance, extra));
            }
            true
        });
    }
    let (balance, extra) = best?;
    even.extend(extra);
    Some((balance, even))
}

/// Hands the rest out group by group, round after round.
fn spread_rest(subset: &[usize], left: &BTreeMap<usize, usize>, mut rest: usize, group: usize) -> Option<(f64, Plan)> {
    let mut left = left.clone();
    if subset.iter().map(|node| left[node] / group * group).sum::<usize>() < rest {
        return None;
    }
    let mut extra = Plan::new();
    while rest > 0 {
        for node in subset {
            let free = left.get_mut(node)?;
            if rest == 0 || *free < group {
                continue;
            }
            *free -= group;
            rest -= group;
            extra.push((*node, group));
        }
    }
    Some((deviation(&left), extra))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::*;
    use crate::placement::topology::fixtures::machine;

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    /// Two sockets of four cores with two threads each: siblings are 8 apart.
    #[test]
    fn structures_stay_whole() {
        let dual = machine(2, 1, 4, 2);
        for (available, count, want) in [
            ("0-15", 1, "0"),
            ("0-15", 2, "0,8"),
            ("0-15", 8, "0-3,8-11"),
            ("0-15", 9, "0-4,8-11"),
            // The fuller core waits.
            ("1-3,8-11", 1, "8"),
            ("0-5,8-13", 4, "4-5,12-13"),
            ("0-15", 16, "0-15"),
        ] {
            let taken = packed(&dual, &set(available), count, Strategy::Packed, false).unwrap();
            assert_eq!(taken, set(want), "{count} of {available}");
        }
        assert_eq!(packed(&dual, &set("0-15"), 3, Strategy::Spread, false).unwrap(), set("0-2"));
        let error = packed(&dual, &set("0-1"), 3, Strategy::Packed, false).unwrap_err();
        assert_eq!(error, "not enough cpus available to satisfy request: requested=3, available=2");
    }

    #[test]
    fn shares_are_even() {
        let quad = machine(2, 2, 4, 2);
        for (available, count, group, want) in [
            ("0-31", 16, 1, "0-7,16-23"),
            ("0-31", 12, 1, "0-2,4-6,16-18,20-22"),
            ("0-31", 12, 2, "0-2,4-6,16-18,20-22"),
            ("0-31", 8, 1, "0-3,16-19"),
            ("1-31", 8, 1, "4-7,20-23"),
        ] {
            let taken = distributed(&quad, &set(available), count, group, Strategy::Packed).unwrap();
            assert_eq!(taken, set(want), "{count} of {available}");
        }
    }

    proptest! {
        #[test]
        fn as_many_as_asked_for_of_the_free_ones(
            free in proptest::collection::btree_set(0usize..32, 1..32), count in 0usize..33, by_cache: bool, spread: bool,
        ) {
            let quad = machine(2, 2, 4, 2);
            let free = CpuSet(free);
            let strategy = if spread { Strategy::Spread } else { Strategy::Packed };
            for taken in [packed(&quad, &free, count, strategy, by_cache), distributed(&quad, &free, count, 1, strategy)] {
                match taken {
                    Ok(taken) => prop_assert!(taken.len() == count && taken.difference(&free).is_empty()),
                    Err(_) => prop_assert!(count > free.len()),
                }
            }
        }
    }
}
