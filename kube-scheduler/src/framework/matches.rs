//! How many pods a selector matches per topology domain, kept per pod template and followed slot by slot through the
//! snapshot's journal: a cycle looks only at nodes that changed since the template's last one.

use std::collections::HashMap;
use std::sync::Arc;

use common::meta::selector::LabelSelector;

use super::tally::domain;
use crate::cache::labels::ABSENT;
use crate::cache::snapshot::{Change, Snapshot};

/// Selectors remembered at a time.
const SELECTORS: usize = 256;
/// Templates whose match is remembered, per selector.
const TEMPLATES: usize = 4096;
/// No counted node is in the domain.
pub const NOBODY: i64 = -1;

/// Whose pods are counted, and where.
pub struct Question<'a> {
    /// The template that asks.
    pub template: u64,
    /// Which of its questions this is.
    pub index: usize,
    /// Pods of this namespace.
    pub namespace: &'a str,
    /// That this selects.
    pub selector: &'a LabelSelector,
    /// Per value of this label.
    pub key: &'a str,
}

/// One question and its answer.
struct Counts {
    template: u64,
    index: usize,
    namespace: String,
    selector: LabelSelector,
    version: u64,
    used: u64,
    /// Which templates the selector matches.
    matching: HashMap<u64, bool>,
    /// Of each slot: the domain that it was counted in ([`ABSENT`] if in none), and how many pods.
    slots: Vec<(u32, i64)>,
    /// Counted nodes per domain.
    nodes: Vec<u32>,
    /// Pods per domain, [`NOBODY`] without nodes.
    pods: Arc<Vec<i64>>,
}

impl Counts {
    fn new(question: &Question<'_>) -> Self {
        Self {
            template: question.template,
            index: question.index,
            namespace: question.namespace.to_owned(),
            selector: question.selector.clone(),
            version: 0,
            used: 0,
            matching: HashMap::new(),
            slots: Vec::new(),
            nodes: Vec::new(),
            pods: Arc::default(),
        }
    }

    fn count(&mut self, snapshot: &Snapshot, slot: u32) -> i64 {
        let mut matches = |pod: &&Arc<crate::framework::pod::PodInfo>| {
            let template = &pod.template;
            let selected = || *template.namespace == *self.namespace && self.selector.matches(&template.labels);
            !pod.deleting && *self.matching.entry(template.id).or_insert_with(selected)
        };
        snapshot.pods[slot as usize].iter().filter(|pod| matches(pod)).count() as i64
    }

    /// Takes back what a slot was counted for, and counts it in a domain.
    fn recount(&mut self, snapshot: &Snapshot, slot: u32, value: u32) {
        let pods = if value == ABSENT { 0 } else { self.count(snapshot, slot) };
        let (old_value, old_pods) = std::mem::replace(&mut self.slots[slot as usize], (value, pods));
        self.shift(old_value, -1, -old_pods);
        self.shift(value, 1, pods);
    }

    fn shift(&mut self, value: u32, nodes: i32, pods: i64) {
        if value == ABSENT {
            return;
        }
        let (at, sums) = (value as usize, Arc::make_mut(&mut self.pods));
        if sums.len() <= at {
            sums.resize(at + 1, NOBODY);
            self.nodes.resize(at + 1, 0);
        }
        self.nodes[at] = self.nodes[at].saturating_add_signed(nodes);
        sums[at] = if self.nodes[at] == 0 { NOBODY } else { sums[at].max(0) + pods };
    }

    fn follow(&mut self, snapshot: &Snapshot, key: &str, counted: impl Fn(u32) -> bool) {
        if self.matching.len() > TEMPLATES {
            self.matching.clear();
        }
        let known = !self.slots.is_empty();
        self.slots.resize(snapshot.slots(), (ABSENT, 0));
        let everything = || (0..snapshot.slots() as u32).map(|slot| (slot, Change::Node)).collect();
        let mut changes: Vec<(u32, Change)> = match snapshot.changes_since(self.version) {
            Some(changes) if known => changes.collect(),
            _ => everything(),
        };
        // Of a node and its pods, the node's change says more.
        changes.sort_unstable_by_key(|(slot, change)| (*slot, *change != Change::Node));
        changes.dedup_by_key(|(slot, _)| *slot);
        for (slot, change) in changes {
            let value = match change {
                Change::Pods => self.slots[slot as usize].0,
                Change::Node if snapshot.live.contains(slot) && counted(slot) => domain(snapshot, key, slot),
                Change::Node => ABSENT,
            };
            self.recount(snapshot, slot, value);
        }
        self.version = snapshot.version();
    }
}

/// A bounded set of questions; the least recently asked go first.
#[derive(Default)]
pub struct MatchCounts {
    known: Vec<Counts>,
    tick: u64,
}

impl MatchCounts {
    /// Matching pods per value number of the label, over the nodes that are `counted`, which must depend on nothing but the
    /// template and the node object; [`NOBODY`] where no such node is.
    pub fn per_domain(
        &mut self,
        question: &Question<'_>,
        snapshot: &Snapshot,
        counted: impl Fn(u32) -> bool,
    ) -> Arc<Vec<i64>> {
        self.tick += 1;
        let same = |c: &Counts| {
            c.template == question.template && c.index == question.index && c.selector == *question.selector
        };
        let at = self.known.iter().position(same).unwrap_or_else(|| {
            if self.known.len() < SELECTORS {
                self.known.push(Counts::new(question));
                return self.known.len() - 1;
            }
            let oldest = self.known.iter().enumerate().min_by_key(|(_, c)| c.used).map_or(0, |(at, _)| at);
            self.known[oldest] = Counts::new(question);
            oldest
        });
        let counts = &mut self.known[at];
        counts.used = self.tick;
        counts.follow(snapshot, question.key, counted);
        counts.pods.clone()
    }
}
