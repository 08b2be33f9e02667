//! PodTopologySpread: keeps matching pods evenly spread over topology domains; hard constraints filter, soft ones score.
//!
//! Matching pods are counted per domain incrementally ([`MatchCounts`]); a cycle only compares the counts, and domains are
//! integers.

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;

use crate::cache::labels::ABSENT;
use crate::cache::snapshot::{NodeView, Snapshot};
use crate::config::args::PodTopologySpreadArgs;
use crate::framework::bitset::BitSet;
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::listers::Listers;
use crate::framework::matches::{MatchCounts, Question};
use crate::framework::plugin::{
    CycleContext, EnqueueExtensions, Filter, MAX_SCORE, Plugin, PreFilter, PreFiltered, PreScore, PreScored, Rejected,
    Score, State, StateData, state_of,
};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};
use crate::framework::tally::domain;
use crate::framework::template::{SpreadConstraint, parse_constraint};
use crate::plugins::node_affinity::required_matches;
use common::meta::tolerations::untolerated;

/// The plugin.
pub struct TopologySpread {
    defaults: Vec<SpreadConstraint>,
    system_defaults: bool,
    listers: Arc<dyn Listers>,
    counts: Mutex<MatchCounts>,
}

/// Upstream's name.
pub const NAME: &str = "PodTopologySpread";

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

static SKEWED: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unschedulable(NAME, "node(s) didn't match pod topology spread constraints"));
static UNLABELLED: LazyLock<Arc<Status>> = LazyLock::new(|| {
    Status::unresolvable(NAME, "node(s) didn't match pod topology spread constraints (missing required label)")
});

/// One hard constraint: matching pods per domain number, -1 where no eligible node is in the domain.
#[derive(Clone)]
struct Domains {
    constraint: SpreadConstraint,
    counts: Arc<Vec<i64>>,
    min: i64,
    itself: i64,
}

#[derive(Clone)]
struct Hard(Vec<Domains>);

/// Soft constraints: what each domain adds to the score of its nodes.
#[derive(Clone)]
struct Soft {
    constraints: Vec<(SpreadConstraint, Vec<f64>)>,
    ignored: BitSet,
}

impl Domains {
    fn settle(&mut self) {
        let domains = self.counts.iter().filter(|count| **count >= 0).count() as i64;
        let min = self.counts.iter().copied().filter(|count| *count >= 0).min();
        self.min = if domains < self.constraint.min_domains { 0 } else { min.unwrap_or(i64::from(i32::MAX)) };
    }

    /// Whether one more pod in a domain keeps within the allowed skew.
    fn verdict(&self, value: u32) -> Verdict {
        if value == ABSENT {
            return Err(UNLABELLED.clone());
        }
        let matching = self.counts.get(value as usize).copied().unwrap_or(0).max(0);
        if matching + self.itself - self.min > self.constraint.max_skew {
            return Err(SKEWED.clone());
        }
        Ok(())
    }
}

fn system_defaults() -> Vec<SpreadConstraint> {
    let constraint = |key: &str, max_skew: i64| SpreadConstraint {
        max_skew,
        topology_key: key.to_owned(),
        hard: false,
        selector: common::meta::selector::LabelSelector::nothing(),
        min_domains: 1,
        honor_affinity: true,
        honor_taints: false,
    };
    vec![constraint(HOSTNAME, 3), constraint(ZONE, 5)]
}

/// The domains of all slots, or none if no node has the label.
fn domains<'a>(snapshot: &'a Snapshot, constraint: &SpreadConstraint) -> &'a [u32] {
    snapshot.labels.column(&constraint.topology_key).map_or(&[], |column| &column.values)
}

fn value_of(values: &[u32], slot: u32) -> u32 {
    values.get(slot as usize).copied().unwrap_or(ABSENT)
}

/// Whether the node counts for the constraint, by its inclusion policies.
fn included(constraint: &SpreadConstraint, pod: &PodInfo, node: &NodeView<'_>) -> bool {
    (!constraint.honor_affinity || required_matches(&pod.template, node.name(), |key| node.label(key)))
        && (!constraint.honor_taints || untolerated(node.taints(), &pod.template.tolerations).is_none())
}

