//! Flags and the KubeProxyConfiguration file (kubeproxy.config.k8s.io/v1alpha1). A file replaces the flags that it covers,
//! as upstream does.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Parser;
use common::config::{ConfigError, duration, flags, load_versioned, parse_go_duration};
use ipnet::IpNet;
use serde::Deserialize;

use crate::nftables::Settings;

/// The Kubernetes network proxy runs on each node.
#[derive(Clone, Debug, Parser)]
#[command(name = "kube-proxy")]
pub struct Options {
    #[command(flatten)]
    pub(crate) logging: flags::Logging,
    #[command(flatten)]
    pub(crate) gates: flags::FeatureGateFlag,
    /// The path to the configuration file.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Path to kubeconfig file with authorization information (the master location can be overridden by the master flag).
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig)
    #[arg(long)]
    master: Option<String>,
    /// If non-empty, will be used as the name of the Node that kube-proxy is running on.
    #[arg(long, default_value = "")]
    hostname_override: String,
    /// Which proxy mode to use: only 'nftables' here.
    #[arg(long, default_value = "nftables")]
    proxy_mode: String,
    /// The CIDR range of the pods in the cluster, one per IP family, separated by commas.
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// SNAT all traffic sent via Service cluster IPs.
    #[arg(long)]
    masquerade_all: bool,
    /// The bit of the packet mark that marks packets for SNAT, from 0 to 31.
    #[arg(long, default_value_t = 14)]
    iptables_masquerade_bit: u32,
    /// Node addresses that answer on node ports: CIDRs, or 'primary' for the node's own.
    #[arg(long, value_delimiter = ',')]
    nodeport_addresses: Vec<String>,
    /// The IP address and port for the health check server to serve on.
    #[arg(long, default_value = "0.0.0.0:10256")]
    healthz_bind_address: String,
    /// The IP address and port for the metrics server to serve on.
    #[arg(long, default_value = "127.0.0.1:10249")]
    metrics_bind_address: String,
    /// An interval for forcibly making all rules anew.
    #[arg(long, default_value = "30s", value_parser = parse_go_duration)]
    iptables_sync_period: Duration,
    /// The minimum period between two changes of the rules.
    #[arg(long, default_value = "1s", value_parser = parse_go_duration)]
    iptables_min_sync_period: Duration,
    /// How often the API is listed anew (accepted; watches keep up).
    #[arg(long, default_value = "15m", value_parser = parse_go_duration)]
    config_sync_period: Duration,
    /// Removes all rules of kube-proxy and exits.
    #[arg(long)]
    pub(crate) cleanup: bool,
}

/// What the daemon needs to know, flags and file joined and checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub client: flags::ClientConnection,
    pub node: String,
    pub settings: Settings,
    /// Node ports answer only on the node's own addresses.
    pub primary_node_ports: bool,
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub full_sync_period: Duration,
    pub min_sync_period: Duration,
}

