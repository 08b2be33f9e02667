//! A Service's ports: addresses on which they are reached and policies of their traffic.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;

use super::{PortName, Protocol};

/// A Service that another proxy handles carries this label.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// A headless Service that something else handles carries this label.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Whether a client sticks to its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affinity {
    None,
    ClientIp(Duration),
}

/// One port of a Service in one IP family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub cluster_ip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub node_port: Option<u16>,
    pub external_ips: BTreeSet<IpAddr>,
    pub load_balancer_ips: BTreeSet<IpAddr>,
    /// Empty: everybody may use the load balancer.
    pub source_ranges: BTreeSet<IpNet>,
    pub affinity: Affinity,
    pub internal_local: bool,
    pub external_local: bool,
    pub health_check_node_port: Option<u16>,
    /// `spec.trafficDistribution` or the older annotation asks for zone hints to be honoured.
    pub hints: bool,
}

impl ServicePort {
    /// Whether it can be reached by anything but its cluster IP.
    pub(crate) fn is_external(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    pub(crate) fn uses_cluster(&self) -> bool {
        !self.internal_local || (self.is_external() && !self.external_local)
    }

    pub(crate) fn uses_local(&self) -> bool {
        self.internal_local || (self.is_external() && self.external_local)
    }

    pub(crate) fn traffic_distribution_hints(&self) -> bool {
        self.hints
    }
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>, ipv6: bool) -> BTreeSet<IpAddr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).filter(|ip: &IpAddr| ip.is_ipv6() == ipv6).collect()
}

fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// The ports of a Service that this proxy serves in one family; none for headless, ExternalName and foreign ones.
pub(crate) fn expand(service: &Service, ipv6: bool) -> Vec<(PortName, ServicePort)> {
    let (Some(spec), Some(name)) = (&service.spec, &service.metadata.name) else { return Vec::new() };
    let namespace = service.metadata.namespace.clone().unwrap_or_default();
    let foreign = service
        .metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL) || labels.contains_key(HEADLESS_LABEL));
    if foreign || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let listed = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
    let Some(cluster_ip) = addresses(listed, ipv6).into_iter().next() else { return Vec::new() };

    let load_balancer = spec.type_.as_deref() == Some("LoadBalancer");
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    // ipMode Proxy: the load balancer wants to see the traffic itself (KEP-1860).
    let ingress_ips = ingress.into_iter().flatten().filter(|entry| entry.ip_mode.as_deref() != Some("Proxy"));
    let load_balancer_ips = if load_balancer {
        addresses(ingress_ips.filter_map(|entry| entry.ip.as_ref()), ipv6)
    } else {
        BTreeSet::new()
    };
    let source_ranges = spec.load_balancer_source_ranges.iter().flatten();
    let source_ranges =
        source_ranges.filter_map(|text| text.trim().parse::<IpNet>().ok()).filter(|net| net.addr().is_ipv6() == ipv6);
    let affinity = match spec.session_affinity.as_deref() {
        Some("ClientIP") => {
            let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = client.and_then(|client| client.timeout_seconds).unwrap_or(10_800);
            Affinity::ClientIp(Duration::from_secs(u64::try_from(seconds).unwrap_or(10_800)))
        }
        _ => Affinity::None,
    };
    let annotation = |key: &str| service.metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    let hints = spec.traffic_distribution.is_some()
        || annotation("service.kubernetes.io/topology-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("auto"));
    let shared = ServicePort {
        cluster_ip,
        port: 0,
        protocol: Protocol::Tcp,
        node_port: None,
        external_ips: addresses(spec.external_ips.iter().flatten(), ipv6),
        load_balancer_ips,
        source_ranges: if load_balancer { source_ranges.collect() } else { BTreeSet::new() },
        affinity,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        health_check_node_port: spec.health_check_node_port.and_then(port_number),
        hints,
    };
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = Protocol::parse(port.protocol.as_deref())?;
        let name = PortName {
            namespace: namespace.clone(),
            name: name.clone(),
            port: port.name.clone().unwrap_or_default(),
            protocol,
        };
        let node_port = port.node_port.and_then(port_number);
        Some((name, ServicePort { port: port_number(port.port)?, protocol, node_port, ..shared.clone() }))
    });
    ports.collect()
}
