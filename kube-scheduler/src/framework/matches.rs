//! How many pods on each node a selector matches, kept per pod template and followed slot by slot through the
//! snapshot's journal: a cycle recounts only the nodes whose pods changed.

use common::meta::selector::LabelSelector;

use crate::cache::snapshot::{Change, Snapshot};

/// Selectors remembered at a time.
const SELECTORS: usize = 256;

/// One selector in one namespace.
struct Counts {
    template: u64,
    index: usize,
    namespace: String,
    selector: LabelSelector,
    version: u64,
    used: u64,
    per_slot: Vec<u32>,
}

impl Counts {
    fn count(&self, snapshot: &Snapshot, slot: u32) -> u32 {
        let matching = snapshot.pods[slot as usize].iter().filter(|pod| {
            !pod.deleting && pod.namespace() == self.namespace && self.selector.matches(&pod.template.labels)
        });
        matching.count() as u32
    }

    fn follow(&mut self, snapshot: &Snapshot) {
        let known = self.per_slot.len();
        self.per_slot.resize(snapshot.slots(), 0);
        match snapshot.changes_since(self.version) {
            Some(changes) if known > 0 => {
                let mut slots: Vec<u32> = changes.filter(|(_, c)| *c == Change::Pods).map(|(slot, _)| slot).collect();
                slots.sort_unstable();
                slots.dedup();
                for slot in slots {
                    self.per_slot[slot as usize] = self.count(snapshot, slot);
                }
            }
            _ => {
                for slot in 0..snapshot.slots() as u32 {
                    self.per_slot[slot as usize] = self.count(snapshot, slot);
                }
            }
        }
        self.version = snapshot.version();
    }
}

/// A bounded set of counted selectors.
#[derive(Default)]
pub struct MatchCounts {
    known: Vec<Counts>,
    tick: u64,
}

impl MatchCounts {
    /// Matching pods per slot, for the `index`-th selector of a template.
    pub fn per_slot(
        &mut self,
        template: u64,
        index: usize,
        namespace: &str,
        selector: &LabelSelector,
        snapshot: &Snapshot,
    ) -> &[u32] {
        self.tick += 1;
        let found =
            self.known.iter().position(|c| c.template == template && c.index == index && c.selector == *selector);
        let at = found.unwrap_or_else(|| {
            let fresh = Counts {
                template,
                index,
                namespace: namespace.to_owned(),
                selector: selector.clone(),
                version: 0,
                used: 0,
                per_slot: Vec::new(),
            };
            if self.known.len() < SELECTORS {
                self.known.push(fresh);
                return self.known.len() - 1;
            }
            let oldest = self.known.iter().enumerate().min_by_key(|(_, c)| c.used).map_or(0, |(at, _)| at);
            self.known[oldest] = fresh;
            oldest
        });
        let counts = &mut self.known[at];
        counts.used = self.tick;
        counts.follow(snapshot);
        &counts.per_slot
    }
}
