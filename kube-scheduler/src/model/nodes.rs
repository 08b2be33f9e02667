//! Plugins that look at one node at a time: room, ports, taints, labels, images.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::meta::quantity::Quantity;
use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;

use super::{World, node_affinity_allows, node_term_matches, untolerated_taints};
use crate::config::args::{BalancedAllocationArgs, FitArgs};
use crate::framework::plugin::{MAX_SCORE, Plugin};
use crate::plugins::balanced_allocation::BalancedAllocation;
use crate::plugins::fit::Fit;
use crate::plugins::image_locality::ImageLocality;
use crate::plugins::node_affinity::NodeAffinity;
use crate::plugins::node_ports::NodePorts;
use crate::plugins::node_unschedulable::NodeUnschedulable;
use crate::plugins::taint_toleration::TaintToleration;

const RESOURCES: [&str; 3] = ["cpu", "memory", "example.com/gpu"];

/// Millicores, or units.
fn amount(
    list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    name: &str,
) -> Option<i64> {
    let text = &list?.get(name)?.0;
    let quantity: Quantity = text.parse().unwrap();
    Some(if name == "cpu" { quantity.milli_value() } else { quantity.value() })
}

/// What a pod (of one container) asks for.
fn asked(pod: &Pod, name: &str) -> Option<i64> {
    let resources = pod.spec.as_ref().unwrap().containers[0].resources.as_ref();
    amount(resources.and_then(|resources| resources.requests.as_ref()), name)
}

fn room(node: &Node, name: &str) -> i64 {
    amount(node.status.as_ref().unwrap().allocatable.as_ref(), name).unwrap_or(0)
}

fn fit(world: &World, pod: &Pod, name: &str, node: &Node) -> String {
    let mut missing = Vec::new();
    if world.on(name).count() as i64 + 1 > room(node, "pods") {
        missing.push("Too many pods".to_owned());
    }
    for resource in RESOURCES {
        let used: i64 = world.on(name).filter_map(|other| asked(other, resource)).sum();
        let wanted = asked(pod, resource).unwrap_or(0);
        if wanted > 0 && wanted > room(node, resource) - used {
            missing.push(format!("Insufficient {resource}"));
        }
    }
    missing.join(", ")
}

/// With what containers that ask for nothing count as in scores.
fn scored(pod: &Pod, name: &str) -> i64 {
    asked(pod, name).unwrap_or(if name == "cpu" { 100 } else { 200 << 20 })
}

fn least_allocated(world: &World, pod: &Pod, name: &str, node: &Node) -> i64 {
    let one = |resource| {
        let used: i64 = world.on(name).map(|other| scored(other, resource)).sum::<i64>() + scored(pod, resource);
        let capacity = room(node, resource);
        if used > capacity { 0 } else { (capacity - used) * MAX_SCORE / capacity }
    };
    (one("cpu") + one("memory")) / 2
}

fn balance(world: &World, pod: &Pod, name: &str, node: &Node) -> i64 {
    let even = |with: bool| {
        let share = |resource| {
            let others: i64 = world.on(name).filter_map(|other| asked(other, resource)).sum();
            let own = if with { asked(pod, resource).unwrap_or(0) } else { 0 };
            ((others + own) as f64 / room(node, resource) as f64).min(1.0)
        };
        let deviation = ((share("cpu") - share("memory")) / 2.0).abs();
        ((1.0 - deviation) * 100.0) as i64
    };
    50 + (50 + even(true) - even(false)) / 2
}

fn ports(world: &World, pod: &Pod, name: &str) -> String {
    let of = |pod: &Pod| -> Vec<(String, String, i32)> {
        let ports = pod.spec.as_ref().unwrap().containers[0].ports.clone().unwrap_or_default();
        ports.into_iter().map(|port| (port.protocol.unwrap(), port.host_ip.unwrap(), port.host_port.unwrap())).collect()
    };
    let taken = of(pod).into_iter().any(|(protocol, ip, port)| {
        world.on(name).flat_map(of).any(|(other_protocol, other_ip, other_port)| {
            let same = ip == other_ip || ip == "0.0.0.0" || other_ip == "0.0.0.0";
            same && protocol == other_protocol && port == other_port
        })
    });
    if taken { "node(s) didn't have free ports for the requested pod ports".into() } else { String::new() }
}

fn cordoned(pod: &Pod, node: &Node) -> String {
    let cordon = k8s_openapi::api::core::v1::Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Default::default()
    };
    let mut only = node.clone();
    only.spec.as_mut().unwrap().taints = Some(vec![cordon]);
    let cordoned = node.spec.as_ref().unwrap().unschedulable == Some(true);
    let refused = cordoned && untolerated_taints(pod, &only, &["NoSchedule"], false) > 0;
    if refused { "node(s) were unschedulable".into() } else { String::new() }
}

