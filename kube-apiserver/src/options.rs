//! Command-line flags with upstream's names and defaults, and the validated configuration made from them.

mod later;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser};
use common::config::{flags, parse_go_duration};
pub use later::{Accepted, Later};

/// All flags.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "kube-apiserver",
    about = "The Kubernetes API server validates and configures data for the api objects."
)]
pub struct Options {
    /// Logging.
    #[command(flatten)]
    pub logging: flags::Logging,
    /// Feature gates.
    #[command(flatten)]
    pub gates: flags::FeatureGateFlag,
    /// Metrics.
    #[command(flatten)]
    pub metrics: flags::Metrics,
    /// Secure port.
    #[command(flatten)]
    pub serving: Serving,
    /// Storage.
    #[command(flatten)]
    pub storage: Storage,
    /// Authentication.
    #[command(flatten)]
    pub authentication: Authentication,
    /// Authorization.
    #[command(flatten)]
    pub authorization: Authorization,
    /// Admission.
    #[command(flatten)]
    pub admission: Admission,
    /// Cluster.
    #[command(flatten)]
    pub cluster: Cluster,
    /// Kubelets.
    #[command(flatten)]
    pub kubelet: Kubelet,
    /// Limits.
    #[command(flatten)]
    pub limits: Limits,
    /// Auditing.
    #[command(flatten)]
    pub audit: crate::audit::flags::Audit,
    /// Flags for what is not there yet.
    #[command(flatten)]
    pub later: Later,
    /// Flags that change nothing here.
    #[command(flatten)]
    pub accepted: Accepted,
}

/// The secure port.
#[derive(Debug, Clone, Args)]
pub struct Serving {
    /// The IP address on which to listen for the --secure-port port.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The port on which to serve HTTPS with authentication and authorization. It cannot be switched off with 0.
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// The IP address on which to advertise the apiserver to members of the cluster.
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// The hostname to use when generating externalized URLs for this master.
    #[arg(long)]
    pub external_hostname: Option<String>,
    /// File containing the default x509 Certificate for HTTPS.
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// File containing the default x509 private key matching --tls-cert-file.
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    /// The directory where the TLS certs are located.
    #[arg(long, default_value = "/var/run/kubernetes")]
    pub cert_dir: PathBuf,
    /// Minimum TLS version supported: VersionTLS12 or VersionTLS13.
    #[arg(long)]
    pub tls_min_version: Option<String>,
    /// Comma-separated list of cipher suites for the server (accepted; rustls offers only strong suites).
    #[arg(long, value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    /// Let others listen on the same port (SO_REUSEPORT).
    #[arg(long)]
    pub permit_port_sharing: bool,
    /// Pairs of certificate and key for SNI (accepted, not served yet).
    #[arg(long)]
    pub tls_sni_cert_key: Vec<String>,
    /// Time to delay the termination.
    #[arg(long, default_value = "0s", value_parser = parse_go_duration)]
    pub shutdown_delay_duration: Duration,
    /// Grace period for watches on shutdown.
    #[arg(long, default_value = "0s", value_parser = parse_go_duration)]
    pub shutdown_watch_termination_grace_period: Duration,
    /// While requests under way are answered at the end, the port stays open and sends new ones elsewhere with 429.
    #[arg(long)]
    pub shutdown_send_retry_after: bool,
    /// Enable profiling via web interface host:port/debug/pprof/ (accepted, without effect).
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub profiling: bool,
    /// List of allowed origins for CORS, regular expressions, comma separated.
    #[arg(long, value_delimiter = ',')]
    pub cors_allowed_origins: Vec<String>,
    /// The chance that an HTTP/2 client is asked to connect anew, 0 to 0.02.
    #[arg(long, default_value_t = 0.0)]
    pub goaway_chance: f64,
    /// The limit of concurrent HTTP/2 streams per connection, 0 for the default.
    #[arg(long, default_value_t = 0)]
    pub http2_max_streams_per_connection: u32,
}

