//! The command line, with upstream's names and defaults.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use common::config::{FeatureGates, Gate, Stage, flags, parse_go_duration};
use ipnet::IpNet;

/// Routes follow the watch of nodes instead of a period.
pub(crate) const WATCH_BASED_ROUTES: &str = "CloudControllerManagerWatchBasedRoutesReconciliation";

const fn alpha(name: &'static str) -> Gate {
    Gate { name, stage: Stage::Alpha, default: false, locked: false }
}

const GATES: &[Gate] = &[
    alpha(WATCH_BASED_ROUTES),
    alpha("CloudControllerManagerWebhook"),
    alpha("ControllerManagerReleaseLeaderElectionLockOnExit"),
];

/// The cloud controller manager embeds the cloud specific control loops shipped with Kubernetes.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "cloud-controller-manager",
    mut_arg("kube_api_qps", |arg| arg.default_value("20")),
    mut_arg("kube_api_burst", |arg| arg.default_value("30"))
)]
#[expect(missing_docs, reason = "the doc comments of the groups are the help text of the flags")]
pub struct Options {
    #[command(flatten)]
    pub generic: flags::ControllerManager,

    /// The provider for cloud services. There is: local.
    #[arg(long, default_value = "")]
    pub cloud_provider: String,
    /// The path to the cloud provider configuration file. Empty string for no configuration file.
    #[arg(long)]
    pub cloud_config: Option<PathBuf>,
    /// CIDR Range for Pods in cluster; routes outside of it are left alone.
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<String>,
    /// Type of CIDR allocator to use (accepted: kube-controller-manager allocates).
    #[arg(long, default_value = "RangeAllocator")]
    pub cidr_allocator_type: String,
    /// Should CIDRs allocated by allocate-node-cidrs be configured on the cloud provider.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub configure_cloud_routes: bool,
    /// The period for reconciling routes created for Nodes by cloud provider.
    #[arg(long, default_value = "10s", value_parser = parse_go_duration)]
    pub route_reconciliation_period: Duration,
    /// Specifies how often the controller updates nodes' status.
    #[arg(long, default_value = "5m0s", value_parser = parse_go_duration)]
    pub node_status_update_frequency: Duration,
    /// The number of services that are allowed to sync concurrently.
    #[arg(long, default_value_t = 1)]
    pub concurrent_service_syncs: usize,
    /// Number of workers concurrently synchronizing nodes.
    #[arg(long, default_value_t = 1)]
    pub concurrent_node_syncs: usize,
    /// Number of workers concurrently updating node statuses. If unspecified or 0, --concurrent-node-syncs is used instead.
    #[arg(long, default_value_t = 0)]
    pub concurrent_node_status_updates: usize,
    /// The longest time without a reconciliation where controllers follow a watch.
    #[arg(long, default_value = "12h0m0s", value_parser = parse_go_duration)]
    pub min_resync_period: Duration,

    /// Interval between starting controller managers (accepted, without effect).
    #[arg(long, default_value = "0s", value_parser = parse_go_duration, hide = true)]
    pub controller_start_interval: Duration,
    /// Allow the cluster to run without the cluster-id on cloud instances (deprecated upstream, without effect).
    #[arg(long, hide = true)]
    pub allow_untagged_cloud: bool,
    /// Deprecated upstream, without effect.
    #[arg(long, default_value = "0s", value_parser = parse_go_duration, hide = true)]
    pub node_sync_period: Duration,
}

