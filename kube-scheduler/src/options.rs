//! Flags, and how they and the configuration file become one configuration.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use common::config::flags::{ClientConnection, FeatureGateFlag, LeaderElection, Logging, Metrics, Serving};
use common::config::{FeatureGates, Gate, Stage, load_versioned, parse_go_duration};

use crate::config::defaults::set_defaults_with;
use crate::config::types::{KubeSchedulerConfiguration, LeaderElectionConfiguration};
use crate::config::validation::validate;
use crate::plugins::dynamic_resources::allocator::Features;
use crate::plugins::registry::{self, Services};

/// The Kubernetes scheduler assigns pods to nodes.
#[derive(Debug, Clone, Parser)]
#[command(name = "kube-scheduler")]
pub struct Options {
    /// The path to the configuration file.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// If set, write the configuration values to this file and exit.
    #[arg(long)]
    pub write_config_to: Option<PathBuf>,
    /// DEPRECATED: the maximum time a pod can stay in unschedulablePods.
    #[arg(long, default_value = "5m", value_parser = parse_go_duration)]
    pub pod_max_in_unschedulable_pods_duration: Duration,
    /// The API server.
    #[command(flatten)]
    pub client: ClientConnection,
    /// The secure port.
    #[command(flatten)]
    pub serving: Serving,
    /// Leader election.
    #[command(flatten)]
    pub leader_election: LeaderElection,
    /// Feature gates.
    #[command(flatten)]
    pub feature_gates: FeatureGateFlag,
    /// Logging.
    #[command(flatten)]
    pub logging: Logging,
    /// Metrics.
    #[command(flatten)]
    pub metrics: Metrics,
}

const fn gate(name: &'static str, stage: Stage, default: bool, locked: bool) -> Gate {
    Gate { name, stage, default, locked }
}

/// The gates that upstream's scheduler looks at. Gates whose off-state this build does not have are locked.
pub const GATES: &[Gate] = &[
    gate("ComponentFlagz", Stage::Beta, true, false),
    gate("ComponentStatusz", Stage::Beta, true, false),
    gate("DRAAdminAccess", Stage::Stable, true, true),
    gate("DRAConsumableCapacity", Stage::Beta, true, false),
    gate("DRADeviceBindingConditions", Stage::Beta, true, false),
    gate("DRADeviceTaintRules", Stage::Beta, false, true),
    gate("DRADeviceTaints", Stage::Beta, true, false),
    gate("DRAExtendedResource", Stage::Beta, true, false),
    gate("DRAListTypeAttributes", Stage::Alpha, false, true),
    gate("DRANodeAllocatableResources", Stage::Alpha, false, true),
    gate("DRAPartitionableDevices", Stage::Beta, true, false),
    gate("DRAPrioritizedList", Stage::Stable, true, false),
    gate("DRAResourceClaimDeviceStatus", Stage::Beta, true, false),
    gate("DRAResourceClaimGranularStatusAuthorization", Stage::Beta, true, false),
    gate("DRAResourcePoolStatus", Stage::Alpha, false, false),
    gate("DRASchedulerFilterTimeout", Stage::Beta, true, false),
    gate("DRAWorkloadResourceClaims", Stage::Alpha, false, true),
    gate("DynamicResourceAllocation", Stage::Stable, true, true),
    gate("GangScheduling", Stage::Alpha, false, false),
    gate("GenericWorkload", Stage::Alpha, false, false),
    gate("InPlacePodVerticalScaling", Stage::Stable, true, true),
    gate("NodeDeclaredFeatures", Stage::Beta, true, false),
    gate("NominatedNodeNameForExpectation", Stage::Beta, true, false),
    gate("OpportunisticBatching", Stage::Beta, true, false),
    gate("PodLevelResources", Stage::Beta, true, false),
    gate("SchedulerAsyncAPICalls", Stage::Beta, false, false),
    gate("SchedulerAsyncPreemption", Stage::Beta, true, false),
    gate("SchedulerPopFromBackoffQ", Stage::Beta, true, false),
    gate("SchedulerQueueingHints", Stage::Stable, true, true),
    gate("StorageCapacityScoring", Stage::Alpha, false, true),
    gate("TaintTolerationComparisonOperators", Stage::Alpha, false, true),
];

