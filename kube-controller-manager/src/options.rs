//! The command line, with upstream's names and defaults.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use common::config::{flags, parse_go_duration};

use crate::cluster_flags::{Mirroring, Signing, Tokens, Volumes};
use crate::ignored_flags::Ignored;
use crate::migration::MigrationFlags;

/// The controller manager embeds the core control loops shipped with Kubernetes.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "kube-controller-manager",
    mut_arg("kube_api_qps", |arg| arg.default_value("20")),
    mut_arg("kube_api_burst", |arg| arg.default_value("30"))
)]
#[expect(missing_docs, reason = "the doc comments of the groups are the help text of the flags")]
pub struct Options {
    #[command(flatten)]
    pub generic: flags::ControllerManager,
    #[command(flatten)]
    pub ignored: Ignored,
    #[command(flatten)]
    pub migration: MigrationFlags,
    #[command(flatten)]
    pub signing: Signing,
    #[command(flatten)]
    pub tokens: Tokens,
    #[command(flatten)]
    pub mirroring: Mirroring,
    #[command(flatten)]
    pub volumes: Volumes,

    /// CIDR Range for Pods in cluster. Only used when --allocate-node-cidrs=true; if false, this option will be ignored.
    #[arg(long, default_value = "")]
    pub cluster_cidr: String,
    /// CIDR Range for Services in cluster.
    #[arg(long, default_value = "")]
    pub service_cluster_ip_range: String,
    /// Mask size for node cidr in cluster. Default is 24 for IPv4 and 64 for IPv6.
    #[arg(long, default_value_t = 0)]
    pub node_cidr_mask_size: u8,
    /// Mask size for IPv4 node cidr in dual-stack cluster. Default is 24.
    #[arg(long, default_value_t = 0)]
    pub node_cidr_mask_size_ipv4: u8,
    /// Mask size for IPv6 node cidr in dual-stack cluster. Default is 64.
    #[arg(long, default_value_t = 0)]
    pub node_cidr_mask_size_ipv6: u8,

    /// Amount of time which we allow running Node to be unresponsive before marking it unhealthy.
    #[arg(long, default_value = "50s", value_parser = parse_go_duration)]
    pub node_monitor_grace_period: Duration,
    /// Amount of time which we allow starting Node to be unresponsive before marking it unhealthy.
    #[arg(long, default_value = "1m0s", value_parser = parse_go_duration)]
    pub node_startup_grace_period: Duration,
    /// Number of nodes per second on which pods are deleted in case of node failure when a zone is healthy.
    #[arg(long, default_value_t = 0.1)]
    pub node_eviction_rate: f32,
    /// Number of nodes per second on which pods are deleted in case of node failure when a zone is unhealthy.
    #[arg(long, default_value_t = 0.01)]
    pub secondary_node_eviction_rate: f32,
    /// Number of nodes from which the node controller treats the cluster as large for the eviction logic purposes.
    #[arg(long, default_value_t = 50)]
    pub large_cluster_size_threshold: usize,
    /// Fraction of Nodes in a zone which needs to be not Ready (minimum 3) for zone to be treated as unhealthy.
    #[arg(long, default_value_t = 0.55)]
    pub unhealthy_zone_threshold: f32,
    /// Number of terminated pods that can exist before the terminated pod garbage collector starts deleting them. If <= 0, it is disabled.
    #[arg(long, default_value_t = 12500, allow_negative_numbers = true)]
    pub terminated_pod_gc_threshold: i64,

    /// If set, this root certificate authority will be included in service account's token secret and in kube-root-ca.crt.
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    /// Filename containing a PEM-encoded private RSA or ECDSA key used to sign service account tokens.
    #[arg(long)]
    pub service_account_private_key_file: Option<PathBuf>,

