//! The columnar view of the cluster that one scheduling cycle works on.
//!
//! Every node has a slot; every fact about nodes is an array over slots. The cache refreshes only the slots that changed
//! since the last cycle and writes them into a journal, so that whatever is derived from the columns (verdicts per pod
//! template, counts per selector) can follow by slots too.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::images::Images;
use super::labels::LabelColumns;
use super::resources::ResourceIndex;
use super::usage::Usage;
use crate::framework::bitset::BitSet;
use crate::framework::pod::PodInfo;
use crate::framework::template::HostPort;

/// How many changes a reader may lag behind before it has to start over.
const JOURNAL: usize = 8192;

/// What about a slot changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The node object, its arrival or its departure.
    Node,
    /// The pods on it.
    Pods,
}

/// One column per fact, one row per node slot.
#[derive(Default)]
pub struct Snapshot {
    /// Resource columns' names.
    pub resources: ResourceIndex,
    /// Slots that hold a node.
    pub live: BitSet,
    /// Node names.
    pub names: Vec<Arc<str>>,
    /// The node objects, for rare questions only.
    pub nodes: Vec<Option<Arc<Node>>>,
    /// Allocatable amounts: `[column][slot]`.
    pub allocatable: Vec<Vec<i64>>,
    /// Requested amounts: `[column][slot]`.
    pub requested: Vec<Vec<i64>>,
    /// Requested millicores with scoring defaults.
    pub nonzero_cpu: Vec<i64>,
    /// Requested bytes with scoring defaults.
    pub nonzero_memory: Vec<i64>,
    /// How many pods the node admits.
    pub allowed_pods: Vec<i64>,
    /// The pods on the node.
    pub pods: Vec<Arc<Vec<Arc<PodInfo>>>>,
    /// Host ports in use.
    pub ports: Vec<Vec<HostPort>>,
    /// spec.unschedulable
    pub unschedulable: BitSet,
    /// Interned taint set of each slot (index into `taint_sets`).
    pub taint_set: Vec<u32>,
    /// Distinct taint sets; number zero is the empty one.
    pub taint_sets: Vec<Arc<[Taint]>>,
    taint_numbers: HashMap<String, u32>,
    /// Labels, a column of interned values per key.
    pub labels: LabelColumns,
    /// Which images lie on which nodes.
    pub images: Images,
    /// Slots in scheduling order: zones take turns.
    pub order: Vec<u32>,
    /// Node name to slot.
    pub by_name: HashMap<Arc<str>, u32>,
    /// Slots with pods that have inter-pod terms of any kind.
    pub with_affinity: BitSet,
    /// Slots with pods that have required anti-affinity terms.
    pub with_anti_affinity: BitSet,
    /// Slots with pods that use claims.
    pub with_claims: BitSet,
    version: u64,
    journal: VecDeque<(u64, u32, Change)>,
}

impl Snapshot {
    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Number of slots, live or not.
    pub fn slots(&self) -> usize {
        self.names.len()
    }

