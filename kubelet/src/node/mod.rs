//! The node itself: facts, registration, status, lease.

pub(crate) mod address;
pub(crate) mod conditions;
pub(crate) mod lease;
pub(crate) mod machine;
pub(crate) mod object;
pub(crate) mod oom;
pub(crate) mod shutdown;
pub(crate) mod status;

use std::sync::Arc;

use k8s_cri::v1::{RuntimeFeatures, RuntimeHandler};
use k8s_openapi::api::core::v1::Node;
use parking_lot::RwLock;

use crate::cgroups::Version;
use crate::config::Config;
use crate::quantity::Resources;
use crate::runtime::resources::{LimitSettings, SwapSettings};
use crate::shared::Kubelet;
use machine::Machine;

#[derive(Default)]
struct Facts {
    host_ips: Vec<String>,
    /// Why pods get no network; `None` = they do.
    network: Option<String>,
    /// Why the runtime is not usable.
    runtime: Option<String>,
    node: Option<Arc<Node>>,
    /// What the runtime's handlers can do.
    handlers: Vec<RuntimeHandler>,
    features: RuntimeFeatures,
    shutting_down: bool,
}

/// What is known about the node.
pub struct NodeState {
    pub(crate) machine: Machine,
    capacity: Resources,
    allocatable: Resources,
    pub(crate) pressure: crate::eviction::Pressure,
    counts_swap: bool,
    facts: RwLock<Facts>,
}

impl NodeState {
    pub(crate) fn new(config: &Config, machine: Machine, cgroup_v2: bool) -> Self {
        let counts_swap = machine::counts_swap(cgroup_v2);
        let disk = machine::disk(&config.root_dir);
        let capacity = object::capacity(config, &machine, disk);
        let allocatable = object::allocatable(config, &capacity);
        let facts = Facts {
            host_ips: address::host_ips(config),
            network: Some("container runtime status check may not have completed yet".into()),
            runtime: Some("container runtime status check may not have completed yet".into()),
            node: None,
            handlers: Vec::new(),
            features: RuntimeFeatures::default(),
            shutting_down: false,
        };
        Self {
            machine,
            capacity,
            allocatable,
            pressure: crate::eviction::Pressure::default(),
            counts_swap,
            facts: RwLock::new(facts),
        }
    }

    /// Addresses of the node, the first of each family.
    pub fn host_ips(&self) -> Vec<String> {
        self.facts.read().host_ips.clone()
    }

    pub(crate) fn set_host_ips(&self, ips: Vec<String>) {
        self.facts.write().host_ips = ips;
    }

    pub(crate) fn capacity(&self) -> Resources {
        self.capacity.clone()
    }

    pub(crate) fn allocatable(&self) -> Resources {
        self.allocatable.clone()
    }

    /// Why pods get no network.
    pub(crate) fn network_problem(&self) -> Option<String> {
        let facts = self.facts.read();
        facts.network.clone()
    }

    /// Why the runtime is not usable.
    pub(crate) fn runtime_problem(&self) -> Option<String> {
        self.facts.read().runtime.clone()
    }

    /// Notes what the runtime can do; answers whether that is news.
    pub(crate) fn set_handlers(&self, handlers: Vec<RuntimeHandler>, features: RuntimeFeatures) -> bool {
        let mut facts = self.facts.write();
        let news = facts.handlers != handlers || facts.features != features;
        (facts.handlers, facts.features) = (handlers, features);
        news
    }

    /// The machine is about to shut down, or no longer.
    pub(crate) fn set_shutting_down(&self, shutting_down: bool) {
        self.facts.write().shutting_down = shutting_down;
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.facts.read().shutting_down
    }

    /// What the runtime can do.
    pub(crate) fn handlers(&self) -> (Vec<RuntimeHandler>, RuntimeFeatures) {
        let facts = self.facts.read();
        (facts.handlers.clone(), facts.features)
    }

    /// Whether pods of that handler can have users of their own.
    pub(crate) fn has_user_namespaces(&self, handler: &str) -> bool {
        let facts = self.facts.read();
        let handler = facts.handlers.iter().find(|known| known.name == handler);
        handler.and_then(|handler| handler.features).is_some_and(|features| features.user_namespaces)
    }

    pub(crate) fn set_runtime(&self, runtime: Option<String>, network: Option<String>) {
        let mut facts = self.facts.write();
        facts.runtime = runtime;
        facts.network = network;
    }

    /// The node as the API last showed it.
    pub fn object(&self) -> Option<Arc<Node>> {
        self.facts.read().node.clone()
    }

    pub(crate) fn set_object(&self, node: Node) {
        self.facts.write().node = Some(Arc::new(node));
    }

    pub(crate) fn limit_settings(&self, kubelet: &Kubelet) -> LimitSettings {
        let file = &kubelet.config.file;
        LimitSettings {
            cfs_quota: file.cpu_cfs_quota,
            period_us: i64::try_from(file.cpu_cfs_quota_period.0.as_micros()).unwrap_or(100_000),
            memory_capacity: self.machine.memory_bytes,
            cgroup_v2: kubelet.cgroups.version() == Version::V2,
            single_process_oom_kill: file.single_process_oom_kill.unwrap_or(false),
            swap: SwapSettings {
                counted: self.counts_swap,
                limited: file.memory_swap.swap_behavior == "LimitedSwap",
                capacity: self.machine.swap_bytes,
            },
        }
    }
}
