//! The node itself: facts, registration, status, lease.

pub(crate) mod address;
pub(crate) mod conditions;
pub(crate) mod lease;
pub(crate) mod machine;
pub(crate) mod object;
pub(crate) mod status;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use parking_lot::RwLock;

use crate::cgroups::Version;
use crate::config::Config;
use crate::quantity::Resources;
use crate::runtime::resources::LimitSettings;
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
}

/// What is known about the node.
pub struct NodeState {
    pub(crate) machine: Machine,
    capacity: Resources,
    allocatable: Resources,
    pub(crate) pressure: crate::eviction::Pressure,
    facts: RwLock<Facts>,
}

impl NodeState {
    pub(crate) fn new(config: &Config, machine: Machine) -> Self {
        let disk = machine::disk(&config.root_dir);
        let capacity = object::capacity(config, &machine, disk);
        let allocatable = object::allocatable(config, &capacity);
        let facts = Facts {
            host_ips: address::host_ips(config),
            network: Some("container runtime status check may not have completed yet".into()),
            runtime: Some("container runtime status check may not have completed yet".into()),
            node: None,
        };
        Self {
            machine,
            capacity,
            allocatable,
            pressure: crate::eviction::Pressure::default(),
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
        }
    }
}
