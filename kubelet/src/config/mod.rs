//! Flags, the configuration file, and the validated [`Config`] that everything else is built from.

mod defaults;
mod duration;
mod file;
mod overrides;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

pub use duration::GoDuration;
pub use file::{Authentication, Authorization, KubeletConfiguration, ShutdownGracePeriodByPodPriority};
pub use overrides::Overrides;

/// The command line.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "kubelet", about = "The Kubernetes node agent")]
pub struct Options {
    /// Log level and format.
    #[command(flatten)]
    pub logging: common::config::flags::Logging,
    /// Configuration file.
    #[arg(long, default_value = "")]
    pub config: String,
    /// Kubeconfig of the node; without it the kubelet runs standalone.
    #[arg(long, default_value = "")]
    pub kubeconfig: String,
    /// Kubeconfig to request a client certificate with, when the file of --kubeconfig is missing or its certificate has expired.
    #[arg(long, default_value = "")]
    pub bootstrap_kubeconfig: String,
    /// Node name instead of the host's name.
    #[arg(long, default_value = "")]
    pub hostname_override: String,
    /// Address(es) of the node, comma separated.
    #[arg(long, default_value = "")]
    pub node_ip: String,
    /// Where volumes and pod state live.
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Where the serving certificate is made when none is given.
    #[arg(long, default_value = "/var/lib/kubelet/pki")]
    pub cert_dir: PathBuf,
    /// `external` leaves addresses to the cloud-controller-manager.
    #[arg(long, default_value = "")]
    pub cloud_provider: String,
    /// Labels to register with, `k=v,...`.
    #[arg(long, default_value = "")]
    pub node_labels: String,
    /// Dead containers kept per container.
    #[arg(long, default_value_t = 1)]
    pub maximum_dead_containers_per_container: usize,
    /// Deprecated, accepted: the runtime's own setting decides.
    #[arg(long, default_value = "")]
    pub pod_infra_container_image: String,
    /// Accepted; cgroup of the runtime.
    #[arg(long, default_value = "")]
    pub runtime_cgroups: String,
    /// Directory of drop-in configuration files (`*.conf`), laid over --config in the order of their names.
    #[arg(long, default_value = "")]
    pub config_dir: String,
    /// Configuration of credential provider plugins.
    #[arg(long, default_value = "")]
    pub image_credential_provider_config: String,
    /// Where their programs are.
    #[arg(long, default_value = "")]
    pub image_credential_provider_bin_dir: String,
    /// Flags that shadow the file.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// Validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file with flags applied.
    pub file: KubeletConfiguration,
    /// Node name.
    pub node_name: String,
    /// Host name.
    pub hostname: String,
    /// Addresses asked for by flag.
    pub node_ips: Vec<IpAddr>,
    /// Labels to register with.
    pub node_labels: BTreeMap<String, String>,
    /// Kubeconfig, when there is an apiserver.
    pub kubeconfig: Option<PathBuf>,
    /// Kubeconfig to join the cluster with.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Configuration and directory of credential provider plugins.
    pub credential_providers: Option<(PathBuf, PathBuf)>,
    /// State directory.
    pub root_dir: PathBuf,
    /// Certificate directory.
    pub cert_dir: PathBuf,
    /// Addresses come from the cloud-controller-manager.
    pub external_cloud: bool,
    /// Dead containers kept per container.
    pub dead_containers_per_container: usize,
}

impl Config {
    /// Reads the file, lays the flags over it and checks the outcome.
    pub fn complete(options: &Options) -> anyhow::Result<Self> {
        let file = load_file(options)?;
        validate(&file)?;
        let hostname = match options.hostname_override.trim() {
            "" => nix::unistd::gethostname().context("reading the host name")?.to_string_lossy().trim().to_lowercase(),
            name => name.to_lowercase(),
        };
        if hostname.is_empty() {
            bail!("the host name is empty: set it or give --hostname-override");
        }
        let node_ips = options
            .node_ip
            .split(',')
            .filter(|ip| !ip.trim().is_empty())
            .map(|ip| ip.trim().parse().with_context(|| format!("--node-ip: {ip:?} is not an IP address")))
            .collect::<anyhow::Result<Vec<IpAddr>>>()?;
        let mut node_labels = BTreeMap::new();
        for label in options.node_labels.split(',').filter(|label| !label.is_empty()) {
            let (key, value) =
                label.split_once('=').with_context(|| format!("--node-labels: malformed pair {label:?}, want k=v"))?;
            node_labels.insert(key.to_owned(), value.to_owned());
        }
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        Ok(Self {
            file,
            node_name: hostname.clone(),
            hostname,
            node_ips,
            node_labels,
            kubeconfig: path(&options.kubeconfig),
            bootstrap_kubeconfig: path(&options.bootstrap_kubeconfig),
            credential_providers: path(&options.image_credential_provider_config)
                .map(|config| (config, PathBuf::from(&options.image_credential_provider_bin_dir))),
            root_dir: options.root_dir.clone(),
            cert_dir: options.cert_dir.clone(),
            external_cloud: options.cloud_provider == "external",
            dead_containers_per_container: options.maximum_dead_containers_per_container,
        })
    }