/// A validated configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file with all defaults, flags applied.
    pub component: KubeSchedulerConfiguration,
    /// Leader election as the flags and the file say together.
    pub leader_election: LeaderElection,
    /// The API server as the flags and the file say together.
    pub client: ClientConnection,
    /// The gate NodeDeclaredFeatures.
    pub declared_features: bool,
    /// The gates of dynamic resource allocation.
    pub devices: Features,
    /// The gate GenericWorkload: pods of a group are placed together.
    pub groups: bool,
}

/// The gates of dynamic resource allocation.
fn device_features(gates: &FeatureGates) -> Features {
    Features {
        prioritized_list: gates.enabled("DRAPrioritizedList"),
        partitionable_devices: gates.enabled("DRAPartitionableDevices"),
        device_taints: gates.enabled("DRADeviceTaints"),
        binding_conditions: gates.enabled("DRADeviceBindingConditions")
            && gates.enabled("DRAResourceClaimDeviceStatus"),
        consumable_capacity: gates.enabled("DRAConsumableCapacity"),
        extended_resources: gates.enabled("DRAExtendedResource"),
        filter_timeout: gates.enabled("DRASchedulerFilterTimeout"),
    }
}

impl Options {
    /// Reads the file, applies flags and defaults, and validates.
    pub fn complete(&self) -> anyhow::Result<Config> {
        let gates = FeatureGates::from_flags(GATES, &self.feature_gates.feature_gates)?;
        let mut component: KubeSchedulerConfiguration = match &self.config {
            Some(path) => load_versioned(path, "kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration")?,
            None => KubeSchedulerConfiguration::default(),
        };
        let mut client = self.client.clone();
        let given = &mut component.client_connection;
        if self.config.is_some() {
            // Upstream ignores the deprecated connection flags beside a file; --master still counts.
            client.kubeconfig = (!given.kubeconfig.is_empty()).then(|| PathBuf::from(&given.kubeconfig));
        } else {
            given.kubeconfig = client.kubeconfig.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
            given.qps = client.kube_api_qps;
            given.burst = client.kube_api_burst as i32;
        }
        let leader_election = merge_election(&self.leader_election, &mut component.leader_election)?;
        if gates.enabled("GangScheduling") && !gates.enabled("GenericWorkload") {
            anyhow::bail!(
                "invalid feature gate combination: GangScheduling is enabled, but depends on features that are disabled: [GenericWorkload]"
            );
        }
        set_defaults_with(&mut component, gates.enabled("GangScheduling"));
        let errors = validate(&component);
        match errors.as_slice() {
            [] => {}
            [one] => anyhow::bail!("{one}"),
            many => anyhow::bail!("[{}]", many.join(", ")),
        }
        for profile in &component.profiles {
            // Built once for its complaints alone, before anything is connected to.
            registry::profile(profile, &Services::default()).map_err(anyhow::Error::msg)?;
        }
        client.kube_api_qps = component.client_connection.qps;
        client.kube_api_burst = u32::try_from(component.client_connection.burst).unwrap_or(100);
        component.api_version = "kubescheduler.config.k8s.io/v1".into();
        component.kind = "KubeSchedulerConfiguration".into();
        Ok(Config {
            component,
            leader_election,
            client,
            declared_features: gates.enabled("NodeDeclaredFeatures"),
            devices: device_features(&gates),
            groups: gates.enabled("GenericWorkload"),
        })
    }
}

