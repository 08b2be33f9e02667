//! Numbers per topology domain, kept per pod template and followed slot by slot through the snapshot's journal: a cycle
//! looks only at nodes that changed since the template's last one.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cache::labels::ABSENT;
use crate::cache::snapshot::Snapshot;
use crate::framework::template::Template;

/// Templates remembered at a time.
const TEMPLATES: usize = 32;
/// Other templates whose part is remembered, per template.
const PARTS: usize = 4096;

/// The number of a node's domain.
pub fn domain(snapshot: &Snapshot, key: &str, slot: u32) -> u32 {
    snapshot.labels.column(key).map_or(ABSENT, |column| column.values[slot as usize])
}

/// Numbers per (topology key, value number). Clones share their arrays until one of them is changed.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    keys: Vec<(Arc<str>, Arc<Vec<i64>>)>,
    nonzero: usize,
}

impl Tally {
    /// Adds to the domain of a node, if it is in one.
    pub fn add(&mut self, snapshot: &Snapshot, slot: u32, key: &str, by: i64) {
        let value = domain(snapshot, key, slot);
        if value != ABSENT {
            self.add_at(key, value, by);
        }
    }

    fn add_at(&mut self, key: &str, value: u32, by: i64) {
        let at = self.keys.iter().position(|(known, _)| **known == *key).unwrap_or_else(|| {
            self.keys.push((key.into(), Arc::default()));
            self.keys.len() - 1
        });
        let numbers = Arc::make_mut(&mut self.keys[at].1);
        if numbers.len() <= value as usize {
            numbers.resize(value as usize + 1, 0);
        }
        let number = &mut numbers[value as usize];
        self.nonzero -= usize::from(*number != 0);
        *number += by;
        self.nonzero += usize::from(*number != 0);
    }

    /// The number of a node's domain; zero outside of any.
    pub fn get(&self, snapshot: &Snapshot, slot: u32, key: &str) -> i64 {
        self.numbers(key).get(domain(snapshot, key, slot) as usize).copied().unwrap_or(0)
    }

    /// Numbers by value number; zero for the missing ones, and for "no such label".
    pub fn numbers(&self, key: &str) -> &[i64] {
        self.keys.iter().find(|(known, _)| **known == *key).map_or(&[], |(_, numbers)| numbers)
    }

    /// The topology keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(key, _)| &**key)
    }

    /// Whether all numbers are zero.
    pub fn is_empty(&self) -> bool {
        self.nonzero == 0
    }
}

/// What one pod of a template adds: which tally, key, number.
pub type Part = Vec<(usize, Arc<str>, i64)>;

/// What the pods of one slot added, to be taken back when the slot changes.
type Added = Vec<(usize, Arc<str>, u32, i64)>;

/// The tallies of one template.
struct Remembered<const N: usize> {
    template: u64,
    epoch: u64,
    version: u64,
    used: u64,
    parts: HashMap<u64, Part>,
    added: Vec<Added>,
    tallies: [Tally; N],
}

impl<const N: usize> Remembered<N> {
    fn new(template: u64, epoch: u64) -> Self {
        let tallies = std::array::from_fn(|_| Tally::default());
        Self { template, epoch, version: 0, used: 0, parts: HashMap::new(), added: Vec::new(), tallies }
    }

    fn follow(&mut self, snapshot: &Snapshot, matters: impl Fn(u32) -> bool, part: impl Fn(&Template) -> Part) {
        if self.parts.len() > PARTS {
            self.parts.clear();
        }
        let known = !self.added.is_empty();
        self.added.resize_with(snapshot.slots(), Vec::new);
        let changes = snapshot.changes_since(self.version).filter(|_| known);
        let slots: Vec<u32> = match changes {
            Some(changes) => {
                let mut slots: Vec<u32> = changes.map(|(slot, _)| slot).collect();
                slots.sort_unstable();
                slots.dedup();
                slots
            }
            None => (0..snapshot.slots() as u32).collect(),
        };
        for slot in slots {
            let mut added = std::mem::take(&mut self.added[slot as usize]);
            for (tally, key, value, by) in added.drain(..) {
                self.tallies[tally].add_at(&key, value, -by);
            }
            if matters(slot) {
                self.count(snapshot, slot, &part, &mut added);
            }
            self.added[slot as usize] = added;
        }
        self.version = snapshot.version();
    }