    /// Counts every change of any slot.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The changes after `version`, or `None` when the journal no longer reaches back that far.
    pub fn changes_since(&self, version: u64) -> Option<impl Iterator<Item = (u32, Change)> + '_> {
        let oldest = self.version - self.journal.len() as u64;
        (version >= oldest).then(|| {
            let skip = (version - oldest) as usize;
            self.journal.iter().skip(skip).map(|(_, slot, change)| (*slot, *change))
        })
    }

    /// A view of one node.
    pub fn node(&self, slot: u32) -> NodeView<'_> {
        NodeView { snapshot: self, slot, usage: None }
    }

    /// What the pods on a node use, copied so that pods can be added or taken away on trial.
    pub fn usage(&self, slot: u32) -> Usage {
        let row = slot as usize;
        Usage {
            requested: self.requested.iter().map(|column| column[row]).collect(),
            nonzero_cpu: self.nonzero_cpu[row],
            nonzero_memory: self.nonzero_memory[row],
            ports: self.ports[row].clone(),
            pods: self.pods[row].clone(),
        }
    }

    fn note(&mut self, slot: u32, change: Change) {
        self.version += 1;
        self.journal.push_back((self.version, slot, change));
        if self.journal.len() > JOURNAL {
            self.journal.pop_front();
        }
    }

    /// Makes room for a slot and for every resource column.
    pub(super) fn reserve(&mut self, slots: usize, resources: &ResourceIndex) {
        if self.resources.len() != resources.len() {
            self.resources = resources.clone();
        }
        if self.taint_sets.is_empty() {
            self.taint_sets.push(Arc::from([]));
            self.taint_numbers.insert("[]".into(), 0);
        }
        let rows = slots.max(self.names.len());
        self.names.resize_with(rows, || Arc::from(""));
        self.nodes.resize(rows, None);
        for columns in [&mut self.allocatable, &mut self.requested] {
            columns.resize_with(resources.len(), Vec::new);
            columns.iter_mut().for_each(|column| column.resize(rows, 0));
        }
        for column in [&mut self.nonzero_cpu, &mut self.nonzero_memory, &mut self.allowed_pods] {
            column.resize(rows, 0);
        }
        self.pods.resize_with(rows, Arc::default);
        self.ports.resize_with(rows, Vec::new);
        self.taint_set.resize(rows, 0);
        self.labels.resize(rows);
    }

    /// Writes the node object's columns of a slot; `None` empties the slot.
    pub(super) fn write_node(&mut self, slot: u32, name: &Arc<str>, row: Option<&NodeRow>) {
        let at = slot as usize;
        if self.live.contains(slot) && self.by_name.get(&self.names[at]) == Some(&slot) {
            let old = self.names[at].clone();
            self.by_name.remove(&old);
        }
        self.names[at] = name.clone();
        self.live.set(slot, row.is_some());
        self.nodes[at] = row.map(|row| row.node.clone());
        for (number, column) in self.allocatable.iter_mut().enumerate() {
            column[at] = row.and_then(|row| row.allocatable.get(number).copied()).unwrap_or(0);
        }
        self.allowed_pods[at] = row.map_or(0, |row| row.allowed_pods);
        let spec = row.and_then(|row| row.node.spec.as_ref());
        self.unschedulable.set(slot, spec.is_some_and(|spec| spec.unschedulable == Some(true)));
        self.taint_set[at] = self.intern_taints(spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default());
        self.labels.write(slot, row.and_then(|row| row.node.metadata.labels.as_ref()));
        self.images.write(slot, row.map(|row| &*row.node));
        if row.is_some() {
            self.by_name.insert(name.clone(), slot);
        }
        self.note(slot, Change::Node);
    }

    /// Writes the columns that follow from the pods on a node.
    pub(super) fn write_usage(&mut self, slot: u32, usage: &Usage) {
        let at = slot as usize;
        for (number, column) in self.requested.iter_mut().enumerate() {
            column[at] = usage.requested(number);
        }
        self.nonzero_cpu[at] = usage.nonzero_cpu;
        self.nonzero_memory[at] = usage.nonzero_memory;
        self.ports[at].clone_from(&usage.ports);
        self.pods[at] = usage.pods.clone();
        let any = usage.pods.iter().any(|pod| !pod.template.affinity.is_empty());
        self.with_affinity.set(slot, any);
        let anti = any && usage.pods.iter().any(|pod| !pod.template.affinity.required_anti.is_empty());
        self.with_anti_affinity.set(slot, anti);
        self.with_claims.set(slot, usage.pods.iter().any(|pod| !pod.template.volumes.claims.is_empty()));
        self.note(slot, Change::Pods);
    }

    fn intern_taints(&mut self, taints: &[Taint]) -> u32 {
        if taints.is_empty() {
            return 0;
        }
        let relevant: Vec<_> = taints.iter().map(|t| (&t.key, t.value.as_deref(), &t.effect)).collect();
        let key = serde_json::to_string(&relevant).unwrap_or_default();
        if let Some(number) = self.taint_numbers.get(&key) {
            return *number;
        }
        self.taint_sets.push(Arc::from(taints));
        let number = (self.taint_sets.len() - 1) as u32;
        self.taint_numbers.insert(key, number);
        number
    }
}

/// The cache's parsed form of a node object.
#[derive(Clone, Debug)]
pub struct NodeRow {
    /// The object.
    pub node: Arc<Node>,
    /// Allocatable per resource column.
    pub allocatable: Vec<i64>,
    /// How many pods it admits.
    pub allowed_pods: i64,
}

/// One node as a filter sees it: the columns' row, or a trial usage in place of the pods really there.
#[derive(Clone, Copy)]
pub struct NodeView<'a> {
    /// The columns.
    pub snapshot: &'a Snapshot,
    /// The row.
    pub slot: u32,
    /// Trial pods (nominated ones added, victims removed).
    pub usage: Option<&'a Usage>,
}

impl<'a> NodeView<'a> {
    /// The node's name.
    pub fn name(&self) -> &'a Arc<str> {
        &self.snapshot.names[self.slot as usize]
    }

    /// Allocatable of a resource column.
    pub fn allocatable(&self, column: usize) -> i64 {
        self.snapshot.allocatable[column][self.slot as usize]
    }

    /// Requested of a resource column.
    pub fn requested(&self, column: usize) -> i64 {
        match self.usage {
            Some(usage) => usage.requested(column),
            None => self.snapshot.requested[column][self.slot as usize],
        }
    }

    /// The pods on the node.
    pub fn pods(&self) -> &'a [Arc<PodInfo>] {
        match self.usage {
            Some(usage) => &usage.pods,
            None => &self.snapshot.pods[self.slot as usize],
        }
    }

    /// Host ports in use.
    pub fn ports(&self) -> &'a [HostPort] {
        match self.usage {
            Some(usage) => &usage.ports,
            None => &self.snapshot.ports[self.slot as usize],
        }
    }

    /// The node's taints.
    pub fn taints(&self) -> &'a [Taint] {
        &self.snapshot.taint_sets[self.snapshot.taint_set[self.slot as usize] as usize]
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&'a str> {
        self.snapshot.labels.value(key, self.slot)
    }
}
