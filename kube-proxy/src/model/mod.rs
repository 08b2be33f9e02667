//! What the proxy must do, computed from Services and EndpointSlices. Pure: no I/O, no clocks.

mod endpoints;
mod service;

pub(crate) use endpoints::{EndpointView, slices_to_endpoints};
pub(crate) use service::{Affinity, ServicePort, expand};

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

/// The node on which we run, as far as routing decisions know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Here {
    pub node: String,
    pub zone: Option<String>,
}

/// Everything one backend has to program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    /// By service port name: `namespace/name:port/protocol` order.
    pub ports: BTreeMap<PortName, Routed>,
}

/// Identity of one port of a service, for one IP family's traffic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortName {
    pub namespace: String,
    pub name: String,
    pub port: String,
    pub protocol: Protocol,
}

impl std::fmt::Display for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{}", self.namespace, self.name, self.protocol.nft(), self.port)
    }
}

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// From the API's spelling; absent means TCP.
    pub(crate) fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// As nft and conntrack spell it.
    pub(crate) fn nft(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// An address that traffic is sent to.
pub(crate) type Target = (IpAddr, u16);

/// One service port with the endpoints that traffic of each kind may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Routed {
    pub service: ServicePort,
    /// For traffic with policy `Cluster`.
    pub cluster: Vec<Target>,
    /// For traffic with policy `Local`; used only when a policy asks for it.
    pub local: Vec<Target>,
    /// Whether the service has any usable endpoint, wherever it is.
    pub any: bool,
    /// Ready endpoints on this node: what a load balancer's health check wants to know.
    pub local_ready: usize,
}

impl Routed {
    /// Endpoints for traffic from inside the cluster.
    pub(crate) fn internal(&self) -> &[Target] {
        if self.service.internal_local { &self.local } else { &self.cluster }
    }

    /// Endpoints for traffic from outside.
    pub(crate) fn external(&self) -> &[Target] {
        if self.service.external_local { &self.local } else { &self.cluster }
    }

    /// All endpoints that any rule names.
    pub(crate) fn targets(&self) -> BTreeSet<Target> {
        let mut all = BTreeSet::new();
        if self.service.uses_cluster() {
            all.extend(&self.cluster);
        }
        if self.service.uses_local() {
            all.extend(&self.local);
        }
        all
    }
}

/// Joins services and slices. `ipv6` selects the family, since each backend table holds one.
pub(crate) fn desired(
    services: &[&Service],
    slices: &BTreeMap<(String, String), Vec<&EndpointSlice>>,
    here: &Here,
    ipv6: bool,
) -> Desired {
    let mut result = Desired::default();
    for service in services {
        let ports = expand(service, ipv6);
        if ports.is_empty() {
            continue;
        }
        let key = (ports[0].0.namespace.clone(), ports[0].0.name.clone());
        let own = slices.get(&key).map(Vec::as_slice).unwrap_or_default();
        let by_port = slices_to_endpoints(own, ipv6, &here.node);
        for (name, service) in ports {
            let all = by_port.get(&(name.port.clone(), name.protocol)).map(Vec::as_slice).unwrap_or_default();
            result.ports.insert(name, route(service, all, here));
        }
    }
    result
}

/// Picks endpoints: ready ones, or while none is ready, serving terminating ones (KEP-1669); zone hints narrow the
/// cluster-wide choice when every endpoint carries one (KEP-2433).
fn route(service: ServicePort, all: &[EndpointView], here: &Here) -> Routed {
    let pick = |candidates: Vec<&EndpointView>| -> Vec<EndpointView> {
        let ready: Vec<EndpointView> =
            candidates.iter().filter(|endpoint| endpoint.ready).map(|e| (*e).clone()).collect();
        if !ready.is_empty() {
            return ready;
        }
        candidates.into_iter().filter(|endpoint| endpoint.serving && endpoint.terminating).cloned().collect()
    };
    let targets = |list: Vec<EndpointView>| -> Vec<Target> {
        let set: BTreeSet<Target> = list.into_iter().map(|endpoint| endpoint.target).collect();
        set.into_iter().collect()
    };
    let ready: Vec<&EndpointView> = all.iter().filter(|endpoint| endpoint.ready).collect();
    let local_ready = ready.iter().filter(|endpoint| endpoint.local).count();
    let cluster = pick(all.iter().collect());
    let any = !cluster.is_empty();
    let cluster = endpoints::by_hints(cluster, here, service.traffic_distribution_hints());
    let local = if service.uses_local() {
        targets(pick(all.iter().filter(|endpoint| endpoint.local).collect()))
    } else {
        Vec::new()
    };
    Routed { service, cluster: targets(cluster), local, any, local_ready }
}
