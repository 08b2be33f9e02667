//! Plugins that look at the pods all over the cluster: InterPodAffinity and PodTopologySpread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, TopologySpreadConstraint, WeightedPodAffinityTerm};
use proptest::prelude::*;

use super::{HOST, World, label, node_affinity_allows, selects, untolerated_taints};
use crate::config::args::{InterPodAffinityArgs, PodTopologySpreadArgs};
use crate::framework::listers::NoListers;
use crate::framework::plugin::MAX_SCORE;
use crate::plugins::inter_pod_affinity::InterPodAffinity;
use crate::plugins::topology_spread::TopologySpread;

/// A pod's terms: required and preferred, for and against.
struct Terms {
    near: Vec<PodAffinityTerm>,
    far: Vec<PodAffinityTerm>,
    rather_near: Vec<WeightedPodAffinityTerm>,
    rather_far: Vec<WeightedPodAffinityTerm>,
}

fn terms(pod: &Pod) -> Terms {
    let affinity = pod.spec.as_ref().unwrap().affinity.clone().unwrap_or_default();
    let (near, far) = (affinity.pod_affinity.unwrap_or_default(), affinity.pod_anti_affinity.unwrap_or_default());
    Terms {
        near: near.required_during_scheduling_ignored_during_execution.unwrap_or_default(),
        far: far.required_during_scheduling_ignored_during_execution.unwrap_or_default(),
        rather_near: near.preferred_during_scheduling_ignored_during_execution.unwrap_or_default(),
        rather_far: far.preferred_during_scheduling_ignored_during_execution.unwrap_or_default(),
    }
}

/// Whether a term of `owner` means `other`. All namespaces are without labels here, so a selector is an empty one.
fn means(term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
    let namespace = other.metadata.namespace.clone().unwrap();
    let listed = term.namespaces.iter().flatten().any(|name| *name == namespace);
    let own =
        term.namespaces.is_none() && term.namespace_selector.is_none() && owner.metadata.namespace == Some(namespace);
    (listed || own || term.namespace_selector.is_some()) && selects(term.label_selector.as_ref(), other)
}

/// Whether two nodes are in the same domain.
fn together(key: &str, a: &Node, b: &Node) -> bool {
    label(a, key).is_some() && label(a, key) == label(b, key)
}

/// Every running pod whose node is there.
fn placed(world: &World) -> Vec<(&Pod, &Arc<Node>)> {
    let on = |pod: &Pod| world.nodes.get(pod.spec.as_ref().unwrap().node_name.as_deref().unwrap());
    world.running.values().filter_map(|pod| Some((pod, on(pod)?))).collect()
}

fn affinity(world: &World, pod: &Pod, node: &Node) -> &'static str {
    let own = terms(pod);
    let placed = placed(world);
    if !own.near.is_empty() {
        let wanted = |other: &Pod| own.near.iter().all(|term| means(term, pod, other));
        let beside = |term: &PodAffinityTerm| {
            placed.iter().any(|(other, there)| wanted(other) && together(&term.topology_key, node, there))
        };
        let counted = |there: &Node| own.near.iter().any(|term| label(there, &term.topology_key).is_some());
        let first = wanted(pod) && !placed.iter().any(|(other, there)| wanted(other) && counted(there));
        let labelled = own.near.iter().all(|term| label(node, &term.topology_key).is_some());
        if !labelled || !(first || own.near.iter().all(beside)) {
            return "node(s) didn't match pod affinity rules";
        }
    }
    let crowded = |term: &PodAffinityTerm| {
        placed.iter().any(|(other, there)| means(term, pod, other) && together(&term.topology_key, node, there))
    };
    if own.far.iter().any(crowded) {
        return "node(s) didn't match pod anti-affinity rules";
    }
    let kept_away = |other: &Pod, there: &Node| {
        terms(other).far.iter().any(|term| means(term, other, pod) && together(&term.topology_key, node, there))
    };
    match placed.iter().any(|(other, there)| kept_away(other, there)) {
        true => "node(s) didn't satisfy existing pods anti-affinity rules",
        false => "",
    }
}

