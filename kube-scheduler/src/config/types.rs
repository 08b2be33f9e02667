//! `KubeSchedulerConfiguration` of kubescheduler.config.k8s.io/v1 as written in the file. Unknown fields are errors.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KubeSchedulerConfiguration {
    /// kubescheduler.config.k8s.io/v1
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// KubeSchedulerConfiguration
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// How many nodes upstream evaluates at once.
    pub parallelism: Option<i32>,
    /// Leader election.
    pub leader_election: LeaderElectionConfiguration,
    /// The API server.
    pub client_connection: ClientConnectionConfiguration,
    /// pprof.
    pub enable_profiling: Option<bool>,
    /// pprof.
    pub enable_contention_profiling: Option<bool>,
    /// Stop looking for feasible nodes once this share is found; 0 adapts to the cluster's size.
    pub percentage_of_nodes_to_score: Option<i32>,
    /// First back-off.
    pub pod_initial_backoff_seconds: Option<i64>,
    /// Longest back-off.
    pub pod_max_backoff_seconds: Option<i64>,
    /// Profiles.
    pub profiles: Vec<KubeSchedulerProfile>,
    /// HTTP extenders.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extenders: Vec<ExtenderConfig>,
    /// Whether caches wait for leadership.
    pub delay_cache_until_active: bool,
}

/// An HTTP extender.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtenderConfig {
    /// Where it listens; verbs are appended.
    pub url_prefix: String,
    /// Empty: it does not filter.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter_verb: String,
    /// Empty: it does not choose victims.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub preempt_verb: String,
    /// Empty: it does not score.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prioritize_verb: String,
    /// Of its scores.
    pub weight: i64,
    /// Empty: it does not bind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bind_verb: String,
    /// Without a CA, its certificate is not checked.
    #[serde(rename = "enableHTTPS")]
    pub enable_https: bool,
    /// Certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_config: Option<ExtenderTlsConfig>,
    /// 5s unless given.
    #[serde(rename = "httpTimeout", skip_serializing_if = "Option::is_none")]
    pub http_timeout: Option<String>,
    /// Whether it knows nodes, so that names are enough.
    pub node_cache_capable: bool,
    /// The pods it wants to see: those that ask for any of these; all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub managed_resources: Vec<ExtenderManagedResource>,
    /// Whether scheduling goes on when it fails.
    pub ignorable: bool,
}

/// TLS of an extender. Data wins over files, as in client-go.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtenderTlsConfig {
    /// Don't check its certificate.
    pub insecure: bool,
    /// The name in its certificate.
    pub server_name: String,
    /// Path.
    pub cert_file: String,
    /// Path.
    pub key_file: String,
    /// Path.
    pub ca_file: String,
    /// Base64 of PEM.
    #[serde(skip_serializing)]
    pub cert_data: String,
    /// Base64 of PEM.
    #[serde(skip_serializing)]
    pub key_data: String,
    /// PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_data: Option<k8s_openapi::ByteString>,
}

/// A resource that an extender manages.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtenderManagedResource {
    /// An extended resource.
    pub name: String,
    /// Whether NodeResourcesFit leaves it out.
    pub ignored_by_scheduler: bool,
}

/// Leader election as in component-base; durations as Go writes them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeaderElectionConfiguration {
    /// On by default.
    pub leader_elect: Option<bool>,
    /// 15s
    pub lease_duration: Option<String>,
    /// 10s
    pub renew_deadline: Option<String>,
    /// 2s
    pub retry_period: Option<String>,
    /// leases
    pub resource_lock: String,
    /// kube-scheduler
    pub resource_name: String,
    /// kube-system
    pub resource_namespace: String,
}

/// Client connection as in component-base.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientConnectionConfiguration {
    /// Path.
    pub kubeconfig: String,
    /// Accepted, JSON is always understood.
    pub accept_content_types: String,
    /// Accepted.
    pub content_type: String,
    /// Queries per second.
    pub qps: f32,
    /// Burst.
    pub burst: i32,
}

/// One profile.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KubeSchedulerProfile {
    /// Unique.
    pub scheduler_name: Option<String>,
    /// Overrides the global one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentage_of_nodes_to_score: Option<i32>,
    /// Plugins to enable or disable on top of the defaults.
    pub plugins: Plugins,
    /// Arguments.
    pub plugin_config: Vec<PluginConfig>,
}

/// Plugins per extension point.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are the extension points by name")]
pub struct Plugins {
    pub pre_enqueue: PluginSet,
    pub queue_sort: PluginSet,
    pub pre_filter: PluginSet,
    pub filter: PluginSet,
    pub post_filter: PluginSet,
    pub pre_score: PluginSet,
    pub score: PluginSet,
    pub reserve: PluginSet,
    pub permit: PluginSet,
    pub pre_bind: PluginSet,
    pub bind: PluginSet,
    pub post_bind: PluginSet,
    pub multi_point: PluginSet,
    pub placement_generate: PluginSet,
    pub placement_score: PluginSet,
}

/// Enabled and disabled plugins of one point.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginSet {
    /// Called after the defaults, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub enabled: Vec<PluginEntry>,
    /// Defaults that do not run; `*` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disabled: Vec<PluginEntry>,
}

/// A plugin by name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginEntry {
    /// Name.
    pub name: String,
    /// Weight, for Score plugins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
}

/// Arguments of one plugin.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginConfig {
    /// Name.
    pub name: String,
    /// Arguments, of the kind `<name>Args`.
    #[serde(default)]
    pub args: Value,
}
