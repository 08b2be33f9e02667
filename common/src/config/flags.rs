//! Flag groups to `#[command(flatten)]` into a daemon's options; names and defaults are upstream's.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::parse_go_duration;

/// Parses what Go's `strconv.ParseBool` accepts.
pub fn parse_go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LoggingFormat {
    /// One line of text per message.
    #[default]
    Text,
    /// One JSON object per message.
    Json,
}

/// `--v`, `--logging-format`, `--vmodule`.
#[derive(Debug, Clone, Default, Args)]
pub struct Logging {
    /// number for the log level verbosity
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    pub v: u8,
    /// Sets the log format. Permitted formats: "json", "text".
    #[arg(long, value_enum, default_value_t = LoggingFormat::Text)]
    pub logging_format: LoggingFormat,
    /// comma-separated list of pattern=N settings for file-filtered logging (accepted, without effect)
    #[arg(long)]
    pub vmodule: Option<String>,
    /// Maximum number of seconds between log flushes (accepted, without effect: nothing is buffered)
    #[arg(long)]
    pub log_flush_frequency: Option<String>,
    /// [Alpha] Size of the buffer of info messages in JSON (accepted, without effect: nothing is buffered)
    #[arg(long)]
    pub log_json_info_buffer_size: Option<String>,
    /// [Alpha] Error messages to stderr and info messages to stdout, in JSON (accepted, without effect)
    #[arg(long)]
    pub log_json_split_stream: bool,
    /// [Alpha] Size of the buffer of info messages in text (accepted, without effect: nothing is buffered)
    #[arg(long)]
    pub log_text_info_buffer_size: Option<String>,
    /// [Alpha] Error messages to stderr and info messages to stdout, in text (accepted, without effect)
    #[arg(long)]
    pub log_text_split_stream: bool,
}

/// The secure port with delegated authentication and authorization.
#[derive(Debug, Clone, Args)]
pub struct Serving {
    /// The IP address on which to listen for the --secure-port port.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The port on which to serve HTTPS with authentication and authorization. If 0, don't serve HTTPS at all.
    #[arg(long)]
    pub secure_port: Option<u16>,
    /// File containing the default x509 Certificate for HTTPS.
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// File containing the default x509 private key matching --tls-cert-file.
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    /// The directory where the TLS certs are located. If --tls-cert-file and --tls-private-key-file are provided, this flag will be ignored.
    #[arg(long)]
    pub cert_dir: Option<PathBuf>,
    /// Minimum TLS version supported: VersionTLS12 or VersionTLS13.
    #[arg(long)]
    pub tls_min_version: Option<String>,
    /// Comma-separated list of cipher suites for the server (accepted; rustls offers only strong suites).
    #[arg(long, value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    /// If set, any request presenting a client certificate signed by one of the authorities in the client-ca-file is authenticated with the CommonName of the client certificate.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// kubeconfig file pointing at the 'core' kubernetes server with enough rights to create tokenreviews.authentication.k8s.io.
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// If false, the authentication-kubeconfig will be used to lookup missing authentication configuration from the cluster.
    #[arg(long)]
    pub authentication_skip_lookup: bool,
    /// If true, failures to look up missing authentication configuration from the cluster are not considered fatal.
    #[arg(long)]
    pub authentication_tolerate_lookup_failure: bool,
    /// The duration to cache responses from the webhook token authenticator.
    #[arg(long, default_value = "10s", value_parser = parse_go_duration)]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// kubeconfig file pointing at the 'core' kubernetes server with enough rights to create subjectaccessreviews.authorization.k8s.io.
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// A list of HTTP paths to skip during authorization, i.e. these are authorized without contacting the 'core' kubernetes server.
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
    /// The duration to cache 'authorized' responses from the webhook authorizer.
    #[arg(long, default_value = "10s", value_parser = parse_go_duration)]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// The duration to cache 'unauthorized' responses from the webhook authorizer.
    #[arg(long, default_value = "10s", value_parser = parse_go_duration)]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
    /// Root certificate bundle to use to verify client certificates on incoming requests before trusting usernames in headers (accepted; front proxies are not trusted).
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Enable profiling via web interface host:port/debug/pprof/ (accepted, without effect).
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub profiling: bool,
    /// Enable block profiling, if profiling is enabled (accepted, without effect).
    #[arg(long)]
    pub contention_profiling: bool,
}

/// How to reach the apiserver. A daemon whose upstream has other QPS defaults overrides them with
/// `#[command(mut_arg("kube_api_qps", |arg| arg.default_value("20")))]`.
#[derive(Debug, Clone, Args)]
pub struct ClientConnection {
    /// Path to kubeconfig file with authorization and master location information.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig).
    #[arg(long)]
    pub master: Option<String>,
    /// QPS to use while talking with kubernetes apiserver; negative: unlimited.
    #[arg(long, default_value_t = 50.0, allow_negative_numbers = true)]
    pub kube_api_qps: f32,
    /// Burst to use while talking with kubernetes apiserver.
    #[arg(long, default_value_t = 100)]
    pub kube_api_burst: u32,
    /// Content type of requests sent to apiserver (accepted; JSON is used).
    #[arg(long)]
    pub kube_api_content_type: Option<String>,
}

