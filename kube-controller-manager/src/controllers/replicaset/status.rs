//! A set's status as a pure function of its pods.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::kinds::ReplicaKind;
use crate::shared::{meta::MetaExt, pods, selector};

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What the pods say. `failure` is the error of managing them, if any.
pub(super) fn calculate<K: ReplicaKind>(
    set: &K,
    active: &[Arc<Pod>],
    terminating: usize,
    failure: Option<&str>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let old = set.status();
    let template_labels =
        set.template().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone()).unwrap_or_default();
    let count =
        |test: &dyn Fn(&Pod) -> bool| i32::try_from(active.iter().filter(|p| test(p)).count()).unwrap_or(i32::MAX);
    let min_ready = set.min_ready_seconds();
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&|p| selector::map_selects(&template_labels, p.metadata.labels.as_ref()))),
        ready_replicas: Some(count(&pods::is_ready)),
        available_replicas: Some(count(&|p| pods::is_available(p, min_ready, now))),
        terminating_replicas: K::COUNTS_TERMINATING.then(|| i32::try_from(terminating).unwrap_or(i32::MAX)),
        conditions: conditions(old.conditions.unwrap_or_default(), active.len(), set.replicas(), failure, now),
        observed_generation: Some(set.generation()),
    }
}

fn conditions(
    mut list: Vec<ReplicaSetCondition>,
    active: usize,
    wanted: i32,
    failure: Option<&str>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let known = list.iter().any(|c| c.type_ == REPLICA_FAILURE);
    match failure {
        Some(message) if !known => {
            let reason = if (active as i64) < i64::from(wanted) { "FailedCreate" } else { "FailedDelete" };
            list.push(ReplicaSetCondition {
                type_: REPLICA_FAILURE.into(),
                status: "True".into(),
                last_transition_time: Some(Time(now)),
                reason: Some(reason.into()),
                message: Some(message.to_owned()),
            });
        }
        None if known => list.retain(|c| c.type_ != REPLICA_FAILURE),
        _ => {}
    }
    (!list.is_empty()).then_some(list)
}

/// Whether writing `new` would change nothing; absent counts as zero.
pub(super) fn is_current(old: &ReplicaSetStatus, new: &ReplicaSetStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    old.replicas == new.replicas
        && n(old.fully_labeled_replicas) == n(new.fully_labeled_replicas)
        && n(old.ready_replicas) == n(new.ready_replicas)
        && n(old.available_replicas) == n(new.available_replicas)
        && old.terminating_replicas == new.terminating_replicas
        && old.observed_generation.unwrap_or(0) == new.observed_generation.unwrap_or(0)
        && old.conditions.as_deref().unwrap_or(&[]) == new.conditions.as_deref().unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use serde_json::json;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"name": "s", "generation": 4}, "spec": {"replicas": replicas,
            "minReadySeconds": 10, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b", "x": "y"}}}}}))
        .unwrap()
    }

    fn pod(labels: serde_json::Value, ready: &str, since: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"labels": labels}, "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn counts() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let pods = [
            pod(json!({"a": "b", "x": "y"}), "True", "2026-01-01T00:00:00Z"),
            pod(json!({"a": "b"}), "True", "2026-01-01T00:00:55Z"),
            pod(json!({"a": "b", "x": "y"}), "False", "2026-01-01T00:00:00Z"),
        ];
        let s = calculate(&set(4), &pods, 1, None, now);
        assert_eq!((s.replicas, s.ready_replicas, s.available_replicas), (3, Some(2), Some(1)));
        assert_eq!((s.fully_labeled_replicas, s.terminating_replicas), (Some(2), Some(1)));
        assert_eq!((s.observed_generation, s.conditions), (Some(4), None));
    }

    #[test]
    fn failure_condition_comes_and_goes() {
        let now = Timestamp::UNIX_EPOCH;
        let mut rs = set(1);
        let failed = calculate(&rs, &[], 0, Some("no quota"), now);
        let c = &failed.conditions.as_ref().unwrap()[0];
        assert_eq!((c.type_.as_str(), c.reason.as_deref()), ("ReplicaFailure", Some("FailedCreate")));
        rs.status = Some(failed.clone());
        // The same failure again does not rewrite the condition.
        let again = calculate(&rs, &[], 0, Some("still no quota"), "2026-01-01T00:00:00Z".parse().unwrap());
        assert!(is_current(&failed, &again));
        assert_eq!(calculate(&rs, &[], 0, None, now).conditions, None);
    }
}
