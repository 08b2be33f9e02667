//! Which slices a Service should have: endpoints grouped by their ports and packed into slices, changing
//! as few existing slices as possible.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::hints::{self, Hints, Slices};
use super::topology::{self, Counts, Shares};
use crate::shared::meta::MetaExt;
use crate::shared::owner::controller_ref;
use crate::shared::{pods, services};

pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// What to write.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<EndpointSlice>,
    /// Pods left out because their node is not known yet; the Service must be looked at again.
    pub(super) unknown_nodes: Vec<String>,
}

impl Changes {
    /// How many slices are written.
    pub(super) fn len(&self) -> usize {
        self.create.len() + self.update.len() + self.delete.len()
    }
}

/// What to write, and what else is to know of it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) changes: Changes,
    /// Of each address type the endpoints by zone, or why there are no hints; only under [`Hints::Auto`].
    pub(super) topology: Vec<(&'static str, Result<Counts, String>)>,
    pub(super) tally: Tally,
}

/// Numbers for metrics.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Tally {
    /// Endpoints added and removed, by address type.
    pub(super) moved: Vec<(usize, usize)>,
    pub(super) endpoints: usize,
    pub(super) slices: usize,
    /// How many slices would hold these endpoints.
    pub(super) ideal_slices: usize,
}

/// A node: known or not, and its zone.
pub(super) enum NodeInfo {
    Unknown,
    Known { zone: Option<String> },
}

/// The inputs besides pods and slices.
pub(super) struct Input<'a> {
    pub(super) service: &'a Service,
    pub(super) node: &'a dyn Fn(&str) -> NodeInfo,
    pub(super) max_endpoints: usize,
    pub(super) hints: Hints,
    /// The zones' shares, for [`Hints::Auto`].
    pub(super) shares: Option<&'a Shares>,
}

/// Compares what should be with what is.
pub(super) fn reconcile(input: &Input<'_>, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Plan {
    let families = families(input.service);
    let mut plan = Plan::default();
    for slice in existing.iter().filter(|s| !families.contains(&s.address_type.as_str())) {
        plan.changes.delete.push((**slice).clone());
    }
    for family in families {
        let of_family: Vec<&EndpointSlice> =
            existing.iter().map(|s| &**s).filter(|s| s.address_type == family).collect();
        reconcile_family(input, family, pods, &of_family, &mut plan);
    }
    plan.tally.ideal_slices = plan.tally.ideal_slices.max(1);
    plan
}

/// The address types of the Service.
fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let named: Vec<&'static str> = spec
        .and_then(|s| s.ip_families.as_deref())
        .unwrap_or(&[])
        .iter()
        .filter_map(|f| match f.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if !named.is_empty() {
        return named;
    }
    match spec.and_then(|s| s.cluster_ip.as_deref()).filter(|_| services::has_cluster_ip(service)) {
        Some(ip) if ip.contains(':') => vec!["IPv6"],
        Some(_) => vec!["IPv4"],
        None => vec!["IPv4", "IPv6"],
    }
}

/// Endpoints by identity: address, name and pod; a change of anything else is an update in place.
type Wanted = BTreeMap<String, Endpoint>;

struct Group {
    ports: Vec<EndpointPort>,
    endpoints: Wanted,
}

fn reconcile_family(
    input: &Input<'_>,
    family: &'static str,
    pods: &[Arc<Pod>],
    existing: &[&EndpointSlice],
    plan: &mut Plan,
) {
    let mut groups = wanted_groups(input, family, pods, &mut plan.changes.unknown_nodes);
    let mut by_ports: BTreeMap<String, Vec<&EndpointSlice>> = BTreeMap::new();
    let mut mine = Changes::default();
    for slice in existing {
        match is_owned(slice, input.service) {
            true => by_ports.entry(ports_key(slice.ports.as_deref().unwrap_or(&[]))).or_default().push(slice),
            false => mine.delete.push((*slice).clone()),
        }
    }
    let mut moved = (0, 0);
    for (key, group) in &mut groups {
        let slices = by_ports.remove(key).unwrap_or_default();
        plan.tally.endpoints += group.endpoints.len();
        plan.tally.ideal_slices += group.endpoints.len().div_ceil(input.max_endpoints.max(1));
        let (added, removed) = pack(input, family, group, &slices, &mut mine);
        moved = (moved.0 + added, moved.1 + removed);
    }
    mine.delete.extend(by_ports.into_values().flatten().map(Clone::clone));
    if mine.delete.len() == existing.len() && mine.create.is_empty() {
        keep_placeholder(input, family, &mut mine);
    }
    plan.tally.moved.push(moved);
    plan.tally.slices += (existing.len() + mine.create.len()).saturating_sub(mine.delete.len());
    let outcome = add_hints(input, existing, &mut mine);
    plan.topology.extend(outcome.map(|outcome| (family, outcome)));
    reuse(input.service, &mut mine);
    plan.changes.create.append(&mut mine.create);
    plan.changes.update.append(&mut mine.update);
    plan.changes.delete.append(&mut mine.delete);
}

