//! A Service's ports: addresses on which they are reached and policies of their traffic.

use std::net::IpAddr;

use common::meta::ip::Cidr;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::{Family, PortName, Protocol, ServiceKey};

/// A Service that another proxy handles carries this label.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// One port of a Service in one IP family. Most have nothing external, so that part is apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub cluster_ip: IpAddr,
    pub port: u16,
    /// How long a client sticks to its endpoint, in seconds.
    pub affinity: Option<u32>,
    pub internal_local: bool,
    pub external: Option<Box<External>>,
}

/// Ways to a service port from outside of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct External {
    pub node_port: Option<u16>,
    pub external_ips: Vec<IpAddr>,
    pub load_balancer_ips: Vec<IpAddr>,
    /// Empty: everybody may use the load balancer.
    pub source_ranges: Vec<IpNet>,
    pub local: bool,
    pub health_check_node_port: Option<u16>,
}

impl External {
    fn is_reachable(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }
}

impl ServicePort {
    /// Whether it can be reached by anything but its cluster IP.
    pub(crate) fn is_external(&self) -> bool {
        self.external.as_ref().is_some_and(|external| external.is_reachable())
    }

    /// Whether traffic from outside stays on this node.
    pub(crate) fn external_local(&self) -> bool {
        self.external.as_ref().is_some_and(|external| external.local)
    }

    /// Also with only local policies, traffic of pods and of the node itself to external addresses goes anywhere.
    pub(crate) fn uses_cluster(&self) -> bool {
        !self.internal_local || self.is_external()
    }

    pub(crate) fn uses_local(&self) -> bool {
        self.internal_local || (self.external_local() && self.is_external())
    }

    /// External addresses, load balancers' ones included.
    pub(crate) fn external_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.external
            .iter()
            .flat_map(|external| external.external_ips.iter().chain(&external.load_balancer_ips))
            .copied()
    }

    /// The node port, if there is one.
    pub(crate) fn node_port(&self) -> Option<u16> {
        self.external.as_ref()?.node_port
    }
}

fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Addresses of one family; each once.
fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>, family: Family) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for ip in texts.into_iter().filter_map(|text| common::meta::ip::sloppy_ip(text)) {
        if Family::of(ip) == family && !all.contains(&ip) {
            all.push(ip);
        }
    }
    all
}

/// The ports of a Service that this proxy serves in one family; none for headless, ExternalName and foreign ones.
pub(crate) fn expand(key: &ServiceKey, service: &Service, family: Family) -> Vec<(PortName, ServicePort)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let foreign = service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL));
    if foreign || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let listed = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
    let Some(cluster_ip) = addresses(listed, family).into_iter().next() else { return Vec::new() };
    let external = external(service, spec, family);
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        client.and_then(|client| u32::try_from(client.timeout_seconds?).ok()).unwrap_or(10_800)
    });
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = Protocol::parse(port.protocol.as_deref())?;
        let name = PortName { service: key.clone(), port: port.name.as_deref().unwrap_or_default().into(), protocol };
        let external = External { node_port: port.node_port.and_then(port_number), ..external.clone() };
        let external = (external.is_reachable() || external.health_check_node_port.is_some()).then(|| external.into());
        let service = ServicePort {
            cluster_ip,
            port: port_number(port.port)?,
            affinity,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external,
        };
        Some((name, service))
    });
    ports.collect()
}

/// What all ports of a Service share.
fn external(service: &Service, spec: &ServiceSpec, family: Family) -> External {
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    // ipMode Proxy: the load balancer wants to see the traffic itself (KEP-1860).
    let vips = ingress.into_iter().flatten().filter(|entry| entry.ip_mode.as_deref() != Some("Proxy"));
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let mut source_ranges: Vec<IpNet> = ranges
        .filter_map(|text| Cidr::sloppy(text.trim())?.network())
        .filter(|net| Family::of(net.addr()) == family)
        .map(|net| net.trunc())
        .collect();
    if source_ranges.iter().any(|net| net.prefix_len() == 0) {
        source_ranges.clear();
    }
    // Without an external type the API server keeps the policy empty.
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let health = spec.health_check_node_port.and_then(port_number);
    External {
        node_port: None,
        external_ips: addresses(spec.external_ips.iter().flatten(), family),
        load_balancer_ips: addresses(vips.filter_map(|entry| entry.ip.as_ref()), family),
        source_ranges,
        local,
        health_check_node_port: health.filter(|_| local && spec.type_.as_deref() == Some("LoadBalancer")),
    }
}
