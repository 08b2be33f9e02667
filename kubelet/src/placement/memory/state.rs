//! Who has memory of which NUMA nodes, in upstream's checkpoint `memory_manager_state`.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::Path;

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::super::checkpoint::{self, checksum, go_map};

/// Some memory of a group of nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    #[serde(rename = "numaAffinity")]
    pub(crate) nodes: Vec<usize>,
    #[serde(rename = "type")]
    pub(crate) resource: String,
    /// Bytes.
    pub(crate) size: u64,
}

/// One resource of one node, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Table {
    pub(super) total: u64,
    #[serde(rename = "systemReserved")]
    pub(super) reserved_for_system: u64,
    pub(super) allocatable: u64,
    pub(super) reserved: u64,
    pub(super) free: u64,
}

/// A node: its memory, and the nodes that it serves together with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    #[serde(rename = "numberOfAssignments")]
    pub(super) assignments: i64,
    #[serde(rename = "memoryMap")]
    pub(super) memory: BTreeMap<String, Table>,
    pub(super) cells: Vec<usize>,
}

/// All nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Machine(BTreeMap<usize, Node>);

impl Deref for Machine {
    type Target = BTreeMap<usize, Node>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Machine {
    /// Takes bytes of the nodes, in their order.
    pub(super) fn reserve(&mut self, nodes: &[usize], resource: &str, mut size: u64) {
        for id in nodes {
            let Some(node) = self.0.get_mut(id) else { continue };
            node.assignments += 1;
            node.cells = nodes.to_vec();
            let Some(table) = node.memory.get_mut(resource) else { continue };
            let part = size.min(table.free);
            table.free -= part;
            table.reserved += part;
            size -= part;
        }
    }

    fn give_back(&mut self, block: &Block) {
        let mut size = block.size;
        for id in &block.nodes {
            let Some(node) = self.0.get_mut(id) else { continue };
            node.assignments = (node.assignments - 1).max(0);
            if node.assignments == 0 {
                node.cells = vec![*id];
            }
            let Some(table) = node.memory.get_mut(&block.resource) else { continue };
            let part = size.min(table.reserved);
            table.free += part;
            table.reserved -= part;
            size -= part;
        }
    }
}

/// Blocks by pod and container.
pub(super) type Entries = BTreeMap<String, BTreeMap<String, Vec<Block>>>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    #[serde(rename = "policyName")]
    policy: String,
    #[serde(rename = "machineState", default, deserialize_with = "or_nothing")]
    pub(super) machine: Machine,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) entries: Entries,
    #[serde(default)]
    checksum: u64,
}

