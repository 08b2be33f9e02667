//! When pods finished, and how long to wait after failures before the next ones. Pure but for the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use parking_lot::Mutex;

use crate::shared::meta::MetaExt;
use crate::shared::pods;

const DELAY: Duration = Duration::from_secs(10);
const MAX_DELAY: Duration = Duration::from_secs(10 * 60);

/// The failures of a Job since its last success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Record {
    failures: i32,
    last: Option<Timestamp>,
}

impl Record {
    /// The record after these pods finished.
    pub(super) fn after(self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Self {
        let failures = failed.iter().map(|p| finished_at(p));
        let last_success = succeeded.iter().map(|p| finished_at(p)).max();
        let (before, counted): (i32, Vec<Timestamp>) = match last_success {
            None => (self.failures, failures.collect()),
            Some(success) => (0, failures.filter(|at| *at > success).collect()),
        };
        let last = counted.iter().max().copied().or(self.last.filter(|_| last_success.is_none()));
        Self { failures: before.saturating_add(i32::try_from(counted.len()).unwrap_or(i32::MAX)), last }
    }

    /// How long to wait before the next pod.
    pub(super) fn remaining(self, now: Timestamp) -> Duration {
        self.last.map_or(Duration::ZERO, |last| remaining(self.failures, last, now))
    }
}

/// 10 s, 20 s, ... 10 min after the last of so many failures.
pub(super) fn remaining(failures: i32, last: Timestamp, now: Timestamp) -> Duration {
    let Ok(doublings @ 0..) = u32::try_from(failures).map(|n| i64::from(n) - 1) else { return Duration::ZERO };
    let factor = 1_u32.checked_shl(u32::try_from(doublings).unwrap_or(u32::MAX)).unwrap_or(u32::MAX);
    let delay = DELAY.saturating_mul(factor).min(MAX_DELAY);
    let elapsed = Duration::try_from(now.duration_since(last)).unwrap_or(Duration::ZERO);
    delay.saturating_sub(elapsed)
}

/// The records of unfinished Jobs by key.
#[derive(Default)]
pub(super) struct Records {
    by_key: Mutex<HashMap<String, Record>>,
}

impl Records {
    pub(super) fn get(&self, key: &str) -> Record {
        self.by_key.lock().get(key).copied().unwrap_or_default()
    }

    pub(super) fn set(&self, key: &str, record: Record) {
        let mut records = self.by_key.lock();
        match record.failures {
            0 => records.remove(key),
            _ => records.insert(key.to_owned(), record),
        };
    }

    pub(super) fn forget(&self, key: &str) {
        self.by_key.lock().remove(key);
    }
}

/// When a finished pod finished: by its containers, else by its readiness, its deletion, its creation.
pub(super) fn finished_at(pod: &Pod) -> Timestamp {
    let unready = || {
        let ready = pods::condition(pod, "Ready").filter(|c| c.status == "False")?;
        ready.last_transition_time.as_ref().map(|t| t.0)
    };
    let deleted = || {
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        pod.metadata.deletion_timestamp.as_ref().map(|t| t.0 - grace)
    };
    by_containers(pod).or_else(unready).or_else(deleted).or_else(|| pod.created()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn by_containers(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let is_sidecar = |name: &str| {
        let list = pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or(&[]);
        list.iter().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
    };
    let sidecars = status.init_container_statuses.iter().flatten().filter(|s| is_sidecar(&s.name));
    let ended = |s: &ContainerStatus| s.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0);
    let all: Option<Vec<Timestamp>> = status.container_statuses.iter().flatten().chain(sidecars).map(ended).collect();
    all?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(finished: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "status": {
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 1, "finishedAt": finished}}}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn records() {
        let at = |s: &str| s.parse::<Timestamp>().unwrap();
        let one = Record::default().after(&[], &[pod("2026-01-01T00:00:10Z")]);
        let now = at("2026-01-01T00:00:14Z");
        assert_eq!(one.remaining(now), Duration::from_secs(6));
        let three = one.after(&[], &[pod("2026-01-01T00:00:12Z"), pod("2026-01-01T00:00:11Z")]);
        assert_eq!(three.remaining(now), Duration::from_secs(38));
        assert_eq!(three.after(&[], &[]), three);
        assert_eq!(three.after(&[pod("2026-01-01T00:00:13Z")], &[]), Record::default());
        let after =
            three.after(&[pod("2026-01-01T00:00:13Z")], &[pod("2026-01-01T00:00:12Z"), pod("2026-01-01T00:00:14Z")]);
        assert_eq!(after.remaining(now), Duration::from_secs(10));
        assert_eq!(remaining(100, now, now), MAX_DELAY);
        assert_eq!(remaining(0, now, now), Duration::ZERO);
    }

    #[test]
    fn times() {
        let time = |v| finished_at(&serde_json::from_value(v).unwrap()).to_string();
        assert_eq!(finished_at(&pod("2026-01-01T00:00:10Z")).to_string(), "2026-01-01T00:00:10Z");
        let created = "2026-01-01T00:00:00Z";
        let ready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:05Z"}]);
        assert_eq!(
            time(json!({"metadata": {"creationTimestamp": created}, "status": {"conditions": ready}})),
            "2026-01-01T00:00:05Z"
        );
        let going = json!({"creationTimestamp": created, "deletionTimestamp": "2026-01-01T00:00:50Z", "deletionGracePeriodSeconds": 30});
        assert_eq!(time(json!({ "metadata": going })), "2026-01-01T00:00:20Z");
        assert_eq!(time(json!({"metadata": {"creationTimestamp": created}})), created);
    }
}
