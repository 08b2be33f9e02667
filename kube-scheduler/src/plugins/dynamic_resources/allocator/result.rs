//! From picked devices to the allocation result that the claim's status will hold.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceRequestAllocationResult,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::Features;
use super::problem::{Problem, Wanted};
use super::search::Pick;

/// One result per claim. `choices` are the alternatives in use, per claim and request.
pub fn build(problem: &Problem, picks: &[Vec<Pick<'_>>], choices: &[Vec<usize>], node: &Node) -> Vec<AllocationResult> {
    let claims = problem.claims.iter().zip(picks).zip(choices);
    claims
        .map(|((claim, picks), choices)| AllocationResult {
            allocation_timestamp: None,
            devices: Some(DeviceAllocationResult {
                config: some(configuration(claim, choices)),
                results: some(picks.iter().map(|pick| result(pick, problem.features)).collect()),
            }),
            node_selector: node_selector(picks, node),
        })
        .collect()
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn result(pick: &Pick<'_>, features: Features) -> DeviceRequestAllocationResult {
    let id = &pick.slice.devices[pick.device].id;
    let api = pick.slice.device_api(pick.device).filter(|_| features.binding_conditions);
    let consumed: BTreeMap<_, _> =
        pick.taken.iter().flatten().map(|(name, amount)| (name.clone(), ApiQuantity(amount.to_string()))).collect();
    DeviceRequestAllocationResult {
        admin_access: pick.want.admin.then_some(true),
        binding_conditions: api.and_then(|device| device.binding_conditions.clone()),
        binding_failure_conditions: api.and_then(|device| device.binding_failure_conditions.clone()),
        consumed_capacity: (!consumed.is_empty()).then_some(consumed),
        device: id.device.to_string(),
        driver: id.driver.to_string(),
        pool: id.pool.to_string(),
        request: pick.want.full_name(),
        share_id: pick.taken.is_some().then(|| uuid::Uuid::new_v4().to_string()),
        tolerations: some(pick.want.tolerations.clone()),
    }
}

/// Configurations of the classes, each class once with all its requests, then the claim's that concern what was chosen.
fn configuration(claim: &Wanted, choices: &[usize]) -> Vec<DeviceAllocationConfiguration> {
    let mut all: Vec<DeviceAllocationConfiguration> = Vec::new();
    let mut of_class: BTreeMap<&str, std::ops::Range<usize>> = BTreeMap::new();
    let chosen: Vec<_> = claim.requests.iter().zip(choices).filter_map(|(wants, choice)| wants.get(*choice)).collect();
    for want in &chosen {
        let name = want.class.metadata.name.as_deref().unwrap_or_default();
        if let Some(range) = of_class.get(name) {
            for config in &mut all[range.clone()] {
                config.requests.get_or_insert_default().push(want.full_name());
            }
            continue;
        }
        let start = all.len();
        all.extend(want.class.spec.config.iter().flatten().map(|config| DeviceAllocationConfiguration {
            opaque: config.opaque.clone(),
            requests: Some(vec![want.full_name()]),
            source: "FromClass".into(),
        }));
        of_class.insert(name, start..all.len());
    }
    let own = claim.claim.spec.devices.iter().flat_map(|devices| devices.config.iter().flatten());
    for config in own {
        let requests = config.requests.as_deref().unwrap_or_default();
        let concerned = |want: &&&super::problem::Want| {
            let base = want.parent.as_ref().unwrap_or(&want.name);
            requests.contains(base) || requests.contains(&want.full_name())
        };
        // Named for several requests it is there several times, as upstream has it.
        let times = if requests.is_empty() { 1 } else { chosen.iter().filter(concerned).count() };
        all.extend((0..times).map(|_| DeviceAllocationConfiguration {
            opaque: config.opaque.clone(),
            requests: config.requests.clone(),
            source: "FromClaim".into(),
        }));
    }
    all
}

/// Where the devices can be used: on the node if any of them is tied to it, else wherever all of them can.
fn node_selector(picks: &[Pick<'_>], node: &Node) -> Option<NodeSelector> {
    let mut term = NodeSelectorTerm::default();
    for pick in picks {
        let spec = &pick.slice.api.spec;
        let device = pick.slice.device_api(pick.device)?;
        let (name, selector) = match spec.per_device_node_selection {
            Some(true) => (&device.node_name, &device.node_selector),
            _ => (&spec.node_name, &spec.node_selector),
        };
        if name.is_some() || device.binds_to_node == Some(true) {
            return Some(only(node));
        }
        if let Some(other) = selector.as_ref().and_then(|selector| selector.node_selector_terms.first()) {
            merge(other.match_fields.as_deref(), &mut term.match_fields);
            merge(other.match_expressions.as_deref(), &mut term.match_expressions);
        }
    }
    let empty = term.match_fields.is_none() && term.match_expressions.is_none();
    (!empty).then(|| NodeSelector { node_selector_terms: vec![term] })
}

fn only(node: &Node) -> NodeSelector {
    let requirement = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.metadata.name.clone().unwrap_or_default()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![requirement]), match_expressions: None };
    NodeSelector { node_selector_terms: vec![term] }
}

fn merge(from: Option<&[NodeSelectorRequirement]>, to: &mut Option<Vec<NodeSelectorRequirement>>) {
    let sorted = |requirement: &NodeSelectorRequirement| {
        let mut values = requirement.values.clone().unwrap_or_default();
        values.sort();
        (requirement.key.clone(), requirement.operator.clone(), values)
    };
    for requirement in from.unwrap_or_default() {
        let known = to.iter().flatten().any(|other| sorted(other) == sorted(requirement));
        if !known {
            to.get_or_insert_default().push(requirement.clone());
        }
    }
}
