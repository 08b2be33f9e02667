//! The memory manager: containers of guaranteed pods get their memory and huge pages of chosen NUMA nodes.

mod config;
mod state;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use anyhow::bail;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;

use super::cpuset::CpuSet;
use super::hints::{Hint, Hints, Mask};
use super::topology::Topology;
use super::{Amounts, Provider, Refusal, peak};
use crate::config::Config;
use crate::pods::spec;
use crate::quantity;
use crate::runtime::resources::{Qos, qos};
pub(crate) use state::Block;
use state::State;

const MEMORY: &str = "memory";

/// The static policy.
pub(crate) struct Manager {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    /// By pod, nodes and resource: memory of init containers that have ended when the next one starts.
    reusable: HashMap<String, BTreeMap<(Mask, String), u64>>,
}

impl Manager {
    /// `None` with the policy `None`.
    pub(crate) fn new(config: &Config, topology: &Topology) -> anyhow::Result<Option<Self>> {
        let path = config.root_dir.join("memory_manager_state");
        let policy = config.file.memory_manager_policy.as_str();
        let found = State::load(&path, policy)?;
        match policy {
            "None" => {
                found.unwrap_or_else(|| State::new(policy)).save(&path)?;
                return Ok(None);
            }
            "Static" => {}
            other => bail!("unknown policy: {other:?}"),
        }
        let fresh = config::machine(config, topology)?;
        let mut state = found.unwrap_or_else(|| State::new(policy));
        state.validate(fresh)?;
        state.save(&path)?;
        Ok(Some(Self { path, inner: Mutex::new(Inner { state, reusable: HashMap::new() }) }))
    }

    /// NUMA nodes of a container's memory; none when it may be anywhere.
    pub(crate) fn nodes_of(&self, uid: &str, container: &str) -> CpuSet {
        self.blocks_of(uid, container).iter().flat_map(|block| block.nodes.clone()).collect()
    }

    pub(crate) fn blocks_of(&self, uid: &str, container: &str) -> Vec<Block> {
        self.inner.lock().state.of(uid, container).cloned().unwrap_or_default()
    }

    /// What each node can give.
    pub(crate) fn allocatable(&self) -> Vec<Block> {
        let inner = self.inner.lock();
        let nodes = inner.state.machine.iter();
        let blocks = nodes.flat_map(|(id, node)| {
            let of = |(name, table): (&String, &state::Table)| Block {
                nodes: vec![*id],
                resource: name.clone(),
                size: table.allocatable,
            };
            node.memory.iter().map(of).collect::<Vec<_>>()
        });
        blocks.filter(|block| block.size > 0).collect()
    }

    fn try_allocate(&self, pod: &Pod, container: &Container, affinity: Hint) -> Result<(), String> {
        let uid = spec::uid(pod);
        let mut inner = self.inner.lock();
        if inner.state.of(uid, &container.name).is_some() {
            return Ok(());
        }
        let wanted = wanted(pod, container);
        let mask = inner.choose(uid, &wanted, affinity)?;
        inner.take(pod, container, &wanted, mask);
        inner.state.save(&self.path).map_err(|error| format!("{error:#}"))
    }
}

/// Memory and huge pages that a container of a guaranteed pod asks for; pods with resources of their own are not pinned.
fn wanted(pod: &Pod, container: &Container) -> Amounts {
    let pinned = pod.spec.as_ref().is_some_and(|spec| spec.resources.is_none() && qos(spec) == Qos::Guaranteed);
    let resources = container.resources.as_ref().filter(|_| pinned);
    let requests = resources.and_then(|r| r.requests.as_ref().or(r.limits.as_ref()));
    let counted = requests.into_iter().flatten().filter(|(name, _)| *name == MEMORY || name.starts_with("hugepages-"));
    counted.map(|(name, amount)| (name.clone(), u64::try_from(quantity::value(amount)).unwrap_or(0))).collect()
}