    fn count(&mut self, snapshot: &Snapshot, slot: u32, part: &impl Fn(&Template) -> Part, added: &mut Added) {
        for pod in snapshot.pods[slot as usize].iter() {
            let part = self.parts.entry(pod.template.id).or_insert_with(|| part(&pod.template));
            for (tally, key, by) in part {
                let value = domain(snapshot, key, slot);
                if value != ABSENT {
                    self.tallies[*tally].add_at(key, value, *by);
                    added.push((*tally, key.clone(), value, *by));
                }
            }
        }
    }
}

/// The tallies of some templates; the least recently used go first.
pub struct TallyMemo<const N: usize> {
    known: Vec<Remembered<N>>,
    tick: u64,
}

impl<const N: usize> Default for TallyMemo<N> {
    fn default() -> Self {
        Self { known: Vec::new(), tick: 0 }
    }
}

impl<const N: usize> TallyMemo<N> {
    /// The tallies of a template, brought up to date. `matters` says which slots can have a part at all; another `epoch`
    /// means that parts may have changed though no node or pod did.
    pub fn tallies(
        &mut self,
        template: u64,
        epoch: u64,
        snapshot: &Snapshot,
        matters: impl Fn(u32) -> bool,
        part: impl Fn(&Template) -> Part,
    ) -> [Tally; N] {
        self.tick += 1;
        let known = self.known.iter().position(|known| known.template == template);
        let at = known.unwrap_or_else(|| {
            if self.known.len() < TEMPLATES {
                self.known.push(Remembered::new(template, epoch));
                return self.known.len() - 1;
            }
            let oldest = self.known.iter().enumerate().min_by_key(|(_, known)| known.used).map_or(0, |(at, _)| at);
            self.known[oldest] = Remembered::new(template, epoch);
            oldest
        });
        if self.known[at].epoch != epoch {
            self.known[at] = Remembered::new(template, epoch);
        }
        let remembered = &mut self.known[at];
        remembered.used = self.tick;
        remembered.follow(snapshot, matters, part);
        remembered.tallies.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Cluster, node, pod};

    const ZONE: &str = "zone";

    fn part(template: &Template) -> Part {
        let weight = i64::from(template.labels.contains_key("app")) + i64::from(template.priority);
        if weight == 0 { Vec::new() } else { vec![(0, ZONE.into(), weight)] }
    }

    /// The same, from scratch.
    fn recount(cluster: &Cluster) -> Tally {
        let mut tally = Tally::default();
        for slot in &cluster.snapshot.order {
            for pod in cluster.snapshot.pods[*slot as usize].iter() {
                for (_, key, by) in part(&pod.template) {
                    tally.add(&cluster.snapshot, *slot, &key, by);
                }
            }
        }
        tally
    }

    proptest! {
        #[test]
        fn following_equals_recounting(steps in proptest::collection::vec((0u8..4, 0usize..5, 0usize..3), 1..60)) {
            let zone = |node_number: usize, zone: usize| {
                let node = node(&format!("n{node_number}"));
                if zone == 0 { node } else { node.label(ZONE, &format!("z{zone}")) }
            };
            let nodes: Vec<_> = (0..5).map(|number| zone(number, number % 3)).collect();
            let mut cluster = Cluster::new(&nodes);
            let mut memo = TallyMemo::<1>::default();
            let (mut made, mut gone) = (0, 0);
            for (what, at, how) in steps {
                match what {
                    0 => cluster.cache.set_node(zone(at, how).build()),
                    1 => cluster.cache.remove_node(&format!("n{at}")),
                    2 if gone < made => {
                        cluster.cache.remove_pod(&format!("p{gone}"));
                        gone += 1;
                    }
                    _ => {
                        let mut new = pod(&format!("p{made}")).priority(how as i32);
                        if at % 2 == 0 {
                            new = new.label("app", "x");
                        }
                        made += 1;
                        cluster.place(&new, &format!("n{at}"));
                    }
                }
                cluster.refresh();
                let [followed] = memo.tallies(1, 0, &cluster.snapshot, |_| true, part);
                let recounted = recount(&cluster);
                prop_assert_eq!(followed.is_empty(), recounted.is_empty());
                for slot in &cluster.snapshot.order {
                    let get = |tally: &Tally| tally.get(&cluster.snapshot, *slot, ZONE);
                    prop_assert_eq!(get(&followed), get(&recounted));
                }
            }
        }
    }
}
