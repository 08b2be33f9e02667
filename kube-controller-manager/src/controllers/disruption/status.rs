//! How many disruptions a budget allows. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::meta::{conditions, intstr::scaled};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::shared::meta::MetaExt;
use crate::shared::pods;

/// So long after its eviction was granted a pod must be on its way out, or the grant is void.
pub(super) const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// So long a pod may be announced as a target of disruption without being one.
const STALE: SignedDuration = SignedDuration::from_mins(2);
pub(super) const ALLOWED: &str = "DisruptionAllowed";

/// The pods that there should be, and how many of them must be healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) pods: i32,
    pub(super) healthy: i32,
}

/// Does the budget need to know how large the workloads of its pods are meant to be?
pub(super) fn needs_scale(pdb: &PodDisruptionBudget) -> bool {
    let Some(spec) = &pdb.spec else { return false };
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// What the budget expects of `there` pods whose workloads are meant to have `scale` together.
///
/// # Errors
/// A malformed percentage.
pub(super) fn expected(pdb: &PodDisruptionBudget, there: usize, scale: i32) -> Result<Expected, String> {
    let Some(spec) = &pdb.spec else { return Ok(Expected { pods: 0, healthy: 0 }) };
    if let Some(limit) = &spec.max_unavailable {
        return Ok(Expected { pods: scale, healthy: (scale - scaled(limit, scale, true)?).max(0) });
    }
    Ok(match &spec.min_available {
        None => Expected { pods: 0, healthy: 0 },
        Some(IntOrString::Int(healthy)) => {
            Expected { pods: i32::try_from(there).unwrap_or(i32::MAX), healthy: *healthy }
        }
        Some(limit) => Expected { pods: scale, healthy: scaled(limit, scale, true)? },
    })
}

/// Evictions that were granted and whose pods are not on their way yet.
#[derive(Debug, Default)]
pub(super) struct Disrupted {
    pub(super) pods: BTreeMap<String, Time>,
    /// Pods that did not go in time.
    pub(super) overdue: Vec<Arc<Pod>>,
    /// When the first of the others will be overdue.
    pub(super) recheck: Option<Duration>,
}

pub(super) fn disrupted(pdb: &PodDisruptionBudget, list: &[Arc<Pod>], now: Timestamp) -> Disrupted {
    let mut result = Disrupted::default();
    let Some(granted) = pdb.status.as_ref().and_then(|s| s.disrupted_pods.as_ref()) else { return result };
    for pod in list.iter().filter(|p| !p.is_deleting()) {
        let Some(at) = granted.get(pod.name_str()) else { continue };
        let left = (at.0 + DELETION_TIMEOUT).duration_since(now);
        let Ok(left) = Duration::try_from(left) else {
            result.overdue.push(pod.clone());
            continue;
        };
        result.recheck = Some(result.recheck.map_or(left, |d| d.min(left)));
        result.pods.insert(pod.name_str().to_owned(), at.clone());
    }
    result
}

/// The pods that are ready and neither going nor about to.
pub(super) fn healthy(list: &[Arc<Pod>], disrupted: &BTreeMap<String, Time>) -> i32 {
    let counts = |p: &&Arc<Pod>| !p.is_deleting() && !disrupted.contains_key(p.name_str()) && pods::is_ready(p);
    i32::try_from(list.iter().filter(counts).count()).unwrap_or(i32::MAX)
}

/// The status to write; None when it is there already.
pub(super) fn calculate(
    pdb: &PodDisruptionBudget,
    expected: Expected,
    healthy: i32,
    disrupted: BTreeMap<String, Time>,
    now: Timestamp,
) -> Option<PodDisruptionBudgetStatus> {
    let old = pdb.status.clone().unwrap_or_default();
    let spare = healthy - expected.healthy;
    let allowed = if expected.pods <= 0 { 0 } else { spare.max(0) };
    let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut list = old.conditions.clone().unwrap_or_default();
    conditions::set(&mut list, condition(status, reason, String::new(), Some(pdb.generation()), now));
    let new = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(expected.healthy),
        expected_pods: Some(expected.pods),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|d| !d.is_empty()),
        observed_generation: Some(pdb.generation()),
        conditions: Some(list),
    };
    let same = |s: &PodDisruptionBudgetStatus| {
        let mut s = s.clone();
        s.disrupted_pods = s.disrupted_pods.filter(|d| !d.is_empty());
        s
    };
    (same(&old) != same(&new)).then_some(new)
}

