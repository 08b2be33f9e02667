//! KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1) with upstream's defaults.

use std::{collections::BTreeMap, time::Duration};

use common::config::duration;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file as it is written; /configz shows it with defaults.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Configuration {
    pub feature_gates: BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    pub logging: Value,
    pub hostname_override: String,
    pub bind_address: String,
    pub healthz_bind_address: String,
    pub metrics_bind_address: String,
    pub bind_address_hard_fail: bool,
    pub enable_profiling: bool,
    pub show_hidden_metrics_for_version: String,
    pub mode: String,
    pub iptables: Iptables,
    pub ipvs: Ipvs,
    pub nftables: Nftables,
    pub winkernel: Value,
    pub detect_local_mode: String,
    pub detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    pub node_port_addresses: Option<Vec<String>>,
    pub oom_score_adj: Option<i32>,
    pub conntrack: Conntrack,
    #[serde(with = "duration")]
    pub config_sync_period: Duration,
    pub port_range: String,
    pub windows_run_as_service: bool,
}

/// How to reach the API server.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f32,
    pub burst: i32,
}

/// iptables mode.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Iptables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub localhost_node_ports: Option<bool>,
    #[serde(with = "duration")]
    pub sync_period: Duration,
    #[serde(with = "duration")]
    pub min_sync_period: Duration,
}

/// IPVS mode: read, so that a file with this section is valid.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Ipvs {
    #[serde(with = "duration")]
    pub sync_period: Duration,
    #[serde(with = "duration")]
    pub min_sync_period: Duration,
    pub scheduler: String,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    #[serde(with = "duration")]
    pub tcp_timeout: Duration,
    #[serde(with = "duration")]
    pub tcp_fin_timeout: Duration,
    #[serde(with = "duration")]
    pub udp_timeout: Duration,
}

/// nftables mode.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Nftables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    #[serde(with = "duration")]
    pub sync_period: Duration,
    #[serde(with = "duration")]
    pub min_sync_period: Duration,
}

/// Names of interfaces for the modes that go by them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct DetectLocal {
    pub bridge_interface: String,
    pub interface_name_prefix: String,
}

/// The kernel's connection tracking.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Conntrack {
    pub max_per_core: Option<i32>,
    pub min: Option<i32>,
    #[serde(with = "duration::option")]
    pub tcp_established_timeout: Option<Duration>,
    #[serde(with = "duration::option")]
    pub tcp_close_wait_timeout: Option<Duration>,
    pub tcp_be_liberal: bool,
    #[serde(with = "duration")]
    pub udp_timeout: Duration,
    #[serde(with = "duration")]
    pub udp_stream_timeout: Duration,
}

fn or(value: &mut Duration, seconds: u64) {
    if value.is_zero() {
        *value = Duration::from_secs(seconds);
    }
}

/// With this port, unless the address has one.
pub(crate) fn with_port(address: &str, port: u16) -> String {
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        Ok(ip) => format!("{ip}:{port}"),
        Err(_) => address.to_owned(),
    }
}

impl Configuration {
    /// Fills in upstream's defaults.
    pub(crate) fn default_missing(&mut self) {
        if self.bind_address.is_empty() {
            self.bind_address = "0.0.0.0".into();
        }
        let v6 = common::meta::ip::sloppy_ip(&self.bind_address).is_some_and(|ip| ip.is_ipv6());
        let (healthz, metrics) = if v6 { ("::", "::1") } else { ("0.0.0.0", "127.0.0.1") };
        for (address, default, port) in
            [(&mut self.healthz_bind_address, healthz, 10256), (&mut self.metrics_bind_address, metrics, 10249)]
        {
            *address = with_port(if address.is_empty() { default } else { address }, port);
        }
        self.oom_score_adj.get_or_insert(-999);
        or(&mut self.iptables.sync_period, 30);
        or(&mut self.iptables.min_sync_period, 1);
        or(&mut self.ipvs.sync_period, 30);
        or(&mut self.nftables.sync_period, 30);
        or(&mut self.nftables.min_sync_period, 1);
        self.iptables.localhost_node_ports.get_or_insert(true);
        self.iptables.masquerade_bit.get_or_insert(14);
        self.nftables.masquerade_bit.get_or_insert(14);
        self.conntrack.max_per_core.get_or_insert(32 << 10);
        self.conntrack.min.get_or_insert(128 << 10);
        self.conntrack.tcp_established_timeout.get_or_insert(Duration::from_secs(24 * 3600));
        self.conntrack.tcp_close_wait_timeout.get_or_insert(Duration::from_secs(3600));
        or(&mut self.config_sync_period, 15 * 60);
        let client = &mut self.client_connection;
        if client.content_type.is_empty() {
            client.content_type = "application/vnd.kubernetes.protobuf".into();
        }
        if client.qps == 0.0 {
            client.qps = 5.0;
        }
        if client.burst == 0 {
            client.burst = 10;
        }
    }

    /// Fills in what depends on the platform; after the flags.
    pub(crate) fn default_for_platform(&mut self) {
        if self.mode.is_empty() {
            self.mode = "iptables".into();
        }
        let addresses = self.node_port_addresses.get_or_insert_default();
        if self.mode == "nftables" && addresses.is_empty() {
            addresses.push("primary".into());
        }
        if self.detect_local_mode.is_empty() {
            self.detect_local_mode = "ClusterCIDR".into();
        }
    }

    /// The period of checks and retries, and the shortest time between two changes, of the mode.
    pub(crate) fn sync_periods(&self) -> (Duration, Duration) {
        match self.mode.as_str() {
            "nftables" => (self.nftables.sync_period, self.nftables.min_sync_period),
            "ipvs" => (self.ipvs.sync_period, self.ipvs.min_sync_period),
            _ => (self.iptables.sync_period, self.iptables.min_sync_period),
        }
    }

    pub(crate) fn masquerade_all(&self) -> bool {
        if self.mode == "nftables" { self.nftables.masquerade_all } else { self.iptables.masquerade_all }
    }

    /// Pods' networks as written.
    pub(crate) fn cluster_cidrs(&self) -> Vec<&str> {
        self.cluster_cidr.split(',').filter(|_| !self.cluster_cidr.is_empty()).collect()
    }
}
