//! Flags of upstream's that do nothing here: those that end the start, because somebody relies on them, and those that
//! may be given without harm.

use std::path::PathBuf;

use clap::Args;

use super::Options;

/// Flags that answer a clear error until their feature is there.
#[derive(Debug, Clone, Args)]
pub struct Later {
    /// Deprecated: use --enable-admission-plugins and --disable-admission-plugins (not supported).
    #[arg(long, value_delimiter = ',')]
    pub admission_control: Vec<String>,
    /// ABAC (not supported yet).
    #[arg(long)]
    pub authorization_policy_file: Option<PathBuf>,
    /// Profiling on a socket (not supported yet).
    #[arg(long)]
    pub debug_socket_path: Option<String>,
    /// HTTP/1.1 alone (not supported yet).
    #[arg(long)]
    pub disable_http2_serving: bool,
    /// Throttling of each user connection (not supported yet).
    #[arg(long, default_value_t = 0)]
    pub max_connection_bytes_per_sec: i64,
    /// External signer of service account tokens (not supported yet).
    #[arg(long)]
    pub service_account_signing_endpoint: Option<String>,
    /// OIDC (not supported yet).
    #[arg(long)]
    pub oidc_client_id: Option<String>,
    /// OIDC (only together with an issuer).
    #[arg(long)]
    pub oidc_ca_file: Option<PathBuf>,
    /// OIDC (only together with an issuer).
    #[arg(long)]
    pub oidc_username_claim: Option<String>,
    /// OIDC (only together with an issuer).
    #[arg(long)]
    pub oidc_username_prefix: Option<String>,
    /// OIDC (only together with an issuer).
    #[arg(long)]
    pub oidc_groups_claim: Option<String>,
    /// OIDC (only together with an issuer).
    #[arg(long)]
    pub oidc_groups_prefix: Option<String>,
    /// OIDC (only together with an issuer).
    #[arg(long)]
    pub oidc_required_claim: Vec<String>,
    /// OIDC (only together with an issuer).
    #[arg(long, value_delimiter = ',')]
    pub oidc_signing_algs: Vec<String>,
    /// OIDC (not supported yet).
    #[arg(long)]
    pub oidc_issuer_url: Option<String>,
    /// Structured authentication (not supported yet).
    #[arg(long)]
    pub authentication_config: Option<PathBuf>,
    /// Token webhook (not supported yet).
    #[arg(long)]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// Tracing (not supported yet).
    #[arg(long)]
    pub tracing_config_file: Option<PathBuf>,
}

impl Later {
    pub(super) fn refuse(&self, options: &Options) -> Result<(), String> {
        let given = [
            ("admission-control", !self.admission_control.is_empty()),
            ("authorization-policy-file", self.authorization_policy_file.is_some()),
            ("debug-socket-path", self.debug_socket_path.is_some()),
            ("disable-http2-serving", self.disable_http2_serving),
            ("max-connection-bytes-per-sec", self.max_connection_bytes_per_sec != 0),
            ("service-account-signing-endpoint", self.service_account_signing_endpoint.is_some()),
            ("oidc-client-id", self.oidc_client_id.is_some()),
            ("oidc-issuer-url", self.oidc_issuer_url.is_some()),
            ("authentication-config", self.authentication_config.is_some()),
            ("authentication-token-webhook-config-file", self.authentication_token_webhook_config_file.is_some()),
            ("tracing-config-file", self.tracing_config_file.is_some()),
            ("authorization-config", options.authorization.authorization_config.is_some()),
            ("authorization-webhook-config-file", options.authorization.authorization_webhook_config_file.is_some()),
            ("egress-selector-config-file", options.cluster.egress_selector_config_file.is_some()),
            ("kubernetes-service-node-port", options.cluster.kubernetes_service_node_port != 0),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(format!("--{flag} is not supported yet")),
            None => Ok(()),
        }
    }
}

/// Flags that change nothing here, nor upstream as long as gates that are off by default are off, or the defaults do.
#[derive(Debug, Clone, Args)]
pub struct Accepted {
    /// Aggregator reject forwarding redirect response back to client (accepted, without effect).
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub aggregator_reject_forwarding_redirect: bool,
    /// Token webhook cache (accepted, without effect).
    #[arg(long, default_value = "2m0s")]
    pub authentication_token_webhook_cache_ttl: String,
    /// Token webhook version (accepted, without effect).
    #[arg(long, default_value = "v1beta1")]
    pub authentication_token_webhook_version: String,
    /// Authorization webhook version (accepted, without effect).
    #[arg(long, default_value = "v1beta1")]
    pub authorization_webhook_version: String,
    /// Block profiling (accepted, without effect).
    #[arg(long)]
    pub contention_profiling: bool,
    /// Coordinated leader election (accepted, without effect).
    #[arg(long, default_value = "15s")]
    pub coordinated_leadership_lease_duration: String,
    /// Coordinated leader election (accepted, without effect).
    #[arg(long, default_value = "10s")]
    pub coordinated_leadership_renew_deadline: String,
    /// Coordinated leader election (accepted, without effect).
    #[arg(long, default_value = "2s")]
    pub coordinated_leadership_retry_period: String,
    /// Emulation (accepted, without effect).
    #[arg(long)]
    pub emulation_forward_compatible: bool,
    /// Emulation (accepted, without effect).
    #[arg(long)]
    pub runtime_config_emulation_forward_compatible: bool,
    /// Deprecated (accepted, without effect).
    #[arg(long, default_value_t = 10255)]
    pub kubelet_read_only_port: u16,
    /// Proxying to peers of other versions (accepted, without effect).
    #[arg(long)]
    pub peer_advertise_ip: Option<String>,
    /// Proxying to peers of other versions (accepted, without effect).
    #[arg(long)]
    pub peer_advertise_port: Option<String>,
    /// Proxying to peers of other versions (accepted, without effect).
    #[arg(long)]
    pub peer_ca_file: Option<PathBuf>,
    /// SO_REUSEADDR (accepted; always on).
    #[arg(long)]
    pub permit_address_sharing: bool,
    /// How long the storage may take to be ready (accepted, without effect).
    #[arg(long, default_value = "1m0s")]
    pub storage_initialization_timeout: String,
    /// Curves of TLS (accepted; rustls offers only strong ones).
    #[arg(long, value_delimiter = ',')]
    pub tls_curve_preferences: Vec<String>,
}