/// Flags that differ from their defaults win over the file.
fn merge_election(flags: &LeaderElection, file: &mut LeaderElectionConfiguration) -> anyhow::Result<LeaderElection> {
    let defaults = LeaderElection::default();
    let duration = |flag: Duration, default: Duration, file: &mut Option<String>| -> anyhow::Result<Duration> {
        let value = match file {
            Some(text) if flag == default => {
                parse_go_duration(text).map_err(|error| anyhow::anyhow!("leaderElection: {error}"))?
            }
            _ => flag,
        };
        *file = Some(common::config::duration::format_go_duration(value));
        Ok(value)
    };
    let mut merged = flags.clone();
    merged.leader_elect = if flags.leader_elect == defaults.leader_elect {
        file.leader_elect.unwrap_or(defaults.leader_elect)
    } else {
        flags.leader_elect
    };
    file.leader_elect = Some(merged.leader_elect);
    merged.leader_elect_lease_duration =
        duration(flags.leader_elect_lease_duration, defaults.leader_elect_lease_duration, &mut file.lease_duration)?;
    merged.leader_elect_renew_deadline =
        duration(flags.leader_elect_renew_deadline, defaults.leader_elect_renew_deadline, &mut file.renew_deadline)?;
    merged.leader_elect_retry_period =
        duration(flags.leader_elect_retry_period, defaults.leader_elect_retry_period, &mut file.retry_period)?;
    let name = flags.leader_elect_resource_name.clone().filter(|name| name != "kube-scheduler");
    let name = name.unwrap_or_else(|| file.resource_name.clone());
    merged.leader_elect_resource_name = Some(if name.is_empty() { "kube-scheduler".into() } else { name });
    file.resource_name = merged.leader_elect_resource_name.clone().unwrap_or_default();
    if flags.leader_elect_resource_namespace == defaults.leader_elect_resource_namespace
        && !file.resource_namespace.is_empty()
    {
        merged.leader_elect_resource_namespace = file.resource_namespace.clone();
    }
    file.resource_namespace = merged.leader_elect_resource_namespace.clone();
    if flags.leader_elect_resource_lock != "leases" {
        file.resource_lock = flags.leader_elect_resource_lock.clone();
    } else if !file.resource_lock.is_empty() {
        merged.leader_elect_resource_lock = file.resource_lock.clone();
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(args: &[&str], file: Option<&str>) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        let mut all = vec!["kube-scheduler".to_owned()];
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
            all.push(format!("--config={}", path.display()));
        }
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let options: Options = common::config::try_parse_from(all).map_err(|exit| format!("{exit:?}"))?;
        options.complete().map_err(|error| error.to_string())
    }

    const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    #[test]
    fn flags_win_over_the_file_where_upstream_lets_them() {
        let file = format!(
            "{HEAD}leaderElection: {{leaderElect: false, leaseDuration: 30s, resourceName: mine}}\n\
             clientConnection: {{kubeconfig: /from/file, qps: 7}}\n"
        );
        let config = complete(&["--kubeconfig=/from/flag", "--leader-elect-renew-deadline=12s"], Some(&file)).unwrap();
        assert!(!config.leader_election.leader_elect);
        assert_eq!(config.leader_election.leader_elect_lease_duration, Duration::from_secs(30));
        assert_eq!(config.leader_election.leader_elect_renew_deadline, Duration::from_secs(12));
        assert_eq!(config.leader_election.leader_elect_resource_name.as_deref(), Some("mine"));
        assert_eq!(config.client.kubeconfig, Some(PathBuf::from("/from/file")));
        assert_eq!(config.client.kube_api_qps, 7.0);
        let config = complete(&["--kubeconfig=/from/flag"], None).unwrap();
        assert_eq!(config.client.kubeconfig, Some(PathBuf::from("/from/flag")));
        assert_eq!(config.component.leader_election.resource_name, "kube-scheduler");
    }

    #[test]
    fn start_up_errors_name_the_field() {
        let with = |rest: &str| complete(&[], Some(&format!("{HEAD}{rest}"))).unwrap_err();
        assert!(with("profils: []").contains("unknown field `profils`"));
        assert!(with("parallelism: -1").contains("parallelism: Invalid value: -1"));
        let unknown = with("profiles: [{plugins: {filter: {enabled: [{name: Nope}]}}}]");
        assert!(unknown.contains("plugin \"Nope\" does not exist"), "{unknown}");
        let extender = with("extenders: [{urlPrefix: 'http://x', prioritizeVerb: p, bindVerb: b}, {bindVerb: b}]");
        assert!(extender.contains("extenders[0].weight: Invalid value: 0: must have a positive weight"), "{extender}");
        assert!(extender.contains("only one extender can implement bind"), "{extender}");
        assert!(complete(&["--feature-gates=Foo=true"], None).unwrap_err().contains("unrecognized feature gate: Foo"));
        assert!(complete(&["--frob"], None).unwrap_err().contains("unknown flag: --frob"));
    }
}
