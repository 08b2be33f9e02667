//! The scheduler's own picture of nodes and pods, assumed pods included.
//!
//! A pod's life here: `assume` (decided, not yet bound) -> `add` (the API server shows it bound) or `forget` (the binding
//! failed) or expiry. Informer handlers and binding tasks write; a scheduling cycle only ever reads a [`Snapshot`],
//! which [`Cache::update_snapshot`] brings up to date by the slots touched since.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;

pub mod images;
pub mod labels;
pub mod resources;
pub mod snapshot;
pub mod tree;
pub mod usage;

#[cfg(test)]
mod tests;

use self::resources::ResourceIndex;
use self::snapshot::{NodeRow, Snapshot};
use self::tree::{ZoneTree, zone_of};
use self::usage::Usage;
use crate::framework::pod::PodInfo;
use crate::framework::requests::column_value;

/// Why the cache refused a call; each is a bug or a race that the caller resolves by retrying.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CacheError {
    /// The pod is already known.
    #[error("pod {0} is in the cache, so can't be assumed")]
    AlreadyKnown(String),
    /// The pod is not assumed (any more).
    #[error("pod {0} wasn't assumed so cannot be forgotten")]
    NotAssumed(String),
    /// The pod was assumed on one node and is now said to be on another.
    #[error("pod {0} was assumed on {1} but assigned to {2}")]
    Elsewhere(String, String, String),
}

/// Nodes, bound pods and assumed pods.
pub struct Cache {
    inner: Mutex<Inner>,
    /// How long an assumed pod whose binding finished waits for its confirmation; zero waits for ever, as upstream.
    expiry: Duration,
}

#[derive(Default)]
struct Inner {
    resources: ResourceIndex,
    slots: Vec<Option<Record>>,
    free: Vec<u32>,
    by_name: HashMap<Arc<str>, u32>,
    pods: HashMap<Arc<str>, PodState>,
    assumed: usize,
    dirty: Vec<u32>,
    tree: ZoneTree,
    tree_changed: bool,
}

struct Record {
    name: Arc<str>,
    row: Option<NodeRow>,
    zone: String,
    usage: Usage,
    node_dirty: bool,
    usage_dirty: bool,
}

struct PodState {
    info: Arc<PodInfo>,
    slot: u32,
    assumed: bool,
    deadline: Option<Instant>,
}

/// A node as the cache holds it.
#[derive(Debug)]
pub struct NodeDump {
    /// Its name.
    pub name: Arc<str>,
    /// Whether only its pods are left.
    pub deleted: bool,
    /// By resource.
    pub requested: Vec<(Arc<str>, i64)>,
    /// By resource.
    pub allocatable: Vec<(Arc<str>, i64)>,
    /// Bound and assumed pods.
    pub pods: Arc<Vec<Arc<PodInfo>>>,
}

impl Cache {
    /// An empty cache.
    pub fn new(expiry: Duration) -> Self {
        Self { inner: Mutex::default(), expiry }
    }

    /// Adds or updates a node.
    pub fn set_node(&self, node: Arc<Node>) {
        let mut inner = self.inner.lock();
        let name: Arc<str> = Arc::from(node.metadata.name.as_deref().unwrap_or_default());
        let slot = inner.slot_for(&name);
        let row = parse_row(node, &mut inner.resources);
        inner.set_row(slot, Some(row));
    }

    /// Removes a node. Its pods stay until their own deletion is seen.
    pub fn remove_node(&self, name: &str) {
        let mut inner = self.inner.lock();
        if let Some(slot) = inner.by_name.get(name).copied() {
            inner.set_row(slot, None);
            inner.drop_if_unused(slot);
        }
    }

    /// Places a pod on a node before the API server knows.
    pub fn assume(&self, pod: Arc<PodInfo>) -> Result<(), CacheError> {
        let mut inner = self.inner.lock();
        if inner.pods.contains_key(&pod.uid) {
            return Err(CacheError::AlreadyKnown(pod.key()));
        }
        inner.assumed += 1;
        inner.place(pod, true);
        Ok(())
    }

