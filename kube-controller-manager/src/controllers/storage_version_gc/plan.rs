//! What becomes of a StorageVersion when apiservers are gone. Pure.

use jiff::Timestamp;
use k8s_openapi::api::apiserverinternal::v1alpha1::{StorageVersion, StorageVersionCondition, StorageVersionStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::shared::meta::MetaExt;

const EQUAL: &str = "AllEncodingVersionsEqual";

/// What to write.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    /// No apiserver is left in the object of this name.
    Delete(String),
    Update(Box<StorageVersion>),
}

/// The apiservers that a StorageVersion names.
pub(super) fn servers(version: &StorageVersion) -> impl Iterator<Item = &str> {
    let status = version.status.as_ref();
    status.and_then(|s| s.storage_versions.as_ref()).into_iter().flatten().map(|entry| entry.api_server_id.as_str())
}

/// Takes out the apiservers that are not kept; None when all are.
pub(super) fn without(mut version: StorageVersion, keep: impl Fn(&str) -> bool, now: Timestamp) -> Option<Change> {
    if servers(&version).all(&keep) {
        return None;
    }
    let generation = version.metadata.generation;
    let status = version.status.get_or_insert_default();
    let entries = status.storage_versions.get_or_insert_default();
    entries.retain(|entry| keep(&entry.api_server_id));
    if entries.is_empty() {
        return Some(Change::Delete(version.name_str().to_owned()));
    }
    agree(status, generation, now);
    Some(Change::Update(Box::new(version)))
}

/// The encoding that all apiservers share, and the condition that says whether there is one.
fn agree(status: &mut StorageVersionStatus, generation: Option<i64>, now: Timestamp) {
    let entries = status.storage_versions.as_deref().unwrap_or(&[]);
    let first = entries.first().map(|entry| entry.encoding_version.clone());
    let common = first.filter(|first| entries.iter().all(|entry| entry.encoding_version == *first));
    let before = std::mem::replace(&mut status.common_encoding_version, common.clone());
    let (value, reason, message) = match common {
        Some(_) => ("True", "CommonEncodingVersionSet", "Common encoding version set"),
        None => ("False", "CommonEncodingVersionUnset", "Common encoding version unset"),
    };
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().position(|condition| condition.type_ == EQUAL);
    let moved = before.is_some() && common.is_some() && before != common;
    let since = known.map(|at| &conditions[at]).filter(|condition| condition.status == value && !moved);
    let condition = StorageVersionCondition {
        type_: EQUAL.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since.map_or(Some(Time(now)), |condition| condition.last_transition_time.clone()),
    };
    match known {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn version(entries: &[(&str, &str)]) -> StorageVersion {
        let entries: Vec<Value> = entries
            .iter()
            .map(|(id, encoding)| json!({"apiServerID": id, "encodingVersion": encoding, "decodableVersions": [encoding]}))
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "apps.deployments", "generation": 3}, "spec": {},
            "status": {"storageVersions": entries, "conditions": [{"type": EQUAL, "status": "False", "reason": "CommonEncodingVersionUnset",
                "message": "Common encoding version unset", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .unwrap()
    }

    #[test]
    fn entries_go_with_their_apiservers() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let both = [("a", "apps/v1"), ("b", "apps/v2")];
        assert_eq!(without(version(&both), |_| true, now), None);
        assert_eq!(without(version(&both), |_| false, now), Some(Change::Delete("apps.deployments".into())));
        let Some(Change::Update(left)) = without(version(&both), |id| id == "b", now) else { panic!("not updated") };
        let status = left.status.unwrap();
        assert_eq!(status.common_encoding_version.as_deref(), Some("apps/v2"));
        let condition = &status.conditions.unwrap()[0];
        assert_eq!((condition.status.as_str(), condition.observed_generation), ("True", Some(3)));
        assert_eq!(condition.last_transition_time, Some(Time(now)));
        let three = [("a", "v1"), ("b", "v2"), ("c", "v1")];
        let Some(Change::Update(left)) = without(version(&three), |id| id != "c", now) else { panic!("not updated") };
        let status = left.status.unwrap();
        assert_eq!(status.common_encoding_version, None);
        assert_ne!(status.conditions.unwrap()[0].last_transition_time, Some(Time(now)), "False as before");
    }
}
