//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Parser};
use common::config::{flags, load_versioned, parse_go_duration};

use super::{Config, Configuration, OptionsError, complete, file::with_port};

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
    /// If set, write the default configuration values to this file and exit.
    #[arg(long)]
    pub(crate) write_config_to: Option<PathBuf>,
    /// If true cleanup iptables and nftables rules and exit.
    #[arg(long)]
    pub(crate) cleanup: bool,
    /// If true, perform any initialization steps that must be done with full root privileges, and then exit. After doing this, you can run kube-proxy again with only the CAP_NET_ADMIN capability.
    #[arg(long)]
    pub(crate) init_only: bool,
    /// Path to kubeconfig file with authorization information (the master location can be overridden by the master flag).
    #[arg(long, default_value = "")]
    kubeconfig: String,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig)
    #[arg(long)]
    master: Option<String>,
    /// Content type of requests sent to apiserver (accepted; JSON is used).
    #[arg(long, default_value = "")]
    kube_api_content_type: String,
    /// Burst to use while talking with kubernetes apiserver
    #[arg(long, default_value_t = 10, allow_negative_numbers = true)]
    kube_api_burst: i32,
    /// QPS to use while talking with kubernetes apiserver
    #[arg(long, default_value_t = 5.0, allow_negative_numbers = true)]
    kube_api_qps: f32,
    /// If non-empty, will be used as the name of the Node that kube-proxy is running on. If unset, the node name is assumed to be the same as the node's hostname.
    #[arg(long, default_value = "")]
    hostname_override: String,
    /// Overrides kube-proxy's idea of what its node's primary IP is.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: String,
    /// The IP address and port for the health check server to serve on, defaulting to "0.0.0.0:10256".
    #[arg(long, default_value = "0.0.0.0:10256")]
    healthz_bind_address: String,
    /// The IP address and port for the metrics server to serve on, defaulting to "127.0.0.1:10249". Set empty to disable.
    #[arg(long, default_value = "127.0.0.1:10249")]
    metrics_bind_address: String,
    /// The port to bind the health check server. Use 0 to disable. Deprecated: use --healthz-bind-address.
    #[arg(long, default_value_t = 10256)]
    healthz_port: u16,
    /// The port to bind the metrics server. Use 0 to disable. Deprecated: use --metrics-bind-address.
    #[arg(long, default_value_t = 10249)]
    metrics_port: u16,
    /// If true kube-proxy will treat failure to bind to a port as fatal and exit
    #[arg(long)]
    bind_address_hard_fail: bool,
    /// If true enables profiling via web interface on /debug/pprof handler (accepted, without effect).
    #[arg(long)]
    profiling: bool,
    /// The previous version for which you want to show hidden metrics (accepted: none is hidden).
    #[arg(long, default_value = "")]
    show_hidden_metrics_for_version: String,
    /// Which proxy mode to use: 'iptables' (default) or 'nftables'; 'ipvs' ends the start.
    #[arg(long, default_value = "")]
    proxy_mode: String,
    /// If using the iptables or ipvs proxy mode, the bit of the fwmark space to mark packets requiring SNAT with. Must be within the range [0, 31].
    #[arg(long, default_value_t = 14, allow_negative_numbers = true)]
    iptables_masquerade_bit: i32,
    /// SNAT all traffic sent via Service cluster IPs.
    #[arg(long)]
    masquerade_all: bool,
    /// If false, kube-proxy will disable the legacy behavior of allowing NodePort services to be accessed via localhost (iptables mode and IPv4 only).
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    iptables_localhost_nodeports: bool,
    /// How frequently various re-synchronizing and cleanup operations are performed.
    #[arg(long, default_value = "30s", value_parser = parse_go_duration)]
    iptables_sync_period: Duration,
    /// The minimum period between rule resyncs. A value of 0 means every Service or EndpointSlice change will result in an immediate resync.
    #[arg(long, default_value = "1s", value_parser = parse_go_duration)]
    iptables_min_sync_period: Duration,
    #[command(flatten)]
    ipvs: Ipvs,
    /// Mode to use to detect local traffic: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix.
    #[arg(long, default_value = "")]
    detect_local_mode: String,
    /// A bridge interface name. When --detect-local-mode is set to BridgeInterface, kube-proxy will consider traffic to be local if it originates from this bridge.
    #[arg(long, default_value = "")]
    pod_bridge_interface: String,
    /// An interface name prefix. When --detect-local-mode is set to InterfaceNamePrefix, kube-proxy will consider traffic to be local if it originates from any interface whose name begins with this prefix.
    #[arg(long, default_value = "")]
    pod_interface_name_prefix: String,
    /// The CIDR range of the pods in the cluster, or a dual-stack pair separated by a comma.
    #[arg(long, default_value = "")]
    cluster_cidr: String,
    /// A list of CIDR ranges that contain valid node IPs, or alternatively, the single string 'primary'.
    #[arg(long, value_delimiter = ',')]
    nodeport_addresses: Vec<String>,
    /// The oom-score-adj value for kube-proxy process. Values must be within the range [-1000, 1000].
    #[arg(long, default_value_t = -999, allow_negative_numbers = true)]
    oom_score_adj: i32,
    #[command(flatten)]
    conntrack: Conntrack,
    /// How often configuration from the apiserver is refreshed (accepted; watches keep up).
    #[arg(long, default_value = "15m", value_parser = parse_go_duration)]
    config_sync_period: Duration,
}