/// The status of a budget that could not be computed: better no disruption than one too many.
pub(super) fn failed(pdb: &PodDisruptionBudget, error: String, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = pdb.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    let list = status.conditions.get_or_insert_default();
    conditions::set(list, condition("False", "SyncFailed", error, status.observed_generation, now));
    status
}

fn condition(status: &str, reason: &str, message: String, generation: Option<i64>, now: Timestamp) -> Condition {
    Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: Time(now),
    }
}

/// How long until the pod's DisruptionTarget condition is stale: announced, and nothing came of it.
pub(super) fn stale_in(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let target = pods::condition(pod, "DisruptionTarget").filter(|c| c.status == "True")?;
    if pod.is_deleting() || pods::is_terminal(pod) || target.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    let since = target.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    Some(Duration::try_from(STALE - now.duration_since(since)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    fn budget(spec: Value, disrupted: Value) -> PodDisruptionBudget {
        let status = json!({"currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0, "disruptionsAllowed": 0, "disruptedPods": disrupted});
        serde_json::from_value(json!({"metadata": {"name": "b", "generation": 4}, "spec": spec, "status": status}))
            .unwrap()
    }

    fn pod(name: &str, ready: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
            )
            .unwrap(),
        )
    }

    #[test]
    fn budgets() {
        for (spec, scale, want) in [
            (json!({"minAvailable": 2}), 9, (3, 2)),
            (json!({"minAvailable": "50%"}), 5, (5, 3)),
            (json!({"maxUnavailable": 1}), 5, (5, 4)),
            (json!({"maxUnavailable": "30%"}), 5, (5, 3)),
            (json!({"maxUnavailable": 9}), 5, (5, 0)),
            (json!({}), 5, (0, 0)),
        ] {
            let pdb = budget(spec.clone(), Value::Null);
            let got = expected(&pdb, 3, scale).unwrap();
            assert_eq!((got.pods, got.healthy), want, "{spec}");
            assert_eq!(needs_scale(&pdb), want.0 == 5, "{spec}");
        }
        assert!(expected(&budget(json!({"minAvailable": "x"}), Value::Null), 1, 1).is_err());
    }

    #[test]
    fn statuses() {
        let pdb = budget(
            json!({}),
            json!({"a": "2026-01-01T00:59:00Z", "b": "2026-01-01T00:57:00Z", "gone": "2026-01-01T00:59:00Z"}),
        );
        let list = [pod("a", "True"), pod("b", "True"), pod("c", "True"), pod("d", "False")];
        let d = disrupted(&pdb, &list, now());
        assert_eq!(d.pods.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((d.overdue[0].name_str(), d.recheck), ("b", Some(Duration::from_secs(60))));
        assert_eq!(healthy(&list, &d.pods), 2);
        let want = Expected { pods: 4, healthy: 1 };
        let status = calculate(&pdb, want, 2, d.pods.clone(), now()).unwrap();
        assert_eq!((status.disruptions_allowed, status.observed_generation), (Some(1), Some(4)));
        let c = status.conditions.as_ref().unwrap()[0].clone();
        assert_eq!((c.status.as_str(), c.reason.as_str(), c.observed_generation), ("True", "SufficientPods", Some(4)));
        let mut written = pdb.clone();
        written.status = Some(status);
        assert_eq!(calculate(&written, want, 2, d.pods.clone(), now() + SignedDuration::from_secs(9)), None);
        let status = calculate(&written, want, 1, d.pods, now()).unwrap();
        assert_eq!(
            (status.disruptions_allowed, status.conditions.unwrap()[0].reason.as_str()),
            (Some(0), "InsufficientPods")
        );
        let status = failed(&written, "why".into(), now());
        assert_eq!((status.disruptions_allowed, status.conditions.unwrap()[0].message.as_str()), (Some(0), "why"));
    }

    #[test]
    fn stale_targets() {
        let with = |meta: Value, reason: &str, status: &str| {
            let condition = json!([{"type": "DisruptionTarget", "status": status, "reason": reason, "lastTransitionTime": "2026-01-01T00:58:30Z"}]);
            stale_in(
                &serde_json::from_value(json!({"metadata": meta, "status": {"conditions": condition}})).unwrap(),
                now(),
            )
        };
        assert_eq!(with(json!({}), "EvictionByEvictionAPI", "True"), Some(Duration::from_secs(30)));
        assert_eq!(with(json!({"deletionTimestamp": "2026-01-01T00:59:00Z"}), "x", "True"), None);
        assert_eq!(with(json!({}), "TerminationByKubelet", "True"), None);
        assert_eq!(with(json!({}), "x", "False"), None);
    }
}