    /// Enables the generic garbage collector. MUST be synced with the corresponding flag of the kube-apiserver.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub enable_garbage_collector: bool,
    /// The number of garbage collector workers that are allowed to sync concurrently.
    #[arg(long, default_value_t = 20)]
    pub concurrent_gc_syncs: usize,
    /// The number of deployment objects that are allowed to sync concurrently.
    #[arg(long, default_value_t = 5)]
    pub concurrent_deployment_syncs: usize,
    /// The number of replica sets that are allowed to sync concurrently.
    #[arg(long, default_value_t = 5)]
    pub concurrent_replicaset_syncs: usize,
    /// The number of replication controllers that are allowed to sync concurrently.
    #[arg(long = "concurrent_rc_syncs", alias = "concurrent-rc-syncs", default_value_t = 5)]
    pub concurrent_rc_syncs: usize,
    /// The number of endpoints syncing operations that will be done concurrently.
    #[arg(long, default_value_t = 5)]
    pub concurrent_endpoint_syncs: usize,
    /// The number of service endpoint syncing operations that will be done concurrently by the endpoint slice controller.
    #[arg(long, default_value_t = 5)]
    pub concurrent_service_endpoint_syncs: usize,
    /// The maximum number of endpoints that will be added to an EndpointSlice.
    #[arg(long, default_value_t = 100)]
    pub max_endpoints_per_slice: usize,
    /// The length of endpoint updates batching period. Pod changes are delayed by it and joined.
    #[arg(long, default_value = "0s", value_parser = parse_go_duration)]
    pub endpoint_updates_batch_period: Duration,
    /// The length of endpoint slice updates batching period. Pod changes are delayed by it and joined.
    #[arg(long, default_value = "0s", value_parser = parse_go_duration)]
    pub endpointslice_updates_batch_period: Duration,
    /// The number of namespace objects that are allowed to sync concurrently.
    #[arg(long, default_value_t = 10)]
    pub concurrent_namespace_syncs: usize,
    /// The number of service account token objects that are allowed to sync concurrently.
    #[arg(long, default_value_t = 5)]
    pub concurrent_serviceaccount_token_syncs: usize,
    /// The period for syncing quota usage status in the system.
    #[arg(long, default_value = "5m0s", value_parser = parse_go_duration)]
    pub resource_quota_sync_period: Duration,
    /// The number of resource quotas that are allowed to sync concurrently.
    #[arg(long, default_value_t = 5)]
    pub concurrent_resource_quota_syncs: usize,
    /// The number of job objects that are allowed to sync concurrently.
    #[arg(long, default_value_t = 5)]
    pub concurrent_job_syncs: usize,
    /// The number of cron job objects that are allowed to sync concurrently.
    #[arg(long, default_value_t = 5)]
    pub concurrent_cron_job_syncs: usize,
    /// The number of daemonset objects that are allowed to sync concurrently.
    #[arg(long, default_value_t = 2)]
    pub concurrent_daemonset_syncs: usize,
    /// The number of statefulset objects that are allowed to sync concurrently.
    #[arg(long, default_value_t = 5)]
    pub concurrent_statefulset_syncs: usize,
    /// The number of horizontal pod autoscaler objects that are allowed to sync concurrently.
    #[arg(long, default_value_t = 5)]
    pub concurrent_horizontal_pod_autoscaler_syncs: usize,
    /// The period for syncing the number of pods in horizontal pod autoscaler.
    #[arg(long, default_value = "15s", value_parser = parse_go_duration)]
    pub horizontal_pod_autoscaler_sync_period: Duration,
    /// The period for which autoscaler will look backwards and not scale down below any recommendation it made during that period.
    #[arg(long, default_value = "5m0s", value_parser = parse_go_duration)]
    pub horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// The minimum change (from 1.0) in the desired-to-actual metrics ratio for the horizontal pod autoscaler to consider scaling.
    #[arg(long, default_value_t = 0.1)]
    pub horizontal_pod_autoscaler_tolerance: f64,
    /// The period after pod start when CPU samples might be skipped.
    #[arg(long, default_value = "5m0s", value_parser = parse_go_duration)]
    pub horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    /// The period after pod start during which readiness changes will be treated as initial readiness.
    #[arg(long, default_value = "30s", value_parser = parse_go_duration)]
    pub horizontal_pod_autoscaler_initial_readiness_delay: Duration,
    /// The number of ttl-after-finished-controller workers that are allowed to sync concurrently.
    #[arg(long, default_value_t = 5)]
    pub concurrent_ttl_after_finished_syncs: usize,
}

impl Options {
    /// What can be wrong beyond the syntax of single flags; every message names the flag.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        if self.generic.allocate_node_cidrs && self.cluster_cidr.is_empty() {
            anyhow::bail!("--allocate-node-cidrs is set, but --cluster-cidr is empty");
        }
        if self.max_endpoints_per_slice == 0 || self.max_endpoints_per_slice > 1000 {
            anyhow::bail!("--max-endpoints-per-slice: {} is not within 1-1000", self.max_endpoints_per_slice);
        }
        let (most, flags) = (self.mirroring.mirroring_max_endpoints_per_subset, &self.mirroring);
        if most == 0 || most > 1000 {
            anyhow::bail!("--mirroring-max-endpoints-per-subset: {most} is not within 1-1000");
        }
        if !(1..=50).contains(&flags.mirroring_concurrent_service_endpoint_syncs) {
            anyhow::bail!(
                "--mirroring-concurrent-service-endpoint-syncs: {} is not within 1-50",
                flags.mirroring_concurrent_service_endpoint_syncs
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::config::{Exit, try_parse_from};

    fn parse(args: &[&str]) -> Result<Options, Exit> {
        try_parse_from(std::iter::once("kube-controller-manager").chain(args.iter().copied()))
    }

    #[test]
    fn kubeadms_manifest_is_accepted() {
        let options = parse(&[
            "--allocate-node-cidrs=true",
            "--authentication-kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--authorization-kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--bind-address=127.0.0.1",
            "--client-ca-file=/etc/kubernetes/pki/ca.crt",
            "--cluster-cidr=10.244.0.0/16",
            "--cluster-name=kubernetes",
            "--cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt",
            "--cluster-signing-key-file=/etc/kubernetes/pki/ca.key",
            "--controllers=*,bootstrapsigner,tokencleaner",
            "--kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--leader-elect=true",
            "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt",
            "--root-ca-file=/etc/kubernetes/pki/ca.crt",
            "--service-account-private-key-file=/etc/kubernetes/pki/sa.key",
            "--service-cluster-ip-range=10.96.0.0/12",
            "--use-service-account-credentials=true",
        ])
        .unwrap();
        assert_eq!(options.generic.controllers, ["*", "bootstrapsigner", "tokencleaner"]);
        assert!(options.generic.use_service_account_credentials && options.generic.allocate_node_cidrs);
        options.validate().unwrap();
        crate::registry::enabled(&options.generic.controllers).unwrap();
    }

    #[test]
    fn defaults_and_bad_input() {
        let options = parse(&[]).unwrap();
        assert_eq!(options.node_monitor_grace_period, Duration::from_secs(50));
        assert_eq!((options.generic.client.kube_api_qps, options.generic.client.kube_api_burst), (20.0, 30));
        assert_eq!(options.terminated_pod_gc_threshold, 12500);
        assert_eq!(parse(&["--controllers=-gc"]).unwrap().generic.controllers, ["-gc"]);
        assert!(matches!(parse(&["--no-such-flag"]), Err(Exit::Error(e)) if e == "unknown flag: --no-such-flag"));
        assert!(
            parse(&["--allocate-node-cidrs"]).unwrap().validate().unwrap_err().to_string().contains("--cluster-cidr")
        );
    }
}