/// Flags of the kernel's connection tracking.
#[derive(Clone, Debug, clap::Args)]
struct Conntrack {
    /// Maximum number of NAT connections to track per CPU core (0 to leave the limit as-is and ignore conntrack-min).
    #[arg(long, default_value_t = 32_768, allow_negative_numbers = true)]
    conntrack_max_per_core: i32,
    /// Minimum number of conntrack entries to allocate, regardless of conntrack-max-per-core.
    #[arg(long, default_value_t = 131_072, allow_negative_numbers = true)]
    conntrack_min: i32,
    /// Idle timeout for established TCP connections (0 to leave as-is)
    #[arg(long, default_value = "24h", value_parser = parse_go_duration)]
    conntrack_tcp_timeout_established: Duration,
    /// NAT timeout for TCP connections in the CLOSE_WAIT state
    #[arg(long, default_value = "1h", value_parser = parse_go_duration)]
    conntrack_tcp_timeout_close_wait: Duration,
    /// Enable liberal mode for tracking TCP packets by setting nf_conntrack_tcp_be_liberal to 1
    #[arg(long)]
    conntrack_tcp_be_liberal: bool,
    /// Idle timeout for UNREPLIED UDP connections (0 to leave as-is)
    #[arg(long, default_value = "0s", value_parser = parse_go_duration)]
    conntrack_udp_timeout: Duration,
    /// Idle timeout for ASSURED UDP connections (0 to leave as-is)
    #[arg(long, default_value = "0s", value_parser = parse_go_duration)]
    conntrack_udp_timeout_stream: Duration,
}

/// Flags of IPVS mode: accepted, so that a command line that also has them works.
#[derive(Clone, Debug, clap::Args)]
struct Ipvs {
    /// As --iptables-sync-period, for ipvs.
    #[arg(long, default_value = "30s", value_parser = parse_go_duration)]
    ipvs_sync_period: Duration,
    /// As --iptables-min-sync-period, for ipvs.
    #[arg(long, default_value = "1s", value_parser = parse_go_duration)]
    ipvs_min_sync_period: Duration,
    /// The ipvs scheduler type when proxy mode is ipvs
    #[arg(long, default_value = "")]
    ipvs_scheduler: String,
    /// A comma-separated list of CIDRs which the ipvs proxier should not touch when cleaning up IPVS rules.
    #[arg(long, value_delimiter = ',')]
    ipvs_exclude_cidrs: Vec<String>,
    /// Enable strict ARP by setting arp_ignore to 1 and arp_announce to 2
    #[arg(long)]
    ipvs_strict_arp: bool,
    /// The timeout for idle IPVS TCP connections, 0 to leave as-is.
    #[arg(long, default_value = "0s", value_parser = parse_go_duration)]
    ipvs_tcp_timeout: Duration,
    /// The timeout for IPVS TCP connections after receiving a FIN packet, 0 to leave as-is.
    #[arg(long, default_value = "0s", value_parser = parse_go_duration)]
    ipvs_tcpfin_timeout: Duration,
    /// The timeout for IPVS UDP packets, 0 to leave as-is.
    #[arg(long, default_value = "0s", value_parser = parse_go_duration)]
    ipvs_udp_timeout: Duration,
}

