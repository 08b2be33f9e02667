//! The CPU manager: containers of guaranteed pods that ask for whole CPUs get some for themselves; all others share the rest.

mod accumulator;
mod state;

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use parking_lot::Mutex;
use prometheus::IntCounter;

use super::align::Policy;
use super::cpuset::CpuSet;
use super::hints::{Hint, Hints, Mask};
use super::topology::Topology;
use super::{Amounts, Provider, Refusal, options, peak};
use crate::config::Config;
use crate::pods::spec;
use crate::runtime::resources::{Qos, qos};
use crate::{gates, quantity};
use accumulator::Strategy;
use state::State;

const RESOURCE: &str = "cpu";

/// The static policy.
pub(crate) struct Manager {
    topology: Topology,
    reserved: CpuSet,
    /// With their siblings.
    reserved_cores: CpuSet,
    options: options::Cpu,
    lifts_quota: bool,
    path: PathBuf,
    inner: Mutex<Inner>,
    requests: IntCounter,
    errors: IntCounter,
}

struct Inner {
    state: State,
    /// CPUs of a pod's init containers, which those after them may have, too.
    reusable: HashMap<String, CpuSet>,
}

impl Manager {
    /// `None` with the policy `none`, whose checkpoint must not be another policy's.
    pub(crate) fn new(
        config: &Config,
        topology: &Topology,
        reserved: CpuSet,
        align: Policy,
    ) -> anyhow::Result<Option<Self>> {
        let file = &config.file;
        let path = config.root_dir.join("cpu_manager_state");
        let policy = file.cpu_manager_policy.as_str();
        let given = &file.cpu_manager_policy_options;
        let found = State::load(&path, policy)?;
        match policy {
            "none" if given.is_empty() => {
                found.unwrap_or_else(|| State::new("none")).save(&path)?;
                return Ok(None);
            }
            "none" => bail!("invalid configuration: none policy: received unsupported options={given:?}"),
            "static" => {}
            other => bail!("unknown policy: {other:?}"),
        }
        let gate = |name| gates::is_on(&file.feature_gates, name);
        let options =
            options::Cpu::parse(given, gate("CPUManagerPolicyAlphaOptions"), gate("CPUManagerPolicyBetaOptions"))?;
        if options.by_socket && align == Policy::SingleNumaNode {
            bail!(
                "Topolgy manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option"
            );
        }
        if options.by_socket && topology.sockets() > topology.cpu_nodes().len() {
            bail!(
                "Align by socket is not compatible with hardware where number of sockets are more than number of NUMA"
            );
        }
        let reserved = reserve(config, topology, reserved, options)?;
        let cores: Vec<usize> = reserved.iter().filter_map(|cpu| topology.places.get(&cpu)).map(|p| p.core).collect();
        let with_siblings = topology.places.iter().filter(|(_, place)| cores.contains(&place.core));
        let reserved_cores = with_siblings.map(|(cpu, _)| *cpu).collect();
        let mut state = found.unwrap_or_else(|| State::new("static"));
        let invalid = "invalid state, please drain node and remove policy state file";
        state.validate(&topology.cpus(), &reserved, options.strict_reservation).context(invalid)?;
        state.save(&path)?;
        Ok(Some(Self {
            topology: topology.clone(),
            reserved,
            reserved_cores,
            options,
            lifts_quota: gate("DisableCPUQuotaWithExclusiveCPUs"),
            path,
            inner: Mutex::new(Inner { state, reusable: HashMap::new() }),
            requests: counter(
                "kubelet_cpu_manager_pinning_requests_total",
                "The number of cpu core allocations which required pinning.",
            ),
            errors: counter(
                "kubelet_cpu_manager_pinning_errors_total",
                "The number of cpu core allocations which required pinning failed.",
            ),
        }))
    }

    /// CPUs on which a container runs: its own, or those that all share.
    pub(crate) fn cpus_of(&self, uid: &str, container: &str) -> CpuSet {
        let inner = self.inner.lock();
        inner.state.of(uid, container).cloned().unwrap_or_else(|| inner.state.default.clone())
    }

    /// CPUs that a container has for itself.
    pub(crate) fn exclusive(&self, uid: &str, container: &str) -> CpuSet {
        self.inner.lock().state.of(uid, container).cloned().unwrap_or_default()
    }

    /// CPUs that can be had for oneself.
    pub(crate) fn allocatable(&self) -> CpuSet {
        self.topology.cpus().difference(&self.reserved)
    }

    /// A quota only slows down who has the CPUs for itself.
    pub(crate) fn lifts_quota(&self, uid: &str, container: &str) -> bool {
        self.lifts_quota && self.inner.lock().state.of(uid, container).is_some()
    }

