//! TaintToleration: filters on NoSchedule and NoExecute taints, prefers fewer intolerable PreferNoSchedule ones.
//!
//! Nodes share few distinct taint sets; scores are worked out per set, not per node.

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::cache::snapshot::NodeView;
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::plugin::{
    CycleContext, EnqueueExtensions, Filter, Plugin, Scope, Score, StateData, normalize_by_max,
};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};
use common::meta::tolerations::{any_tolerates, untolerated};

/// The plugin.
pub struct TaintToleration;

/// Upstream's name.
pub const NAME: &str = "TaintToleration";

static TAINTED: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unresolvable(NAME, "node(s) had untolerated taint(s)"));

extension_points!(TaintToleration { as_filter: Filter, as_score: Score, as_enqueue: EnqueueExtensions });

impl Filter for TaintToleration {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn filter(&self, cx: &CycleContext<'_>, _state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        match untolerated(node.taints(), &cx.pod.template.tolerations) {
            Some(_) => Err(TAINTED.clone()),
            None => Ok(()),
        }
    }
}

/// How many PreferNoSchedule taints the pod does not tolerate.
fn intolerable(taints: &[Taint], pod: &PodInfo) -> i64 {
    let soft = |effect: &Option<String>| effect.as_deref().is_none_or(|e| e.is_empty() || e == "PreferNoSchedule");
    let tolerations = || pod.template.tolerations.iter().filter(|toleration| soft(&toleration.effect));
    taints.iter().filter(|t| t.effect == "PreferNoSchedule" && !any_tolerates(tolerations(), t)).count() as i64
}

impl Score for TaintToleration {
    fn score(
        &self,
        cx: &CycleContext<'_>,
        _state: Option<&dyn StateData>,
        nodes: &[u32],
        scores: &mut [i64],
    ) -> Result<(), Arc<Status>> {
        let per_set: Vec<i64> = cx.snapshot.taint_sets.iter().map(|taints| intolerable(taints, cx.pod)).collect();
        for (score, slot) in scores.iter_mut().zip(nodes) {
            *score = per_set[cx.snapshot.taint_set[*slot as usize] as usize];
        }
        Ok(())
    }

    fn normalize(&self, _cx: &CycleContext<'_>, _state: Option<&dyn StateData>, _nodes: &[u32], scores: &mut [i64]) {
        normalize_by_max(scores, true);
    }
}

impl EnqueueExtensions for TaintToleration {
    fn interests(&self) -> Vec<Interest> {
        vec![
            Interest { resource: Resource::Node, action: action::ADD | action::NODE_TAINT },
            Interest { resource: Resource::UnscheduledPod, action: action::POD_TOLERATION },
        ]
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        if let (_, Some(changed)) = event.pods() {
            return if changed.uid == pod.uid { Hint::Queue } else { Hint::Skip };
        }
        let refused = |node: &Node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
            untolerated(taints, &pod.template.tolerations).is_some()
        };
        match event.nodes() {
            (old, Some(new)) if !refused(new) && old.is_none_or(|old| refused(old)) => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, node, pod, pod_info};

    #[test]
    fn filter() {
        let cluster = Cluster::new(&[
            node("plain"),
            node("dedicated").taint("dedicated", "user1", "NoSchedule"),
            node("evicting").taint("gone", "", "NoExecute"),
            node("soft").taint("dedicated", "user1", "PreferNoSchedule"),
        ]);
        let refused = "node(s) had untolerated taint(s)";
        assert_eq!(cluster.verdicts(&TaintToleration, &pod_info(&pod("p"))), ["", refused, refused, ""]);
        let user = pod_info(&pod("u").toleration("dedicated", "Equal", "user1", "NoSchedule"));
        assert_eq!(cluster.verdicts(&TaintToleration, &user), ["", "", refused, ""]);
        let all = pod_info(&pod("a").toleration("", "Exists", "", ""));
        assert_eq!(cluster.verdicts(&TaintToleration, &all), ["", "", "", ""]);
    }

    #[test]
    fn fewer_intolerable_taints_score_higher() {
        let cluster = Cluster::new(&[
            node("a"),
            node("b").taint("cpu-type", "arm64", "PreferNoSchedule"),
            node("c").taint("cpu-type", "arm64", "PreferNoSchedule").taint("disk-type", "ssd", "PreferNoSchedule"),
            node("d").taint("x", "y", "NoSchedule"),
        ]);
        let pod = pod_info(&pod("p").toleration("cpu-type", "Equal", "arm64", "NoSchedule"));
        assert_eq!(cluster.scores(&TaintToleration, &pod), [100, 50, 0, 100]);
        let tolerant = pod_info(&crate::testing::pod("t").toleration("cpu-type", "Equal", "arm64", "PreferNoSchedule"));
        assert_eq!(cluster.scores(&TaintToleration, &tolerant), [100, 100, 0, 100]);
    }
}