/// Brings the hints of one address type up to date; also those of slices that would not be written otherwise.
fn add_hints(input: &Input<'_>, existing: &[&EndpointSlice], changes: &mut Changes) -> Option<Result<Counts, String>> {
    let changed: HashSet<&str> = changes.update.iter().chain(&changes.delete).map(MetaExt::name_str).collect();
    let unchanged = existing.iter().filter(|s| !changed.contains(s.name_str())).copied().collect();
    let (create, update) = (std::mem::take(&mut changes.create), std::mem::take(&mut changes.update));
    let mut slices = Slices { create, update, unchanged };
    let outcome = match input.hints {
        Hints::Auto => Some(topology::assign(input.shares, &mut slices)),
        kind => {
            hints::set(kind, &mut slices);
            None
        }
    };
    (changes.create, changes.update) = (slices.create, slices.update);
    outcome
}

fn wanted_groups(
    input: &Input<'_>,
    family: &str,
    pods: &[Arc<Pod>],
    unknown: &mut Vec<String>,
) -> BTreeMap<String, Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pod in pods.iter().filter(|p| services::has_endpoint(p, true)) {
        let ports = endpoint_ports(input.service, pod);
        let group = groups.entry(ports_key(&ports)).or_insert_with(|| Group { ports, endpoints: Wanted::new() });
        let zone = match (input.node)(pods::node_name(pod)) {
            NodeInfo::Known { zone } => zone,
            NodeInfo::Unknown if services::publishes_not_ready(input.service) => None,
            NodeInfo::Unknown => {
                unknown.push(pod.name_str().to_owned());
                continue;
            }
        };
        let endpoint = endpoint(pod, zone, input.service, family);
        if !endpoint.addresses.is_empty() {
            group.endpoints.insert(identity(&endpoint), endpoint);
        }
    }
    groups
}

