use serde_json::{Value, json};

use super::defaults::set_defaults;
use super::types::KubeSchedulerConfiguration;
use super::validation::validate;
use crate::plugins::registry::{Services, profile};

fn parse(value: Value) -> KubeSchedulerConfiguration {
    let mut config: KubeSchedulerConfiguration = serde_json::from_value(value).unwrap();
    set_defaults(&mut config);
    config
}

fn errors(value: Value) -> String {
    validate(&parse(value)).join("; ")
}

#[test]
fn defaults() {
    let config = parse(json!({}));
    assert_eq!(validate(&config), Vec::<String>::new());
    assert_eq!(config.profiles[0].scheduler_name.as_deref(), Some("default-scheduler"));
    assert_eq!((config.parallelism, config.percentage_of_nodes_to_score), (Some(16), Some(0)));
    assert_eq!((config.pod_initial_backoff_seconds, config.pod_max_backoff_seconds), (Some(1), Some(10)));
    let profile = profile(&config.profiles[0], &Services::default()).unwrap();
    let scores: Vec<_> = profile.points.score.iter().map(|(plugin, weight)| (plugin.name(), *weight)).collect();
    for expected in [
        ("TaintToleration", 3),
        ("NodeAffinity", 2),
        ("NodeResourcesFit", 1),
        ("NodeResourcesBalancedAllocation", 1),
        ("ImageLocality", 1),
    ] {
        assert!(scores.contains(&expected), "{scores:?}");
    }
    let filters: Vec<_> = profile.points.filter.iter().map(|plugin| plugin.name()).collect();
    assert!(filters.starts_with(&["NodeUnschedulable", "NodeName", "TaintToleration", "NodeAffinity"]), "{filters:?}");
}

#[test]
fn unknown_fields_are_named() {
    let error = serde_json::from_value::<KubeSchedulerConfiguration>(json!({"profile": []})).unwrap_err();
    assert!(error.to_string().contains("unknown field `profile`"), "{error}");
}

#[test]
fn complaints() {
    let with_args = |name: &str, args: Value| json!({"profiles": [{"pluginConfig": [{"name": name, "args": args}]}]});
    for (value, expected) in [
        (json!({"parallelism": 0}), "parallelism: Invalid value: 0: should be an integer value greater than zero"),
        (
            json!({"percentageOfNodesToScore": 101}),
            "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
        ),
        (json!({"podInitialBackoffSeconds": 0}), "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0"),
        (
            json!({"podMaxBackoffSeconds": 0}),
            "podMaxBackoffSeconds: Invalid value: 0: must be greater than or equal to PodInitialBackoffSeconds",
        ),
        (
            json!({"profiles": [{"schedulerName": "a"}, {"schedulerName": "a"}]}),
            "profiles[1].schedulerName: Duplicate value: \"profiles[0].schedulerName\"",
        ),
        (json!({"profiles": [{"schedulerName": "a"}, {}]}), "profiles[1].schedulerName: Required value"),
        (
            with_args("NodeResourcesFit", json!({"scoringStrategy": {"resources": [{"name": "cpu", "weight": 101}]}})),
            "profiles[0].pluginConfig[0].args.scoringStrategy.resources[0].weight: Invalid value: 101: \
             resource weight of cpu not in valid range (0, 100]",
        ),
        (
            with_args("NodeResourcesFit", json!({"scoringStrategy": {"type": "RequestedToCapacityRatio"}})),
            "must be specified when type is RequestedToCapacityRatio",
        ),
        (
            with_args("NodeResourcesBalancedAllocation", json!({"resources": [{"name": "cpu", "weight": 2}]})),
            "args.resources[0].weight: Invalid value: 2: must be 1",
        ),
        (with_args("NodeResourcesFit", json!({"strategy": {}})), "decoding args for plugin NodeResourcesFit"),
        (with_args("NodeAffinity", json!({"kind": "NodeResourcesFitArgs"})), "were not of type NodeAffinityArgs"),
        (
            with_args("InterPodAffinity", json!({"hardPodAffinityWeight": 200})),
            "hardPodAffinityWeight: Invalid value: 200: not in valid range [0, 100]",
        ),
        (with_args("GCEPDLimits", json!({})), "was invalid in version"),
        (
            json!({"leaderElection": {"resourceLock": "endpoints"}}),
            "leaderElection.resourceLock: Invalid value: \"endpoints\": resourceLock value must be \"leases\"",
        ),
    ] {
        let found = errors(value.clone());
        assert!(found.contains(expected), "{value}: {found}");
    }
}

#[test]
fn plugins_are_merged_as_upstream_does() {
    let build = |plugins: Value| {
        let config = parse(json!({"profiles": [{"plugins": plugins}]}));
        profile(&config.profiles[0], &Services::default())
    };
    let scores = |plugins: Value| -> Vec<(&'static str, i64)> {
        let profile = build(plugins).unwrap();
        profile.points.score.iter().map(|(plugin, weight)| (plugin.name(), *weight)).collect()
    };
    let weight = scores(json!({"score": {"enabled": [{"name": "ImageLocality", "weight": 7}]}}));
    assert_eq!(weight[0], ("ImageLocality", 7), "overridden ones come first: {weight:?}");
    let without = scores(json!({"score": {"disabled": [{"name": "ImageLocality"}]}}));
    assert!(without.iter().all(|(name, _)| *name != "ImageLocality"));
    assert!(scores(json!({"score": {"disabled": [{"name": "*"}]}})).is_empty());
    let none = build(json!({"multiPoint": {"disabled": [{"name": "DefaultBinder"}]}})).err().unwrap();
    assert!(none.contains("at least one bind plugin is needed"), "{none}");
    let unknown = build(json!({"filter": {"enabled": [{"name": "Frobnicate"}]}})).err().unwrap();
    assert!(unknown.contains("\"Frobnicate\" does not exist"), "{unknown}");
    let wrong = build(json!({"filter": {"enabled": [{"name": "ImageLocality"}]}})).err().unwrap();
    assert!(wrong.contains("plugin \"ImageLocality\" does not extend FilterPlugin plugin"), "{wrong}");
}
