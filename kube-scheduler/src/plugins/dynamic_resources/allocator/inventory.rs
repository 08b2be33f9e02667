//! All slices of the cluster by node and pool, and the pools that a node can draw from.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use parking_lot::Mutex;

use super::Features;
use super::devices::{Counters, Reach, Slice};

/// Driver and pool name.
pub type PoolId = (Arc<str>, Arc<str>);
type Slices = Vec<Arc<Slice>>;
/// The pools of a node in this version.
type NodePools = (Arc<Node>, Arc<[Pool]>);
/// Nodes whose pools are remembered.
const NODES: usize = 100_000;

/// What can be drawn from a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Ready,
    /// Nothing: its driver is updating it.
    Incomplete,
    /// Nothing: its slices contradict each other.
    Invalid,
}

/// A pool as one node sees it.
#[derive(Debug)]
pub struct Pool {
    /// Which.
    pub id: PoolId,
    /// Whether it can be drawn from.
    pub state: State,
    /// Slices with devices for the node, by name.
    pub slices: Slices,
    /// The pool's other slices: their devices use up its counters, too.
    pub others: Slices,
    /// What its counters start with.
    pub counters: BTreeMap<String, Counters>,
}

impl Pool {
    fn closed(id: &PoolId, state: State) -> Self {
        Self { id: id.clone(), state, slices: Vec::new(), others: Vec::new(), counters: BTreeMap::new() }
    }

    /// Devices that must be prepared before a pod can be bound come last.
    fn has_binding_conditions(&self) -> bool {
        let devices = self.slices.iter().flat_map(|slice| slice.api.spec.devices.iter().flatten());
        devices.into_iter().any(|device| device.binding_conditions.is_some())
    }
}

/// The slices of the cluster at one time.
#[derive(Default)]
pub struct Inventory {
    features: Features,
    slices: HashMap<String, Arc<Slice>>,
    on_node: HashMap<String, Slices>,
    shared: Slices,
    by_pool: HashMap<PoolId, Slices>,
    pools: Mutex<HashMap<String, NodePools>>,
}

impl Inventory {
    /// Of these slices; what `before` has parsed already is not parsed again.
    pub fn new(features: Features, objects: Vec<Arc<ResourceSlice>>, before: &Self) -> Self {
        let mut this = Self { features, ..Self::default() };
        for object in objects {
            let name = object.metadata.name.clone().unwrap_or_default();
            let known = before.slices.get(&name).filter(|slice| Arc::ptr_eq(&slice.api, &object));
            let slice = known.cloned().unwrap_or_else(|| Arc::new(Slice::new(object)));
            let pool = this.by_pool.entry((slice.driver.clone(), slice.pool.clone())).or_default();
            pool.push(slice.clone());
            match &slice.reach {
                Reach::Node(node) if slice.counter_sets.is_empty() => {
                    this.on_node.entry(node.clone()).or_default().push(slice.clone());
                }
                _ => this.shared.push(slice.clone()),
            }
            this.slices.insert(name, slice);
        }
        this
    }

    /// The pools with devices for a node, in the order in which they are drawn from.
    pub fn pools(&self, node: &Arc<Node>) -> Arc<[Pool]> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        if let Some((of, pools)) = self.pools.lock().get(name)
            && Arc::ptr_eq(of, node)
        {
            return pools.clone();
        }
        let found: Arc<[Pool]> = self.gather(node).into();
        let mut pools = self.pools.lock();
        if pools.len() >= NODES {
            pools.clear();
        }
        pools.insert(name.to_owned(), (node.clone(), found.clone()));
        found
    }

    fn relevant(&self, slice: &Slice, node: &Node) -> bool {
        if !slice.counter_sets.is_empty() {
            return self.features.partitionable_devices;
        }
        match &slice.reach {
            Reach::PerDevice if !self.features.partitionable_devices => false,
            Reach::PerDevice => slice.devices.iter().any(|device| device.reach.includes(node)),
            reach => reach.includes(node),
        }
    }

    fn gather(&self, node: &Node) -> Vec<Pool> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let local = self.on_node.get(name).into_iter().flatten();
        let mut found: BTreeMap<PoolId, Slices> = BTreeMap::new();
        for slice in local.chain(&self.shared).filter(|slice| self.relevant(slice, node)) {
            let pool = found.entry((slice.driver.clone(), slice.pool.clone())).or_default();
            let generation = slice.api.spec.pool.generation;
            match pool.first().map(|first| first.api.spec.pool.generation) {
                Some(newest) if generation < newest => continue,
                Some(newest) if generation > newest => pool.clear(),
                _ => {}
            }
            pool.push(slice.clone());
        }
        let pools = found.into_iter().filter_map(|(id, slices)| self.pool(&id, slices));
        let (late, mut pools): (Vec<_>, Vec<_>) = pools.partition(Pool::has_binding_conditions);
        pools.extend(late);
        pools
    }

    /// Judges a pool; `None` when the node's slices are out of date, newer ones being for other nodes.
    fn pool(&self, id: &PoolId, mut slices: Slices) -> Option<Pool> {
        let head = &slices.first()?.api.spec.pool;
        let (generation, wanted) = (head.generation, head.resource_slice_count);
        let complete = |count: usize| i64::try_from(count) == Ok(wanted);
        let mut others = Vec::new();
        if !complete(slices.len()) {
            let all = self.by_pool.get(id).map(Vec::as_slice).unwrap_or_default();
            if all.iter().any(|slice| slice.api.spec.pool.generation > generation) {
                return None;
            }
            let current = all.iter().filter(|slice| slice.api.spec.pool.generation == generation);
            if !complete(current.clone().count()) {
                return Some(Pool::closed(id, State::Incomplete));
            }
            others = current.filter(|slice| !slices.iter().any(|here| Arc::ptr_eq(here, slice))).cloned().collect();
        }
        slices.sort_by(|a, b| a.name().cmp(b.name()));
        let mut pool = Pool { id: id.clone(), state: State::Ready, slices, others, counters: BTreeMap::new() };
        Some(if self.validate(&mut pool) { pool } else { Pool::closed(id, State::Invalid) })
    }

    /// Collects the counters; false when slices of the pool contradict each other.
    fn validate(&self, pool: &mut Pool) -> bool {
        let mut names = HashSet::new();
        let devices = |slices: &Slices| {
            slices.iter().flat_map(|slice| slice.devices.iter().map(|d| d.id.device.clone())).collect::<Vec<_>>()
        };
        if devices(&pool.slices).into_iter().any(|name| !names.insert(name)) {
            return false;
        }
        if !self.features.partitionable_devices {
            return true;
        }
        for (name, counters) in pool.slices.iter().flat_map(|slice| &slice.counter_sets) {
            if pool.counters.insert(name.clone(), counters.clone()).is_some() {
                return false;
            }
        }
        let all = pool.slices.iter().chain(&pool.others).flat_map(|slice| &slice.devices);
        let known = all.flat_map(|device| &device.consumes).all(|(set, consumed)| {
            pool.counters.get(set).is_some_and(|counters| consumed.keys().all(|name| counters.contains_key(name)))
        });
        pool.slices.retain(|slice| slice.counter_sets.is_empty());
        known
    }
}
