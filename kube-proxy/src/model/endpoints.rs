//! EndpointSlices of one service, merged: an address in two slices counts once.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Here, Protocol, Target};

/// Port name and protocol, as both Service and EndpointSlice know it.
pub(crate) type EndpointPort = (String, Protocol);

/// One endpoint on one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointView {
    pub target: Target,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub local: bool,
    pub hint_zones: Vec<String>,
    pub hint_nodes: Vec<String>,
}

/// Groups the endpoints of a service's slices by port.
pub(crate) fn slices_to_endpoints(
    slices: &[&EndpointSlice],
    ipv6: bool,
    node: &str,
) -> BTreeMap<EndpointPort, Vec<EndpointView>> {
    let mut result: BTreeMap<EndpointPort, BTreeMap<Target, EndpointView>> = BTreeMap::new();
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    for slice in slices.iter().filter(|slice| slice.address_type == family) {
        for port in slice.ports.iter().flatten() {
            let Some(number) = port.port.and_then(|number| u16::try_from(number).ok()) else { continue };
            let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
            let of_port = result.entry((port.name.clone().unwrap_or_default(), protocol)).or_default();
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(address) = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok()) else {
                    continue;
                };
                let conditions = endpoint.conditions.clone().unwrap_or_default();
                // An absent condition means ready; serving falls back to ready (API doc of EndpointConditions).
                let ready = conditions.ready.unwrap_or(true);
                let hints = endpoint.hints.clone().unwrap_or_default();
                let view = EndpointView {
                    target: (address, number),
                    ready,
                    serving: conditions.serving.unwrap_or(ready),
                    terminating: conditions.terminating.unwrap_or(false),
                    local: endpoint.node_name.as_deref() == Some(node),
                    hint_zones: hints.for_zones.into_iter().flatten().map(|zone| zone.name).collect(),
                    hint_nodes: hints.for_nodes.into_iter().flatten().map(|node| node.name).collect(),
                };
                let known = of_port.entry(view.target).or_insert_with(|| view.clone());
                if view.ready && !known.ready {
                    *known = view;
                }
            }
        }
    }
    result.into_iter().map(|(port, views)| (port, views.into_values().collect())).collect()
}

/// Keeps the endpoints hinted for this node, else for its zone; all of them when any lacks a hint or none is for us.
pub(crate) fn by_hints(all: Vec<EndpointView>, here: &Here, asked: bool) -> Vec<EndpointView> {
    if !asked || all.is_empty() {
        return all;
    }
    if all.iter().all(|endpoint| !endpoint.hint_nodes.is_empty()) {
        let ours: Vec<_> = all.iter().filter(|endpoint| endpoint.hint_nodes.contains(&here.node)).cloned().collect();
        if !ours.is_empty() {
            return ours;
        }
    }
    let Some(zone) = &here.zone else { return all };
    if all.iter().any(|endpoint| endpoint.hint_zones.is_empty()) {
        return all;
    }
    let ours: Vec<_> = all.iter().filter(|endpoint| endpoint.hint_zones.contains(zone)).cloned().collect();
    if ours.is_empty() { all } else { ours }
}
