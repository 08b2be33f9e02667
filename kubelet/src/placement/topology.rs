//! The machine: CPUs with their cores, sockets, last-level caches and NUMA nodes, from a directory like `/sys`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::cpuset::CpuSet;
use crate::node::machine;

/// Where a CPU is. Cores are named by the lowest of their CPUs, so that names are unique on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) core: usize,
    pub(crate) socket: usize,
    pub(crate) node: usize,
    pub(crate) cache: usize,
}

/// A NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) memory: u64,
    /// Bytes set aside as huge pages, by resource name.
    pub(crate) huge_pages: BTreeMap<String, u64>,
    /// To each node of the machine, in their order.
    pub(crate) distances: Vec<u64>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    pub(crate) places: BTreeMap<usize, Place>,
    pub(crate) nodes: BTreeMap<usize, Node>,
}

fn text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn set(path: &Path) -> Option<CpuSet> {
    text(path)?.parse().ok()
}

impl Topology {
    /// Reads it; a kernel without NUMA has one node.
    pub(crate) fn read(sys: &Path) -> anyhow::Result<Self> {
        let cpus = sys.join("devices/system/cpu");
        let online = set(&cpus.join("online"))
            .unwrap_or_else(|| (0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get)).collect());
        let nodes = read_nodes(sys);
        let places = online.iter().map(|cpu| {
            let directory = cpus.join(format!("cpu{cpu}"));
            let lowest = |path: &str| set(&directory.join(path)).and_then(|set| set.iter().next());
            let number = |path: &str| text(&directory.join(path)).and_then(|text| text.parse().ok());
            let node = nodes.iter().find(|(_, (_, cpus))| cpus.contains(cpu)).map_or(0, |(id, _)| *id);
            let socket = number("topology/physical_package_id").unwrap_or(0);
            let core = lowest("topology/thread_siblings_list").or_else(|| lowest("topology/core_cpus_list"));
            let place = Place { core: core.unwrap_or(cpu), socket, node, cache: 0 };
            let cache = lowest("cache/index3/shared_cpu_list").map_or(node, |lowest| lowest);
            (cpu, Place { cache, ..place })
        });
        let places: BTreeMap<usize, Place> = places.collect();
        let mut nodes: BTreeMap<usize, Node> = nodes.into_iter().map(|(id, (node, _))| (id, node)).collect();
        if nodes.is_empty() {
            nodes.insert(0, whole_machine(sys));
        }
        Ok(Self { places, nodes })
    }

    pub(crate) fn cpus(&self) -> CpuSet {
        self.places.keys().copied().collect()
    }

    fn distinct(&self, of: impl Fn(&Place) -> usize) -> usize {
        self.places.values().map(of).collect::<BTreeSet<_>>().len()
    }

    pub(crate) fn sockets(&self) -> usize {
        self.distinct(|place| place.socket)
    }

    /// NUMA nodes that have CPUs.
    pub(crate) fn cpu_nodes(&self) -> BTreeSet<usize> {
        self.places.values().map(|place| place.node).collect()
    }

    pub(crate) fn cpus_per_core(&self) -> usize {
        (self.places.len() / self.distinct(|place| place.core).max(1)).max(1)
    }

    pub(crate) fn cpus_per_cache(&self) -> usize {
        (self.places.len() / self.distinct(|place| place.cache).max(1)).max(1)
    }
}

fn read_nodes(sys: &Path) -> BTreeMap<usize, (Node, CpuSet)> {
    let directory = sys.join("devices/system/node");
    let Ok(entries) = std::fs::read_dir(&directory) else { return BTreeMap::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok());
    let read = |id: usize| {
        let path = directory.join(format!("node{id}"));
        let meminfo = text(&path.join("meminfo")).unwrap_or_default();
        let total = meminfo
            .lines()
            .find_map(|line| line.split_once("MemTotal:")?.1.split_whitespace().next()?.parse::<u64>().ok());
        let distances = text(&path.join("distance")).unwrap_or_default();
        let node = Node {
            memory: total.unwrap_or(0) * 1024,
            huge_pages: huge_pages(&path.join("hugepages")),
            distances: distances.split_whitespace().filter_map(|number| number.parse().ok()).collect(),
        };
        (id, (node, set(&path.join("cpulist")).unwrap_or_default()))
    };
    ids.map(read).collect()
}

