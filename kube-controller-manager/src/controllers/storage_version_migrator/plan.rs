//! Which migration of a resource runs, and what its status says. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::storagemigration::v1beta1::StorageVersionMigration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::shared::meta::MetaExt;

pub(super) const RUNNING: &str = "Running";
pub(super) const SUCCEEDED: &str = "Succeeded";
pub(super) const FAILED: &str = "Failed";

/// A condition by type.
fn condition<'a>(migration: &'a StorageVersionMigration, kind: &str) -> Option<&'a Condition> {
    migration.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The condition is True.
pub(super) fn is(migration: &StorageVersionMigration, kind: &str) -> bool {
    condition(migration, kind).is_some_and(|condition| condition.status == "True")
}

fn has_ended(migration: &StorageVersionMigration) -> bool {
    is(migration, SUCCEEDED) || is(migration, FAILED)
}

/// The resourceVersion up to which objects are written again.
pub(super) fn checkpoint(migration: &StorageVersionMigration) -> Option<&str> {
    migration.status.as_ref()?.resource_version.as_deref().filter(|version| !version.is_empty())
}

/// What a migration needs now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// It is the first of its resource that waits, and none runs: let it.
    Begin,
    /// It runs and has no checkpoint.
    Checkpoint,
    /// Write the objects.
    Migrate,
    /// It is at its end and still called running.
    CleanUp,
}

/// What this migration needs, seen beside those of the same resource.
pub(super) fn step(migration: &StorageVersionMigration, same: &[Arc<StorageVersionMigration>]) -> Step {
    match (is(migration, RUNNING), has_ended(migration)) {
        (true, true) => Step::CleanUp,
        (true, false) if checkpoint(migration).is_none() => Step::Checkpoint,
        (true, false) => Step::Migrate,
        (false, true) => Step::Nothing,
        (false, false) => {
            let order = |m: &StorageVersionMigration| (m.created(), m.name_str().to_owned());
            let busy = same.iter().any(|other| is(other, RUNNING) && !has_ended(other));
            let waiting = same.iter().filter(|other| !is(other, RUNNING) && !has_ended(other));
            let first = waiting.min_by_key(|other| order(other));
            match first {
                Some(first) if !busy && first.name_str() == migration.name_str() => Step::Begin,
                _ => Step::Nothing,
            }
        }
    }
}

/// Adds a condition; one that is there already stays as it is.
pub(super) fn note(migration: &mut StorageVersionMigration, kind: &str, reason: &str, message: &str, now: Timestamp) {
    if condition(migration, kind).is_some() {
        return;
    }
    let conditions = migration.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(Condition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(now),
        observed_generation: None,
    });
}

/// It runs no more.
pub(super) fn end(migration: &mut StorageVersionMigration, now: Timestamp) {
    let generation = migration.metadata.generation;
    let conditions = migration.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten());
    for condition in conditions.filter(|condition| condition.type_ == RUNNING) {
        condition.status = "False".to_owned();
        condition.reason = "MigrationCompleted".to_owned();
        condition.message = "Migration completed".to_owned();
        condition.observed_generation = generation;
        condition.last_transition_time = Time(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn migration(name: &str, minute: u8, conditions: &[&str], version: &str) -> Arc<StorageVersionMigration> {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|kind| json!({"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}))
            .collect();
        let value = json!({"metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z")},
            "spec": {"resource": {"group": "g", "resource": "r"}}, "status": {"conditions": conditions, "resourceVersion": version}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn one_after_another() {
        let (old, new) = (migration("b", 1, &[], ""), migration("a", 2, &[], ""));
        let both = [new.clone(), old.clone()];
        assert_eq!((step(&old, &both), step(&new, &both)), (Step::Begin, Step::Nothing));
        let running = migration("b", 1, &[RUNNING], "");
        assert_eq!(step(&new, &[new.clone(), running.clone()]), Step::Nothing);
        assert_eq!(step(&running, std::slice::from_ref(&running)), Step::Checkpoint);
        let checked = migration("b", 1, &[RUNNING], "7");
        assert_eq!(step(&checked, std::slice::from_ref(&checked)), Step::Migrate);
        let ended = migration("b", 1, &[RUNNING, SUCCEEDED], "7");
        assert_eq!(step(&ended, std::slice::from_ref(&ended)), Step::CleanUp);
        assert_eq!(step(&new, &[new.clone(), ended.clone()]), Step::Begin);
        let mut ended = (*ended).clone();
        end(&mut ended, Timestamp::UNIX_EPOCH);
        assert!(!is(&ended, RUNNING) && is(&ended, SUCCEEDED));
        assert_eq!(step(&ended, &[]), Step::Nothing);
        assert_eq!(step(&migration("b", 1, &[FAILED], ""), &[]), Step::Nothing);
    }

    #[test]
    fn conditions_are_set_once() {
        let mut m = (*migration("a", 1, &[], "")).clone();
        note(&mut m, FAILED, "R", "first", Timestamp::UNIX_EPOCH);
        note(&mut m, FAILED, "R", "second", Timestamp::UNIX_EPOCH);
        let conditions = m.status.unwrap().conditions.unwrap();
        assert_eq!((conditions.len(), conditions[0].message.as_str()), (1, "first"));
    }
}