impl Options {
    /// Checks the options and reads the file, if one is named.
    pub(crate) fn complete(&self) -> Result<Config, OptionsError> {
        let mut config = match &self.config {
            Some(path) => load_versioned(path, "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration")?,
            None => Configuration::default(),
        };
        config.default_missing();
        if self.config.is_none() {
            self.fill(&mut config);
        }
        config.default_for_platform();
        // This flag alone wins over the file.
        if !self.hostname_override.is_empty() {
            config.hostname_override = self.hostname_override.trim().to_lowercase();
            if config.hostname_override.is_empty() {
                return Err(OptionsError::Complete("empty hostname-override is invalid".into()));
            }
        }
        let client = flags::ClientConnection {
            kubeconfig: Some(config.client_connection.kubeconfig.clone())
                .filter(|path| !path.is_empty())
                .map(Into::into),
            master: self.master.clone(),
            kube_api_qps: config.client_connection.qps,
            kube_api_burst: u32::try_from(config.client_connection.burst).unwrap_or(0).max(1),
            ..Default::default()
        };
        let node = match config.hostname_override.trim() {
            "" => hostname().map_err(OptionsError::Complete)?,
            name => name.to_lowercase(),
        };
        complete(config, client, node)
    }

    /// What --write-config-to writes.
    pub(crate) fn defaults() -> String {
        let mut config = Configuration::default();
        config.default_missing();
        let mut value = serde_json::to_value(&config).unwrap_or_default();
        value["apiVersion"] = "kubeproxy.config.k8s.io/v1alpha1".into();
        value["kind"] = "KubeProxyConfiguration".into();
        serde_saphyr::to_string(&value).unwrap_or_default()
    }

    /// Takes over the flags; only without a file.
    fn fill(&self, config: &mut Configuration) {
        config.client_connection.kubeconfig = self.kubeconfig.clone();
        config.client_connection.qps = self.kube_api_qps;
        config.client_connection.burst = self.kube_api_burst;
        config.bind_address = self.bind_address.clone();
        let address = |text: &str, port: u16| match (text, port) {
            ("", _) | (_, 0) => String::new(),
            (text, port) => with_port(text, port),
        };
        config.healthz_bind_address = address(&self.healthz_bind_address, self.healthz_port);
        config.metrics_bind_address = address(&self.metrics_bind_address, self.metrics_port);
        config.bind_address_hard_fail = self.bind_address_hard_fail;
        config.enable_profiling = self.profiling;
        config.show_hidden_metrics_for_version = self.show_hidden_metrics_for_version.clone();
        config.mode = self.proxy_mode.clone();
        config.iptables.masquerade_bit = Some(self.iptables_masquerade_bit);
        config.iptables.masquerade_all = self.masquerade_all;
        config.nftables.masquerade_all = self.masquerade_all;
        config.iptables.localhost_node_ports = Some(self.iptables_localhost_nodeports);
        for (period, shortest) in [
            (&mut config.iptables.sync_period, &mut config.iptables.min_sync_period),
            (&mut config.nftables.sync_period, &mut config.nftables.min_sync_period),
        ] {
            (*period, *shortest) = (self.iptables_sync_period, self.iptables_min_sync_period);
        }
        self.ipvs.fill(config);
        config.detect_local_mode = self.detect_local_mode.clone();
        config.detect_local.bridge_interface = self.pod_bridge_interface.clone();
        config.detect_local.interface_name_prefix = self.pod_interface_name_prefix.clone();
        config.cluster_cidr = self.cluster_cidr.clone();
        config.node_port_addresses = Some(self.nodeport_addresses.clone());
        config.oom_score_adj = Some(self.oom_score_adj);
        let conntrack = &self.conntrack;
        config.conntrack.max_per_core = Some(conntrack.conntrack_max_per_core);
        config.conntrack.min = Some(conntrack.conntrack_min);
        config.conntrack.tcp_established_timeout = Some(conntrack.conntrack_tcp_timeout_established);
        config.conntrack.tcp_close_wait_timeout = Some(conntrack.conntrack_tcp_timeout_close_wait);
        config.conntrack.tcp_be_liberal = conntrack.conntrack_tcp_be_liberal;
        config.conntrack.udp_timeout = conntrack.conntrack_udp_timeout;
        config.conntrack.udp_stream_timeout = conntrack.conntrack_udp_timeout_stream;
        config.config_sync_period = self.config_sync_period;
    }
}

