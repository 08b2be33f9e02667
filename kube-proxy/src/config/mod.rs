//! Flags and the configuration file, joined and checked. A file replaces the flags that it covers, as upstream does.

mod file;
mod flags;
mod validate;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use common::{
    config::{ConfigError, flags::ClientConnection},
    meta::ip::{Cidr, sloppy_ip},
};
use ipnet::IpNet;

pub(crate) use file::Configuration;
pub use flags::Options;

use crate::{model::Family, settings::LocalDetector, sysctls};

/// What the rules are written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    Iptables,
}

impl Mode {
    /// As /proxyMode and the configuration spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// Where pods are told from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DetectLocal {
    ClusterCidr(Vec<IpNet>),
    /// The node's `spec.podCIDRs`.
    NodeCidr,
    Bridge(String),
    InterfacePrefix(String),
}

impl DetectLocal {
    /// For one family. `pod_cidrs`: the node's.
    pub(crate) fn detector(&self, family: Family, pod_cidrs: &[IpNet]) -> LocalDetector {
        let first = |nets: &[IpNet]| {
            let net = nets.iter().find(|net| Family::of(net.addr()) == family);
            net.map_or(LocalDetector::None, |net| LocalDetector::Cidr(*net))
        };
        match self {
            Self::ClusterCidr(nets) => first(nets),
            Self::NodeCidr => first(pod_cidrs),
            Self::Bridge(name) => LocalDetector::Bridge(name.clone()),
            Self::InterfacePrefix(name) => LocalDetector::InterfacePrefix(name.clone()),
        }
    }
}

/// Addresses that answer on node ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodePorts {
    /// The node's own, of its status.
    Primary,
    /// Those in these networks; all when there are none.
    Nets(Vec<IpNet>),
}

/// What the daemon needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub client: ClientConnection,
    pub node: String,
    pub mode: Mode,
    pub masquerade_all: bool,
    pub masquerade_mark: u32,
    pub localhost_node_ports: bool,
    pub detect_local: DetectLocal,
    pub node_ports: NodePorts,
    /// Overrides the node's address of its family, unless it is unspecified.
    pub bind_address: Option<IpAddr>,
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub bind_address_hard_fail: bool,
    pub conntrack: sysctls::Conntrack,
    pub oom_score_adj: Option<i32>,
    /// How often it is looked whether the rules are still there, and after which time a failed change is tried again at last.
    pub sync_period: Duration,
    pub min_sync_period: Duration,
    /// What /configz shows.
    pub shown: Configuration,
}

/// Why the options don't make a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionsError {
    #[error("failed complete: {0}")]
    File(#[from] ConfigError),
    #[error("failed complete: {0}")]
    Complete(String),
    #[error("failed validate: {0}")]
    Validate(String),
    #[error("can't use the IPVS proxier: this kube-proxy programs nftables or iptables; set the mode to one of them")]
    Ipvs,
}

fn nets<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<IpNet> {
    texts.into_iter().filter_map(|text| Cidr::sloppy(text)?.network()).collect()
}

fn unsigned(value: Option<i32>) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
}

/// Makes what the daemon needs out of a valid configuration.
fn complete(config: Configuration, client: ClientConnection, node: String) -> Result<Config, OptionsError> {
    validate::validate(&config).result().map_err(OptionsError::Validate)?;
    let mode = match config.mode.as_str() {
        "nftables" => Mode::Nftables,
        "ipvs" => return Err(OptionsError::Ipvs),
        _ => Mode::Iptables,
    };
    let bit = if mode == Mode::Nftables { config.nftables.masquerade_bit } else { config.iptables.masquerade_bit };
    let detect_local = match config.detect_local_mode.as_str() {
        "NodeCIDR" => DetectLocal::NodeCidr,
        "BridgeInterface" => DetectLocal::Bridge(config.detect_local.bridge_interface.clone()),
        "InterfaceNamePrefix" => DetectLocal::InterfacePrefix(config.detect_local.interface_name_prefix.clone()),
        _ => DetectLocal::ClusterCidr(nets(config.cluster_cidrs())),
    };
    let addresses = config.node_port_addresses.as_deref().unwrap_or_default();
    let node_ports = if addresses == ["primary"] {
        NodePorts::Primary
    } else {
        NodePorts::Nets(nets(addresses.iter().map(String::as_str)))
    };
    let (sync_period, min_sync_period) = config.sync_periods();
    let conntrack = &config.conntrack;
    Ok(Config {
        client,
        node,
        mode,
        masquerade_all: config.masquerade_all(),
        masquerade_mark: 1 << unsigned(bit).min(31),
        localhost_node_ports: config.iptables.localhost_node_ports.unwrap_or(true),
        detect_local,
        node_ports,
        bind_address: sloppy_ip(&config.bind_address).filter(|ip| !ip.is_unspecified()),
        healthz: config.healthz_bind_address.parse().ok(),
        metrics: config.metrics_bind_address.parse().ok(),
        bind_address_hard_fail: config.bind_address_hard_fail,
        conntrack: sysctls::Conntrack {
            max_per_core: unsigned(conntrack.max_per_core),
            min: unsigned(conntrack.min),
            tcp_established: conntrack.tcp_established_timeout.unwrap_or_default(),
            tcp_close_wait: conntrack.tcp_close_wait_timeout.unwrap_or_default(),
            tcp_be_liberal: conntrack.tcp_be_liberal,
            udp: conntrack.udp_timeout,
            udp_stream: conntrack.udp_stream_timeout,
        },
        oom_score_adj: config.oom_score_adj,
        sync_period,
        min_sync_period,
        shown: config,
    })
}
