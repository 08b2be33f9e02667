//! CPU, memory and process counts of a cgroup, v1 and v2.

use std::path::PathBuf;

use crate::cgroups::{Cgroups, Version};
use crate::node::machine;

/// Usage of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the summary API names them")]
pub struct Usage {
    pub cpu_nanos: u64,
    pub nano_cores: u64,
    pub memory_usage: u64,
    pub working_set: u64,
    pub rss: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub processes: u64,
}

fn number(path: Option<PathBuf>) -> u64 {
    path.and_then(|path| std::fs::read_to_string(path).ok()).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn text(path: Option<PathBuf>) -> String {
    path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
}

/// `key value` lines.
pub(crate) fn field(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Usage of a cgroup; what cannot be read is 0.
pub(super) fn read(cgroups: &Cgroups, parts: &[String]) -> Usage {
    let file = |controller: &str, name: &str| cgroups.file(controller, parts, name);
    let processes = number(file("pids", "pids.current"));
    let mut usage = match cgroups.version() {
        Version::V1 => {
            let stat = text(file("memory", "memory.stat"));
            Usage {
                cpu_nanos: number(file("cpuacct", "cpuacct.usage")),
                memory_usage: number(file("memory", "memory.usage_in_bytes")),
                working_set: field(&stat, "total_inactive_file"),
                rss: field(&stat, "total_rss"),
                page_faults: field(&stat, "total_pgfault"),
                major_page_faults: field(&stat, "total_pgmajfault"),
                ..Usage::default()
            }
        }
        Version::V2 => {
            let stat = text(file("memory", "memory.stat"));
            Usage {
                cpu_nanos: field(&text(file("cpu", "cpu.stat")), "usage_usec").saturating_mul(1000),
                memory_usage: number(file("memory", "memory.current")),
                working_set: field(&stat, "inactive_file"),
                rss: field(&stat, "anon"),
                page_faults: field(&stat, "pgfault"),
                major_page_faults: field(&stat, "pgmajfault"),
                ..Usage::default()
            }
        }
    };
    // The working set is what cannot be dropped at once.
    usage.working_set = usage.memory_usage.saturating_sub(usage.working_set);
    usage.processes = processes;
    usage
}

/// Usage of the whole machine; the v2 root has no memory files, /proc tells.
pub(super) fn root(cgroups: &Cgroups) -> Usage {
    let mut usage = read(cgroups, &[]);
    let total = u64::try_from(machine::detect().memory_bytes).unwrap_or(0);
    let available = u64::try_from(machine::available_memory()).unwrap_or(0);
    if usage.memory_usage == 0 {
        usage.memory_usage = total.saturating_sub(available);
        usage.working_set = usage.memory_usage;
    }
    usage.processes = u64::try_from(machine::processes().0).unwrap_or(0);
    usage
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_are_whole_words() {
        assert_eq!(super::field("pgfault_x 1\npgfault 7\n", "pgfault"), 7);
    }
}