impl Default for ClientConnection {
    fn default() -> Self {
        Self { kubeconfig: None, master: None, kube_api_qps: 50.0, kube_api_burst: 100, kube_api_content_type: None }
    }
}

/// Leader election over a Lease.
#[derive(Debug, Clone, Args)]
pub struct LeaderElection {
    /// Start a leader election client and gain leadership before executing the main loop.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    /// The duration that non-leader candidates will wait after observing a leadership renewal until attempting to acquire leadership of a led but unrenewed leader slot.
    #[arg(long, default_value = "15s", value_parser = parse_go_duration)]
    pub leader_elect_lease_duration: Duration,
    /// The interval between attempts by the acting master to renew a leadership slot before it stops leading.
    #[arg(long, default_value = "10s", value_parser = parse_go_duration)]
    pub leader_elect_renew_deadline: Duration,
    /// The duration the clients should wait between attempting acquisition and renewal of a leadership.
    #[arg(long, default_value = "2s", value_parser = parse_go_duration)]
    pub leader_elect_retry_period: Duration,
    /// The type of resource object that is used for locking during leader election. Supported: leases.
    #[arg(long, default_value = "leases")]
    pub leader_elect_resource_lock: String,
    /// The name of resource object that is used for locking during leader election (default: the daemon's name).
    #[arg(long)]
    pub leader_elect_resource_name: Option<String>,
    /// The namespace of resource object that is used for locking during leader election.
    #[arg(long, default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
}

impl Default for LeaderElection {
    fn default() -> Self {
        Self {
            leader_elect: true,
            leader_elect_lease_duration: Duration::from_secs(15),
            leader_elect_renew_deadline: Duration::from_secs(10),
            leader_elect_retry_period: Duration::from_secs(2),
            leader_elect_resource_lock: "leases".into(),
            leader_elect_resource_name: None,
            leader_elect_resource_namespace: "kube-system".into(),
        }
    }
}

/// What kube-controller-manager and cloud-controller-manager share. The daemon lowers the client's rate with
/// `mut_arg` (see [`ClientConnection`]); upstream's is 20 with a burst of 30.
#[derive(Debug, Clone, Args)]
#[expect(missing_docs, reason = "the doc comments of the flags are their help text")]
pub struct ControllerManager {
    #[command(flatten)]
    pub logging: Logging,
    #[command(flatten)]
    pub serving: Serving,
    #[command(flatten)]
    pub client: ClientConnection,
    #[command(flatten)]
    pub election: LeaderElection,
    #[command(flatten)]
    pub gates: FeatureGateFlag,
    #[command(flatten)]
    pub metrics: Metrics,

    /// A list of controllers to enable. '*' enables all on-by-default controllers, 'foo' enables the controller named 'foo', '-foo' disables it.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    pub controllers: Vec<String>,
    /// If true, use individual service account credentials for each controller.
    #[arg(long)]
    pub use_service_account_credentials: bool,
    /// The instance prefix for the cluster.
    #[arg(long, default_value = "kubernetes")]
    pub cluster_name: String,
    /// Should CIDRs for Pods be allocated and set on the cloud provider. Requires --cluster-cidr.
    #[arg(long)]
    pub allocate_node_cidrs: bool,
    /// The period for syncing NodeStatus in cloud-node-lifecycle-controller.
    #[arg(long, default_value = "5s", value_parser = parse_go_duration)]
    pub node_monitor_period: Duration,
}

/// `--feature-gates=A=true,B=false`; resolve with [`super::FeatureGates::from_flags`].
#[derive(Debug, Clone, Default, Args)]
pub struct FeatureGateFlag {
    /// A set of key=value pairs that describe feature gates for alpha/experimental features.
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<String>,
}

/// Metric options that upstream's daemons accept; without effect here.
#[derive(Debug, Clone, Default, Args)]
pub struct Metrics {
    /// The previous version for which you want to show hidden metrics.
    #[arg(long)]
    pub show_hidden_metrics_for_version: Option<String>,
    /// This flag provides an escape hatch for misbehaving metrics.
    #[arg(long, value_delimiter = ',')]
    pub disabled_metrics: Vec<String>,
    /// The map from metric-label to value allow-list of this label.
    #[arg(long, value_delimiter = ',')]
    pub allow_metric_labels: Vec<String>,
    /// The path to the manifest file that contains the allow-list mapping.
    #[arg(long)]
    pub allow_metric_labels_manifest: Option<PathBuf>,
}