/// Where objects are kept.
#[derive(Debug, Clone, Args)]
pub struct Storage {
    /// Directory of the embedded store, used when no --etcd-servers is given.
    #[arg(long, default_value = "/var/lib/kube-apiserver")]
    pub data_dir: PathBuf,
    /// List of etcd servers to connect with (scheme://ip:port), comma separated.
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// Per-resource etcd servers overrides, comma separated. The individual override format: group/resource#servers, where servers are URLs, semicolon separated.
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers_overrides: Vec<String>,
    /// SSL Certificate Authority file used to secure etcd communication.
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// SSL certification file used to secure etcd communication.
    #[arg(long)]
    pub etcd_certfile: Option<PathBuf>,
    /// SSL key file used to secure etcd communication.
    #[arg(long)]
    pub etcd_keyfile: Option<PathBuf>,
    /// The prefix to prepend to all resource paths in etcd.
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
    /// The interval of compaction requests. If 0, the compaction request from apiserver is disabled.
    #[arg(long, default_value = "5m", value_parser = parse_go_duration)]
    pub etcd_compaction_interval: Duration,
    /// Interval of DB size polls (accepted, without effect).
    #[arg(long)]
    pub etcd_db_metric_poll_interval: Option<String>,
    /// Frequency of polling etcd for number of resources per type (accepted, without effect).
    #[arg(long)]
    pub etcd_count_metric_poll_period: Option<String>,
    /// The timeout to use when checking etcd health.
    #[arg(long, default_value = "2s", value_parser = parse_go_duration)]
    pub etcd_healthcheck_timeout: Duration,
    /// Timeout of etcd ready checks (accepted, without effect).
    #[arg(long)]
    pub etcd_readycheck_timeout: Option<String>,
    /// Lease reuse duration (accepted, without effect).
    #[arg(long)]
    pub lease_reuse_duration_seconds: Option<i64>,
    /// The storage backend for persistence: etcd3.
    #[arg(long)]
    pub storage_backend: Option<String>,
    /// The media type to use to store objects in storage: application/vnd.kubernetes.protobuf (the default in etcd),
    /// application/json (the default of the embedded store) or application/yaml. All are read.
    #[arg(long)]
    pub storage_media_type: Option<String>,
    /// The file containing configuration for encryption providers to be used for storing secrets in etcd.
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// Reload the file set by --encryption-provider-config when its contents change.
    #[arg(long)]
    pub encryption_provider_config_automatic_reload: bool,
    /// Enable watch caching in the apiserver (accepted; always on).
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub watch_cache: bool,
    /// Watch cache size settings for some resources (accepted, without effect).
    #[arg(long, value_delimiter = ',')]
    pub watch_cache_sizes: Vec<String>,
    /// Default watch cache size (accepted, without effect).
    #[arg(long)]
    pub default_watch_cache_size: Option<i64>,
    /// Enables the generic garbage collector (accepted; always on).
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub enable_garbage_collector: bool,
    /// Amount of time to retain events.
    #[arg(long, default_value = "1h", value_parser = parse_go_duration)]
    pub event_ttl: Duration,
    /// Workers for deletecollection (accepted, without effect).
    #[arg(long)]
    pub delete_collection_workers: Option<u32>,
}