/// The sum over all pods of what they and the incoming pod think of each other.
fn attraction(world: &World, pod: &Pod, node: &Node) -> i64 {
    let own = terms(pod);
    let mut sum = 0;
    for (other, there) in placed(world) {
        let theirs = terms(other);
        let mut add = |term: &PodAffinityTerm, owner: &Pod, target: &Pod, weight: i64| {
            if means(term, owner, target) && together(&term.topology_key, node, there) {
                sum += weight;
            }
        };
        own.rather_near.iter().for_each(|term| add(&term.pod_affinity_term, pod, other, term.weight.into()));
        own.rather_far.iter().for_each(|term| add(&term.pod_affinity_term, pod, other, -i64::from(term.weight)));
        theirs.near.iter().for_each(|term| add(term, other, pod, 1));
        theirs.rather_near.iter().for_each(|term| add(&term.pod_affinity_term, other, pod, term.weight.into()));
        theirs.rather_far.iter().for_each(|term| add(&term.pod_affinity_term, other, pod, -i64::from(term.weight)));
    }
    sum
}

fn affinity_scores(world: &World, pod: &Pod) -> BTreeMap<String, i64> {
    let raw: BTreeMap<_, _> = world.nodes.iter().map(|(name, node)| (name, attraction(world, pod, node))).collect();
    let least = raw.values().copied().min().unwrap_or(0);
    let range = raw.values().copied().max().unwrap_or(0) - least;
    let scale = |score: i64| if range == 0 { 0 } else { (100.0 * ((score - least) as f64 / range as f64)) as i64 };
    raw.into_iter().map(|(name, score)| (name.clone(), scale(score))).collect()
}

fn constraints(pod: &Pod, when: &str) -> Vec<TopologySpreadConstraint> {
    let all = pod.spec.as_ref().unwrap().topology_spread_constraints.clone().unwrap_or_default();
    all.into_iter().filter(|constraint| constraint.when_unsatisfiable == when).collect()
}

/// Whether the pods of a node count.
fn counts(constraint: &TopologySpreadConstraint, pod: &Pod, node: &Node) -> bool {
    let affinity = constraint.node_affinity_policy.as_deref() == Some("Ignore") || node_affinity_allows(pod, node);
    let honors_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    affinity && (!honors_taints || untolerated_taints(pod, node, &["NoSchedule", "NoExecute"], false) == 0)
}

/// How many pods the constraint counts on a node.
fn matching(world: &World, constraint: &TopologySpreadConstraint, pod: &Pod, name: &str) -> i64 {
    let same = |other: &&Pod| other.metadata.namespace == pod.metadata.namespace;
    world.on(name).filter(same).filter(|other| selects(constraint.label_selector.as_ref(), other)).count() as i64
}

/// Pods per domain of the nodes that count.
fn domains(
    world: &World,
    pod: &Pod,
    all: &[TopologySpreadConstraint],
    constraint: &TopologySpreadConstraint,
) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for (name, node) in &world.nodes {
        let labelled = all.iter().all(|constraint| label(node, &constraint.topology_key).is_some());
        if labelled && counts(constraint, pod, node) {
            let domain = label(node, &constraint.topology_key).unwrap().to_owned();
            *sums.entry(domain).or_default() += matching(world, constraint, pod, name);
        }
    }
    sums
}

fn spread(world: &World, pod: &Pod, node: &Node) -> &'static str {
    let all = constraints(pod, "DoNotSchedule");
    for constraint in &all {
        let Some(domain) = label(node, &constraint.topology_key) else {
            return "node(s) didn't match pod topology spread constraints (missing required label)";
        };
        let sums = domains(world, pod, &all, constraint);
        let enough = sums.len() as i64 >= i64::from(constraint.min_domains.unwrap_or(1));
        let least = if enough { sums.values().copied().min().unwrap_or(i64::from(i32::MAX)) } else { 0 };
        let itself = i64::from(selects(constraint.label_selector.as_ref(), pod));
        if sums.get(domain).copied().unwrap_or(0) + itself - least > i64::from(constraint.max_skew) {
            return "node(s) didn't match pod topology spread constraints";
        }
    }
    ""
}