impl Options {
    /// What can be wrong beyond the syntax of single flags; every message names the flag.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.cloud_provider.is_empty(), "--cloud-provider cannot be empty; there is: local");
        anyhow::ensure!(
            !self.generic.allocate_node_cidrs || !self.cluster_cidr.is_empty(),
            "--allocate-node-cidrs is set, but --cluster-cidr is empty"
        );
        let periods = [
            ("--node-monitor-period", self.generic.node_monitor_period),
            ("--route-reconciliation-period", self.route_reconciliation_period),
            ("--node-status-update-frequency", self.node_status_update_frequency),
            ("--min-resync-period", self.min_resync_period),
        ];
        for (flag, period) in periods {
            anyhow::ensure!(!period.is_zero(), "{flag} must be greater than zero");
        }
        for (flag, workers) in [
            ("--concurrent-service-syncs", self.concurrent_service_syncs),
            ("--concurrent-node-syncs", self.concurrent_node_syncs),
        ] {
            anyhow::ensure!(workers > 0, "{flag} must be greater than zero");
        }
        self.feature_gates()?;
        self.cluster_cidrs().map(|_| ())
    }

    pub(crate) fn feature_gates(&self) -> anyhow::Result<FeatureGates> {
        Ok(FeatureGates::from_flags(GATES, &self.generic.gates.feature_gates)?)
    }

    /// The pods' networks: one, or one of each family.
    pub(crate) fn cluster_cidrs(&self) -> anyhow::Result<Vec<IpNet>> {
        let mut networks: Vec<IpNet> = Vec::new();
        for text in self.cluster_cidr.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
            let network: IpNet =
                text.parse().map_err(|_| anyhow::anyhow!("--cluster-cidr: invalid CIDR address: {text}"))?;
            networks.push(network.trunc());
        }
        anyhow::ensure!(networks.len() <= 2, "--cluster-cidr: {} networks, more than max allowed of 2", networks.len());
        if let [first, second] = networks[..] {
            anyhow::ensure!(
                first.addr().is_ipv4() != second.addr().is_ipv4(),
                "--cluster-cidr: two networks must be one of each IP family"
            );
        }
        Ok(networks)
    }

    pub(crate) fn status_workers(&self) -> usize {
        if self.concurrent_node_status_updates > 0 {
            self.concurrent_node_status_updates
        } else {
            self.concurrent_node_syncs
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::config::{Exit, try_parse_from};

    fn parse(args: &[&str]) -> Result<Options, Exit> {
        try_parse_from(std::iter::once("cloud-controller-manager").chain(args.iter().copied()))
    }

    #[test]
    fn the_local_clusters_line_is_accepted() {
        let options = parse(&[
            "--cloud-provider=local",
            "--cloud-config=/etc/kubernetes/cloud.yaml",
            "--kubeconfig=/etc/kubernetes/ccm.conf",
            "--authentication-kubeconfig=/etc/kubernetes/ccm.conf",
            "--authorization-kubeconfig=/etc/kubernetes/ccm.conf",
            "--bind-address=127.0.0.1",
            "--leader-elect=true",
            "--cluster-cidr=10.244.0.0/16,fd00:10::/56",
            "--configure-cloud-routes=false",
            "--use-service-account-credentials",
        ])
        .unwrap();
        options.validate().unwrap();
        assert!(!options.configure_cloud_routes && options.generic.use_service_account_credentials);
        assert_eq!(options.cluster_cidrs().unwrap().len(), 2);
        assert_eq!(options.status_workers(), 1);
        assert_eq!((options.generic.client.kube_api_qps, options.generic.client.kube_api_burst), (20.0, 30));
        assert_eq!(options.node_status_update_frequency, Duration::from_secs(300));
    }

    #[test]
    fn bad_input_is_refused_by_flag() {
        let cases: &[(&[&str], &str)] = &[
            (&[], "--cloud-provider"),
            (&["--cloud-provider=local", "--allocate-node-cidrs"], "--cluster-cidr"),
            (&["--cloud-provider=local", "--cluster-cidr=10.0.0.0"], "invalid CIDR address: 10.0.0.0"),
            (&["--cloud-provider=local", "--cluster-cidr=10.0.0.0/16,10.1.0.0/16"], "each IP family"),
            (&["--cloud-provider=local", "--node-monitor-period=0s"], "--node-monitor-period"),
            (&["--cloud-provider=local", "--feature-gates=Nope=true"], "unrecognized feature gate: Nope"),
        ];
        for (args, message) in cases {
            let error = parse(args).unwrap().validate().unwrap_err().to_string();
            assert!(error.contains(message), "{args:?}: {error}");
        }
        assert!(matches!(parse(&["--no-such-flag"]), Err(Exit::Error(e)) if e == "unknown flag: --no-such-flag"));
    }
}