/// Who may come in.
#[derive(Debug, Clone, Args)]
pub struct Authentication {
    /// If set, any request presenting a client certificate signed by one of the authorities in the client-ca-file is authenticated with an identity corresponding to the CommonName of the client certificate.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Enables anonymous requests to the secure port of the API server.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub anonymous_auth: bool,
    /// Identifiers of the API. The service account token authenticator will validate that tokens used against the API are bound to at least one of these audiences.
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Enable to allow secrets of type 'bootstrap.kubernetes.io/token' in the 'kube-system' namespace to be used for TLS bootstrapping authentication.
    #[arg(long)]
    pub enable_bootstrap_token_auth: bool,
    /// If set, the file that will be used to secure the secure port of the API server via token authentication.
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    /// Identifier of the service account token issuer.
    #[arg(long)]
    pub service_account_issuer: Vec<String>,
    /// File containing PEM-encoded x509 RSA or ECDSA private or public keys, used to verify ServiceAccount tokens.
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    /// Path to the file that contains the current private key of the service account token issuer.
    #[arg(long)]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// If true, validate ServiceAccount tokens exist in etcd as part of authentication (accepted; always on).
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub service_account_lookup: bool,
    /// Turns on projected service account expiration extension during token generation (accepted; always on).
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub service_account_extend_token_expiration: bool,
    /// The maximum validity duration of a token created by the service account token issuer.
    #[arg(long, value_parser = parse_go_duration)]
    pub service_account_max_token_expiration: Option<Duration>,
    /// Overrides the URI for the JSON Web Key Set in the discovery doc served at /.well-known/openid-configuration.
    #[arg(long)]
    pub service_account_jwks_uri: Option<String>,
    /// Root certificate bundle to use to verify client certificates on incoming requests before trusting usernames in headers.
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// List of client certificate common names to allow to provide usernames in headers.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// List of request headers to inspect for usernames.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_username_headers: Vec<String>,
    /// List of request headers to inspect for UIDs.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    /// List of request headers to inspect for groups.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_group_headers: Vec<String>,
    /// List of request header prefixes to inspect.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_extra_headers_prefix: Vec<String>,
}

/// Who may do what.
#[derive(Debug, Clone, Args)]
pub struct Authorization {
    /// Ordered list of plug-ins to do authorization on secure port: AlwaysAllow, AlwaysDeny, Node, RBAC.
    #[arg(long, value_delimiter = ',', default_value = "AlwaysAllow")]
    pub authorization_mode: Vec<String>,
    /// Structured authorization (not supported yet).
    #[arg(long)]
    pub authorization_config: Option<PathBuf>,
    /// Webhook authorizer (not supported yet).
    #[arg(long)]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// Webhook authorizer cache (accepted, without effect).
    #[arg(long)]
    pub authorization_webhook_cache_authorized_ttl: Option<String>,
    /// Webhook authorizer cache (accepted, without effect).
    #[arg(long)]
    pub authorization_webhook_cache_unauthorized_ttl: Option<String>,
}

/// What may be stored.
#[derive(Debug, Clone, Args)]
pub struct Admission {
    /// Admission plugins that should be enabled in addition to default enabled ones.
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins that should be disabled although they are in the default enabled plugins list.
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// File with admission control configuration.
    #[arg(long)]
    pub admission_control_config_file: Option<PathBuf>,
    /// If true, allow privileged containers.
    #[arg(long)]
    pub allow_privileged: bool,
    /// The default tolerationSeconds for notReady:NoExecute.
    #[arg(long, default_value_t = 300)]
    pub default_not_ready_toleration_seconds: i64,
    /// The default tolerationSeconds for unreachable:NoExecute.
    #[arg(long, default_value_t = 300)]
    pub default_unreachable_toleration_seconds: i64,
}

/// The cluster.
#[derive(Debug, Clone, Args)]
pub struct Cluster {
    /// A CIDR notation IP range from which to assign service cluster IPs; at most two, comma separated.
    #[arg(long, default_value = "10.0.0.0/24", value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<String>,
    /// A port range to reserve for services with NodePort visibility.
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// If non-zero, the Kubernetes master service will be of type NodePort (not supported yet).
    #[arg(long, default_value_t = 0)]
    pub kubernetes_service_node_port: u16,
    /// A set of key=value pairs that enable or disable built-in APIs.
    #[arg(long, value_delimiter = ',')]
    pub runtime_config: Vec<String>,
    /// Which reconciler keeps the endpoints of the kubernetes service: master-count, lease, none.
    #[arg(long, default_value = "lease")]
    pub endpoint_reconciler_type: String,
    /// The number of apiservers running in the cluster (accepted, without effect).
    #[arg(long)]
    pub apiserver_count: Option<u32>,
    /// Aggregator routing to endpoint IPs (accepted, without effect).
    #[arg(long)]
    pub enable_aggregator_routing: bool,
    /// Turns on a logs handler (accepted, without effect).
    #[arg(long)]
    pub enable_logs_handler: bool,
    /// Egress selector (not supported yet).
    #[arg(long)]
    pub egress_selector_config_file: Option<PathBuf>,
    /// The duration of the apiserver identity Lease in seconds.
    #[arg(long, default_value_t = 3600)]
    pub identity_lease_duration_seconds: u32,
    /// The interval of renewing the apiserver identity Lease in seconds.
    #[arg(long, default_value_t = 10)]
    pub identity_lease_renew_interval_seconds: u32,
    /// Client certificate used to prove the identity of the aggregator (accepted).
    #[arg(long)]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Private key of --proxy-client-cert-file (accepted).
    #[arg(long)]
    pub proxy_client_key_file: Option<PathBuf>,
    /// Emulated version (accepted, without effect).
    #[arg(long)]
    pub emulated_version: Vec<String>,
}

