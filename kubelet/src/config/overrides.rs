//! Flags that shadow a field of the configuration file, as one table. A flag on the command line wins over the file.

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use serde_json::{Map, Value};

/// How a flag's text becomes the field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Bool,
    Number,
    List,
    Pairs,
    Thresholds,
    Taints,
    Gates,
}

/// (flag, path of the field, form).
const TABLE: &[(&str, &str, Form)] = &[
    ("enable-server", "enableServer", Form::Bool),
    ("fail-swap-on", "failSwapOn", Form::Bool),
    ("pod-manifest-path", "staticPodPath", Form::Text),
    ("sync-frequency", "syncFrequency", Form::Text),
    ("file-check-frequency", "fileCheckFrequency", Form::Text),
    ("http-check-frequency", "httpCheckFrequency", Form::Text),
    ("manifest-url", "staticPodURL", Form::Text),
    ("address", "address", Form::Text),
    ("port", "port", Form::Number),
    ("read-only-port", "readOnlyPort", Form::Number),
    ("fail-cgroupv1", "failCgroupV1", Form::Bool),
    ("container-runtime-endpoint", "containerRuntimeEndpoint", Form::Text),
    ("image-service-endpoint", "imageServiceEndpoint", Form::Text),
    ("anonymous-auth", "authentication/anonymous/enabled", Form::Bool),
    ("authentication-token-webhook", "authentication/webhook/enabled", Form::Bool),
    ("authentication-token-webhook-cache-ttl", "authentication/webhook/cacheTTL", Form::Text),
    ("client-ca-file", "authentication/x509/clientCAFile", Form::Text),
    ("authorization-mode", "authorization/mode", Form::Text),
    ("authorization-webhook-cache-authorized-ttl", "authorization/webhook/cacheAuthorizedTTL", Form::Text),
    ("authorization-webhook-cache-unauthorized-ttl", "authorization/webhook/cacheUnauthorizedTTL", Form::Text),
    ("tls-cert-file", "tlsCertFile", Form::Text),
    ("tls-private-key-file", "tlsPrivateKeyFile", Form::Text),
    ("rotate-server-certificates", "serverTLSBootstrap", Form::Bool),
    ("tls-cipher-suites", "tlsCipherSuites", Form::List),
    ("tls-min-version", "tlsMinVersion", Form::Text),
    ("rotate-certificates", "rotateCertificates", Form::Bool),
    ("registry-qps", "registryPullQPS", Form::Number),
    ("registry-burst", "registryBurst", Form::Number),
    ("event-qps", "eventRecordQPS", Form::Number),
    ("event-burst", "eventBurst", Form::Number),
    ("enable-debugging-handlers", "enableDebuggingHandlers", Form::Bool),
    ("contention-profiling", "enableContentionProfiling", Form::Bool),
    ("healthz-port", "healthzPort", Form::Number),
    ("healthz-bind-address", "healthzBindAddress", Form::Text),
    ("oom-score-adj", "oomScoreAdj", Form::Number),
    ("cluster-domain", "clusterDomain", Form::Text),
    ("cluster-dns", "clusterDNS", Form::List),
    ("volume-plugin-dir", "volumePluginDir", Form::Text),
    ("streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", Form::Text),
    ("node-status-update-frequency", "nodeStatusUpdateFrequency", Form::Text),
    ("minimum-image-ttl-duration", "imageMinimumGCAge", Form::Text),
    ("image-gc-high-threshold", "imageGCHighThresholdPercent", Form::Number),
    ("image-gc-low-threshold", "imageGCLowThresholdPercent", Form::Number),
    ("volume-stats-agg-period", "volumeStatsAggPeriod", Form::Text),
    ("feature-gates", "featureGates", Form::Gates),
    ("kubelet-cgroups", "kubeletCgroups", Form::Text),
    ("system-cgroups", "systemCgroups", Form::Text),
    ("provider-id", "providerID", Form::Text),
    ("cgroups-per-qos", "cgroupsPerQOS", Form::Bool),
    ("cgroup-driver", "cgroupDriver", Form::Text),
    ("cgroup-root", "cgroupRoot", Form::Text),
    ("cpu-manager-policy", "cpuManagerPolicy", Form::Text),
    ("cpu-manager-policy-options", "cpuManagerPolicyOptions", Form::Pairs),
    ("cpu-manager-reconcile-period", "cpuManagerReconcilePeriod", Form::Text),
    ("qos-reserved", "qosReserved", Form::Pairs),
    ("topology-manager-policy", "topologyManagerPolicy", Form::Text),
    ("topology-manager-scope", "topologyManagerScope", Form::Text),
    ("topology-manager-policy-options", "topologyManagerPolicyOptions", Form::Pairs),
    ("memory-manager-policy", "memoryManagerPolicy", Form::Text),
    ("runtime-request-timeout", "runtimeRequestTimeout", Form::Text),
    ("hairpin-mode", "hairpinMode", Form::Text),
    ("max-pods", "maxPods", Form::Number),
    ("pod-cidr", "podCIDR", Form::Text),
    ("pod-max-pids", "podPidsLimit", Form::Number),
    ("resolv-conf", "resolvConf", Form::Text),
    ("runonce", "runOnce", Form::Bool),
    ("cpu-cfs-quota", "cpuCFSQuota", Form::Bool),
    ("cpu-cfs-quota-period", "cpuCFSQuotaPeriod", Form::Text),
    ("enable-controller-attach-detach", "enableControllerAttachDetach", Form::Bool),
    ("make-iptables-util-chains", "makeIPTablesUtilChains", Form::Bool),
    ("container-log-max-size", "containerLogMaxSize", Form::Text),
    ("container-log-max-files", "containerLogMaxFiles", Form::Number),
    ("allowed-unsafe-sysctls", "allowedUnsafeSysctls", Form::List),
    ("node-status-max-images", "nodeStatusMaxImages", Form::Number),
    ("kernel-memcg-notification", "kernelMemcgNotification", Form::Bool),
    ("local-storage-capacity-isolation", "localStorageCapacityIsolation", Form::Bool),
    ("max-open-files", "maxOpenFiles", Form::Number),
    ("kube-api-content-type", "contentType", Form::Text),
    ("kube-api-qps", "kubeAPIQPS", Form::Number),
    ("kube-api-burst", "kubeAPIBurst", Form::Number),
    ("serialize-image-pulls", "serializeImagePulls", Form::Bool),
    ("eviction-hard", "evictionHard", Form::Thresholds),
    ("eviction-soft", "evictionSoft", Form::Thresholds),
    ("eviction-soft-grace-period", "evictionSoftGracePeriod", Form::Pairs),
    ("eviction-pressure-transition-period", "evictionPressureTransitionPeriod", Form::Text),
    ("eviction-max-pod-grace-period", "evictionMaxPodGracePeriod", Form::Number),
    ("eviction-minimum-reclaim", "evictionMinimumReclaim", Form::Pairs),
    ("pods-per-core", "podsPerCore", Form::Number),
    ("protect-kernel-defaults", "protectKernelDefaults", Form::Bool),
    ("reserved-cpus", "reservedSystemCPUs", Form::Text),
    ("system-reserved", "systemReserved", Form::Pairs),
    ("kube-reserved", "kubeReserved", Form::Pairs),
    ("enforce-node-allocatable", "enforceNodeAllocatable", Form::List),
    ("system-reserved-cgroup", "systemReservedCgroup", Form::Text),
    ("kube-reserved-cgroup", "kubeReservedCgroup", Form::Text),
    ("register-node", "registerNode", Form::Bool),
    ("register-with-taints", "registerWithTaints", Form::Taints),
    ("seccomp-default", "seccompDefault", Form::Bool),
];