    /// The binding of an assumed pod succeeded: from now on it may expire if never confirmed.
    pub fn finish_binding(&self, uid: &str, now: Instant) {
        if let Some(state) = self.inner.lock().pods.get_mut(uid).filter(|state| state.assumed) {
            state.deadline = (!self.expiry.is_zero()).then(|| now + self.expiry);
        }
    }

    /// The binding failed: takes the assumed pod back.
    pub fn forget(&self, pod: &PodInfo) -> Result<(), CacheError> {
        let mut inner = self.inner.lock();
        match inner.pods.get(&pod.uid) {
            Some(state) if state.assumed => {
                inner.displace(&pod.uid);
                Ok(())
            }
            _ => Err(CacheError::NotAssumed(pod.key())),
        }
    }

    /// The API server shows the pod bound. Returns an error when it had been assumed elsewhere; the truth wins.
    pub fn add_pod(&self, pod: Arc<PodInfo>) -> Result<(), CacheError> {
        let mut inner = self.inner.lock();
        let truth = pod.node_name.clone().unwrap_or_default();
        let conflict = inner.pods.get(&pod.uid).and_then(|state| {
            let held = &inner.slots[state.slot as usize].as_ref()?.name;
            (state.assumed && *held != truth)
                .then(|| CacheError::Elsewhere(pod.key(), held.to_string(), truth.to_string()))
        });
        inner.displace(&pod.uid);
        inner.place(pod, false);
        conflict.map_or(Ok(()), Err)
    }

    /// A bound pod is gone.
    pub fn remove_pod(&self, uid: &str) {
        self.inner.lock().displace(uid);
    }

    /// Whether the pod is assumed and not yet confirmed.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.inner.lock().pods.get(uid).is_some_and(|state| state.assumed)
    }

    /// A pod as the cache holds it.
    pub fn pod(&self, uid: &str) -> Option<Arc<PodInfo>> {
        self.inner.lock().pods.get(uid).map(|state| state.info.clone())
    }

    /// Drops assumed pods whose confirmation never came; returns them.
    pub fn expire(&self, now: Instant) -> Vec<Arc<PodInfo>> {
        let mut inner = self.inner.lock();
        let late: Vec<_> = inner
            .pods
            .values()
            .filter(|state| state.assumed && state.deadline.is_some_and(|deadline| deadline <= now))
            .map(|state| state.info.clone())
            .collect();
        late.iter().for_each(|pod| inner.displace(&pod.uid));
        late
    }

    /// Numbers of nodes, pods and assumed pods.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let inner = self.inner.lock();
        let nodes = inner.slots.iter().flatten().filter(|record| record.row.is_some()).count();
        (nodes, inner.pods.len(), inner.assumed)
    }

    /// Every node, for people: a copy, without regard to snapshots.
    pub fn dump(&self) -> Vec<NodeDump> {
        let inner = self.inner.lock();
        let named = |amounts: &[i64]| -> Vec<(Arc<str>, i64)> {
            inner.resources.names().iter().cloned().zip(amounts.iter().copied()).collect()
        };
        let dump = |record: &Record| NodeDump {
            name: record.name.clone(),
            deleted: record.row.is_none(),
            requested: named(&record.usage.requested),
            allocatable: record.row.as_ref().map(|row| named(&row.allocatable)).unwrap_or_default(),
            pods: record.usage.pods.clone(),
        };
        inner.slots.iter().flatten().map(dump).collect()
    }

    /// Brings a snapshot up to date: only slots touched since the last call are written.
    pub fn update_snapshot(&self, snapshot: &mut Snapshot) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        snapshot.reserve(inner.slots.len(), &inner.resources);
        let empty: Arc<str> = Arc::from("");
        for slot in std::mem::take(&mut inner.dirty) {
            let Some(record) = inner.slots[slot as usize].as_mut() else {
                snapshot.write_node(slot, &empty, None);
                snapshot.write_usage(slot, &Usage::default());
                continue;
            };
            if std::mem::take(&mut record.node_dirty) {
                snapshot.write_node(slot, &record.name, record.row.as_ref());
            }
            if std::mem::take(&mut record.usage_dirty) {
                snapshot.write_usage(slot, &record.usage);
            }
        }
        if std::mem::take(&mut inner.tree_changed) {
            snapshot.order = inner.tree.interleaved();
        }
    }
}

