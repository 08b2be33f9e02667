//! Where on the machine a container runs: exclusive CPUs, memory of chosen NUMA nodes, devices, and their alignment.
//!
//! ```text
//!   admit(pod) ── scope: container by container, or the pod as a whole
//!      hints of each provider ──> merge (policy) ──> affinity ──> each provider allocates
//! ```
//! Providers keep what they gave in files of upstream's form, so that a restarted kubelet gives nothing twice.

mod align;
pub(crate) mod checkpoint;
pub(crate) mod cpu;
pub(crate) mod cpuset;
pub(crate) mod hints;
pub(crate) mod memory;
mod options;
mod reconcile;
pub(crate) mod topology;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::bail;
use async_trait::async_trait;
use k8s_cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::config::Config;
use crate::metrics::METRICS;
use crate::pods::spec;
use align::{Aligner, Scope};
use cpuset::CpuSet;
use hints::{Hint, Hints};
pub(crate) use reconcile::run;
use topology::Topology;

/// Why a pod is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    /// A provider could not give what was asked for.
    pub(crate) fn unexpected(error: impl std::fmt::Display) -> Self {
        let message = format!("Allocate failed due to {error}, which is unexpected");
        Self { reason: "UnexpectedAdmissionError", message }
    }
}

/// Gives out something that is near some NUMA nodes and far from others.
#[async_trait]
pub(crate) trait Provider: Send + Sync {
    /// Where the container's share could come from.
    fn hints(&self, pod: &Pod, container: &Container) -> Hints;
    /// Where the whole pod's share could come from.
    fn pod_hints(&self, pod: &Pod) -> Hints;
    /// Gives the container its share; again for the same container is no change.
    async fn allocate(&self, pod: &Pod, container: &Container, affinity: Hint) -> Result<(), Refusal>;
    /// Takes back what pods had that are not among these.
    fn retain(&self, alive: &(dyn Fn(&str) -> bool + Sync));
}

/// The managers of one node.
pub(crate) struct Placement {
    aligner: Aligner,
    providers: Vec<Arc<dyn Provider>>,
    cpus: Option<Arc<cpu::Manager>>,
    memory: Option<Arc<memory::Manager>>,
    /// One pod at a time: what one is offered must still be there when it takes it.
    turn: tokio::sync::Mutex<()>,
}

/// Init containers and containers, in the order in which they are served.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec: &PodSpec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

impl Placement {
    /// From the configuration; `devices` give out theirs first, as upstream's do.
    pub(crate) fn new(config: &Config, topology: Topology, devices: Vec<Arc<dyn Provider>>) -> anyhow::Result<Self> {
        let file = &config.file;
        let reserved = reserved_cpus(config, &topology)?;
        let aligner = Aligner::new(file, &topology)?;
        let cpus = cpu::Manager::new(config, &topology, reserved, aligner.policy())?.map(Arc::new);
        let memory = memory::Manager::new(config, &topology)?.map(Arc::new);
        let mut providers = devices;
        providers.extend(cpus.clone().map(|cpus| cpus as Arc<dyn Provider>));
        providers.extend(memory.clone().map(|memory| memory as Arc<dyn Provider>));
        Ok(Self { aligner, providers, cpus, memory, turn: tokio::sync::Mutex::default() })
    }

