//! Arguments of the plugins that take some, with upstream's defaults.

use std::time::Duration;

use common::config::parse_go_duration;
use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::{Deserialize, Serialize};

/// A resource that is scored.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceSpec {
    /// Name.
    pub name: String,
    /// 1-100; zero means one.
    #[serde(default)]
    pub weight: i64,
}

fn default_resources() -> Vec<ResourceSpec> {
    ["cpu", "memory"].map(|name| ResourceSpec { name: name.into(), weight: 1 }).into()
}

fn default_weights(resources: &mut Vec<ResourceSpec>) {
    if resources.is_empty() {
        *resources = default_resources();
    }
    for resource in resources {
        if resource.weight == 0 {
            resource.weight = 1;
        }
    }
}

/// How NodeResourcesFit scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum ScoringStrategyType {
    /// Emptier is better.
    #[default]
    LeastAllocated,
    /// Fuller is better.
    MostAllocated,
    /// By a shape.
    RequestedToCapacityRatio,
}

/// A point of a shape.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UtilizationShapePoint {
    /// 0-100.
    pub utilization: i32,
    /// 0-10.
    pub score: i32,
}

/// A shape.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RequestedToCapacityRatio {
    /// Its points.
    pub shape: Vec<UtilizationShapePoint>,
}

/// The scoring strategy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScoringStrategy {
    /// Which.
    #[serde(rename = "type")]
    pub type_: ScoringStrategyType,
    /// Over which resources.
    pub resources: Vec<ResourceSpec>,
    /// The shape of RequestedToCapacityRatio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_to_capacity_ratio: Option<RequestedToCapacityRatio>,
}

/// NodeResourcesFitArgs
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FitArgs {
    /// Extended resources that are not looked at.
    pub ignored_resources: Vec<String>,
    /// Groups of extended resources that are not looked at.
    pub ignored_resource_groups: Vec<String>,
    /// Scoring.
    pub scoring_strategy: ScoringStrategy,
}

impl FitArgs {
    /// Fills in upstream's defaults.
    pub fn set_defaults(&mut self) {
        default_weights(&mut self.scoring_strategy.resources);
    }
}

/// NodeResourcesBalancedAllocationArgs
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BalancedAllocationArgs {
    /// Over which resources.
    pub resources: Vec<ResourceSpec>,
}

impl Default for BalancedAllocationArgs {
    fn default() -> Self {
        Self { resources: default_resources() }
    }
}

impl BalancedAllocationArgs {
    /// Fills in upstream's defaults.
    pub fn set_defaults(&mut self) {
        default_weights(&mut self.resources);
    }
}

/// NodeAffinityArgs
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeAffinityArgs {
    /// Affinity added to every pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_affinity: Option<NodeAffinity>,
}

/// InterPodAffinityArgs
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InterPodAffinityArgs {
    /// What a required affinity of an existing pod counts in scoring.
    pub hard_pod_affinity_weight: i32,
    /// Whether preferred terms of existing pods are left out.
    pub ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for InterPodAffinityArgs {
    fn default() -> Self {
        Self { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

/// PodTopologySpreadArgs
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodTopologySpreadArgs {
    /// For pods that have no constraint of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub default_constraints: Vec<TopologySpreadConstraint>,
    /// System or List.
    pub defaulting_type: String,
}

impl Default for PodTopologySpreadArgs {
    fn default() -> Self {
        Self { default_constraints: Vec::new(), defaulting_type: "System".into() }
    }
}

/// DefaultPreemptionArgs
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DefaultPreemptionArgs {
    /// At least this share of the nodes is tried.
    pub min_candidate_nodes_percentage: i32,
    /// And at least this many.
    pub min_candidate_nodes_absolute: i32,
}

impl Default for DefaultPreemptionArgs {
    fn default() -> Self {
        Self { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

/// VolumeBindingArgs
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VolumeBindingArgs {
    /// How long a pod waits for its volumes once its node is chosen.
    pub bind_timeout_seconds: i64,
    /// Scores by capacity: behind the gate StorageCapacityScoring, which is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<UtilizationShapePoint>>,
}

impl Default for VolumeBindingArgs {
    fn default() -> Self {
        Self { bind_timeout_seconds: 600, shape: None }
    }
}

/// DynamicResourcesArgs
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DynamicResourcesArgs {
    /// How long a search for devices on one node may take; zero for as long as it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_timeout: Option<String>,
    /// How long devices may take to become ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding_timeout: Option<String>,
}

impl DynamicResourcesArgs {
    /// The search's limit; ten seconds by default.
    pub fn filter_timeout(&self) -> Option<Duration> {
        self.filter_timeout.as_deref().map_or(Some(Duration::from_secs(10)), |text| parse_go_duration(text).ok())
    }

    /// The devices' limit; ten minutes by default.
    pub fn binding_timeout(&self) -> Duration {
        let given = self.binding_timeout.as_deref().and_then(|text| parse_go_duration(text).ok());
        given.unwrap_or(Duration::from_secs(600))
    }
}