impl Inner {
    fn slot_for(&mut self, name: &Arc<str>) -> u32 {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let record = Record {
            name: name.clone(),
            row: None,
            zone: String::new(),
            usage: Usage::default(),
            node_dirty: false,
            usage_dirty: false,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(record);
                slot
            }
            None => {
                self.slots.push(Some(record));
                (self.slots.len() - 1) as u32
            }
        };
        self.by_name.insert(name.clone(), slot);
        // The slot may have had a former owner: rewrite both halves.
        self.touch(slot, true);
        self.touch(slot, false);
        slot
    }

    fn touch(&mut self, slot: u32, node: bool) {
        let Some(record) = self.slots[slot as usize].as_mut() else { return };
        if !record.node_dirty && !record.usage_dirty {
            self.dirty.push(slot);
        }
        if node {
            record.node_dirty = true;
        } else {
            record.usage_dirty = true;
        }
    }

    fn set_row(&mut self, slot: u32, row: Option<NodeRow>) {
        let Some(record) = self.slots[slot as usize].as_mut() else { return };
        let zone = zone_of(row.as_ref().and_then(|row| row.node.metadata.labels.as_ref()));
        let (had, has) = (record.row.is_some(), row.is_some());
        record.row = row;
        let old = std::mem::replace(&mut record.zone, zone.clone());
        if had && (!has || old != zone) {
            self.tree.remove(&old, slot);
            self.tree_changed = true;
        }
        if has && (!had || old != zone) {
            self.tree.add(zone, slot);
            self.tree_changed = true;
        }
        self.touch(slot, true);
    }

    fn place(&mut self, pod: Arc<PodInfo>, assumed: bool) {
        let Some(node) = pod.node_name.clone() else { return };
        let slot = self.slot_for(&node);
        if let Some(record) = self.slots[slot as usize].as_mut() {
            record.usage.add(pod.clone(), &mut self.resources);
        }
        self.pods.insert(pod.uid.clone(), PodState { info: pod, slot, assumed, deadline: None });
        self.touch(slot, false);
    }

    fn displace(&mut self, uid: &str) {
        let Some(state) = self.pods.remove(uid) else { return };
        self.assumed -= usize::from(state.assumed);
        if let Some(record) = self.slots[state.slot as usize].as_mut() {
            record.usage.remove(uid, &mut self.resources);
        }
        self.touch(state.slot, false);
        self.drop_if_unused(state.slot);
    }

    /// Frees the slot of a node that has neither an object nor pods.
    fn drop_if_unused(&mut self, slot: u32) {
        let unused = self.slots[slot as usize].as_ref().is_some_and(|r| r.row.is_none() && r.usage.pods.is_empty());
        if unused {
            self.touch(slot, true);
            if let Some(record) = self.slots[slot as usize].take() {
                self.by_name.remove(&record.name);
            }
            self.free.push(slot);
        }
    }
}

fn parse_row(node: Arc<Node>, resources: &mut ResourceIndex) -> NodeRow {
    let mut allocatable = vec![0; resources.len()];
    let mut allowed_pods = 0;
    let listed = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    for (name, quantity) in listed.into_iter().flatten() {
        let value = column_value(name, quantity);
        if name == "pods" {
            allowed_pods = value;
            continue;
        }
        let column = resources.column_or_add(name);
        if allocatable.len() <= column {
            allocatable.resize(column + 1, 0);
        }
        allocatable[column] = value;
    }
    NodeRow { node, allocatable, allowed_pods }
}