impl TopologySpread {
    /// With the profile's arguments.
    pub fn new(args: &PodTopologySpreadArgs, listers: Arc<dyn Listers>) -> Self {
        let system = args.defaulting_type == "System";
        let listed = || args.default_constraints.iter().map(|c| parse_constraint(c, &Default::default())).collect();
        Self {
            defaults: if system { system_defaults() } else { listed() },
            system_defaults: system,
            listers,
            counts: Mutex::default(),
        }
    }

    /// The pod's own constraints of a kind, or the defaults with a deduced selector.
    fn constraints(&self, pod: &PodInfo, hard: bool) -> Vec<SpreadConstraint> {
        let of_kind = |constraint: &&SpreadConstraint| constraint.hard == hard;
        let own = &pod.template.spread;
        if !own.is_empty() {
            return own.iter().filter(of_kind).cloned().collect();
        }
        let defaults: Vec<_> = self.defaults.iter().filter(of_kind).cloned().collect();
        if defaults.is_empty() {
            return defaults;
        }
        let Some(selector) = self.listers.default_selector(&pod.template) else { return Vec::new() };
        defaults.into_iter().map(|constraint| SpreadConstraint { selector: selector.clone(), ..constraint }).collect()
    }

    /// Matching pods per domain of eligible nodes, for each constraint.
    fn count(&self, cx: &CycleContext<'_>, constraints: &[SpreadConstraint], all_keys: bool) -> Vec<Arc<Vec<i64>>> {
        let snapshot = cx.snapshot;
        let labels: Vec<&[u32]> = constraints.iter().map(|constraint| domains(snapshot, constraint)).collect();
        let labelled = |slot| labels.iter().all(|values| value_of(values, slot) != ABSENT);
        let mut counts = self.counts.lock();
        let count = |(index, constraint): (usize, &SpreadConstraint)| {
            let question = Question {
                template: cx.pod.template.id,
                index: index * 2 + usize::from(constraint.hard),
                namespace: cx.pod.namespace(),
                selector: &constraint.selector,
                key: &constraint.topology_key,
            };
            counts.per_domain(&question, snapshot, |slot| {
                (!all_keys || labelled(slot)) && included(constraint, cx.pod, &snapshot.node(slot))
            })
        };
        constraints.iter().enumerate().map(count).collect()
    }

    fn shift(&self, cx: &CycleContext<'_>, state: &mut dyn StateData, other: &PodInfo, node: &NodeView<'_>, by: i64) {
        let Some(Hard(domains)) = state.as_any_mut().downcast_mut::<Hard>() else { return };
        let snapshot = cx.snapshot;
        let labelled = domains.iter().all(|d| domain(snapshot, &d.constraint.topology_key, node.slot) != ABSENT);
        if other.namespace() != cx.pod.namespace() || !labelled {
            return;
        }
        for part in domains {
            let constraint = &part.constraint;
            if constraint.selector.matches(&other.template.labels) && included(constraint, cx.pod, node) {
                let value = domain(snapshot, &constraint.topology_key, node.slot) as usize;
                let counts = Arc::make_mut(&mut part.counts);
                if let Some(count) = counts.get_mut(value) {
                    *count = (*count).max(0) + by;
                }
                part.settle();
            }
        }
    }
}

extension_points!(TopologySpread {
    as_pre_filter: PreFilter,
    as_filter: Filter,
    as_pre_score: PreScore,
    as_score: Score,
    as_enqueue: EnqueueExtensions
});