fn or_nothing<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Machine, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn numbers(nodes: &[usize]) -> String {
    format!("[{}]", nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

impl State {
    pub(super) fn new(policy: &str) -> Self {
        Self { policy: policy.to_owned(), machine: Machine::default(), entries: Entries::new(), checksum: 0 }
    }

    fn sum(&self) -> u64 {
        let table = |table: &Table| {
            format!(
                "<*>{{TotalMemSize:(uint64){} SystemReserved:(uint64){} Allocatable:(uint64){} Reserved:(uint64){} Free:(uint64){}}}",
                table.total, table.reserved_for_system, table.allocatable, table.reserved, table.free
            )
        };
        let node = |node: &Node| {
            format!(
                "<*>{{NumberOfAssignments:(int){} MemoryMap:(map[v1.ResourceName]*state.MemoryTable){} Cells:([]int){}}}",
                node.assignments,
                go_map(node.memory.iter().map(|(name, of)| (name, table(of)))),
                numbers(&node.cells)
            )
        };
        let block = |block: &Block| {
            format!(
                "{{NUMAAffinity:([]int){} Type:(v1.ResourceName){} Size:(uint64){}}}",
                numbers(&block.nodes),
                block.resource,
                block.size
            )
        };
        let blocks = |list: &Vec<Block>| format!("[{}]", list.iter().map(block).collect::<Vec<_>>().join(" "));
        let entries =
            self.entries.iter().map(|(pod, of)| (pod, go_map(of.iter().map(|(name, list)| (name, blocks(list))))));
        checksum(&format!(
            "(*state.MemoryManagerCheckpoint){{PolicyName:(string){} MachineState:(state.NUMANodeMap){} Entries:(state.ContainerMemoryAssignments){} Checksum:(checksum.Checksum)0}}",
            self.policy,
            go_map(self.machine.iter().map(|(id, of)| (id, node(of)))),
            go_map(entries)
        ))
    }

    /// What the last kubelet left; an error when it is not for this policy, or not what was written.
    pub(super) fn load(path: &Path, policy: &str) -> anyhow::Result<Option<Self>> {
        let Some(state) = checkpoint::load::<Self>(path)? else { return Ok(None) };
        let remedy = format!(
            "please drain this node and delete the memory manager checkpoint file {:?} before restarting Kubelet",
            path.display().to_string()
        );
        if state.checksum != state.sum() {
            bail!("could not restore state from checkpoint: checkpoint is corrupted, {remedy}");
        }
        if state.policy != policy {
            bail!(
                "could not restore state from checkpoint: [memorymanager] configured policy {policy:?} differs from state checkpoint policy {:?}, {remedy}",
                state.policy
            );
        }
        Ok(Some(state))
    }

    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        checkpoint::save(path, &Self { checksum: self.sum(), ..self.clone() })
    }

    /// Whether what was given out fits the machine as it is now; an empty state becomes the machine's.
    pub(super) fn validate(&mut self, fresh: Machine) -> anyhow::Result<()> {
        if self.machine.is_empty() {
            if !self.entries.is_empty() {
                bail!("[memorymanager] machine state can not be empty when it has memory assignments");
            }
            self.machine = fresh;
            return Ok(());
        }
        let mut expected = fresh;
        for (pod, containers) in &self.entries {
            for (container, blocks) in containers {
                for block in blocks {
                    let subject = format!("[memorymanager] (pod: {pod}, container: {container})");
                    for id in &block.nodes {
                        let Some(node) = expected.get(id) else {
                            bail!("{subject} the memory assignment uses the NUMA that does not exist");
                        };
                        if !node.memory.contains_key(&block.resource) {
                            bail!("{subject} the memory assignment uses memory resource that does not exist");
                        }
                    }
                    expected.reserve(&block.nodes, &block.resource, block.size);
                }
            }
        }
        if !alike(&self.machine, &expected) {
            bail!("[memorymanager] the expected machine state is different from the real one");
        }
        Ok(())
    }

    pub(super) fn of(&self, pod: &str, container: &str) -> Option<&Vec<Block>> {
        self.entries.get(pod)?.get(container)
    }

    pub(super) fn of_mut(&mut self, pod: &str, container: &str) -> Option<&mut Vec<Block>> {
        self.entries.get_mut(pod)?.get_mut(container)
    }

    /// Gives back what other pods had; answers whether there was anything.
    pub(super) fn release(&mut self, alive: &(dyn Fn(&str) -> bool + Sync)) -> bool {
        let gone: Vec<String> = self.entries.keys().filter(|uid| !alive(uid)).cloned().collect();
        for uid in &gone {
            let containers = self.entries.remove(uid).unwrap_or_default();
            containers.values().flatten().for_each(|block| self.machine.give_back(block));
        }
        !gone.is_empty()
    }
}

/// The same in all but how memory of a group is divided among its nodes, which depends on the order of giving.
fn alike(one: &Machine, other: &Machine) -> bool {
    let sums = |machine: &Machine, cells: &[usize], name: &str| -> (u64, u64) {
        let tables = machine.iter().filter(|(id, _)| cells.contains(id)).filter_map(|(_, node)| node.memory.get(name));
        tables.fold((0, 0), |(reserved, free), table| (reserved + table.reserved, free + table.free))
    };
    one.len() == other.len()
        && one.iter().zip(other.iter()).all(|((id, a), (other_id, b))| {
            let fixed = |table: &Table| (table.total, table.reserved_for_system, table.allocatable);
            (id, a.assignments, &a.cells) == (other_id, b.assignments, &b.cells)
                && a.memory.len() == b.memory.len()
                && a.memory.iter().all(|(name, table)| {
                    b.memory.get(name).map(fixed) == Some(fixed(table))
                        && sums(one, &a.cells, name) == sums(other, &b.cells, name)
                })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text and sum of upstream's kubelet.
    const UPSTREAM: &str = r#"{"policyName":"static","machineState":{"0":{"numberOfAssignments":0,"memoryMap":{"memory":{"total":2048,"systemReserved":512,"allocatable":1536,"reserved":512,"free":1024}},"cells":[]}},"entries":{"pod":{"container1":[{"numaAffinity":[0],"type":"memory","size":512}]}},"checksum":4215593881}"#;

    #[test]
    fn checkpoints_are_upstreams() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memory_manager_state");
        std::fs::write(&path, UPSTREAM).unwrap();
        let state = State::load(&path, "static").unwrap().unwrap();
        state.save(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), UPSTREAM);
        assert!(State::load(&path, "Static").unwrap_err().to_string().contains("configured policy \"Static\" differs"));
        std::fs::write(&path, UPSTREAM.replace("4215593881", "101010")).unwrap();
        assert!(State::load(&path, "static").unwrap_err().to_string().contains("corrupted"));
    }
}