impl Inner {
    fn reusable(&self, uid: &str, mask: Mask, resource: &str) -> u64 {
        let of_pod = self.reusable.get(uid);
        of_pod.and_then(|of| of.get(&(mask, resource.to_owned()))).copied().unwrap_or(0)
    }

    fn free(&self, mask: Mask, resource: &str) -> u64 {
        let nodes = self.state.machine.iter().filter(|(id, _)| mask.has(**id));
        nodes.filter_map(|(_, node)| node.memory.get(resource)).map(|table| table.free).sum()
    }

    /// Whether these nodes may serve together: a node that serves alone, or in another group, is not shared.
    fn may_group(&self, mask: Mask) -> bool {
        let nodes = mask.nodes();
        let mut members = self.state.machine.iter().filter(|(id, _)| mask.has(**id));
        if nodes.len() == 1 {
            return members.all(|(_, node)| node.cells.len() <= 1);
        }
        members.all(|(_, node)| node.assignments == 0 || (node.cells.len() > 1 && node.cells == nodes))
    }

    /// Sets of nodes that have enough; the smallest that could ever have are preferred.
    fn candidates(&self, uid: &str, wanted: &Amounts) -> Vec<(Mask, bool)> {
        let nodes = self.state.machine.keys().copied().collect();
        let mut least = self.state.machine.len();
        let mut found = Vec::new();
        for mask in Mask::all(&nodes) {
            let members = || self.state.machine.iter().filter(|(id, _)| mask.has(**id));
            let could = |name: &String| -> u64 {
                members().filter_map(|(_, node)| node.memory.get(name)).map(|table| table.allocatable).sum()
            };
            if wanted.iter().any(|(name, size)| could(name) < *size) {
                continue;
            }
            least = least.min(mask.count());
            let has = |(name, size): (&String, &u64)| self.free(mask, name) + self.reusable(uid, mask, name) >= *size;
            if self.may_group(mask) && wanted.iter().all(has) {
                found.push(mask);
            }
        }
        found.into_iter().map(|mask| (mask, mask.count() == least)).collect()
    }

    fn best(candidates: impl Iterator<Item = (Mask, bool)>) -> Option<(Mask, bool)> {
        candidates.reduce(|best, new| match (best.1, new.1) {
            (true, false) => best,
            (false, true) => new,
            _ if new.0.is_narrower_than(best.0) => new,
            _ => best,
        })
    }

    fn choose(&self, uid: &str, wanted: &Amounts, affinity: Hint) -> Result<Mask, String> {
        let fitting = |least: Mask, kind: &str, none: &str| {
            let covering = self.candidates(uid, wanted).into_iter().filter(|(mask, _)| mask.covers(least));
            let (mask, preferred) = Self::best(covering).ok_or_else(|| format!("[memorymanager] {none}"))?;
            if affinity.preferred && !preferred {
                return Err(format!("[memorymanager] failed to find the {kind} preferred hint"));
            }
            Ok(mask)
        };
        let mut mask = match affinity.nodes {
            Some(mask) => mask,
            None => fitting(
                Mask::default(),
                "default",
                "failed to get the default NUMA affinity, no NUMA nodes with enough memory is available",
            )?,
        };
        if wanted.iter().any(|(name, size)| self.free(mask, name) < *size) {
            mask = fitting(mask, "extended", "failed to find NUMA nodes to extend the current topology hint")?;
        }
        if !self.may_group(mask) {
            return Err("[memorymanager] preferred hint violates NUMA node allocation".into());
        }
        Ok(mask)
    }