impl PreFilter for TopologySpread {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        let constraints = self.constraints(cx.pod, true);
        if constraints.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        let counts = self.count(cx, &constraints, true);
        let domains = constraints.into_iter().zip(counts).map(|(constraint, counts)| {
            let itself = i64::from(constraint.selector.matches(&cx.pod.template.labels));
            let mut domains = Domains { constraint, counts, min: 0, itself };
            domains.settle();
            domains
        });
        Ok(PreFiltered::with(Hard(domains.collect())))
    }

    fn add_pod(&self, cx: &CycleContext<'_>, state: &mut dyn StateData, added: &PodInfo, node: &NodeView<'_>) {
        self.shift(cx, state, added, node, 1);
    }

    fn remove_pod(&self, cx: &CycleContext<'_>, state: &mut dyn StateData, gone: &PodInfo, node: &NodeView<'_>) {
        self.shift(cx, state, gone, node, -1);
    }
}

impl Filter for TopologySpread {
    fn filter(&self, cx: &CycleContext<'_>, state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        let Some(Hard(parts)) = state_of::<Hard>(state) else { return Ok(()) };
        parts.iter().try_for_each(|part| part.verdict(domain(cx.snapshot, &part.constraint.topology_key, node.slot)))
    }

    fn sieve(
        &self,
        cx: &CycleContext<'_>,
        state: Option<&dyn StateData>,
        slots: &mut Vec<u32>,
        rejected: &mut Rejected,
    ) {
        let Some(Hard(parts)) = state_of::<Hard>(state) else { return };
        let parts: Vec<_> = parts.iter().map(|part| (part, domains(cx.snapshot, &part.constraint))).collect();
        slots.retain(|slot| match parts.iter().try_for_each(|(part, values)| part.verdict(value_of(values, *slot))) {
            Ok(()) => true,
            Err(status) => {
                rejected.push((*slot, status));
                false
            }
        });
    }
}

impl PreScore for TopologySpread {
    fn pre_score(&self, cx: &CycleContext<'_>, nodes: &[u32]) -> Result<PreScored, Arc<Status>> {
        let constraints = self.constraints(cx.pod, false);
        if constraints.is_empty() {
            return Ok(PreScored::Skip);
        }
        let snapshot = cx.snapshot;
        let all_keys = !cx.pod.template.spread.is_empty() || !self.system_defaults;
        let labels: Vec<&[u32]> = constraints.iter().map(|constraint| domains(snapshot, constraint)).collect();
        let unlabelled = |slot: &u32| all_keys && labels.iter().any(|values| value_of(values, *slot) == ABSENT);
        let ignored: BitSet = nodes.iter().copied().filter(unlabelled).collect();
        let counts = self.count(cx, &constraints, all_keys);
        let weigh = |((constraint, values), counts): ((&SpreadConstraint, &&[u32]), Arc<Vec<i64>>)| {
            let mut seen = BitSet::default();
            nodes.iter().filter(|slot| !ignored.contains(**slot)).for_each(|slot| seen.insert(value_of(values, *slot)));
            let hostname = constraint.topology_key == HOSTNAME;
            let size = if hostname { nodes.len() - ignored.len() } else { seen.len() };
            let weight = ((size + 2) as f64).ln();
            let skew = (constraint.max_skew - 1) as f64;
            let scores = counts.iter().map(|count| (*count).max(0) as f64 * weight + skew).collect();
            (constraint.clone(), scores)
        };
        let constraints = constraints.iter().zip(&labels).zip(counts).map(weigh).collect();
        let state: State = Box::new(Soft { constraints, ignored });
        Ok(PreScored::Continue(Some(state)))
    }
}

impl Score for TopologySpread {
    fn score(
        &self,
        cx: &CycleContext<'_>,
        state: Option<&dyn StateData>,
        nodes: &[u32],
        scores: &mut [i64],
    ) -> Result<(), Arc<Status>> {
        scores.fill(0);
        let Some(soft) = state_of::<Soft>(state) else { return Ok(()) };
        let parts: Vec<_> = soft.constraints.iter().map(|(c, scores)| (domains(cx.snapshot, c), scores, c)).collect();
        for (score, slot) in scores.iter_mut().zip(nodes) {
            let mut sum = 0.0;
            for (values, per_domain, constraint) in &parts {
                let value = value_of(values, *slot);
                if value != ABSENT {
                    // A domain whose nodes don't count has no pods.
                    sum += per_domain.get(value as usize).copied().unwrap_or((constraint.max_skew - 1) as f64);
                }
            }
            *score = sum.round() as i64;
        }
        Ok(())
    }