fn huge_pages(directory: &Path) -> BTreeMap<String, u64> {
    let sizes = machine::huge_pages(directory).into_iter();
    sizes
        .map(|(size, count)| {
            (machine::huge_page_resource(size), u64::try_from(size.saturating_mul(count)).unwrap_or(0))
        })
        .collect()
}

fn whole_machine(sys: &Path) -> Node {
    let memory = u64::try_from(machine::detect().memory_bytes).unwrap_or(0);
    Node { memory, huge_pages: huge_pages(&sys.join("kernel/mm/hugepages")), distances: vec![10] }
}

/// Machines for tests.
#[cfg(test)]
pub(crate) mod fixtures {
    use super::*;

    /// `sockets` with `nodes` NUMA nodes each, of `cores` with `threads` CPUs each; siblings are half the machine apart.
    pub(crate) fn machine(sockets: usize, nodes: usize, cores: usize, threads: usize) -> Topology {
        let all_cores = sockets * nodes * cores;
        let place = |core: usize| {
            let node = core / cores;
            Place { core, socket: node / nodes, node, cache: node }
        };
        let places = (0..all_cores * threads).map(|cpu| (cpu, place(cpu % all_cores))).collect();
        let count = sockets * nodes;
        let node = |id: usize| {
            let distance = |other: usize| if other == id { 10 } else { 10 + 11 * (other.abs_diff(id) as u64) };
            let node = Node { memory: 8 << 30, distances: (0..count).map(distance).collect(), ..Node::default() };
            (id, node)
        };
        Topology { places, nodes: (0..count).map(node).collect() }
    }

    /// The same machine as files below `sys`.
    pub(crate) fn write(sys: &Path, topology: &Topology) {
        let put = |path: String, text: String| {
            let path = sys.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("devices/system/cpu/online".into(), format!("{}\n", topology.cpus()));
        let with = |of: &dyn Fn(&Place) -> bool| -> CpuSet {
            topology.places.iter().filter(|(_, place)| of(place)).map(|(cpu, _)| *cpu).collect()
        };
        for (cpu, place) in &topology.places {
            let base = format!("devices/system/cpu/cpu{cpu}");
            put(format!("{base}/topology/physical_package_id"), place.socket.to_string());
            put(format!("{base}/topology/thread_siblings_list"), with(&|p| p.core == place.core).to_string());
            put(format!("{base}/cache/index3/shared_cpu_list"), with(&|p| p.cache == place.cache).to_string());
        }
        for (id, node) in &topology.nodes {
            let base = format!("devices/system/node/node{id}");
            put(format!("{base}/cpulist"), with(&|p| p.node == *id).to_string());
            put(format!("{base}/meminfo"), format!("Node {id} MemTotal:       {} kB\n", node.memory / 1024));
            let distances: Vec<String> = node.distances.iter().map(ToString::to_string).collect();
            put(format!("{base}/distance"), distances.join(" "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_read_from_its_files() {
        for (sockets, nodes, cores, threads) in [(1, 1, 2, 1), (2, 1, 4, 2), (2, 2, 2, 2)] {
            let directory = tempfile::tempdir().unwrap();
            let mut machine = fixtures::machine(sockets, nodes, cores, threads);
            fixtures::write(directory.path(), &machine);
            let read = Topology::read(directory.path()).unwrap();
            for place in machine.places.values_mut() {
                // Caches are named by the lowest of their CPUs.
                place.cache *= cores;
            }
            assert_eq!(read, machine);
            assert_eq!((read.sockets(), read.cpus_per_core()), (sockets, threads));
        }
    }
}
