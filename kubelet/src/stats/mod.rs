//! Resource usage, for /stats/summary and metrics: cgroups for the node and pods, the runtime for containers, statvfs
//! for file systems.

mod cgroup;

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::node::machine::{self, Disk};
use crate::pods::spec;
use crate::runtime::{RuntimeError, labels, resources};
use crate::shared::Kubelet;
pub use cgroup::Usage;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use cgroup::field;

/// Rates remembered for more cgroups than this are dropped.
const MAX_RATES: usize = 4096;

/// Usage of one container as its runtime tells it.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "named as the summary API names them")]
pub struct ContainerUsage {
    pub pod_uid: String,
    pub name: String,
    pub id: String,
    pub cpu_nanos: Option<u64>,
    pub nano_cores: Option<u64>,
    pub working_set: Option<u64>,
    pub memory_usage: Option<u64>,
    pub rss: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    pub disk_used: Option<u64>,
    pub inodes_used: Option<u64>,
}

/// Rates need a memory: the last CPU time of each subject.
#[derive(Default)]
pub struct Stats {
    last: Mutex<HashMap<String, (Instant, u64, u64)>>,
}

impl Stats {
    /// CPU in use now (nanocores), from the time used since the last question at least a second ago.
    fn rate(&self, key: &str, cpu_nanos: u64) -> u64 {
        let now = Instant::now();
        let mut last = self.last.lock();
        if last.len() > MAX_RATES {
            last.clear();
        }
        let entry = last.entry(key.to_owned()).or_insert((now, cpu_nanos, 0));
        let gone = now.duration_since(entry.0).as_nanos();
        if gone >= 1_000_000_000 {
            let used = u128::from(cpu_nanos.saturating_sub(entry.1));
            let rate = u64::try_from(used * 1_000_000_000 / gone).unwrap_or(u64::MAX);
            *entry = (now, cpu_nanos, rate);
        }
        entry.2
    }

    /// The whole machine.
    pub fn node(&self, kubelet: &Kubelet) -> Usage {
        let mut usage = cgroup::root(&kubelet.cgroups);
        usage.nano_cores = self.rate("/", usage.cpu_nanos);
        usage
    }

    /// All pods together.
    pub fn pods(&self, kubelet: &Kubelet) -> Usage {
        let mut usage = cgroup::read(&kubelet.cgroups, &kubelet.cgroups.pods_parts());
        usage.nano_cores = self.rate("/kubepods", usage.cpu_nanos);
        usage
    }

    /// One pod.
    pub fn pod(&self, kubelet: &Kubelet, pod: &Pod) -> Usage {
        let Some(pod_spec) = &pod.spec else { return Usage::default() };
        let parts = kubelet.cgroups.pod_parts(spec::uid(pod), resources::qos(pod_spec));
        let mut usage = cgroup::read(&kubelet.cgroups, &parts);
        usage.nano_cores = self.rate(spec::uid(pod), usage.cpu_nanos);
        usage
    }

    /// All containers.
    pub async fn containers(&self, kubelet: &Kubelet) -> Result<Vec<ContainerUsage>, RuntimeError> {
        let stats = kubelet.runtime.container_stats().await?;
        Ok(stats.into_iter().map(|stats| self.container(stats)).collect())
    }

    fn container(&self, stats: k8s_cri::v1::ContainerStats) -> ContainerUsage {
        let attributes = stats.attributes.unwrap_or_default();
        let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
        let cpu = stats.cpu.unwrap_or_default();
        let memory = stats.memory.unwrap_or_default();
        let layer = stats.writable_layer.unwrap_or_default();
        let number = |value: Option<k8s_cri::v1::UInt64Value>| value.map(|value| value.value);
        let cpu_nanos = number(cpu.usage_core_nano_seconds);
        let measured = cpu_nanos.map(|nanos| self.rate(&attributes.id, nanos));
        ContainerUsage {
            pod_uid: label(labels::POD_UID),
            name: label(labels::CONTAINER_NAME),
            id: attributes.id,
            cpu_nanos,
            nano_cores: number(cpu.usage_nano_cores).filter(|rate| *rate > 0).or(measured),
            working_set: number(memory.working_set_bytes),
            memory_usage: number(memory.usage_bytes),
            rss: number(memory.rss_bytes),
            page_faults: number(memory.page_faults),
            major_page_faults: number(memory.major_page_faults),
            disk_used: number(layer.used_bytes),
            inodes_used: number(layer.inodes_used),
        }
    }
}

/// Size and use of the file system that holds a path.
pub fn filesystem(path: &Path) -> Disk {
    machine::disk(path)
}
