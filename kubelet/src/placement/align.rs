//! The topology manager's policy: which alignment is looked for, and when a pod is refused for want of it.

use anyhow::bail;

use super::Refusal;
use super::hints::{Hint, Hints, Judge, Mask};
use super::options;
use super::topology::Topology;
use crate::config::KubeletConfiguration;

/// What is aligned with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Nothing.
    None,
    Container,
    Pod,
}

/// How much alignment a pod must get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    None,
    BestEffort,
    Restricted,
    SingleNumaNode,
}

pub(super) struct Aligner {
    policy: Policy,
    scope: Scope,
    judge: Judge,
}

impl Aligner {
    /// From the configuration.
    pub(super) fn new(file: &KubeletConfiguration, topology: &Topology) -> anyhow::Result<Self> {
        let policy = match file.topology_manager_policy.as_str() {
            "none" => Policy::None,
            "best-effort" => Policy::BestEffort,
            "restricted" => Policy::Restricted,
            "single-numa-node" => Policy::SingleNumaNode,
            other => bail!(
                "invalid configuration: topologyManagerPolicy (--topology-manager-policy) {other:?} must be one of: [\"none\" \"best-effort\" \"restricted\" \"single-numa-node\"]"
            ),
        };
        let scope = match file.topology_manager_scope.as_str() {
            _ if policy == Policy::None => Scope::None,
            "container" => Scope::Container,
            "pod" => Scope::Pod,
            other => bail!(
                "invalid configuration: topologyManagerScope (--topology-manager-scope) {other:?} must be one of: \"container\", or \"pod\""
            ),
        };
        let options = options::Topology::parse(&file.topology_manager_policy_options)?;
        if policy != Policy::None && topology.nodes.len() > options.max_nodes {
            bail!("unsupported on machines with more than {} NUMA Nodes", options.max_nodes);
        }
        let distances =
            options.closest.then(|| topology.nodes.iter().map(|(id, node)| (*id, node.distances.clone())).collect());
        let all = Mask::of(topology.nodes.keys().copied());
        let judge = Judge { all, distances, single: policy == Policy::SingleNumaNode };
        Ok(Self { policy, scope, judge })
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// The affinity that suits all providers, if it is good enough.
    pub(super) fn merge(&self, hints: impl Iterator<Item = Hints>) -> Result<Hint, Refusal> {
        let best = self.judge.merge(hints);
        if best.preferred || matches!(self.policy, Policy::None | Policy::BestEffort) {
            return Ok(best);
        }
        Err(Refusal {
            reason: "TopologyAffinityError",
            message: "Resources cannot be allocated with Topology locality".into(),
        })
    }
}