    fn normalize(&self, _cx: &CycleContext<'_>, state: Option<&dyn StateData>, nodes: &[u32], scores: &mut [i64]) {
        let Some(soft) = state_of::<Soft>(state) else { return };
        let counted = |slot: &u32| !soft.ignored.contains(*slot);
        let of_counted = || nodes.iter().zip(scores.iter()).filter(|(slot, _)| counted(slot)).map(|(_, score)| *score);
        let (min, max) = (of_counted().min().unwrap_or(0), of_counted().max().unwrap_or(0).max(0));
        for (slot, score) in nodes.iter().zip(scores) {
            *score = match (counted(slot), max) {
                (false, _) => 0,
                (true, 0) => MAX_SCORE,
                (true, max) => MAX_SCORE * (max + min - *score) / max,
            };
        }
    }
}

fn labelled(node: &Node, constraints: &[SpreadConstraint]) -> bool {
    constraints.iter().all(|c| node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(&c.topology_key)))
}

impl EnqueueExtensions for TopologySpread {
    fn interests(&self) -> Vec<Interest> {
        let pods = action::ADD | action::POD_LABEL | action::POD_TOLERATION | action::DELETE;
        let nodes = action::ADD | action::DELETE | action::NODE_LABEL | action::NODE_TAINT;
        vec![
            Interest { resource: Resource::AssignedPod, action: pods },
            Interest { resource: Resource::Node, action: nodes },
        ]
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        let constraints = self.constraints(pod, true);
        let involved = |other: &PodInfo| {
            other.uid == pod.uid
                || ((other.node_name.is_some() || other.nominated.is_some()) && other.namespace() == pod.namespace())
        };
        let matched = |other: &PodInfo| constraints.iter().any(|c| c.selector.matches(&other.template.labels));
        let queue = match (event.pods(), event.nodes()) {
            ((None, None), (Some(old), Some(new))) => {
                let (before, after) = (labelled(old, &constraints), labelled(new, &constraints));
                let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
                let value = |node: &Node, c: &SpreadConstraint| {
                    node.metadata.labels.as_ref().and_then(|labels| labels.get(&c.topology_key)).cloned()
                };
                let moved = || constraints.iter().any(|c| value(old, c) != value(new, c));
                before != after || (after && (moved() || taints(old) != taints(new)))
            }
            ((None, None), (old, new)) => old.or(new).is_some_and(|node| labelled(node, &constraints)),
            ((old, new), _) if !old.into_iter().chain(new).all(|other| involved(other)) => false,
            ((Some(old), Some(new)), _) => {
                let tolerates = old.template.tolerations != new.template.tolerations;
                let honors = constraints.iter().any(|c| c.honor_taints);
                let selects = |c: &SpreadConstraint, p: &PodInfo| c.selector.matches(&p.template.labels);
                (new.uid == pod.uid && tolerates && honors)
                    || constraints.iter().any(|c| selects(c, old) != selects(c, new))
            }
            ((old, new), _) => old.or(new).is_some_and(|other| matched(other)),
        };
        if queue { Hint::Queue } else { Hint::Skip }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::listers::NoListers;
    use crate::testing::{Cluster, PodBuilder, node, pod, pod_info};
    use serde_json::json;

    fn plugin() -> TopologySpread {
        TopologySpread::new(&PodTopologySpreadArgs::default(), Arc::new(NoListers))
    }

    fn spread(key: &str, max_skew: i32, when: &str) -> serde_json::Value {
        json!({"maxSkew": max_skew, "topologyKey": key, "whenUnsatisfiable": when,
               "labelSelector": {"matchLabels": {"app": "x"}}})
    }

    fn spreading(constraints: serde_json::Value) -> PodBuilder {
        pod("p").label("app", "x").spec("topologySpreadConstraints", constraints)
    }

    /// Zone a: n1 (2 pods), n2 (1 pod); zone b: n3, n4 (empty).
    fn cluster() -> Cluster {
        let mut cluster = Cluster::new(&[
            node("n1").label(ZONE, "a"),
            node("n2").label(ZONE, "a"),
            node("n3").label(ZONE, "b"),
            node("n4").label(ZONE, "b"),
            node("n5"),
        ]);
        for (name, node) in [("a", "n1"), ("b", "n1"), ("c", "n2")] {
            cluster.place(&pod(name).label("app", "x"), node);
        }
        cluster.place(&pod("other").label("app", "y"), "n3");
        cluster
    }

    const NO: &str = "node(s) didn't match pod topology spread constraints";
    const MISSING: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

    #[test]
    fn hard_constraints() {
        for (constraints, expected) in [
            (json!([spread(ZONE, 1, "DoNotSchedule")]), [NO, NO, "", "", MISSING]),
            (json!([spread(ZONE, 4, "DoNotSchedule")]), ["", "", "", "", MISSING]),
            (json!([spread(HOSTNAME, 1, "DoNotSchedule")]), [NO, NO, "", "", ""]),
            (
                json!([spread(ZONE, 1, "DoNotSchedule"), spread(HOSTNAME, 1, "DoNotSchedule")]),
                [NO, NO, "", "", MISSING],
            ),
            (json!([spread(ZONE, 1, "ScheduleAnyway")]), ["", "", "", "", ""]),
        ] {
            let pod = pod_info(&spreading(constraints.clone()));
            assert_eq!(cluster().verdicts(&plugin(), &pod), expected, "{constraints}");
        }
    }

    #[test]
    fn too_few_domains_count_as_an_empty_one() {
        let mut constraint = spread(ZONE, 1, "DoNotSchedule");
        constraint["minDomains"] = json!(3);
        let mut cluster = Cluster::new(&[node("n1").label(ZONE, "a"), node("n2").label(ZONE, "b")]);
        cluster.place(&pod("a").label("app", "x"), "n1");
        cluster.place(&pod("b").label("app", "x"), "n2");
        assert_eq!(cluster.verdicts(&plugin(), &pod_info(&spreading(json!([constraint])))), [NO, NO]);
    }

    #[test]
    fn nodes_outside_of_the_affinity_do_not_count() {
        let constraint = spread(ZONE, 1, "DoNotSchedule");
        let builder = spreading(json!([constraint])).node_selector(ZONE, "a");
        // Only zone a counts: its three pods are the minimum, and zone b is far below it.
        assert_eq!(cluster().verdicts(&plugin(), &pod_info(&builder)), ["", "", "", "", MISSING]);
    }

    #[test]
    fn counts_follow_the_snapshot() {
        let plugin = plugin();
        let mut cluster = cluster();
        let pod_spread = pod_info(&spreading(json!([spread(ZONE, 1, "DoNotSchedule")])));
        assert_eq!(cluster.verdicts(&plugin, &pod_spread)[0], NO);
        for (name, node) in [("d", "n3"), ("e", "n4"), ("f", "n4")] {
            cluster.place(&pod(name).label("app", "x"), node);
        }
        assert_eq!(cluster.verdicts(&plugin, &pod_spread), ["", "", "", "", MISSING]);
        cluster.cache.remove_pod("a");
        cluster.refresh();
        assert_eq!(cluster.verdicts(&plugin, &pod_spread), ["", "", NO, NO, MISSING]);
    }

    #[test]
    fn soft_constraints_prefer_emptier_domains() {
        let zone = pod_info(&spreading(json!([spread(ZONE, 1, "ScheduleAnyway")])));
        let scores = cluster().scores(&plugin(), &zone);
        assert_eq!((scores[0], scores[1], scores[2], scores[3], scores[4]), (0, 0, 100, 100, 0));
        let host = pod_info(&spreading(json!([spread(HOSTNAME, 1, "ScheduleAnyway")])));
        let scores = cluster().scores(&plugin(), &host);
        assert_eq!((scores[0], scores[2], scores[4]), (0, 100, 100));
        assert!(scores[1] > 0 && scores[1] < 100);
    }
}