/// How kubelets are reached.
#[derive(Debug, Clone, Args)]
pub struct Kubelet {
    /// Path to a cert file for the certificate authority.
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// Path to a client cert file for TLS.
    #[arg(long)]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Path to a client key file for TLS.
    #[arg(long)]
    pub kubelet_client_key: Option<PathBuf>,
    /// List of the preferred NodeAddressTypes to use for kubelet connections.
    #[arg(long, value_delimiter = ',', default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP")]
    pub kubelet_preferred_address_types: Vec<String>,
    /// Timeout for kubelet operations.
    #[arg(long, default_value = "5s", value_parser = parse_go_duration)]
    pub kubelet_timeout: Duration,
    /// Deprecated: port of kubelets without a port in their status.
    #[arg(long, default_value_t = 10250)]
    pub kubelet_port: u16,
}

/// What one client may take.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// With --max-mutating-requests-inflight, the seats of the server under priority and fairness; without it, the maximum number of non-mutating requests in flight, 0 for no limit.
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// With --max-requests-inflight, the seats of the server under priority and fairness; without it, the maximum number of mutating requests in flight, 0 for no limit.
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// Replace the limits of requests in flight by an enhanced handler that supports queuing and dispatching with priority and fairness.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub enable_priority_and_fairness: bool,
    /// The duration a handler must keep a request open before timing it out.
    #[arg(long, default_value = "1m", value_parser = parse_go_duration)]
    pub request_timeout: Duration,
    /// The minimum number of seconds a watch handler must keep a request open before timing it out.
    #[arg(long, default_value_t = 1800)]
    pub min_request_timeout: u64,
    /// Liveness grace (accepted, without effect).
    #[arg(long)]
    pub livez_grace_period: Option<String>,
    /// List of directives of the Strict-Transport-Security header.
    #[arg(long, value_delimiter = ',')]
    pub strict_transport_security_directives: Vec<String>,
}

/// Validated configuration that requests look at.
#[derive(Debug, Clone)]
pub struct Config {
    /// The flags.
    pub options: Options,
    /// Audiences of this server.
    pub api_audiences: Vec<String>,
    /// Shortest life of a watch without `timeoutSeconds`.
    pub min_request_timeout: Duration,
    /// Where members of the cluster reach this server.
    pub advertise_address: IpAddr,
    /// Service addresses, one or two ranges.
    pub service_ranges: Vec<ipnet::IpNet>,
    /// Node ports, inclusive.
    pub node_ports: (u16, u16),
    /// `group/version` (or `api/all`, ...) -> on or off.
    pub runtime_config: Vec<(String, bool)>,
}

