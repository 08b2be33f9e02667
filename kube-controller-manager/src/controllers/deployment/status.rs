//! A Deployment's status and its conditions as pure functions of its ReplicaSets.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::facts::{DeploymentExt, ReplicaSetExt, sum};
use crate::shared::meta::MetaExt;

pub(super) const AVAILABLE: &str = "Available";
pub(super) const PROGRESSING: &str = "Progressing";
pub(super) const REPLICA_FAILURE: &str = "ReplicaFailure";
pub(super) const NEW_RS_AVAILABLE: &str = "NewReplicaSetAvailable";
pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";

pub(super) fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

pub(super) fn get<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_deref()?.iter().find(|c| c.type_ == kind)
}

/// Sets a condition unless status and reason are the same; keeps the transition time of an equal status.
pub(super) fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(old) = get(status, &new.type_).filter(|old| old.status == new.status) {
        if old.reason == new.reason {
            return;
        }
        new.last_transition_time = old.last_transition_time.clone();
    }
    remove(status, &new.type_.clone());
    status.conditions.get_or_insert_default().push(new);
}

pub(super) fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(list) = &mut status.conditions {
        list.retain(|c| c.type_ != kind);
        if list.is_empty() {
            status.conditions = None;
        }
    }
}

/// Counts and the Available condition.
pub(super) fn calculate(
    d: &Deployment,
    all: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let old_status = d.status.clone().unwrap_or_default();
    let available = sum(all, ReplicaSetExt::available);
    let some = |n: i32| (n != 0).then_some(n);
    let mut status = DeploymentStatus {
        observed_generation: Some(d.generation()),
        replicas: some(sum(all, |rs| rs.rstatus().replicas)),
        updated_replicas: some(new.map_or(0, |rs| rs.rstatus().replicas)),
        ready_replicas: some(sum(all, |rs| rs.rstatus().ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((sum(all, ReplicaSetExt::size) - available).max(0)),
        terminating_replicas: terminating(all),
        collision_count: old_status.collision_count,
        conditions: old_status.conditions,
    };
    let enough = available >= d.replicas() - d.max_unavailable();
    let (state, reason, message) = match enough {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    set(&mut status, condition(AVAILABLE, state, reason, message.into(), now));
    status
}

/// Unknown as soon as one observed set does not count its terminating pods.
fn terminating(all: &[&ReplicaSet]) -> Option<i32> {
    let mut total = 0;
    for status in all.iter().map(|rs| rs.rstatus()) {
        match status.terminating_replicas {
            Some(count) => total += count,
            None if status.observed_generation.unwrap_or(0) == 0 => {}
            None => return None,
        }
    }
    Some(total)
}

/// Everything is of the current template and available.
pub(super) fn is_complete(d: &Deployment, status: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    n(status.updated_replicas) == d.replicas()
        && n(status.replicas) == d.replicas()
        && n(status.available_replicas) == d.replicas()
        && status.observed_generation.unwrap_or(0) >= d.generation()
}

/// Something moved forward since the status that is stored.
fn is_progressing(d: &Deployment, new: &DeploymentStatus) -> bool {
    let old = d.status.clone().unwrap_or_default();
    let n = |v: Option<i32>| v.unwrap_or(0);
    n(new.updated_replicas) > n(old.updated_replicas)
        || n(new.replicas) - n(new.updated_replicas) < n(old.replicas) - n(old.updated_replicas)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn is_timed_out(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(seconds), Some(c)) = (d.progress_deadline(), get(status, PROGRESSING)) else { return false };
    match c.reason.as_deref() {
        Some(NEW_RS_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => c.last_update_time.as_ref().is_some_and(|t| t.0 + SignedDuration::from_secs(seconds.into()) < now),
    }
}

/// The status during a rollout: counts, Available, Progressing and ReplicaFailure.
pub(super) fn rollout(
    d: &Deployment,
    all: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = calculate(d, all, new, now);
    let has_deadline = d.progress_deadline().is_some();
    if !has_deadline {
        remove(&mut status, PROGRESSING);
    }
    let stored = d.status.clone().unwrap_or_default();
    let current = get(&stored, PROGRESSING);
    let settled = status.replicas == status.updated_replicas
        && current.is_some_and(|c| c.reason.as_deref() == Some(NEW_RS_AVAILABLE));
    if has_deadline && !settled {
        let subject = match new {
            Some(rs) => format!("ReplicaSet \"{}\"", rs.name_str()),
            None => format!("Deployment \"{}\"", d.name_str()),
        };
        if is_complete(d, &status) {
            let message = format!("{subject} has successfully progressed.");
            set(&mut status, condition(PROGRESSING, "True", NEW_RS_AVAILABLE, message, now));
        } else if is_progressing(d, &status) {
            let mut c = condition(PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."), now);
            if let Some(current) = current {
                if current.status == "True" {
                    c.last_transition_time = current.last_transition_time.clone();
                }
                // Replaced even if equal: its update time is what the deadline counts from.
                remove(&mut status, PROGRESSING);
            }
            set(&mut status, c);
        } else if is_timed_out(d, &status, now) {
            let message = format!("{subject} has timed out progressing.");
            set(&mut status, condition(PROGRESSING, "False", TIMED_OUT, message, now));
        }
    }
    match replica_failure(all, new) {
        Some(c) => set(&mut status, c),
        None => remove(&mut status, REPLICA_FAILURE),
    }
    status
}

/// The failure of the current set, else of any.
fn replica_failure(all: &[&ReplicaSet], new: Option<&ReplicaSet>) -> Option<DeploymentCondition> {
    let c = new
        .into_iter()
        .chain(all.iter().copied())
        .find_map(|rs| rs.rstatus().conditions.unwrap_or_default().into_iter().find(|c| c.type_ == REPLICA_FAILURE))?;
    Some(DeploymentCondition {
        type_: c.type_,
        status: c.status,
        reason: c.reason,
        message: c.message,
        last_update_time: c.last_transition_time.clone(),
        last_transition_time: c.last_transition_time,
    })
}

/// When to look at an unfinished rollout again, though nothing may happen until then.
pub(super) fn next_check(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<SignedDuration> {
    let seconds = d.progress_deadline()?;
    let c = get(status, PROGRESSING)?;
    if is_complete(d, status) || c.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let deadline = c.last_update_time.as_ref()?.0 + SignedDuration::from_secs(seconds.into());
    Some(deadline.duration_since(now).max(SignedDuration::ZERO) + SignedDuration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn deployment(status: Value) -> Deployment {
        serde_json::from_value(json!({"metadata": {"name": "d", "generation": 2}, "spec": {"replicas": 2, "selector": {}, "template": {},
            "progressDeadlineSeconds": 60, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}, "status": status}))
        .unwrap()
    }

    fn set_of(name: &str, size: i32, ready: i32) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"replicas": size, "selector": {}},
            "status": {"replicas": size, "readyReplicas": ready, "availableReplicas": ready, "terminatingReplicas": 0, "observedGeneration": 1}}))
        .unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_rollout_from_start_to_end() {
        let mut d = deployment(json!({}));
        let rs = set_of("d-1", 2, 0);
        let s = rollout(&d, &[&rs], Some(&rs), at("2026-01-01T00:00:00Z"));
        assert_eq!(get(&s, AVAILABLE).unwrap().reason.as_deref(), Some("MinimumReplicasUnavailable"));
        let p = get(&s, PROGRESSING).unwrap();
        assert_eq!(
            (p.reason.as_deref(), p.message.as_deref()),
            (Some("ReplicaSetUpdated"), Some("ReplicaSet \"d-1\" is progressing."))
        );
        assert_eq!((s.unavailable_replicas, s.available_replicas), (Some(2), None));
        d.status = Some(s);
        // Nothing moves: first nothing, then the deadline.
        let s = rollout(&d, &[&rs], Some(&rs), at("2026-01-01T00:00:30Z"));
        assert_eq!(Some(&s), d.status.as_ref());
        assert_eq!(next_check(&d, &s, at("2026-01-01T00:00:30Z")), Some(SignedDuration::from_secs(31)));
        let s = rollout(&d, &[&rs], Some(&rs), at("2026-01-01T00:01:01Z"));
        assert_eq!(get(&s, PROGRESSING).unwrap().reason.as_deref(), Some(TIMED_OUT));
        assert_eq!(next_check(&d, &s, at("2026-01-01T00:01:01Z")), None);
        // And it recovers.
        d.status = Some(s);
        let rs = set_of("d-1", 2, 2);
        let s = rollout(&d, &[&rs], Some(&rs), at("2026-01-01T00:02:00Z"));
        assert_eq!(get(&s, PROGRESSING).unwrap().reason.as_deref(), Some(NEW_RS_AVAILABLE));
        assert_eq!(get(&s, AVAILABLE).unwrap().status, "True");
        assert!(is_complete(&d, &s));
        // Once complete, a pod that turns unready does not make it "progressing" again.
        d.status = Some(s.clone());
        let rs = set_of("d-1", 2, 1);
        let later = rollout(&d, &[&rs], Some(&rs), at("2026-01-01T00:03:00Z"));
        assert_eq!(get(&later, PROGRESSING), get(&s, PROGRESSING));
        assert_eq!(get(&later, AVAILABLE).unwrap().status, "False");
    }

    #[test]
    fn failures_of_sets_show() {
        let d = deployment(json!({}));
        let mut rs = set_of("d-1", 2, 0);
        rs.status.as_mut().unwrap().conditions = Some(
            serde_json::from_value(
                json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}]),
            )
            .unwrap(),
        );
        let s = rollout(&d, &[&rs], Some(&rs), at("2026-01-01T00:00:00Z"));
        assert_eq!(get(&s, REPLICA_FAILURE).unwrap().message.as_deref(), Some("quota"));
    }

    #[test]
    fn terminating_needs_every_set() {
        let mut a = set_of("a", 1, 1);
        a.status.as_mut().unwrap().terminating_replicas = Some(2);
        let mut b = set_of("b", 1, 1);
        assert_eq!(terminating(&[&a, &b]), Some(2));
        b.status.as_mut().unwrap().terminating_replicas = None;
        assert_eq!(terminating(&[&a, &b]), None);
        b.status = None;
        assert_eq!(terminating(&[&a, &b]), Some(2));
    }
}