    pub(crate) fn lifts_pod_quota(&self, uid: &str) -> bool {
        self.lifts_quota && self.inner.lock().state.entries.get(uid).is_some_and(|pod| !pod.is_empty())
    }

    /// Not reserved and nobody's own.
    fn available(&self, state: &State) -> CpuSet {
        state.default.difference(&self.reserved)
    }

    fn take(&self, from: &CpuSet, count: usize) -> Result<CpuSet, String> {
        let strategy = if self.options.across_cores { Strategy::Spread } else { Strategy::Packed };
        if self.options.across_numa {
            let group = if self.options.whole_cores { self.topology.cpus_per_core() } else { 1 };
            return accumulator::distributed(&self.topology, from, count, group, strategy);
        }
        accumulator::packed(&self.topology, from, count, strategy, self.options.by_cache)
    }

    fn check_cores(&self, state: &State, count: usize) -> Result<(), Refusal> {
        let per_core = self.topology.cpus_per_core();
        let refuse = |message| Err(Refusal { reason: "SMTAlignmentError", message });
        if !self.options.whole_cores {
            return Ok(());
        }
        if !count.is_multiple_of(per_core) {
            return refuse(format!(
                "SMT Alignment Error: requested {count} cpus not multiple cpus per core = {per_core}"
            ));
        }
        let free = state.default.difference(&self.reserved_cores).len();
        if count > free {
            return refuse(format!(
                "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {free}, requested CPUs = {count}, CPUs per core = {per_core}"
            ));
        }
        Ok(())
    }

    /// As many as possible where the hint says, the rest anywhere.
    fn choose(&self, available: &CpuSet, count: usize, affinity: Hint) -> Result<CpuSet, String> {
        let mut chosen = CpuSet::default();
        if let Some(nodes) = affinity.nodes {
            let sockets: Vec<usize> =
                self.topology.places.values().filter(|place| nodes.has(place.node)).map(|place| place.socket).collect();
            let near = |cpu: &usize| {
                self.topology.places.get(cpu).is_some_and(|place| match self.options.by_socket {
                    true => sockets.contains(&place.socket),
                    false => nodes.has(place.node),
                })
            };
            let aligned: CpuSet = available.iter().filter(near).collect();
            chosen = self.take(&aligned, aligned.len().min(count))?;
        }
        let rest = self.take(&available.difference(&chosen), count - chosen.len())?;
        Ok(chosen.union(&rest))
    }

    fn hints_for(&self, available: &CpuSet, reusable: &CpuSet, count: usize) -> Vec<Hint> {
        let nodes = self.topology.cpu_nodes();
        let on = |cpus: &CpuSet, mask: Mask| {
            let on = |cpu: &usize| self.topology.places.get(cpu).is_some_and(|place| mask.has(place.node));
            cpus.iter().filter(on).count()
        };
        let mut least = nodes.len();
        let mut hints = Vec::new();
        for mask in Mask::all(&nodes) {
            if on(&self.topology.cpus(), mask) >= count {
                least = least.min(mask.count());
            }
            // What is reused must be within.
            if on(reusable, mask) == reusable.len() && on(reusable, mask) + on(available, mask) >= count {
                hints.push(Hint { nodes: Some(mask), preferred: false });
            }
        }
        for hint in &mut hints {
            let mask = hint.nodes.unwrap_or_default();
            hint.preferred = mask.count() == least || (self.options.by_socket && self.on_least_sockets(mask, least));
        }
        hints
    }

    fn on_least_sockets(&self, mask: Mask, least: usize) -> bool {
        let per_socket = self.topology.cpu_nodes().len() / self.topology.sockets().max(1);
        if per_socket == 0 {
            return false;
        }
        let places = self.topology.places.values().filter(|place| mask.has(place.node));
        let sockets: std::collections::BTreeSet<usize> = places.map(|place| place.socket).collect();
        sockets.len() == least.div_ceil(per_socket)
    }

    fn hints_of(&self, list: Vec<Hint>) -> Hints {
        Hints::from([(RESOURCE.to_owned(), Some(list))])
    }

    fn try_allocate(&self, pod: &Pod, container: &Container, affinity: Hint, count: usize) -> Result<(), Refusal> {
        let uid = spec::uid(pod);
        let mut inner = self.inner.lock();
        let own = match inner.state.of(uid, &container.name) {
            Some(own) => own.clone(),
            None => {
                self.check_cores(&inner.state, count)?;
                let reusable = inner.reusable.get(uid).cloned().unwrap_or_default();
                let available = self.available(&inner.state).union(&reusable);
                let own = self.choose(&available, count, affinity).map_err(Refusal::unexpected)?;
                inner.state.assign(uid, &container.name, own.clone());
                inner.state.save(&self.path).map_err(|error| Refusal::unexpected(format!("{error:#}")))?;
                own
            }
        };
        inner.reusable.retain(|pod, _| pod == uid);
        let reusable = inner.reusable.entry(uid.to_owned()).or_default();
        let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let ends = inits.into_iter().any(|init| init.name == container.name && !spec::is_sidecar(init));
        *reusable = if ends { reusable.union(&own) } else { reusable.difference(&own) };
        Ok(())
    }
}