impl Options {
    /// Validates.
    ///
    /// # Errors
    /// The text names the flag.
    pub fn complete(self) -> Result<Config, String> {
        self.later.refuse(&self)?;
        if self.serving.secure_port == 0 {
            return Err(
                "--secure-port 0 must be between 1 and 65535, inclusive. It cannot be turned off with 0".to_owned()
            );
        }
        if let Some(backend) = self.storage.storage_backend.as_deref().filter(|b| !matches!(*b, "" | "etcd3")) {
            return Err(format!(
                "--storage-backend invalid, allowed values: etcd3. If not specified, it will default to 'etcd3' (got {backend:?})"
            ));
        }
        if self.storage.encryption_provider_config_automatic_reload && self.storage.encryption_provider_config.is_none()
        {
            return Err("--encryption-provider-config-automatic-reload must be set with --encryption-provider-config"
                .to_owned());
        }
        let (reads, writes) = (self.limits.max_requests_inflight, self.limits.max_mutating_requests_inflight);
        if self.limits.enable_priority_and_fairness && reads == 0 && writes == 0 {
            return Err(format!(
                "invalid configuration: MaxRequestsInFlight={reads} and MaxMutatingRequestsInFlight={writes}; they must add up to something positive"
            ));
        }
        self.audit.validate()?;
        self.etcd_overrides()?;
        let service_ranges = self.service_ranges()?;
        let node_ports = parse_ports(&self.cluster.service_node_port_range)?;
        let runtime_config = parse_runtime_config(&self.cluster.runtime_config)?;
        let issuer = self.authentication.service_account_issuer.first().cloned();
        let mut api_audiences = self.authentication.api_audiences.clone();
        if api_audiences.is_empty() {
            api_audiences.extend(issuer);
        }
        if self.authentication.service_account_signing_key_file.is_some() && api_audiences.is_empty() {
            return Err("service-account-issuer is a required flag, --service-account-signing-key-file and --service-account-issuer are required flags".to_owned());
        }
        let advertise_address = match self.serving.advertise_address {
            Some(address) if !address.is_unspecified() => address,
            _ => default_address(self.serving.bind_address),
        };
        Ok(Config {
            api_audiences,
            min_request_timeout: Duration::from_secs(self.limits.min_request_timeout),
            advertise_address,
            service_ranges,
            node_ports,
            runtime_config,
            options: self,
        })
    }

    /// Group, plural and servers of every override.
    ///
    /// # Errors
    /// Upstream's text.
    pub fn etcd_overrides(&self) -> Result<Vec<(String, String, Vec<String>)>, String> {
        let overrides = self.storage.etcd_servers_overrides.iter().filter(|one| !one.is_empty());
        overrides
            .map(|one| {
                let invalid = || {
                    "--etcd-servers-overrides invalid, must be of format: group/resource#servers, where servers are URLs, semicolon separated".to_owned()
                };
                let (resource, servers) = one.split_once('#').ok_or_else(invalid)?;
                let (group, plural) = resource.split_once('/').ok_or_else(invalid)?;
                let servers: Vec<String> = servers.split(';').map(str::to_owned).collect();
                let sound = !plural.is_empty() && !plural.contains('/') && servers.iter().all(|s| !s.contains('#'));
                sound.then(|| (group.to_owned(), plural.to_owned(), servers)).ok_or_else(invalid)
            })
            .collect()
    }

    fn service_ranges(&self) -> Result<Vec<ipnet::IpNet>, String> {
        let ranges = &self.cluster.service_cluster_ip_range;
        if ranges.len() > 2 {
            return Err("--service-cluster-ip-range must not hold more than two values".to_owned());
        }
        ranges
            .iter()
            .map(|r| r.trim().parse().map_err(|_| format!("--service-cluster-ip-range {r:?} is not a valid cidr")))
            .collect()
    }
}

impl Config {
    /// Whether a group version is served, at least in part.
    #[must_use]
    pub fn serves(&self, version: &common::api::GroupVersion) -> bool {
        version.resources.iter().any(|resource| self.serves_resource(resource))
    }

    /// Whether a resource of a group version is served: what names it most closely counts.
    #[must_use]
    pub fn serves_resource(&self, resource: &common::api::Resource) -> bool {
        let version = resource.api_version();
        let one = format!("{version}/{}", resource.plural);
        let class = match resource.version {
            v if v.contains("alpha") => "api/alpha",
            v if v.contains("beta") => "api/beta",
            _ => "api/ga",
        };
        let said = |wanted: &str| self.runtime_config.iter().rev().find(|(key, _)| key == wanted).map(|(_, on)| *on);
        [one.as_str(), &version, class, "api/all"].into_iter().find_map(said).unwrap_or(class == "api/ga")
    }

