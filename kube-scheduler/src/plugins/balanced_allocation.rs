//! NodeResourcesBalancedAllocation: prefer nodes whose resources the pod uses up evenly.

use std::sync::Arc;

use super::resource_scoring::{balance, columns};
use crate::config::args::{BalancedAllocationArgs, ResourceSpec};
use crate::framework::plugin::{CycleContext, Plugin, PreScore, PreScored, Scope, Score, StateData};
use crate::framework::status::Status;

/// The plugin.
pub struct BalancedAllocation {
    resources: Vec<ResourceSpec>,
}

/// Upstream's name.
pub const NAME: &str = "NodeResourcesBalancedAllocation";

impl BalancedAllocation {
    /// With the profile's arguments.
    pub fn new(args: &BalancedAllocationArgs) -> Self {
        Self { resources: args.resources.clone() }
    }
}

extension_points!(BalancedAllocation { as_pre_score: PreScore, as_score: Score });

impl PreScore for BalancedAllocation {
    /// A pod that requests nothing balances nothing.
    fn pre_score(&self, cx: &CycleContext<'_>, _nodes: &[u32]) -> Result<PreScored, Arc<Status>> {
        let requests = &cx.pod.template.requests;
        let best_effort = self.resources.iter().all(|resource| requests.get(&resource.name) == 0);
        Ok(if best_effort { PreScored::Skip } else { PreScored::Continue(None) })
    }
}

impl Score for BalancedAllocation {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn score(
        &self,
        cx: &CycleContext<'_>,
        _state: Option<&dyn StateData>,
        nodes: &[u32],
        scores: &mut [i64],
    ) -> Result<(), Arc<Status>> {
        let columns = columns(cx.snapshot, &self.resources, &cx.pod.template.requests, false);
        balance(cx.snapshot, &columns, nodes, scores);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, node, pod, pod_info};

    #[test]
    fn evening_out_scores_higher() {
        let plugin = BalancedAllocation::new(&BalancedAllocationArgs::default());
        let mut cluster = Cluster::new(&[node("n1").cpu("4").memory("10000"), node("n2").cpu("6").memory("10000")]);
        let wants = pod_info(&pod("p").requests("3", "5000"));
        // n1: |0.75-0.5|/2 -> 87; n2: 0.5/0.5 -> 100; without the pod both are at 100.
        assert_eq!(cluster.scores(&plugin, &wants), [50 + (50 + 87 - 100) / 2, 75]);
        cluster.place(&pod("lopsided").requests("3", "0"), "n1");
        let scores = cluster.scores(&plugin, &pod_info(&pod("q").requests("0", "7500")));
        // n1 goes from 0.75/0 (62) to 0.75/0.75 (100); n2 from even (100) to 0/0.75 (62).
        assert_eq!(scores, [50 + (50 + 100 - 62) / 2, 50 + (50 + 62 - 100) / 2]);
    }
}
