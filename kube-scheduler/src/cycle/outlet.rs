//! What the cycle does to the outside world besides binding, as a trait so that tests can watch it.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

use crate::framework::pod::PodInfo;

/// Longest note of an event.
const NOTE_LIMIT: usize = 1024;

/// The outside world.
#[async_trait]
pub trait Outlet: Send + Sync {
    /// The pod as last seen.
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>>;
    /// Publishes an event about a pod.
    fn event(&self, pod: &PodInfo, warning: bool, reason: &str, action: &str, note: &str);
    /// Sends a strategic merge patch of a pod's status.
    async fn patch_status(&self, namespace: &str, name: &str, patch: Value) -> Result<(), String>;
    /// Records in a pod group's status what became of it. What was scheduled once stays so.
    async fn group_condition(&self, _group: &PodGroup, _condition: Condition) -> Result<(), String> {
        Ok(())
    }
}

/// Cuts a note to what the API accepts.
pub fn truncate(note: &str) -> String {
    const SUFFIX: &str = " ...";
    if note.len() <= NOTE_LIMIT {
        return note.to_owned();
    }
    let mut end = NOTE_LIMIT - SUFFIX.len();
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{SUFFIX}", &note[..end])
}

/// The patch that records a failed attempt; `None` when the status says so already.
pub fn status_patch(
    pod: &Pod,
    reason: &str,
    message: &str,
    nominate: Option<Option<&str>>,
    now: Timestamp,
) -> Option<Value> {
    let status = pod.status.as_ref();
    let old = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled");
    let generation = pod.metadata.generation;
    let same_status = old.is_some_and(|old| old.status == "False");
    let condition = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        observed_generation: generation,
        last_probe_time: None,
        last_transition_time: match old {
            Some(old) if same_status => old.last_transition_time.clone(),
            _ => Some(Time(now)),
        },
    };
    let nominated = status.and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default();
    let wanted = nominate.map(|node| node.unwrap_or_default()).filter(|node| *node != nominated);
    let unchanged = old.is_some_and(|old| {
        same_status
            && old.reason == condition.reason
            && old.message == condition.message
            && old.observed_generation == condition.observed_generation
    });
    if unchanged && wanted.is_none() {
        return None;
    }
    let mut patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {}});
    if !unchanged {
        patch["status"]["conditions"] = json!([condition]);
    }
    if let Some(node) = wanted {
        patch["status"]["nominatedNodeName"] = if node.is_empty() { Value::Null } else { json!(node) };
    }
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn only_news_is_patched() {
        let now = Timestamp::UNIX_EPOCH;
        let fresh = pod("p").build();
        let patch = status_patch(&fresh, "Unschedulable", "0/1", Some(None), now).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["reason"], "Unschedulable");
        assert!(patch["status"].get("nominatedNodeName").is_none());
        let told = pod("p").status("conditions", patch["status"]["conditions"].clone()).build();
        assert_eq!(status_patch(&told, "Unschedulable", "0/1", Some(None), now), None);
        let later = now + std::time::Duration::from_secs(60);
        let patch = status_patch(&told, "Unschedulable", "0/2", None, later).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let patch = status_patch(&told, "Unschedulable", "0/1", Some(Some("n1")), now).unwrap();
        assert_eq!(patch["status"], json!({"nominatedNodeName": "n1"}));
    }

    #[test]
    fn long_notes_are_cut() {
        assert_eq!(truncate("short"), "short");
        let cut = truncate(&"ä".repeat(1000));
        assert!(cut.len() <= 1024 && cut.ends_with(" ..."));
    }
}
