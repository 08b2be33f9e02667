//! What a configuration must satisfy, in upstream's words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::config::parse_go_duration;

use super::args::{
    BalancedAllocationArgs, DefaultPreemptionArgs, DynamicResourcesArgs, FitArgs, InterPodAffinityArgs,
    NodeAffinityArgs, PodTopologySpreadArgs, ResourceSpec, ScoringStrategyType, UtilizationShapePoint,
    VolumeBindingArgs,
};
use super::types::{KubeSchedulerConfiguration, KubeSchedulerProfile, PluginConfig};

/// Plugins that earlier versions had.
const REMOVED: &[&str] = &["AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"];

/// All complaints about a defaulted configuration; empty when it is fine.
pub fn validate(config: &KubeSchedulerConfiguration) -> Vec<String> {
    let mut errors = Vec::new();
    let election = &config.leader_election;
    if election.leader_elect == Some(true) && election.resource_lock != "leases" {
        errors.push(invalid(
            "leaderElection.resourceLock",
            &election.resource_lock,
            "resourceLock value must be \"leases\"",
        ));
    }
    if config.parallelism.is_some_and(|value| value <= 0) {
        errors.push(invalid("parallelism", &config.parallelism, "should be an integer value greater than zero"));
    }
    let mut seen = BTreeMap::new();
    for (index, profile) in config.profiles.iter().enumerate() {
        let path = format!("profiles[{index}]");
        validate_profile(&path, profile, &mut errors);
        if let Some(first) = seen.insert(profile.scheduler_name.clone(), index) {
            errors.push(format!("{path}.schedulerName: Duplicate value: \"profiles[{first}].schedulerName\""));
        }
    }
    validate_queue_sort(config, &mut errors);
    percentage("percentageOfNodesToScore", config.percentage_of_nodes_to_score, &mut errors);
    let (initial, max) =
        (config.pod_initial_backoff_seconds.unwrap_or(1), config.pod_max_backoff_seconds.unwrap_or(10));
    if initial <= 0 {
        errors.push(invalid("podInitialBackoffSeconds", &initial, "must be greater than 0"));
    }
    if max < initial {
        let detail = "must be greater than or equal to PodInitialBackoffSeconds";
        errors.push(invalid("podMaxBackoffSeconds", &max, detail));
    }
    validate_extenders(config, &mut errors);
    errors
}

fn validate_extenders(config: &KubeSchedulerConfiguration, errors: &mut Vec<String>) {
    let mut managed = BTreeSet::new();
    for (index, extender) in config.extenders.iter().enumerate() {
        let path = format!("extenders[{index}]");
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            let detail = "must have a positive weight applied to it";
            errors.push(invalid(&format!("{path}.weight"), &extender.weight, detail));
        }
        for (at, resource) in extender.managed_resources.iter().enumerate() {
            let path = format!("{path}.managedResources[{at}].name");
            let native = !resource.name.contains('/') || resource.name.contains("kubernetes.io/");
            if native || resource.name.starts_with("requests.") {
                errors.push(invalid(&path, &resource.name, "must be an extended resource name"));
            }
            if !managed.insert(&resource.name) {
                errors.push(invalid(&path, &resource.name, "duplicate extender managed resource name"));
            }
        }
    }
    let binders = config.extenders.iter().filter(|extender| !extender.bind_verb.is_empty()).count();
    if binders > 1 {
        let found = format!("found {binders} extenders implementing bind");
        errors.push(invalid("extenders", &found, "only one extender can implement bind"));
    }
}

/// Go's spelling of a bad value: strings quoted, the rest as is.
fn invalid(path: &str, value: &impl serde::Serialize, detail: &str) -> String {
    let value = serde_json::to_string(value).unwrap_or_default();
    format!("{path}: Invalid value: {value}: {detail}")
}

fn percentage(path: &str, value: Option<i32>, errors: &mut Vec<String>) {
    if value.is_some_and(|value| !(0..=100).contains(&value)) {
        errors.push(invalid(path, &value, "not in valid range [0-100]"));
    }
}