    /// The first service address: the `kubernetes` Service's.
    #[must_use]
    pub fn kubernetes_service_ip(&self) -> Option<IpAddr> {
        self.service_ranges.first().and_then(|range| range.hosts().next())
    }
}

fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let invalid =
        || format!("invalid argument {text:?} for \"--service-node-port-range\" flag: unable to parse port range");
    if let Some((base, offset)) = text.split_once('+') {
        let (base, offset): (u16, u16) = (base.parse().map_err(|_| invalid())?, offset.parse().map_err(|_| invalid())?);
        return Ok((base, base.saturating_add(offset)));
    }
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.parse().map_err(|_| invalid())?, high.parse().map_err(|_| invalid())?);
    if low > high { Err(invalid()) } else { Ok((low, high)) }
}

fn parse_runtime_config(values: &[String]) -> Result<Vec<(String, bool)>, String> {
    let pairs: Vec<(String, bool)> = values
        .iter()
        .filter(|v| !v.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let on = if value.is_empty() { Ok(true) } else { flags::parse_go_bool(value) };
            let on = on.map_err(|_| format!("invalid value {key}={value} in --runtime-config"))?;
            Ok((runtime_key(key.trim())?, on))
        })
        .collect::<Result<_, String>>()?;
    if pairs.len() == 1 && pairs[0] == ("api/all".to_owned(), false) {
        return Err("invalid key with only api/all=false".to_owned());
    }
    Ok(pairs)
}

/// A key of `--runtime-config`, as `Config::serves_resource` looks for it: core's group version is called api/v1 here.
fn runtime_key(key: &str) -> Result<String, String> {
    if matches!(key, "api/all" | "api/ga" | "api/beta" | "api/alpha") {
        return Ok(key.to_owned());
    }
    let parts: Vec<&str> = key.split('/').collect();
    let (group, version) = match parts.as_slice() {
        ["v1"] => ("", "v1"),
        ["api", version, ..] if parts.len() <= 3 => ("", *version),
        [group, version, ..] if parts.len() <= 3 => (*group, *version),
        _ => return Err(format!("runtime-config invalid key {key}")),
    };
    let catalog = common::api::catalog();
    if catalog.group(group).is_none() {
        return Err(format!("unknown api groups {group}"));
    }
    if catalog.group_version(group, version).is_none() {
        return Err(format!("group version {group}/{version} that has not been registered"));
    }
    if let Some(resource) = parts.get(2).filter(|r| r.to_lowercase() != **r) {
        return Err(format!(
            "invalid key {key}: group/version/resource and resource is always lowercase plural, not {resource:?}"
        ));
    }
    Ok(key.strip_prefix("api/").unwrap_or(key).to_owned())
}