    /// Gives a new pod all that its containers need, or nothing.
    pub(crate) async fn admit(&self, pod: &Pod) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        METRICS.topology_requests.inc();
        let admitted = self.try_admit(pod).await;
        if admitted.is_err() {
            METRICS.topology_errors.inc();
            let uid = spec::uid(pod);
            self.providers.iter().for_each(|provider| provider.retain(&|alive| alive != uid));
        }
        admitted
    }

    async fn try_admit(&self, pod: &Pod) -> Result<(), Refusal> {
        let of_pod = match self.aligner.scope() {
            Scope::Pod => Some(self.aligner.merge(self.providers.iter().map(|provider| provider.pod_hints(pod)))?),
            Scope::Container | Scope::None => None,
        };
        for container in containers(pod) {
            let affinity = match (of_pod, self.aligner.scope()) {
                (Some(affinity), _) => affinity,
                (None, Scope::None) => Hint::default(),
                (None, _) => self.aligner.merge(self.providers.iter().map(|p| p.hints(pod, container)))?,
            };
            for provider in &self.providers {
                provider.allocate(pod, container, affinity).await?;
            }
        }
        Ok(())
    }

    /// Takes back what a pod had.
    pub(crate) fn release(&self, uid: &str) {
        self.providers.iter().for_each(|provider| provider.retain(&|alive| alive != uid));
    }

    /// Takes back what pods had that are not among these.
    pub(crate) fn retain(&self, alive: &(dyn Fn(&str) -> bool + Sync)) {
        self.providers.iter().for_each(|provider| provider.retain(alive));
    }

    /// Writes the container's CPUs and memory nodes into its resources.
    pub(crate) fn apply(&self, uid: &str, container: &str, linux: &mut LinuxContainerResources) {
        if let Some(cpus) = &self.cpus {
            linux.cpuset_cpus = cpus.cpus_of(uid, container).to_string();
            if cpus.lifts_quota(uid, container) {
                linux.cpu_quota = -1;
            }
        }
        if let Some(memory) = &self.memory {
            linux.cpuset_mems = memory.nodes_of(uid, container).to_string();
        }
    }

    /// Whether the pod has CPUs for itself, whose quota is lifted.
    pub(crate) fn lifts_pod_quota(&self, uid: &str) -> bool {
        self.cpus.as_ref().is_some_and(|cpus| cpus.lifts_pod_quota(uid))
    }

    /// CPUs that a container has for itself.
    pub(crate) fn exclusive_cpus(&self, uid: &str, container: &str) -> CpuSet {
        self.cpus.as_ref().map_or_else(CpuSet::default, |cpus| cpus.exclusive(uid, container))
    }

    /// CPUs that can be had for oneself.
    pub(crate) fn allocatable_cpus(&self) -> CpuSet {
        self.cpus.as_ref().map_or_else(CpuSet::default, |cpus| cpus.allocatable())
    }

    /// Memory that a container has.
    pub(crate) fn memory_of(&self, uid: &str, container: &str) -> Vec<memory::Block> {
        self.memory.as_ref().map_or_else(Vec::new, |memory| memory.blocks_of(uid, container))
    }

    /// Memory that can be given out.
    pub(crate) fn allocatable_memory(&self) -> Vec<memory::Block> {
        self.memory.as_ref().map_or_else(Vec::new, |memory| memory.allocatable())
    }

    /// Why a pod of guaranteed quality can't be resized, when a manager pins its resources.
    pub(crate) fn forbids_resize(&self) -> Option<&'static str> {
        match (&self.cpus, &self.memory) {
            (Some(_), _) => Some("Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy"),
            (_, Some(_)) => Some("Resize is infeasible for Guaranteed Pods alongside Memory Manager static policy"),
            _ => None,
        }
    }
}

/// `reservedSystemCPUs`, which must be CPUs of the machine.
fn reserved_cpus(config: &Config, topology: &Topology) -> anyhow::Result<CpuSet> {
    let text = &config.file.reserved_system_cpus;
    let reserved: CpuSet = text.parse().map_err(|error| {
        anyhow::anyhow!("unable to parse reservedSystemCPUs (--reserved-cpus) {text}, error: {error}")
    })?;
    let all = topology.cpus();
    if !reserved.difference(&all).is_empty() {
        bail!("reservedSystemCPUs {reserved} are not all among the machine's CPUs {all}");
    }
    Ok(reserved)
}

/// Resources by name, as providers count them.
pub(crate) type Amounts = BTreeMap<String, u64>;

/// What a pod needs at most at one time: containers and sidecars together, or an init container with the sidecars before it.
pub(crate) fn peak(pod: &Pod, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let (mut inits, mut sidecars, mut apps) = (Amounts::new(), Amounts::new(), Amounts::new());
    let Some(pod_spec) = &pod.spec else { return apps };
    for container in pod_spec.init_containers.iter().flatten() {
        for (name, amount) in of(container) {
            let beside = sidecars.entry(name.clone()).or_default();
            if spec::is_sidecar(container) {
                *beside += amount;
            } else {
                let most = inits.entry(name).or_default();
                *most = (*most).max(*beside + amount);
            }
        }
    }
    for container in &pod_spec.containers {
        for (name, amount) in of(container) {
            *apps.entry(name).or_default() += amount;
        }
    }
    let names: Vec<String> = apps.keys().chain(inits.keys()).chain(sidecars.keys()).cloned().collect();
    let get = |list: &Amounts, name: &String| list.get(name).copied().unwrap_or_default();
    let total = |name: &String| (get(&apps, name) + get(&sidecars, name)).max(get(&inits, name));
    names.into_iter().map(|name| (name.clone(), total(&name))).collect()
}