/// The part of KubeProxyConfiguration that nftables mode reads; sections of other modes are accepted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct File {
    bind_address: String,
    healthz_bind_address: Option<String>,
    metrics_bind_address: Option<String>,
    bind_address_hard_fail: bool,
    enable_profiling: bool,
    show_hidden_metrics_for_version: String,
    mode: String,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: String,
    hostname_override: String,
    node_port_addresses: Option<Vec<String>>,
    oom_score_adj: Option<i32>,
    port_range: String,
    #[serde(with = "duration::option")]
    config_sync_period: Option<Duration>,
    feature_gates: std::collections::BTreeMap<String, bool>,
    client_connection: ClientFile,
    nftables: NftablesFile,
    iptables: serde_json::Value,
    ipvs: serde_json::Value,
    winkernel: serde_json::Value,
    conntrack: serde_json::Value,
    detect_local: serde_json::Value,
    detect_local_mode: String,
    logging: serde_json::Value,
    windows_run_as_service: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct ClientFile {
    kubeconfig: String,
    accept_content_types: String,
    content_type: String,
    qps: f32,
    burst: i32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct NftablesFile {
    masquerade_bit: Option<u32>,
    masquerade_all: bool,
    #[serde(with = "duration::option")]
    sync_period: Option<Duration>,
    #[serde(with = "duration::option")]
    min_sync_period: Option<Duration>,
}

/// Why the options don't make a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionsError {
    #[error(transparent)]
    File(#[from] ConfigError),
    #[error("unknown proxy mode {0:?}: this kube-proxy programs nftables only")]
    Mode(String),
    #[error("invalid value {value:?} for {field}: {reason}")]
    Value { field: &'static str, value: String, reason: String },
}

fn invalid(field: &'static str, value: &str, reason: impl ToString) -> OptionsError {
    OptionsError::Value { field, value: value.to_owned(), reason: reason.to_string() }
}

/// An address with or without a port; an empty text turns the server off.
fn address(field: &'static str, text: &str, port: u16) -> Result<Option<SocketAddr>, OptionsError> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Some(SocketAddr::new(ip, port)));
    }
    text.parse().map(Some).map_err(|error| invalid(field, text, error))
}

impl Options {
    /// Checks the options and reads the file, if one is named.
    pub(crate) fn complete(mut self) -> Result<Config, OptionsError> {
        let mut client = flags::ClientConnection {
            kubeconfig: self.kubeconfig.clone(),
            master: self.master.clone(),
            ..Default::default()
        };
        if let Some(path) = self.config.take() {
            let file: File = load_versioned(&path, "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration")?;
            self.merge(file, &mut client)?;
        }
        if !matches!(self.proxy_mode.as_str(), "" | "nftables") {
            return Err(OptionsError::Mode(self.proxy_mode));
        }
        if self.iptables_masquerade_bit > 31 {
            return Err(invalid(
                "--iptables-masquerade-bit",
                &self.iptables_masquerade_bit.to_string(),
                "must be within the range [0, 31]",
            ));
        }
        let primary = self.nodeport_addresses == ["primary"];
        let parse = |text: &String| text.parse::<IpNet>().map_err(|error| invalid("--nodeport-addresses", text, error));
        let addresses =
            if primary { Vec::new() } else { self.nodeport_addresses.iter().map(parse).collect::<Result<_, _>>()? };
        let node =
            if self.hostname_override.is_empty() { hostname() } else { self.hostname_override.trim().to_lowercase() };
        Ok(Config {
            client,
            node,
            settings: Settings {
                cluster_cidrs: self.cluster_cidr,
                masquerade_all: self.masquerade_all,
                masquerade_bit: self.iptables_masquerade_bit,
                node_port_addresses: addresses,
            },
            primary_node_ports: primary,
            healthz: address("--healthz-bind-address", &self.healthz_bind_address, 10256)?,
            metrics: address("--metrics-bind-address", &self.metrics_bind_address, 10249)?,
            full_sync_period: self.iptables_sync_period.max(Duration::from_secs(1)),
            min_sync_period: self.iptables_min_sync_period,
        })
    }

    fn merge(&mut self, file: File, client: &mut flags::ClientConnection) -> Result<(), OptionsError> {
        let own_hostname = std::mem::take(&mut self.hostname_override);
        self.hostname_override = if own_hostname.is_empty() { file.hostname_override } else { own_hostname };
        self.proxy_mode = file.mode;
        let cidrs = file.cluster_cidr.split(',').filter(|text| !text.is_empty());
        let parse = |text: &str| text.trim().parse::<IpNet>().map_err(|error| invalid("clusterCIDR", text, error));
        self.cluster_cidr = cidrs.map(parse).collect::<Result<_, _>>()?;
        self.nodeport_addresses = file.node_port_addresses.unwrap_or_default();
        if let Some(text) = file.healthz_bind_address.filter(|text| !text.is_empty()) {
            self.healthz_bind_address = text;
        }
        if let Some(text) = file.metrics_bind_address.filter(|text| !text.is_empty()) {
            self.metrics_bind_address = text;
        }
        self.masquerade_all = file.nftables.masquerade_all;
        self.iptables_masquerade_bit = file.nftables.masquerade_bit.unwrap_or(14);
        self.iptables_sync_period =
            file.nftables.sync_period.filter(|d| !d.is_zero()).unwrap_or(Duration::from_secs(30));
        self.iptables_min_sync_period =
            file.nftables.min_sync_period.filter(|d| !d.is_zero()).unwrap_or(Duration::from_secs(1));
        self.gates.feature_gates.extend(file.feature_gates.iter().map(|(name, on)| format!("{name}={on}")));
        if !file.client_connection.kubeconfig.is_empty() {
            client.kubeconfig = Some(file.client_connection.kubeconfig.into());
        }
        if file.client_connection.qps != 0.0 {
            client.kube_api_qps = file.client_connection.qps;
        }
        if let Some(burst) = u32::try_from(file.client_connection.burst).ok().filter(|burst| *burst > 0) {
            client.kube_api_burst = burst;
        }
        Ok(())
    }
}

fn hostname() -> String {
    let name = nix::unistd::gethostname().map(|name| name.to_string_lossy().to_lowercase());
    name.unwrap_or_else(|_| Ipv4Addr::LOCALHOST.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn complete(args: &[&str]) -> Result<Config, String> {
        Options::try_parse_from(std::iter::once(&"kube-proxy").chain(args))
            .unwrap()
            .complete()
            .map_err(|error| error.to_string())
    }

    #[test]
    fn flags_make_a_configuration() {
        let config = complete(&["--hostname-override=N1", "--cluster-cidr=10.244.0.0/16,fd00::/64"]).unwrap();
        assert_eq!(config.node, "n1");
        assert_eq!(config.settings.cluster_cidrs.len(), 2);
        assert_eq!(config.healthz, Some("0.0.0.0:10256".parse().unwrap()));
    }

    #[test]
    fn other_modes_and_bad_addresses_are_refused() {
        assert!(complete(&["--proxy-mode=ipvs"]).unwrap_err().contains("ipvs"));
        assert!(complete(&["--healthz-bind-address=here"]).unwrap_err().contains("here"));
    }

    #[test]
    fn a_kubeadm_file_is_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\nclusterCIDR: 10.244.0.0/16\nconntrack: {maxPerCore: null}\nnftables: {minSyncPeriod: 2s, masqueradeBit: 15}\nclientConnection: {kubeconfig: /x}\n").unwrap();
        let config = complete(&[&format!("--config={}", file.path().display())]).unwrap();
        assert_eq!(config.min_sync_period, Duration::from_secs(2));
        assert_eq!(config.settings.masquerade_bit, 15);
        assert_eq!(config.client.kubeconfig, Some("/x".into()));
    }
}
