//! Upstream's defaults: the default plugins with their weights, and how a profile's own choice merges into them.

use std::collections::BTreeSet;

use super::types::{KubeSchedulerConfiguration, KubeSchedulerProfile, PluginConfig, PluginEntry, PluginSet, Plugins};

/// The default plugins, in order, with the weight of those that score.
pub const DEFAULT_PLUGINS: &[(&str, i32)] = &[
    ("SchedulingGates", 0),
    ("PrioritySort", 0),
    ("NodeUnschedulable", 0),
    ("NodeName", 0),
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodePorts", 0),
    ("NodeResourcesFit", 1),
    ("VolumeRestrictions", 0),
    ("NodeVolumeLimits", 0),
    ("VolumeBinding", 0),
    ("VolumeZone", 0),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("DynamicResources", 2),
    ("DefaultPreemption", 0),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("DefaultBinder", 0),
    ("NodeDeclaredFeatures", 0),
];

/// The default plugin set.
pub fn default_plugins() -> Plugins {
    let enabled = DEFAULT_PLUGINS
        .iter()
        .map(|(name, weight)| PluginEntry { name: (*name).to_owned(), weight: (*weight > 0).then_some(*weight) })
        .collect();
    Plugins { multi_point: PluginSet { enabled, disabled: Vec::new() }, ..Plugins::default() }
}

/// Fills in everything that the file leaves open, without the gates that are off by default.
pub fn set_defaults(config: &mut KubeSchedulerConfiguration) {
    set_defaults_with(config, false);
}

/// Fills in everything that the file leaves open; `gangs` is the gate GangScheduling.
pub fn set_defaults_with(config: &mut KubeSchedulerConfiguration, gangs: bool) {
    let mut defaults = default_plugins();
    if gangs {
        defaults.multi_point.enabled.push(PluginEntry { name: "GangScheduling".into(), weight: None });
    }
    config.parallelism.get_or_insert(16);
    if config.profiles.is_empty() {
        config.profiles.push(KubeSchedulerProfile::default());
    }
    if let [only] = config.profiles.as_mut_slice() {
        only.scheduler_name.get_or_insert_with(|| "default-scheduler".into());
    }
    for profile in &mut config.profiles {
        profile.plugins = merge_plugins(defaults.clone(), &profile.plugins);
    }
    leave_to_extenders(config);
    config.percentage_of_nodes_to_score.get_or_insert(0);
    let election = &mut config.leader_election;
    election.leader_elect.get_or_insert(true);
    for (field, default) in [
        (&mut election.lease_duration, "15s"),
        (&mut election.renew_deadline, "10s"),
        (&mut election.retry_period, "2s"),
    ] {
        field.get_or_insert_with(|| default.into());
    }
    for (field, default) in [
        (&mut election.resource_lock, "leases"),
        (&mut election.resource_name, "kube-scheduler"),
        (&mut election.resource_namespace, "kube-system"),
        (&mut config.client_connection.content_type, "application/vnd.kubernetes.protobuf"),
    ] {
        if field.is_empty() {
            *field = default.into();
        }
    }
    let client = &mut config.client_connection;
    if client.qps == 0.0 {
        client.qps = 50.0;
    }
    if client.burst == 0 {
        client.burst = 100;
    }
    config.pod_initial_backoff_seconds.get_or_insert(1);
    config.pod_max_backoff_seconds.get_or_insert(10);
    let profiling = *config.enable_profiling.get_or_insert(true);
    if profiling {
        config.enable_contention_profiling.get_or_insert(true);
    }
}

/// Resources that an extender manages alone are none of NodeResourcesFit's business.
fn leave_to_extenders(config: &mut KubeSchedulerConfiguration) {
    const FIT: &str = "NodeResourcesFit";
    let managed = config.extenders.iter().flat_map(|extender| &extender.managed_resources);
    let ignored: Vec<_> = managed.filter(|resource| resource.ignored_by_scheduler).map(|r| r.name.clone()).collect();
    if ignored.is_empty() {
        return;
    }
    for profile in &mut config.profiles {
        let at = profile.plugin_config.iter().position(|plugin| plugin.name == FIT).unwrap_or_else(|| {
            profile.plugin_config.push(PluginConfig { name: FIT.into(), args: serde_json::json!({}) });
            profile.plugin_config.len() - 1
        });
        let args = &mut profile.plugin_config[at].args;
        if args.is_null() {
            *args = serde_json::json!({});
        }
        // Extenders win over what the arguments say, as upstream's.
        if let Some(args) = args.as_object_mut() {
            args.insert("ignoredResources".into(), ignored.clone().into());
        }
    }
}

fn merge_plugins(defaults: Plugins, own: &Plugins) -> Plugins {
    Plugins {
        pre_enqueue: merge(defaults.pre_enqueue, &own.pre_enqueue),
        queue_sort: merge(defaults.queue_sort, &own.queue_sort),
        pre_filter: merge(defaults.pre_filter, &own.pre_filter),
        filter: merge(defaults.filter, &own.filter),
        post_filter: merge(defaults.post_filter, &own.post_filter),
        pre_score: merge(defaults.pre_score, &own.pre_score),
        score: merge(defaults.score, &own.score),
        reserve: merge(defaults.reserve, &own.reserve),
        permit: merge(defaults.permit, &own.permit),
        pre_bind: merge(defaults.pre_bind, &own.pre_bind),
        bind: merge(defaults.bind, &own.bind),
        post_bind: merge(defaults.post_bind, &own.post_bind),
        multi_point: merge(defaults.multi_point, &own.multi_point),
        placement_generate: merge(defaults.placement_generate, &own.placement_generate),
        placement_score: merge(defaults.placement_score, &own.placement_score),
    }
}

/// Defaults in their order, minus what is disabled, with what is configured again replaced in place; the rest follows.
fn merge(defaults: PluginSet, own: &PluginSet) -> PluginSet {
    let disabled: BTreeSet<&str> = own.disabled.iter().map(|plugin| plugin.name.as_str()).collect();
    let mut replaced = BTreeSet::new();
    let mut enabled = Vec::new();
    if !disabled.contains("*") {
        for plugin in defaults.enabled {
            if disabled.contains(plugin.name.as_str()) {
                continue;
            }
            // The last mention counts, as upstream's map does.
            match own.enabled.iter().rposition(|other| other.name == plugin.name) {
                Some(at) => {
                    replaced.insert(at);
                    enabled.push(own.enabled[at].clone());
                }
                None => enabled.push(plugin),
            }
        }
    }
    enabled.extend(own.enabled.iter().enumerate().filter(|(at, _)| !replaced.contains(at)).map(|(_, p)| p.clone()));
    PluginSet { enabled, disabled: own.disabled.iter().cloned().chain(defaults.disabled).collect() }
}