    fn take(&mut self, pod: &Pod, container: &Container, wanted: &Amounts, mask: Mask) {
        let uid = spec::uid(pod);
        let nodes = mask.nodes();
        let blocks: Vec<Block> = wanted
            .iter()
            .map(|(name, size)| Block { nodes: nodes.clone(), resource: name.clone(), size: *size })
            .collect();
        for block in &blocks {
            let fresh = block.size.saturating_sub(self.reusable(uid, mask, &block.resource));
            self.state.machine.reserve(&block.nodes, &block.resource, fresh);
        }
        let inits =
            || pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).filter(|c| !spec::is_sidecar(c));
        let ends = inits().any(|init| init.name == container.name);
        // What is reused is counted once: with the container that has it last.
        for block in &blocks {
            let mut reused = block.size.min(self.reusable(uid, mask, &block.resource));
            for init in inits().take_while(|init| init.name != container.name) {
                let Some(of_init) = self.state.of_mut(uid, &init.name) else { continue };
                for old in of_init.iter_mut().filter(|old| old.nodes == nodes && old.resource == block.resource) {
                    let less = reused.min(old.size);
                    old.size -= less;
                    reused -= less;
                }
            }
        }
        self.reusable.retain(|pod, _| pod == uid);
        let of_pod = self.reusable.entry(uid.to_owned()).or_default();
        for block in &blocks {
            let have = of_pod.entry((mask, block.resource.clone())).or_default();
            let fresh = block.size.saturating_sub(*have);
            *have = if ends { *have + fresh } else { have.saturating_sub(block.size) };
        }
        self.state.entries.entry(uid.to_owned()).or_default().insert(container.name.clone(), blocks);
    }

    fn hints(&self, uid: &str, wanted: &Amounts) -> Hints {
        let candidates = self.candidates(uid, wanted);
        let hints: Vec<Hint> =
            candidates.into_iter().map(|(mask, preferred)| Hint { nodes: Some(mask), preferred }).collect();
        wanted.keys().map(|name| (name.clone(), Some(hints.clone()))).collect()
    }

    /// Hints of what has been given already; nothing fits when something else is asked for now.
    fn again(blocks: &[Block], wanted: &Amounts) -> Hints {
        let same = blocks.len() == wanted.len() && blocks.iter().all(|b| wanted.get(&b.resource) == Some(&b.size));
        if !same {
            return wanted.keys().map(|name| (name.clone(), Some(Vec::new()))).collect();
        }
        let hint = |block: &Block| Hint { nodes: Some(Mask::of(block.nodes.iter().copied())), preferred: true };
        blocks.iter().map(|block| (block.resource.clone(), Some(vec![hint(block)]))).collect()
    }
}

#[async_trait]
impl Provider for Manager {
    fn hints(&self, pod: &Pod, container: &Container) -> Hints {
        let wanted = wanted(pod, container);
        let inner = self.inner.lock();
        match inner.state.of(spec::uid(pod), &container.name) {
            Some(blocks) => Inner::again(blocks, &wanted),
            None => inner.hints(spec::uid(pod), &wanted),
        }
    }

    fn pod_hints(&self, pod: &Pod) -> Hints {
        let wanted = peak(pod, |container| wanted(pod, container));
        let inner = self.inner.lock();
        let uid = spec::uid(pod);
        match super::containers(pod).find_map(|container| inner.state.of(uid, &container.name)) {
            Some(blocks) => Inner::again(blocks, &wanted),
            None => inner.hints(uid, &wanted),
        }
    }

    async fn allocate(&self, pod: &Pod, container: &Container, affinity: Hint) -> Result<(), Refusal> {
        if wanted(pod, container).is_empty() {
            return Ok(());
        }
        self.try_allocate(pod, container, affinity).map_err(Refusal::unexpected)
    }

    fn retain(&self, alive: &(dyn Fn(&str) -> bool + Sync)) {
        let mut inner = self.inner.lock();
        inner.reusable.retain(|uid, _| alive(uid));
        if inner.state.release(alive)
            && let Err(error) = inner.state.save(&self.path)
        {
            tracing::error!(error = %format!("{error:#}"), "cannot keep the memory manager's state");
        }
    }
}

#[cfg(test)]
mod tests;
