//! EndpointSlices in compact form, and the endpoints of one service port out of several slices.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Family, Protocol, Target};

/// What routing needs of one slice; large clusters hold millions of endpoints, so each takes 32 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub name: Box<str>,
    pub family: Family,
    pub ports: Box<[(Box<str>, Protocol, u16)]>,
    pub endpoints: Box<[Endpoint]>,
}

/// One address of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub ip: IpAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// On this node.
    pub local: bool,
    pub hints: Option<Box<Hints>>,
}

/// For whom an endpoint is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints {
    pub zones: Vec<String>,
    pub nodes: Vec<String>,
}

impl Slice {
    /// The compact form; `None` for slices of names (FQDN).
    pub(crate) fn new(slice: &EndpointSlice, node: &str) -> Option<Self> {
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let number = u16::try_from(port.port?).ok().filter(|number| *number != 0)?;
            Some((port.name.as_deref().unwrap_or_default().into(), Protocol::parse(port.protocol.as_deref())?, number))
        });
        let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| {
            let ip = common::meta::ip::sloppy_ip(endpoint.addresses.first()?)?;
            let conditions = endpoint.conditions.as_ref();
            // An absent condition is a good one (API doc of EndpointConditions).
            let hints = endpoint.hints.as_ref().map(|hints| Hints {
                zones: hints.for_zones.iter().flatten().map(|zone| zone.name.clone()).collect(),
                nodes: hints.for_nodes.iter().flatten().map(|node| node.name.clone()).collect(),
            });
            Some(Endpoint {
                ip,
                ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
                serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(true),
                terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
                local: endpoint.node_name.as_deref().is_some_and(|name| name == node),
                hints: hints.filter(|hints| *hints != Hints::default()).map(Box::new),
            })
        });
        let name = slice.metadata.name.as_deref().unwrap_or_default().into();
        Some(Self { name, family, ports: ports.collect(), endpoints: endpoints.collect() })
    }
}

/// The endpoints of one port of a Service, by address. One that is in two slices counts once: a running pod that got
/// the address of a terminating one wins.
pub(crate) fn of_port<'a>(
    slices: &'a [Slice],
    family: Family,
    name: &str,
    protocol: Protocol,
) -> BTreeMap<Target, &'a Endpoint> {
    let mut result: BTreeMap<Target, &Endpoint> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        for (_, _, number) in slice.ports.iter().filter(|port| &*port.0 == name && port.1 == protocol) {
            for endpoint in &slice.endpoints {
                let target = (endpoint.ip, *number);
                if !endpoint.terminating || !result.contains_key(&target) {
                    result.insert(target, endpoint);
                }
            }
        }
    }
    result
}
