//! Bytes and packets of network interfaces, from the kernel's table of a process's network namespace.

use std::path::Path;

/// Counters of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    /// Bytes, packets, errors, dropped.
    pub(super) received: [u64; 4],
    pub(super) sent: [u64; 4],
}

/// Interfaces that carry traffic of the namespace that a process is in.
pub(super) fn of_process(process: &str) -> Vec<Interface> {
    std::fs::read_to_string(format!("/proc/{process}/net/dev")).map(|table| parse(&table)).unwrap_or_default()
}

/// A process of a pod: the first in any cgroup below the pod's.
pub(super) fn process_below(cgroup: &Path) -> Option<String> {
    let entries = std::fs::read_dir(cgroup).ok()?;
    entries.flatten().find_map(|entry| {
        let processes = std::fs::read_to_string(entry.path().join("cgroup.procs")).ok()?;
        processes.lines().next().map(str::to_owned)
    })
}

/// The interface of the default route, as the node's own.
pub(super) fn default_interface() -> Option<String> {
    let routes = std::fs::read_to_string("/proc/self/net/route").ok()?;
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (name, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| name.to_owned())
    })
}

fn parse(table: &str) -> Vec<Interface> {
    let lines = table.lines().skip(2);
    let interfaces = lines.filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let four = |from: usize| <[u64; 4]>::try_from(counters.get(from..from + 4)?).ok();
        Some(Interface { name: name.trim().to_owned(), received: four(0)?, sent: four(8)? })
    });
    // Loopback is nobody's traffic, veths are the pods' own, tunnel devices of an empty namespace are noise.
    interfaces
        .filter(|interface| {
            interface.name != "lo"
                && !["veth", "tunl", "gre", "sit", "ip6", "erspan"]
                    .iter()
                    .any(|prefix| interface.name.starts_with(prefix))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table() {
        let table = "Inter-|   Receive    |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n\
            \x20   lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let want = Interface { name: "eth0".into(), received: [1, 2, 3, 4], sent: [5, 6, 7, 8] };
        assert_eq!(parse(table), [want]);
    }
}