/// The flags of [`TABLE`] that were given, as a tree shaped like the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides(pub(crate) Map<String, Value>);

impl Overrides {
    /// Lays the flags over a file's tree.
    pub(crate) fn apply(&self, file: &mut Value) {
        merge(file, &Value::Object(self.0.clone()), 0);
    }
}

/// Objects of the table's own structure merge; maps given by one flag replace the file's map.
fn merge(target: &mut Value, source: &Value, depth: usize) {
    let Value::Object(source) = source else { return };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in source {
        let nested = depth > 0 || matches!(key.as_str(), "authentication" | "authorization" | "featureGates");
        match value {
            Value::Object(_) if nested => merge(target.entry(key.clone()).or_insert(Value::Null), value, depth + 1),
            _ => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

fn pairs(text: &str, separator: char) -> Result<Map<String, Value>, String> {
    let mut map = Map::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (key, value) = item
            .split_once(separator)
            .ok_or_else(|| format!("malformed pair, expect key{separator}value, got {item:?}"))?;
        map.insert(key.trim().to_owned(), Value::String(value.trim().to_owned()));
    }
    Ok(map)
}

fn taint(text: &str) -> Result<Value, String> {
    let (rest, effect) = text.rsplit_once(':').ok_or_else(|| format!("invalid taint spec: {text}"))?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    let mut object = Map::new();
    object.insert("key".into(), key.into());
    object.insert("effect".into(), effect.into());
    if !value.is_empty() {
        object.insert("value".into(), value.into());
    }
    Ok(Value::Object(object))
}

fn convert(form: Form, text: &str) -> Result<Value, String> {
    let list = || text.split(',').filter(|item| !item.is_empty());
    Ok(match form {
        Form::Text => Value::String(text.to_owned()),
        Form::Bool => Value::Bool(parse_bool(text)?),
        Form::Number => Value::from(text.parse::<i64>().map_err(|_| format!("invalid number {text:?}"))?),
        Form::List => Value::from(list().map(|item| item.trim().to_owned()).collect::<Vec<_>>()),
        Form::Pairs => Value::Object(pairs(text, '=')?),
        Form::Thresholds => Value::Object(pairs(text, '<')?),
        Form::Taints => Value::Array(list().map(taint).collect::<Result<_, _>>()?),
        Form::Gates => {
            let gates = pairs(text, '=')?;
            let gates = gates.into_iter().map(|(name, value)| {
                parse_bool(value.as_str().unwrap_or_default()).map(|enabled| (name, Value::Bool(enabled)))
            });
            Value::Object(gates.collect::<Result<_, _>>()?)
        }
    })
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid boolean {text:?}")),
    }
}

impl clap::Args for Overrides {
    fn augment_args(mut command: Command) -> Command {
        for (flag, field, form) in TABLE {
            let mut arg = Arg::new(*flag)
                .long(*flag)
                .value_name("VALUE")
                .action(ArgAction::Append)
                .allow_hyphen_values(true)
                .help(format!("Overrides {field} of the file given by --config"));
            if *form == Form::Bool {
                arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
            }
            command = command.arg(arg);
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut tree = Value::Object(Map::new());
        for (flag, field, form) in TABLE {
            if matches.value_source(flag) != Some(ValueSource::CommandLine) {
                continue;
            }
            let values: Vec<&str> =
                matches.get_many::<String>(flag).into_iter().flatten().map(String::as_str).collect();
            // A flag that lists things adds up when repeated; of any other the last one counts.
            let text = match form {
                Form::Text | Form::Bool | Form::Number => values.last().map_or_else(String::new, |v| (*v).to_owned()),
                _ => values.join(","),
            };
            let value = convert(*form, &text).map_err(|error| {
                clap::Error::raw(
                    clap::error::ErrorKind::ValueValidation,
                    format!("invalid argument {text:?} for \"--{flag}\" flag: {error}\n"),
                )
            })?;
            let mut leaf = value;
            for part in field.rsplit('/') {
                leaf = Value::Object(Map::from_iter([(part.to_owned(), leaf)]));
            }
            merge(&mut tree, &leaf, 1);
        }
        match tree {
            Value::Object(map) => Ok(Self(map)),
            _ => Ok(Self::default()),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = <Self as clap::FromArgMatches>::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        overrides: Overrides,
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Flags::try_parse_from([
            "kubelet",
            "--cluster-dns=10.96.0.10,10.96.0.11",
            "--max-pods",
            "50",
            "--fail-swap-on=false",
            "--anonymous-auth",
            "--eviction-hard=memory.available<1Mi",
        ])
        .expect("flags");
        let mut file = json!({"maxPods": 1, "clusterDomain": "x", "evictionHard": {"nodefs.available": "1%"},
            "authentication": {"x509": {"clientCAFile": "/ca"}}});
        flags.overrides.apply(&mut file);
        assert_eq!(
            file,
            json!({"maxPods": 50, "clusterDomain": "x", "clusterDNS": ["10.96.0.10", "10.96.0.11"], "failSwapOn": false,
                "evictionHard": {"memory.available": "1Mi"},
                "authentication": {"x509": {"clientCAFile": "/ca"}, "anonymous": {"enabled": true}}})
        );
    }

    #[test]
    fn table_names_fields_that_exist() {
        let file = serde_json::to_value(super::super::KubeletConfiguration::default()).expect("serializable");
        for (flag, field, _) in TABLE {
            assert!(file.pointer(&format!("/{field}")).is_some(), "--{flag}: no field {field}");
        }
    }
}