/// The address that other hosts see: of the interface towards the default route, else loopback.
fn default_address(bind: IpAddr) -> IpAddr {
    if !bind.is_unspecified() {
        return bind;
    }
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // Connecting a datagram socket only asks the routing table; nothing is sent.
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    probe.map(|a| a.ip()).ok().filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let options: Result<Options, _> =
            common::config::try_parse_from(std::iter::once("kube-apiserver").chain(args.iter().copied()));
        options.map_err(|e| format!("{e:?}"))?.complete()
    }

    #[test]
    fn kubeadms_flags_are_accepted() {
        let config = parse(&[
            "--advertise-address=172.31.0.2",
            "--allow-privileged=true",
            "--authorization-mode=Node,RBAC",
            "--client-ca-file=/etc/kubernetes/pki/ca.crt",
            "--enable-admission-plugins=NodeRestriction",
            "--enable-bootstrap-token-auth=true",
            "--etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt",
            "--etcd-certfile=/etc/kubernetes/pki/apiserver-etcd-client.crt",
            "--etcd-keyfile=/etc/kubernetes/pki/apiserver-etcd-client.key",
            "--etcd-servers=https://127.0.0.1:2379",
            "--kubelet-client-certificate=/etc/kubernetes/pki/apiserver-kubelet-client.crt",
            "--kubelet-client-key=/etc/kubernetes/pki/apiserver-kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
            "--proxy-client-cert-file=/etc/kubernetes/pki/front-proxy-client.crt",
            "--proxy-client-key-file=/etc/kubernetes/pki/front-proxy-client.key",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            "--secure-port=6443",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-account-key-file=/etc/kubernetes/pki/sa.pub",
            "--service-account-signing-key-file=/etc/kubernetes/pki/sa.key",
            "--service-cluster-ip-range=10.96.0.0/12",
            "--tls-cert-file=/etc/kubernetes/pki/apiserver.crt",
            "--tls-private-key-file=/etc/kubernetes/pki/apiserver.key",
        ])
        .unwrap();
        assert_eq!(config.kubernetes_service_ip().unwrap().to_string(), "10.96.0.1");
        assert_eq!(config.api_audiences, ["https://kubernetes.default.svc.cluster.local"]);
        assert_eq!(config.node_ports, (30000, 32767));
    }

    #[test]
    fn runtime_config_turns_groups_versions_and_resources_on() {
        let config =
            parse(&["--runtime-config=api/beta=true,batch/v1/cronjobs=false,resource.k8s.io/v1beta1=false"]).unwrap();
        let serves = |group, version, plural| {
            config.serves_resource(common::api::catalog().by_plural(group, version, plural).unwrap())
        };
        assert!(serves("networking.k8s.io", "v1beta1", "ipaddresses") && serves("batch", "v1", "jobs"));
        assert!(!serves("batch", "v1", "cronjobs") && !serves("resource.k8s.io", "v1beta1", "deviceclasses"));
        assert!(!serves("resource.k8s.io", "v1alpha3", "devicetaintrules"));
        let one = parse(&["--runtime-config=resource.k8s.io/v1alpha3/devicetaintrules"]).unwrap();
        let version = common::api::catalog().group_version("resource.k8s.io", "v1alpha3").unwrap();
        assert!(one.serves(version));
        assert!(!one.serves_resource(version.resources.iter().find(|r| r.plural != "devicetaintrules").unwrap()));
        assert!(parse(&["--runtime-config=nothing/v1=true"]).unwrap_err().contains("unknown api groups nothing"));
        assert!(parse(&["--runtime-config=batch/v7=true"]).unwrap_err().contains("has not been registered"));
    }

    #[test]
    fn bad_values_are_named() {
        assert!(parse(&["--service-cluster-ip-range=x"]).unwrap_err().contains("--service-cluster-ip-range"));
        assert!(parse(&["--oidc-issuer-url=x"]).unwrap_err().contains("--oidc-issuer-url is not supported yet"));
        assert!(
            parse(&["--audit-log-path=/x", "--audit-log-mode=x"]).unwrap_err().contains("invalid audit log mode x")
        );
        assert!(
            parse(&["--audit-log-path=/x", "--audit-log-maxage=-1"]).unwrap_err().contains("--audit-log-maxage -1")
        );
        assert!(parse(&["--etcd-servers-overrides=/events"]).unwrap_err().contains("group/resource#servers"));
        let overrides = parse(&["--etcd-servers-overrides=/events#https://a;https://b,apps/deployments#c"]).unwrap();
        let overrides = overrides.options.etcd_overrides().unwrap();
        assert_eq!(
            overrides[0],
            (String::new(), "events".to_owned(), vec!["https://a".to_owned(), "https://b".to_owned()])
        );
        assert_eq!(overrides[1].0, "apps");
        let none = ["--max-requests-inflight=0", "--max-mutating-requests-inflight=0"];
        assert!(parse(&none).unwrap_err().contains("they must add up to something positive"));
        assert!(parse(&["--nonsense"]).unwrap_err().contains("unknown flag: --nonsense"));
    }
}