fn endpoint_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let list = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or(&[]);
    list.iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(services::target_port(pod, port)?),
                protocol: Some(services::protocol(port).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

/// Equal for equal sets of ports.
pub(crate) fn ports_key(ports: &[EndpointPort]) -> String {
    let mut keys: Vec<String> = ports
        .iter()
        .map(|p| {
            let text = |t: &Option<String>| t.clone().unwrap_or_default();
            format!("{}/{}/{}/{}", text(&p.name), p.port.unwrap_or(-1), text(&p.protocol), text(&p.app_protocol))
        })
        .collect();
    keys.sort_unstable();
    keys.join(",")
}

fn endpoint(pod: &Pod, zone: Option<String>, service: &Service, family: &str) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.is_deleting();
    let node = pods::node_name(pod);
    Endpoint {
        addresses: services::ips(pod)
            .into_iter()
            .filter(|ip| ip.is_ipv6() == (family == "IPv6"))
            .map(|ip| ip.to_string())
            .collect(),
        conditions: Some(EndpointConditions {
            ready: Some(services::publishes_not_ready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        node_name: (!node.is_empty()).then(|| node.to_owned()),
        zone: zone.filter(|z| !z.is_empty()),
        hostname: services::hostname(pod, service).map(str::to_owned),
        hints: None,
        deprecated_topology: None,
    }
}

fn identity(endpoint: &Endpoint) -> String {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort_unstable();
    let target = endpoint.target_ref.as_ref();
    let name = target.and_then(|t| t.name.as_deref()).unwrap_or("");
    let namespace = target.and_then(|t| t.namespace.as_deref()).unwrap_or("");
    format!("{addresses:?} {} {namespace}/{name}", endpoint.hostname.as_deref().unwrap_or(""))
}

fn same_state(a: &Endpoint, b: &Endpoint) -> bool {
    let uid = |e: &Endpoint| e.target_ref.as_ref().and_then(|t| t.uid.clone());
    a.conditions == b.conditions && a.node_name == b.node_name && a.zone == b.zone && uid(a) == uid(b)
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.metadata.owner_references.as_deref().unwrap_or(&[]);
    owners.iter().any(|o| o.uid == service.uid_str() && o.kind == "Service" && o.api_version == "v1")
}

fn len(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

/// Fits one group into its slices: first drop and refresh in place, then fill slices that change anyway,
/// then one unchanged slice that takes all the rest, then new ones. How many endpoints were added and removed.
fn pack(
    input: &Input<'_>,
    family: &str,
    group: &mut Group,
    slices: &[&EndpointSlice],
    changes: &mut Changes,
) -> (usize, usize) {
    let mut removed = 0;
    let labels = slice_labels(input.service);
    let mut update: Vec<EndpointSlice> = Vec::new();
    let mut unchanged: Vec<&EndpointSlice> = Vec::new();
    for slice in slices {
        let old = slice.endpoints.as_deref().unwrap_or(&[]);
        let mut kept = Vec::with_capacity(old.len());
        let mut changed = false;
        for endpoint in old {
            if let Some(new) = group.endpoints.remove(&identity(endpoint)) {
                changed |= !same_state(&new, endpoint);
                kept.push(new);
            }
        }
        changed |= kept.len() != old.len();
        removed += old.len() - kept.len();
        if changed && kept.is_empty() {
            changes.delete.push((*slice).clone());
        } else if changed || slice.metadata.labels.as_ref() != Some(&labels) {
            let mut copy = (*slice).clone();
            copy.endpoints = Some(kept);
            copy.metadata.labels = Some(labels.clone());
            update.push(copy);
        } else {
            unchanged.push(slice);
        }
    }
    let added = group.endpoints.len();
    // Fullest first, so that as few slices as possible stay half empty.
    update.sort_by_key(|s| std::cmp::Reverse(len(s)));
    for slice in &mut update {
        fill(slice, &mut group.endpoints, input.max_endpoints);
    }
    while !group.endpoints.is_empty() {
        let rest = group.endpoints.len();
        let fitting = (rest < input.max_endpoints).then(|| best_fit(&unchanged, rest, input.max_endpoints)).flatten();
        let mut slice = match fitting {
            Some(index) => unchanged.swap_remove(index).clone(),
            None => new_slice(input.service, family, group.ports.clone()),
        };
        fill(&mut slice, &mut group.endpoints, input.max_endpoints);
        match slice.metadata.name {
            Some(_) => update.push(slice),
            None => changes.create.push(slice),
        }
    }
    changes.update.append(&mut update);
    (added, removed)
}

fn fill(slice: &mut EndpointSlice, rest: &mut Wanted, max: usize) {
    let list = slice.endpoints.get_or_insert_default();
    while list.len() < max {
        let Some((_, endpoint)) = rest.pop_first() else { return };
        list.push(endpoint);
    }
}

/// The slice that the rest fills best.
fn best_fit(slices: &[&EndpointSlice], rest: usize, max: usize) -> Option<usize> {
    let room = |s: &&EndpointSlice| max.checked_sub(len(s) + rest);
    let fitting = slices.iter().enumerate().filter_map(|(i, s)| Some((room(s)?, i)));
    fitting.min().filter(|(left, _)| *left < max).map(|(_, i)| i)
}

fn new_slice(service: &Service, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    let name = service.name_str();
    let prefix = if name.len() < 253 { format!("{name}-") } else { name.to_owned() };
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: service.metadata.namespace.clone(),
            generate_name: Some(prefix),
            labels: Some(slice_labels(service)),
            owner_references: Some(vec![controller_ref(service, "v1", "Service")]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        ports: Some(ports),
        endpoints: Some(Vec::new()),
    }
}

/// The Service's labels and those that say whose the slice is.
fn slice_labels(service: &Service) -> BTreeMap<String, String> {
    let reserved = BTreeSet::from([SERVICE_NAME, MANAGED_BY, services::HEADLESS]);
    let own = service.metadata.labels.iter().flatten();
    let mut labels: BTreeMap<String, String> =
        own.filter(|(k, _)| !reserved.contains(k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
    if !services::has_cluster_ip(service) {
        labels.insert(services::HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.name_str().to_owned());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    labels
}

/// A Service without endpoints keeps one empty slice, so that consumers can tell "none" from "not yet".
fn keep_placeholder(input: &Input<'_>, family: &str, changes: &mut Changes) {
    let placeholder = new_slice(input.service, family, Vec::new());
    let is_one = |s: &EndpointSlice| {
        len(s) == 0
            && s.ports.as_ref().is_none_or(Vec::is_empty)
            && s.metadata.labels == placeholder.metadata.labels
            && is_owned(s, input.service)
    };
    match &changes.delete[..] {
        [only] if is_one(only) => changes.delete.clear(),
        _ => changes.create.push(placeholder),
    }
}

/// A slice that would be deleted becomes the one that would be created: one call instead of two.
fn reuse(service: &Service, changes: &mut Changes) {
    let mut index = 0;
    while index < changes.delete.len() && !changes.create.is_empty() {
        if !is_owned(&changes.delete[index], service) {
            index += 1;
            continue;
        }
        let old = changes.delete.remove(index);
        if let Some(mut new) = changes.create.pop() {
            new.metadata = ObjectMeta { labels: new.metadata.labels, ..old.metadata };
            changes.update.push(new);
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