impl Ipvs {
    fn fill(&self, config: &mut Configuration) {
        config.ipvs.sync_period = self.ipvs_sync_period;
        config.ipvs.min_sync_period = self.ipvs_min_sync_period;
        config.ipvs.scheduler = self.ipvs_scheduler.clone();
        config.ipvs.exclude_cidrs = Some(self.ipvs_exclude_cidrs.clone());
        config.ipvs.strict_arp = self.ipvs_strict_arp;
        config.ipvs.tcp_timeout = self.ipvs_tcp_timeout;
        config.ipvs.tcp_fin_timeout = self.ipvs_tcpfin_timeout;
        config.ipvs.udp_timeout = self.ipvs_udp_timeout;
    }
}

fn hostname() -> Result<String, String> {
    let name = nix::unistd::gethostname().map_err(|error| format!("couldn't determine hostname: {error}"))?;
    let name = name.to_string_lossy().trim().to_lowercase();
    if name.is_empty() { Err("empty hostname is invalid".into()) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{
        super::{DetectLocal, Mode, NodePorts},
        *,
    };

    fn complete(args: &[&str]) -> Result<Config, String> {
        Options::try_parse_from(std::iter::once(&"kube-proxy").chain(args))
            .unwrap()
            .complete()
            .map_err(|error| error.to_string())
    }

    fn with_file(text: &str, args: &[&str]) -> Result<Config, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{text}").unwrap();
        let config = format!("--config={}", file.path().display());
        complete(&[&[config.as_str()], args].concat())
    }

    #[test]
    fn flags_make_a_configuration() {
        let config = complete(&[
            "--hostname-override=N1",
            "--cluster-cidr=10.244.0.0/16,fd00::/64",
            "--proxy-mode=nftables",
            "--iptables-min-sync-period=0s",
            "--metrics-port=0",
        ])
        .unwrap();
        assert_eq!((config.node.as_str(), config.mode), ("n1", Mode::Nftables));
        let cidrs = ["10.244.0.0/16", "fd00::/64"].map(|net| net.parse().unwrap()).to_vec();
        assert_eq!(config.detect_local, DetectLocal::ClusterCidr(cidrs));
        assert_eq!(config.healthz, Some("0.0.0.0:10256".parse().unwrap()));
        assert_eq!((config.metrics, config.min_sync_period), (None, Duration::ZERO));
        assert_eq!(config.node_ports, NodePorts::Primary);
    }

    #[test]
    fn an_empty_mode_is_iptables_on_all_addresses() {
        let config = complete(&[]).unwrap();
        assert_eq!((config.mode, config.node_ports), (Mode::Iptables, NodePorts::Nets(Vec::new())));
    }

    #[test]
    fn wrong_flags_are_refused() {
        for (flag, part) in [
            ("--proxy-mode=ipvs", "IPVS"),
            ("--proxy-mode=x", "Mode.ProxyMode: Invalid value: \"x\""),
            ("--healthz-bind-address=here", "HealthzBindAddress: Invalid value: \"here\": must be IP:port"),
            ("--hostname-override= ", "empty hostname-override is invalid"),
            (
                "--nodeport-addresses=10.0.0.0",
                "NodePortAddresses[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR",
            ),
        ] {
            let error = complete(&[flag]).unwrap_err();
            assert!(error.contains(part), "{flag}: {error}");
        }
    }

    #[test]
    fn a_kubeadm_file_is_read_and_replaces_flags() {
        let config = with_file(
            "mode: nftables\nclusterCIDR: 10.244.0.0/16\nconntrack: {maxPerCore: null, min: null, tcpEstablishedTimeout: null}\nnftables: {minSyncPeriod: 2s, masqueradeBit: 15, syncPeriod: 0s}\nnodePortAddresses: null\nclientConnection: {kubeconfig: /x, burst: 0}\nconfigSyncPeriod: 0s\n",
            &["--cluster-cidr=10.0.0.0/8", "--hostname-override=Me"],
        )
        .unwrap();
        assert_eq!((config.masquerade_mark, config.node.as_str()), (1 << 15, "me"));
        assert_eq!(config.min_sync_period, Duration::from_secs(2));
        assert_eq!(config.detect_local, DetectLocal::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]));
        assert_eq!(config.conntrack.max_per_core, 32 << 10);
        assert_eq!(config.client.kubeconfig, Some("/x".into()));
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = with_file("clusterCidr: 10.0.0.0/8", &[]).unwrap_err();
        assert!(error.contains("strict decoding error") && error.contains("clusterCidr"), "{error}");
    }

    #[test]
    fn the_default_file_reads_back() {
        let text = Options::defaults();
        let text = text.replace("apiVersion:", "#").replace("kind:", "#");
        assert_eq!(with_file(&text, &[]).unwrap().mode, Mode::Iptables);
    }
}