fn counter(name: &str, help: &str) -> IntCounter {
    #[allow(clippy::expect_used, reason = "constant metric")]
    let counter = IntCounter::new(name, help).expect("constant metric");
    common::telemetry::register(counter)
}

/// CPUs that nobody gets for itself: the listed ones, or as many as are reserved for the system and Kubernetes.
fn reserve(config: &Config, topology: &Topology, listed: CpuSet, options: options::Cpu) -> anyhow::Result<CpuSet> {
    if !listed.is_empty() {
        return Ok(listed);
    }
    let file = &config.file;
    let lists = [&file.system_reserved, &file.kube_reserved];
    let amounts = lists.iter().filter_map(|list| list.get(RESOURCE));
    let milli: i64 = amounts.map(|text| quantity::milli(&Quantity(text.clone()))).sum();
    let count = usize::try_from(milli).unwrap_or(0).div_ceil(1000);
    if count == 0 {
        bail!("[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero");
    }
    let strategy = if options.across_cores { Strategy::Spread } else { Strategy::Packed };
    accumulator::packed(topology, &topology.cpus(), count, strategy, options.by_cache).map_err(|_| {
        anyhow::anyhow!("[cpumanager] unable to reserve the required amount of CPUs (size of 0 did not equal {count})")
    })
}

/// Whole CPUs that a container of a guaranteed pod asks for; pods with resources of their own share.
fn wanted(pod: &Pod, container: &Container) -> usize {
    let pinned = pod.spec.as_ref().is_some_and(|spec| spec.resources.is_none() && qos(spec) == Qos::Guaranteed);
    let resources = container.resources.as_ref().filter(|_| pinned);
    let lists = resources.into_iter().flat_map(|resources| [resources.requests.as_ref(), resources.limits.as_ref()]);
    let request = lists.flatten().find_map(|list| list.get(RESOURCE));
    let milli = request.map_or(0, quantity::milli);
    if milli % 1000 == 0 { usize::try_from(milli / 1000).unwrap_or(0) } else { 0 }
}

fn amounts(pod: &Pod, container: &Container) -> Amounts {
    Amounts::from([(RESOURCE.to_owned(), wanted(pod, container) as u64)])
}

#[async_trait]
impl Provider for Manager {
    fn hints(&self, pod: &Pod, container: &Container) -> Hints {
        let count = wanted(pod, container);
        if count == 0 {
            return Hints::new();
        }
        let inner = self.inner.lock();
        let uid = spec::uid(pod);
        self.hints_of(match inner.state.of(uid, &container.name) {
            Some(own) if own.len() != count => Vec::new(),
            Some(own) => self.hints_for(own, &CpuSet::default(), count),
            None => {
                let reusable = inner.reusable.get(uid).cloned().unwrap_or_default();
                self.hints_for(&self.available(&inner.state).difference(&reusable), &reusable, count)
            }
        })
    }

    fn pod_hints(&self, pod: &Pod) -> Hints {
        let count = peak(pod, |container| amounts(pod, container)).get(RESOURCE).copied().unwrap_or(0);
        let count = usize::try_from(count).unwrap_or(0);
        if count == 0 {
            return Hints::new();
        }
        let inner = self.inner.lock();
        let mut own = CpuSet::default();
        for container in super::containers(pod) {
            let Some(cpus) = inner.state.of(spec::uid(pod), &container.name) else { continue };
            if cpus.len() != wanted(pod, container) {
                return self.hints_of(Vec::new());
            }
            own = own.union(cpus);
        }
        self.hints_of(if own.len() == count {
            self.hints_for(&own, &CpuSet::default(), count)
        } else {
            self.hints_for(&self.available(&inner.state).difference(&own), &own, count)
        })
    }

    async fn allocate(&self, pod: &Pod, container: &Container, affinity: Hint) -> Result<(), Refusal> {
        let count = wanted(pod, container);
        if count == 0 {
            return Ok(());
        }
        self.requests.inc();
        self.try_allocate(pod, container, affinity, count).inspect_err(|_| self.errors.inc())
    }

    fn retain(&self, alive: &(dyn Fn(&str) -> bool + Sync)) {
        let mut inner = self.inner.lock();
        inner.reusable.retain(|uid, _| alive(uid));
        if inner.state.release(alive)
            && let Err(error) = inner.state.save(&self.path)
        {
            tracing::error!(error = %format!("{error:#}"), "cannot keep the CPU manager's state");
        }
    }
}

#[cfg(test)]
mod tests;