fn tainted(pod: &Pod, node: &Node) -> String {
    match untolerated_taints(pod, node, &["NoSchedule", "NoExecute"], false) {
        0 => String::new(),
        _ => "node(s) had untolerated taint(s)".into(),
    }
}

fn off_limits(pod: &Pod, node: &Node) -> String {
    match node_affinity_allows(pod, node) {
        true => String::new(),
        false => "node(s) didn't match Pod's node affinity/selector".into(),
    }
}

fn preferred(pod: &Pod, node: &Node) -> i64 {
    let affinity = pod.spec.as_ref().unwrap().affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let liked = terms.into_iter().flatten().filter(|term| node_term_matches(&term.preference, node));
    liked.map(|term| i64::from(term.weight)).sum()
}

fn images(world: &World, pod: &Pod, node: &Node) -> i64 {
    let wanted = pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    let size = |node: &Node| {
        let images = node.status.as_ref().unwrap().images.clone().unwrap_or_default();
        images.into_iter().find(|image| image.names.iter().flatten().any(|name| *name == wanted))?.size_bytes
    };
    let holders = world.nodes.values().filter(|node| size(node).is_some()).count();
    let scaled = size(node).map_or(0, |size| (size as f64 * (holders as f64 / world.nodes.len() as f64)) as i64);
    let (least, most) = (23 << 20, 1000 << 20);
    MAX_SCORE * (scaled.clamp(least, most) - least) / (most - least)
}

/// Scaled by the largest; with `reverse`, the least is best.
fn scaled(raw: BTreeMap<String, i64>, reverse: bool) -> BTreeMap<String, i64> {
    let largest = raw.values().copied().max().unwrap_or(0);
    let scale = |score: i64| if largest == 0 { 0 } else { MAX_SCORE * score / largest };
    raw.into_iter().map(|(name, score)| (name, if reverse { MAX_SCORE - scale(score) } else { scale(score) })).collect()
}

/// The model's answer for every node.
fn each<T>(world: &World, ask: impl Fn(&str, &Arc<Node>) -> T) -> BTreeMap<String, T> {
    world.nodes.iter().map(|(name, node)| (name.clone(), ask(name, node))).collect()
}

fn fit_plugin() -> Fit {
    let mut args = FitArgs::default();
    args.set_defaults();
    Fit::new(&args)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn filters_of_single_nodes(seed in any::<u64>(), steps in 0usize..40) {
        let mut world = World::new(seed);
        let fit_plugin = fit_plugin();
        for _ in 0..=steps {
            world.step();
            let pod = world.pod();
            prop_assert_eq!(world.verdicts(&fit_plugin, &pod), each(&world, |name, node| fit(&world, &pod, name, node)));
            prop_assert_eq!(world.verdicts(&NodePorts, &pod), each(&world, |name, _| ports(&world, &pod, name)));
            prop_assert_eq!(world.verdicts(&NodeUnschedulable, &pod), each(&world, |_, node| cordoned(&pod, node)));
            prop_assert_eq!(world.verdicts(&TaintToleration, &pod), each(&world, |_, node| tainted(&pod, node)));
            prop_assert_eq!(world.verdicts(&NodeAffinity::default(), &pod), each(&world, |_, node| off_limits(&pod, node)));
        }
    }

    #[test]
    fn scores_of_single_nodes(seed in any::<u64>(), steps in 0usize..40) {
        let mut world = World::new(seed);
        let mut args = BalancedAllocationArgs::default();
        args.set_defaults();
        let (fit_plugin, balanced) = (fit_plugin(), BalancedAllocation::new(&args));
        for _ in 0..=steps {
            world.step();
            let pod = world.pod();
            let least = each(&world, |name, node| least_allocated(&world, &pod, name, node));
            prop_assert_eq!(world.scores(&fit_plugin, &pod), Some(least));
            let asks = asked(&pod, "cpu").or(asked(&pod, "memory")).is_some();
            let even = asks.then(|| each(&world, |name, node| balance(&world, &pod, name, node)));
            prop_assert_eq!(world.scores(&balanced, &pod), even);
            let soft = |_: &str, node: &Arc<Node>| untolerated_taints(&pod, node, &["PreferNoSchedule"], true) as i64;
            prop_assert_eq!(world.scores(&TaintToleration, &pod), Some(scaled(each(&world, soft), true)));
            let liked = scaled(each(&world, |_, node| preferred(&pod, node)), false);
            let got = world.scores(&NodeAffinity::default(), &pod);
            prop_assert_eq!(got.unwrap_or_else(|| each(&world, |_, _| 0)), liked);
            let local = each(&world, |_, node| images(&world, &pod, node));
            prop_assert_eq!(world.scores(&ImageLocality as &dyn Plugin, &pod), Some(local));
        }
    }
}