/// Scores when all nodes are feasible.
fn spread_scores(world: &World, pod: &Pod) -> Option<BTreeMap<String, i64>> {
    let all = constraints(pod, "ScheduleAnyway");
    if all.is_empty() {
        return None;
    }
    let labelled = |node: &Node| all.iter().all(|constraint| label(node, &constraint.topology_key).is_some());
    let scored: BTreeMap<&String, &Arc<Node>> = world.nodes.iter().filter(|(_, node)| labelled(node)).collect();
    let raw = |name: &str, node: &Node| {
        let one = |constraint: &TopologySpreadConstraint| {
            let domain = label(node, &constraint.topology_key).unwrap();
            let seen: BTreeSet<_> = scored.values().map(|node| label(node, &constraint.topology_key)).collect();
            let host = constraint.topology_key == HOST;
            let size = if host { scored.len() } else { seen.len() };
            let sums = domains(world, pod, &all, constraint);
            // Every node is a domain of its own, whether its pods count elsewhere or not.
            let pods = if host && counts(constraint, pod, node) {
                matching(world, constraint, pod, name)
            } else {
                sums.get(domain).copied().unwrap_or(0)
            };
            pods as f64 * ((size + 2) as f64).ln() + f64::from(constraint.max_skew - 1)
        };
        all.iter().map(one).sum::<f64>().round() as i64
    };
    let scores: BTreeMap<_, _> = scored.iter().map(|(name, node)| ((*name).clone(), raw(name, node))).collect();
    let (least, most) = (scores.values().min().copied().unwrap_or(0), scores.values().max().copied().unwrap_or(0));
    let normal = |score: i64| if most == 0 { MAX_SCORE } else { MAX_SCORE * (most + least - score) / most };
    let of = |name: &String| scores.get(name).map_or(0, |score| normal(*score));
    Some(world.nodes.keys().map(|name| (name.clone(), of(name))).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn inter_pod_affinity(seed in any::<u64>(), steps in 0usize..50) {
        let mut world = World::new(seed);
        let plugin = InterPodAffinity::new(&InterPodAffinityArgs::default(), Arc::new(NoListers));
        // A few kinds of pods that come again, as replicas do.
        let kinds: Vec<Pod> = (0..4).map(|_| world.pod()).collect();
        for step in 0..=steps {
            world.step();
            let pod = if step % 2 == 0 { world.pod() } else { kinds[step % kinds.len()].clone() };
            let expected: BTreeMap<_, _> =
                world.nodes.iter().map(|(name, node)| (name.clone(), affinity(&world, &pod, node).to_owned())).collect();
            prop_assert_eq!(world.verdicts(&plugin, &pod), expected);
            let expected = affinity_scores(&world, &pod);
            let got = world.scores(&plugin, &pod).unwrap_or_else(|| expected.keys().map(|name| (name.clone(), 0)).collect());
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn topology_spread(seed in any::<u64>(), steps in 0usize..50) {
        let mut world = World::new(seed);
        let plugin = TopologySpread::new(&PodTopologySpreadArgs::default(), Arc::new(NoListers));
        let kinds: Vec<Pod> = (0..4).map(|_| world.pod()).collect();
        for step in 0..=steps {
            world.step();
            let pod = if step % 2 == 0 { world.pod() } else { kinds[step % kinds.len()].clone() };
            let expected: BTreeMap<_, _> =
                world.nodes.iter().map(|(name, node)| (name.clone(), spread(&world, &pod, node).to_owned())).collect();
            prop_assert_eq!(world.verdicts(&plugin, &pod), expected);
            let expected = spread_scores(&world, &pod);
            prop_assert_eq!(world.scores(&plugin, &pod), expected);
        }
    }
}