fn validate_profile(path: &str, profile: &KubeSchedulerProfile, errors: &mut Vec<String>) {
    if profile.scheduler_name.as_deref().unwrap_or_default().is_empty() {
        errors.push(format!("{path}.schedulerName: Required value"));
    }
    percentage(&format!("{path}.percentageOfNodesToScore"), profile.percentage_of_nodes_to_score, errors);
    let plugins = &profile.plugins;
    for (point, set) in [
        ("preEnqueue", &plugins.pre_enqueue),
        ("queueSort", &plugins.queue_sort),
        ("preFilter", &plugins.pre_filter),
        ("filter", &plugins.filter),
        ("postFilter", &plugins.post_filter),
        ("preScore", &plugins.pre_score),
        ("score", &plugins.score),
        ("reserve", &plugins.reserve),
        ("permit", &plugins.permit),
        ("preBind", &plugins.pre_bind),
        ("bind", &plugins.bind),
        ("postBind", &plugins.post_bind),
    ] {
        for (index, plugin) in set.enabled.iter().enumerate() {
            if REMOVED.contains(&plugin.name.as_str()) {
                errors.push(removed(&format!("{path}.plugins.{point}.enabled[{index}]"), &plugin.name));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (index, config) in profile.plugin_config.iter().enumerate() {
        let path = format!("{path}.pluginConfig[{index}]");
        if !seen.insert(&config.name) {
            errors.push(format!("{path}: Duplicate value: {:?}", config.name));
        }
        if REMOVED.contains(&config.name.as_str()) {
            errors.push(removed(&path, &config.name));
        } else {
            validate_args(&path, config, errors);
        }
    }
}

fn removed(path: &str, name: &str) -> String {
    const VERSION: &str = "kubescheduler.config.k8s.io/v1";
    let detail = format!("was invalid in version {VERSION:?} (KubeSchedulerConfiguration is version {VERSION:?})");
    invalid(path, &name, &detail)
}

fn validate_queue_sort(config: &KubeSchedulerConfiguration, errors: &mut Vec<String>) {
    let Some(first) = config.profiles.first() else { return };
    let canon = &first.plugins.queue_sort;
    if canon.enabled.len() > 1 {
        let detail = "only one queue sort plugin can be enabled";
        errors.push(invalid("profiles[0].plugins.queueSort.Enabled", &canon.enabled.len(), detail));
    }
    for (index, profile) in config.profiles.iter().enumerate().skip(1) {
        if profile.plugins.queue_sort != *canon {
            let path = format!("profiles[{index}].plugins.queueSort");
            errors.push(invalid(&path, &profile.plugins.queue_sort, "must be the same for all profiles"));
        }
    }
}

/// The arguments of a plugin, strictly decoded. `apiVersion` and `kind` may be given and must then be right.
pub fn decode_args<T: serde::de::DeserializeOwned + Default>(config: &PluginConfig) -> Result<T, String> {
    let name = &config.name;
    let mut args = match &config.args {
        serde_json::Value::Null => return Ok(T::default()),
        serde_json::Value::Object(map) => map.clone(),
        other => return Err(format!("decoding args for plugin {name}: expected an object, got {other}")),
    };
    let kind = format!("{name}Args");
    if let Some(given) = args.remove("kind").filter(|given| given.as_str() != Some(&kind)) {
        let given = given.as_str().unwrap_or_default().to_owned();
        return Err(format!(
            "args for plugin {name} were not of type {kind}.kubescheduler.config.k8s.io, got {given}.kubescheduler.config.k8s.io"
        ));
    }
    args.remove("apiVersion");
    serde_json::from_value(args.into())
        .map_err(|error| format!("decoding args for plugin {name}: strict decoding error: {error}"))
}

fn validate_args(path: &str, config: &PluginConfig, errors: &mut Vec<String>) {
    let path = &format!("{path}.args");
    let checked = match config.name.as_str() {
        "NodeResourcesFit" => decode_args(config).map(|args| fit(path, args)),
        "NodeResourcesBalancedAllocation" => decode_args(config).map(|args| balanced(path, args)),
        "NodeAffinity" => decode_args(config).map(|args| node_affinity(path, &args)),
        "InterPodAffinity" => decode_args(config).map(|args: InterPodAffinityArgs| {
            let weight = args.hard_pod_affinity_weight;
            let bad = !(0..=100).contains(&weight);
            let path = format!("{path}.hardPodAffinityWeight");
            bad.then(|| invalid(&path, &weight, "not in valid range [0, 100]")).into_iter().collect()
        }),
        "PodTopologySpread" => decode_args(config).map(|args| spread(path, &args)),
        "VolumeBinding" => decode_args(config).map(|args| volume_binding(path, &args)),
        "DefaultPreemption" => decode_args(config).map(|args| preemption(path, &args)),
        "DynamicResources" => decode_args(config).map(|args| devices(path, &args)),
        _ => return,
    };
    match checked {
        Ok(found) => errors.extend(found),
        Err(error) => errors.push(format!("decoding .{}: {error}", path.trim_end_matches(".args"))),
    }
}

fn devices(path: &str, args: &DynamicResourcesArgs) -> Vec<String> {
    let mut errors = Vec::new();
    let mut check = |field: &str, text: &Option<String>, least: Duration, detail: &str| {
        let Some(text) = text else { return };
        match parse_go_duration(text) {
            Ok(time) if time >= least => {}
            Ok(_) => errors.push(invalid(&format!("{path}.{field}"), text, detail)),
            Err(error) => errors.push(invalid(&format!("{path}.{field}"), text, &error)),
        }
    };
    check("filterTimeout", &args.filter_timeout, Duration::ZERO, "must be zero or positive");
    check("bindingTimeout", &args.binding_timeout, Duration::from_secs(1), "must be at least 1 second");
    errors
}

fn fit(path: &str, mut args: FitArgs) -> Vec<String> {
    args.set_defaults();
    let mut errors = Vec::new();
    for (index, group) in args.ignored_resource_groups.iter().enumerate() {
        if group.contains('/') {
            let path = format!("{path}.ignoredResourceGroups[{index}]");
            errors.push(invalid(&path, group, "resource group name can't contain '/'"));
        }
    }
    let path = format!("{path}.scoringStrategy");
    let strategy = &args.scoring_strategy;
    weights(&format!("{path}.resources"), &strategy.resources, &mut errors);
    let ratio = format!("{path}.requestedToCapacityRatio");
    match (&strategy.type_, &strategy.requested_to_capacity_ratio) {
        (ScoringStrategyType::RequestedToCapacityRatio, None) => {
            errors.push(format!("{ratio}: Required value: must be specified when type is RequestedToCapacityRatio"));
        }
        (ScoringStrategyType::RequestedToCapacityRatio, Some(given)) => {
            shape(&format!("{ratio}.shape"), &given.shape, &mut errors);
        }
        (_, Some(_)) => {
            errors.push(format!("{ratio}: Forbidden: must be nil when type is not RequestedToCapacityRatio"));
        }
        (_, None) => {}
    }
    errors
}

fn volume_binding(path: &str, args: &VolumeBindingArgs) -> Vec<String> {
    let mut errors = Vec::new();
    if args.bind_timeout_seconds < 0 {
        let detail = "invalid BindTimeoutSeconds, should not be a negative value";
        errors.push(invalid(&format!("{path}.bindTimeoutSeconds"), &args.bind_timeout_seconds, detail));
    }
    if args.shape.is_some() {
        let detail = "unexpected field `shape`, remove it or turn on the feature gate StorageCapacityScoring";
        errors.push(invalid(&format!("{path}.shape"), &args.shape, detail));
    }
    errors
}

fn weights(path: &str, resources: &[ResourceSpec], errors: &mut Vec<String>) {
    for (index, resource) in resources.iter().enumerate() {
        if !(1..=100).contains(&resource.weight) {
            let detail = format!("resource weight of {} not in valid range (0, 100]", resource.name);
            errors.push(invalid(&format!("{path}[{index}].weight"), &resource.weight, &detail));
        }
    }
}

fn shape(path: &str, points: &[UtilizationShapePoint], errors: &mut Vec<String>) {
    if points.is_empty() {
        errors.push(format!("{path}: Required value: at least one point must be specified"));
    }
    if let Some(at) = points.windows(2).position(|pair| pair[0].utilization >= pair[1].utilization) {
        let path = format!("{path}[{}].utilization", at + 1);
        errors.push(invalid(&path, &points[at + 1].utilization, "values must be sorted in increasing order"));
    }
    for (index, point) in points.iter().enumerate() {
        for (field, value, max) in [("utilization", point.utilization, 100), ("score", point.score, 10)] {
            if !(0..=max).contains(&value) {
                let detail = format!("not in valid range [0, {max}]");
                errors.push(invalid(&format!("{path}[{index}].{field}"), &value, &detail));
            }
        }
    }
}

fn balanced(path: &str, mut args: BalancedAllocationArgs) -> Vec<String> {
    args.set_defaults();
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, resource) in args.resources.iter().enumerate() {
        let path = format!("{path}.resources[{index}]");
        if !seen.insert(&resource.name) {
            errors.push(format!("{path}.name: Duplicate value: {:?}", resource.name));
        }
        if resource.weight != 1 {
            errors.push(invalid(&format!("{path}.weight"), &resource.weight, "must be 1"));
        }
    }
    errors
}

fn node_affinity(path: &str, args: &NodeAffinityArgs) -> Vec<String> {
    let required = args.added_affinity.as_ref();
    let required = required.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let mut errors = Vec::new();
    for (at, term) in required.into_iter().flat_map(|selector| &selector.node_selector_terms).enumerate() {
        for (index, expression) in term.match_expressions.iter().flatten().enumerate() {
            if common::meta::nodeselector::Requirement::parse(expression).is_none() {
                let path = format!(
                    "{path}.addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[{at}].matchExpressions[{index}]"
                );
                errors.push(invalid(&path, expression, "not a valid selector requirement"));
            }
        }
    }
    errors
}

fn spread(path: &str, args: &PodTopologySpreadArgs) -> Vec<String> {
    let mut errors = Vec::new();
    let kind = format!("{path}.defaultingType");
    match args.defaulting_type.as_str() {
        "System" if !args.default_constraints.is_empty() => {
            errors.push(invalid(&kind, &args.defaulting_type, "when .defaultConstraints are not empty"));
        }
        "System" | "List" => {}
        other => errors.push(format!("{kind}: Unsupported value: {other:?}: supported values: \"List\", \"System\"")),
    }
    for (index, constraint) in args.default_constraints.iter().enumerate() {
        let path = format!("{path}.defaultConstraints[{index}]");
        if constraint.max_skew <= 0 {
            errors.push(invalid(&format!("{path}.maxSkew"), &constraint.max_skew, "not in valid range (0, inf)"));
        }
        if constraint.topology_key.is_empty() {
            errors.push(format!("{path}.topologyKey: Required value: can not be empty"));
        }
        if constraint.label_selector.is_some() {
            let detail = "constraint must not define a selector, as they deduced for each pod";
            errors.push(format!("{path}.labelSelector: Forbidden: {detail}"));
        }
        match constraint.when_unsatisfiable.as_str() {
            "" => errors.push(format!("{path}.whenUnsatisfiable: Required value: can not be empty")),
            "DoNotSchedule" | "ScheduleAnyway" => {}
            other => errors.push(format!(
                "{path}.whenUnsatisfiable: Unsupported value: {other:?}: supported values: \"DoNotSchedule\", \"ScheduleAnyway\""
            )),
        }
    }
    errors
}

fn preemption(path: &str, args: &DefaultPreemptionArgs) -> Vec<String> {
    let (percentage, absolute) = (args.min_candidate_nodes_percentage, args.min_candidate_nodes_absolute);
    let (first, second) = (format!("{path}.minCandidateNodesPercentage"), format!("{path}.minCandidateNodesAbsolute"));
    let mut errors = Vec::new();
    if !(0..=100).contains(&percentage) {
        errors.push(invalid(&first, &percentage, "not in valid range [0, 100]"));
    }
    if absolute < 0 {
        errors.push(invalid(&second, &absolute, "not in valid range [0, inf)"));
    }
    if percentage == 0 && absolute == 0 {
        errors.push(invalid(&first, &percentage, "cannot be zero at the same time as minCandidateNodesAbsolute"));
        errors.push(invalid(&second, &absolute, "cannot be zero at the same time as minCandidateNodesPercentage"));
    }
    errors
}
