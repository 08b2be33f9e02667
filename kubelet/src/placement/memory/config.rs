//! What the nodes can give: their memory without what `reservedMemory` keeps back, which must be what node allocatable keeps back.

use std::collections::BTreeMap;

use anyhow::bail;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::state::{Machine, Node, Table};
use super::{MEMORY, Topology};
use crate::config::Config;
use crate::node::object;
use crate::quantity;

/// The machine with nothing given out yet.
pub(super) fn machine(config: &Config, topology: &Topology) -> anyhow::Result<Machine> {
    let reserved = reserved(config, topology)?;
    let mut machine = Machine::default();
    for (id, node) in &topology.nodes {
        let held = |name: &str| reserved.get(&(*id, name.to_owned())).copied().unwrap_or(0);
        let huge: u64 = node.huge_pages.values().sum();
        let table = |total: u64, usable: u64, name: &str| {
            let allocatable = usable.saturating_sub(held(name));
            Table { total, reserved_for_system: held(name), allocatable, reserved: 0, free: allocatable }
        };
        let mut memory: BTreeMap<String, Table> =
            node.huge_pages.iter().map(|(name, size)| (name.clone(), table(*size, *size, name))).collect();
        memory.insert(MEMORY.into(), table(node.memory, node.memory.saturating_sub(huge), MEMORY));
        machine.insert(*id, Node { assignments: 0, memory, cells: vec![*id] });
    }
    Ok(machine)
}

/// Bytes kept back by node and resource.
fn reserved(config: &Config, topology: &Topology) -> anyhow::Result<BTreeMap<(usize, String), u64>> {
    let file = &config.file;
    if file.reserved_memory.is_empty() {
        bail!(
            "invalid configuration: the reserved memory configuration is required for the memory manager policy \"Static\""
        );
    }
    let mut reserved = BTreeMap::new();
    let mut totals: BTreeMap<&str, i64> = BTreeMap::new();
    for reservation in &file.reserved_memory {
        let node = usize::try_from(reservation.numa_node).unwrap_or(usize::MAX);
        if !topology.nodes.contains_key(&node) {
            bail!(
                "the reserved memory configuration references a NUMA node {} that does not exist on this machine",
                reservation.numa_node
            );
        }
        for (name, amount) in &reservation.limits {
            if name != MEMORY && !name.starts_with("hugepages-") {
                bail!(
                    "invalid configuration: the limit type {name:?} for NUMA node {node} is not supported, only [memory hugepages-<HugePageSize>] is accepted"
                );
            }
            let bytes = quantity::value(&Quantity(amount.clone()));
            if bytes <= 0 {
                bail!(
                    "invalid configuration: reserved memory may not be zero for NUMA node {node} and resource {name:?}"
                );
            }
            if reserved.insert((node, name.clone()), u64::try_from(bytes).unwrap_or(0)).is_some() {
                bail!(
                    "invalid configuration: the reserved memory has a duplicate value for NUMA node {node} and resource {name:?}"
                );
            }
            *totals.entry(name).or_default() += bytes;
        }
    }
    for (name, total) in totals {
        let lists = [&file.kube_reserved, &file.system_reserved];
        let held = lists.iter().filter_map(|list| list.get(name)).map(|text| quantity::value(&Quantity(text.clone())));
        let whole = topology.nodes.values().map(|node| node.memory).sum::<u64>();
        let threshold = match name {
            MEMORY => file
                .eviction_hard
                .get("memory.available")
                .map_or(0, |text| object::threshold(text, i64::try_from(whole).unwrap_or(i64::MAX))),
            _ => 0,
        };
        let wanted = held.sum::<i64>() + threshold;
        if total != wanted {
            bail!(
                "the total amount \"{total}\" of type {name:?} is not equal to the value \"{wanted}\" determined by Node Allocatable feature"
            );
        }
    }
    Ok(reserved)
}