    /// `<root>/pods/<uid>`.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// `<podLogsDir>/<namespace>_<name>_<uid>`.
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        PathBuf::from(&self.file.pod_logs_dir).join(format!("{namespace}_{name}_{uid}"))
    }
}

fn load_file(options: &Options) -> anyhow::Result<KubeletConfiguration> {
    let mut tree = if options.config.is_empty() {
        serde_json::json!({"apiVersion": defaults::API_VERSION, "kind": defaults::KIND})
    } else {
        read_file(&PathBuf::from(&options.config), "config file")?
    };
    if !options.config_dir.is_empty() {
        for path in drop_ins(Path::new(&options.config_dir))? {
            merge_patch(&mut tree, read_file(&path, "dropin file")?);
        }
    }
    let report_follows_update =
        tree.get("nodeStatusReportFrequency").is_none() && tree.get("nodeStatusUpdateFrequency").is_some();
    options.overrides.apply(&mut tree);
    let mut file: KubeletConfiguration = serde_json::from_value(tree).context("invalid kubelet flags")?;
    if report_follows_update {
        file.node_status_report_frequency = file.node_status_update_frequency;
    }
    if file.merge_default_eviction_settings {
        for (signal, value) in defaults::eviction_hard() {
            file.eviction_hard.entry(signal).or_insert(value);
        }
    }
    Ok(file)
}

/// A file as a tree. Each must be right alone, so that an error names the file and not a flag.
fn read_file(path: &Path, what: &str) -> anyhow::Result<Value> {
    let tree: Value = common::config::load_versioned(path, defaults::API_VERSION, defaults::KIND)?;
    let _: KubeletConfiguration = serde_json::from_value(tree.clone())
        .with_context(|| format!("failed to load kubelet {what}, path: {}", path.display()))?;
    Ok(tree)
}

/// All `.conf` files below a directory, by name.
fn drop_ins(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let failed = || format!("failed to load kubelet config drop-ins from {}", directory.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if path.is_dir() {
            files.extend(drop_ins(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "conf") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// RFC 7396: objects merge, all else replaces, null removes.
fn merge_patch(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge_patch(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn validate(file: &KubeletConfiguration) -> anyhow::Result<()> {
    if !matches!(file.cgroup_driver.as_str(), "cgroupfs" | "systemd") {
        bail!("invalid configuration: cgroupDriver {:?} must be \"cgroupfs\" or \"systemd\"", file.cgroup_driver);
    }
    if !file.container_runtime_endpoint.starts_with("unix://") && !file.container_runtime_endpoint.starts_with('/') {
        bail!(
            "invalid configuration: containerRuntimeEndpoint {:?} must be a unix:// socket",
            file.container_runtime_endpoint
        );
    }
    if file.image_gc_low_threshold_percent >= file.image_gc_high_threshold_percent
        || file.image_gc_high_threshold_percent > 100
    {
        bail!(
            "invalid configuration: imageGCLowThresholdPercent ({}) must be less than imageGCHighThresholdPercent ({}), both within 0-100",
            file.image_gc_low_threshold_percent,
            file.image_gc_high_threshold_percent
        );
    }
    if file.cgroups_per_qos && file.cgroup_root.is_empty() {
        // Upstream's default root.
        tracing::debug!("cgroupRoot is empty: using /");
    }
    if !matches!(file.authorization.mode.as_str(), "AlwaysAllow" | "Webhook") {
        bail!("invalid configuration: authorization.mode {:?} must be AlwaysAllow or Webhook", file.authorization.mode);
    }
    if !matches!(file.memory_swap.swap_behavior.as_str(), "" | "NoSwap" | "LimitedSwap") {
        bail!(
            "invalid configuration: memorySwap.swapBehavior {:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\"",
            file.memory_swap.swap_behavior
        );
    }
    check_enforcement(file)?;
    if file.reserved_system_cpus.is_empty() {
        // Reservations are what the lists say.
    } else if !file.system_reserved_cgroup.is_empty() || !file.kube_reserved_cgroup.is_empty() {
        bail!(
            "invalid configuration: can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or kubeReservedCgroup (--kube-reserved-cgroup)"
        );
    }
    if file.fail_swap_on && swap_is_on() {
        bail!(
            "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false (/proc/swaps lists devices)"
        );
    }
    Ok(())
}

/// What of node allocatable is enforced, and that the cgroups for it are named.
fn check_enforcement(file: &KubeletConfiguration) -> anyhow::Result<()> {
    let asked = &file.enforce_node_allocatable;
    let what = "enforceNodeAllocatable (--enforce-node-allocatable)";
    if !file.cgroups_per_qos && asked.iter().any(|level| !level.is_empty() && level != "none") {
        bail!("invalid configuration: {what} is not supported unless cgroupsPerQOS (--cgroups-per-qos) is set to true");
    }
    for level in asked {
        let (cgroup, field) = match level.as_str() {
            "" | "pods" => continue,
            "none" if asked.len() > 1 => {
                bail!(
                    "invalid configuration: {what} may not contain additional enforcements when \"none\" is specified"
                )
            }
            "none" => continue,
            "system-reserved" | "system-reserved-compressible" => {
                (&file.system_reserved_cgroup, "systemReservedCgroup (--system-reserved-cgroup)")
            }
            "kube-reserved" | "kube-reserved-compressible" => {
                (&file.kube_reserved_cgroup, "kubeReservedCgroup (--kube-reserved-cgroup)")
            }
            other => bail!(
                "invalid configuration: option {other:?} specified for {what}. Valid options are \"pods\", \"system-reserved\", \"system-reserved-compressible\", \"kube-reserved\", \"kube-reserved-compressible\" or \"none\""
            ),
        };
        if cgroup.is_empty() {
            bail!("invalid configuration: {field} must be specified when {level:?} contained in {what}");
        }
        if asked.contains(&format!("{level}-compressible")) {
            bail!("invalid configuration: both {level:?} and \"{level}-compressible\" cannot be specified in {what}");
        }
    }
    Ok(())
}

fn swap_is_on() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().skip(1).any(|line| !line.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enforcement_needs_its_cgroups() {
        for (levels, system_cgroup, want) in [
            (&["pods"][..], "", None),
            (&["none"], "", None),
            (&["pods", "system-reserved"], "/system", None),
            (
                &["pods", "system-reserved"],
                "",
                Some("systemReservedCgroup (--system-reserved-cgroup) must be specified"),
            ),
            (&["pods", "none"], "", Some("may not contain additional enforcements")),
            (&["all"], "", Some("option \"all\" specified")),
            (&["system-reserved", "system-reserved-compressible"], "/system", Some("cannot be specified")),
        ] {
            let file = KubeletConfiguration {
                enforce_node_allocatable: levels.iter().map(|level| (*level).to_owned()).collect(),
                system_reserved_cgroup: system_cgroup.into(),
                ..KubeletConfiguration::default()
            };
            let error = check_enforcement(&file).err().map(|error| error.to_string());
            match want {
                None => assert_eq!(error, None),
                Some(want) => assert!(error.as_ref().is_some_and(|error| error.contains(want)), "{error:?}"),
            }
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let error =
            serde_json::from_value::<KubeletConfiguration>(serde_json::json!({"maxPodz": 3})).expect_err("strict");
        assert!(error.to_string().contains("unknown field `maxPodz`"), "{error}");
    }

    #[test]
    fn an_empty_file_has_upstream_defaults() {
        let file: KubeletConfiguration = serde_json::from_value(serde_json::json!({})).expect("defaults");
        assert_eq!(file.max_pods, 110);
        assert_eq!(file.sync_frequency, GoDuration::seconds(60));
        assert!(file.authentication.webhook.enabled && !file.authentication.anonymous.enabled);
        assert_eq!(file.eviction_hard["memory.available"], "100Mi");
    }

    #[test]
    fn drop_ins_are_laid_over_the_file_by_name() {
        use clap::Parser;
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(
                &path,
                format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{text}"),
            )
            .unwrap();
            path.display().to_string()
        };
        let file = write(
            "kubelet.yaml",
            "maxPods: 1\nclusterDNS: [a, b]\nevictionHard: {memory.available: 1Mi}\nfailSwapOn: false\n",
        );
        write("d/10-a.conf", "maxPods: 2\nclusterDNS: [c]\nevictionHard: {nodefs.available: 2Mi}\n");
        write("d/20-b.conf", "maxPods: 3\nkubeReserved: {cpu: 1m}\n");
        write("d/30-not-read.yaml", "maxPods: 4\n");
        let load = |extra: &[&str]| {
            let directory = format!("--config-dir={}", directory.path().join("d").display());
            let flags = ["kubelet", &format!("--config={file}"), &directory].map(str::to_owned);
            let all = flags.into_iter().chain(extra.iter().map(|flag| (*flag).to_owned()));
            load_file(&Options::try_parse_from(all).unwrap())
        };
        let merged = load(&[]).unwrap();
        assert_eq!((merged.max_pods, merged.cluster_dns.as_slice()), (3, &["c".to_owned()][..]));
        assert_eq!(merged.eviction_hard.len(), 2);
        assert_eq!(merged.kube_reserved["cpu"], "1m");
        assert_eq!(load(&["--max-pods=9"]).unwrap().max_pods, 9);
        let bad = write("d/15-bad.conf", "maxPodz: 3\n");
        let error = format!("{:#}", load(&[]).unwrap_err());
        assert!(error.contains(&bad) && error.contains("maxPodz"), "{error}");
        std::fs::remove_dir_all(directory.path().join("d")).unwrap();
        assert!(load(&[]).unwrap_err().to_string().contains("drop-ins"));
    }
}
