//! Reading Deployments and ReplicaSets: revisions, annotations, fence posts, counts. All pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::shared::hash;
use crate::shared::meta::MetaExt;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// Annotations of a Deployment that are not copied to its ReplicaSets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// Longer than this the history of a revision annotation is cut at its start.
const HISTORY_CHARS: usize = 2000;

/// Shorter access to the spec, absent as default.
pub(super) trait DeploymentExt {
    fn dspec(&self) -> Option<&DeploymentSpec>;
    fn replicas(&self) -> i32 {
        self.dspec().and_then(|s| s.replicas).unwrap_or(1)
    }
    fn is_rolling(&self) -> bool {
        self.dspec().and_then(|s| s.strategy.as_ref()?.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
    }
    fn paused(&self) -> bool {
        self.dspec().and_then(|s| s.paused).unwrap_or(false)
    }
    /// Seconds, if there is a deadline at all.
    fn progress_deadline(&self) -> Option<i32> {
        self.dspec().and_then(|s| s.progress_deadline_seconds).filter(|s| *s != i32::MAX)
    }
    fn min_ready(&self) -> i32 {
        self.dspec().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }
    fn fenceposts(&self) -> (i32, i32) {
        let rolling = self.dspec().and_then(|s| s.strategy.as_ref()?.rolling_update.as_ref());
        let surge = rolling.and_then(|r| r.max_surge.as_ref());
        let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref());
        resolve_fenceposts(surge, unavailable, self.replicas())
    }
    fn max_surge(&self) -> i32 {
        if self.is_rolling() { self.fenceposts().0 } else { 0 }
    }
    fn max_unavailable(&self) -> i32 {
        if !self.is_rolling() || self.replicas() == 0 { 0 } else { self.fenceposts().1.min(self.replicas()) }
    }
}

impl DeploymentExt for Deployment {
    fn dspec(&self) -> Option<&DeploymentSpec> {
        self.spec.as_ref()
    }
}

/// Shorter access to ReplicaSets.
pub(super) trait ReplicaSetExt {
    fn size(&self) -> i32;
    fn rstatus(&self) -> ReplicaSetStatus;
    fn available(&self) -> i32;
}

impl ReplicaSetExt for ReplicaSet {
    fn size(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }
    fn rstatus(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }
    fn available(&self) -> i32 {
        self.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }
}

/// maxSurge rounds up, maxUnavailable rounds down; if both come to zero one pod may be missing,
/// since otherwise nothing could ever move.
pub(super) fn resolve_fenceposts(
    surge: Option<&IntOrString>,
    unavailable: Option<&IntOrString>,
    desired: i32,
) -> (i32, i32) {
    let surge = scaled(surge, desired, true);
    let unavailable = scaled(unavailable, desired, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|n| n.parse().ok()).unwrap_or(0);
            let product = percent * i64::from(total);
            let value = if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(value).unwrap_or(i32::MAX)
        }
    }
}

/// The revision annotation; absent is 0, malformed is None.
pub(super) fn revision(object: &impl MetaExt) -> Option<i64> {
    object.annotation(REVISION).map_or(Some(0), |v| v.parse().ok())
}

pub(super) fn max_revision(sets: &[ReplicaSet]) -> i64 {
    sets.iter().filter_map(revision).max().unwrap_or(0).max(0)
}

/// Orders by age, then by name.
pub(super) fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    a.created().cmp(&b.created()).then_with(|| a.name_str().cmp(b.name_str()))
}

pub(super) fn by_revision(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    match (revision(a), revision(b)) {
        (Some(x), Some(y)) if x != y => x.cmp(&y),
        _ => by_age(a, b),
    }
}

/// A template in comparable form, without the label that tells revisions apart.
pub(super) fn comparable(template: &PodTemplateSpec) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    hash::normal(&template)
}

/// Splits the Deployment's sets into the one of the current template (the oldest, should there be several) and the rest.
pub(super) fn split(deployment: &Deployment, mut sets: Vec<ReplicaSet>) -> (Option<ReplicaSet>, Vec<ReplicaSet>) {
    sets.sort_by(by_age);
    let wanted = deployment.spec.as_ref().map(|s| comparable(&s.template));
    let is_new = |rs: &ReplicaSet| rs.spec.as_ref().and_then(|s| s.template.as_ref()).map(comparable) == wanted;
    let found = sets.iter().position(is_new);
    let new = found.map(|i| sets.remove(i));
    (new, sets)
}

pub(super) fn sum(sets: &[&ReplicaSet], of: impl Fn(&ReplicaSet) -> i32) -> i32 {
    sets.iter().map(|rs| of(rs)).sum()
}

fn annotations(rs: &mut ReplicaSet) -> &mut BTreeMap<String, String> {
    rs.metadata.annotations.get_or_insert_default()
}

fn set_annotation(rs: &mut ReplicaSet, key: &str, value: &str) -> bool {
    let map = annotations(rs);
    if map.get(key).is_some_and(|v| v == value) {
        return false;
    }
    map.insert(key.to_owned(), value.to_owned());
    true
}

/// Writes what proportional scaling needs later; tells whether anything changed.
pub(super) fn set_replicas_annotations(rs: &mut ReplicaSet, desired: i32, max: i32) -> bool {
    let first = set_annotation(rs, DESIRED_REPLICAS, &desired.to_string());
    set_annotation(rs, MAX_REPLICAS, &max.to_string()) || first
}

pub(super) fn replicas_annotations_differ(rs: &ReplicaSet, desired: i32, max: i32) -> bool {
    rs.annotation(DESIRED_REPLICAS) != Some(desired.to_string().as_str())
        || rs.annotation(MAX_REPLICAS) != Some(max.to_string().as_str())
}

/// A non-negative number in an annotation.
pub(super) fn number_annotation(rs: &ReplicaSet, key: &str) -> Option<i32> {
    rs.annotation(key)?.parse().ok().filter(|n| *n >= 0)
}

/// Brings the current set's annotations up to date: the Deployment's own, the revision and its history.
pub(super) fn sync_annotations(d: &Deployment, rs: &mut ReplicaSet, new_revision: i64, exists: bool) -> bool {
    let mut changed = false;
    for (key, value) in d.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            changed |= set_annotation(rs, key, value);
        }
    }
    let old = rs.annotation(REVISION).map(str::to_owned);
    let old_number = match old.as_deref() {
        None | Some("") => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(number) => number,
            Err(_) => return false,
        },
    };
    if old_number < new_revision {
        changed |= set_annotation(rs, REVISION, &new_revision.to_string());
        if let Some(old) = old {
            push_history(rs, &old);
        }
    }
    if !exists {
        changed |= set_replicas_annotations(rs, d.replicas(), d.replicas() + d.max_surge());
    }
    changed
}

fn push_history(rs: &mut ReplicaSet, old: &str) {
    let history = rs.annotation(REVISION_HISTORY).unwrap_or("").to_owned();
    if history.is_empty() {
        set_annotation(rs, REVISION_HISTORY, old);
        return;
    }
    let mut revisions: Vec<&str> = history.split(',').collect();
    let mut total = history.len() + old.len() + 1;
    let mut start = 0;
    while total > HISTORY_CHARS && start < revisions.len() {
        total -= revisions[start].len() + 1;
        start += 1;
    }
    if total <= HISTORY_CHARS {
        revisions.push(old);
        set_annotation(rs, REVISION_HISTORY, &revisions[start..].join(","));
    }
}

/// `name-hash`, the name cut where the whole would be too long.
pub(super) fn replica_set_name(deployment: &str, hash: &str) -> String {
    let room = 253 - 1 - hash.len();
    format!("{}-{hash}", deployment.get(..room).unwrap_or(deployment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fenceposts() {
        let s = |t: &str| Some(IntOrString::String(t.into()));
        let i = |n| Some(IntOrString::Int(n));
        for (surge, unavailable, desired, want) in [
            (s("25%"), s("25%"), 10, (3, 2)),
            (s("25%"), s("25%"), 1, (1, 0)),
            (s("25%"), s("25%"), 3, (1, 0)),
            (i(0), s("10%"), 3, (0, 1)),
            (i(1), i(1), 5, (1, 1)),
            (None, None, 2, (0, 1)),
            (s("0%"), s("0%"), 2, (0, 1)),
            (s("100%"), i(0), 4, (4, 0)),
            (s("25%"), s("25%"), 0, (0, 1)),
        ] {
            assert_eq!(resolve_fenceposts(surge.as_ref(), unavailable.as_ref(), desired), want);
        }
    }

    fn rs(v: Value) -> ReplicaSet {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn revisions_and_history() {
        let d: Deployment = serde_json::from_value(json!({"metadata": {"name": "d", "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": "x", "team": "a"}},
            "spec": {"replicas": 4, "selector": {}, "template": {}, "strategy": {"rollingUpdate": {"maxSurge": 1}}}}))
        .unwrap();
        let mut set = rs(json!({"metadata": {"name": "s"}}));
        assert!(sync_annotations(&d, &mut set, 1, false));
        assert_eq!(set.annotation("team"), Some("a"));
        assert_eq!(set.annotation("kubectl.kubernetes.io/last-applied-configuration"), None);
        assert_eq!((set.annotation(REVISION), set.annotation(REVISION_HISTORY)), (Some("1"), None));
        assert_eq!((set.annotation(DESIRED_REPLICAS), set.annotation(MAX_REPLICAS)), (Some("4"), Some("5")));
        assert!(!sync_annotations(&d, &mut set, 1, true));
        assert!(sync_annotations(&d, &mut set, 3, true));
        assert!(sync_annotations(&d, &mut set, 5, true));
        assert_eq!(set.annotation(REVISION_HISTORY), Some("1,3"));
        assert!(!sync_annotations(&d, &mut set, 2, true));
        for n in 6..1000 {
            sync_annotations(&d, &mut set, n, true);
        }
        assert!(set.annotation(REVISION_HISTORY).unwrap().len() <= HISTORY_CHARS);
        assert!(set.annotation(REVISION_HISTORY).unwrap().ends_with(",998"));
    }

    #[test]
    fn the_current_set_is_the_oldest_of_equal_template() {
        let d: Deployment = serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {"selector": {},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:2"}]}}}}))
        .unwrap();
        let set = |name: &str, image: &str, at: &str| {
            rs(json!({"metadata": {"name": name, "creationTimestamp": at}, "spec": {"selector": {}, "template": {
            "metadata": {"labels": {"a": "b", HASH_LABEL: name}}, "spec": {"containers": [{"name": "c", "image": image}]}}}}))
        };
        let sets = vec![
            set("x", "i:2", "2026-01-03T00:00:00Z"),
            set("y", "i:2", "2026-01-02T00:00:00Z"),
            set("z", "i:1", "2026-01-01T00:00:00Z"),
        ];
        let (new, old) = split(&d, sets);
        assert_eq!(new.unwrap().name_str(), "y");
        assert_eq!(old.iter().map(|r| r.name_str()).collect::<Vec<_>>(), ["z", "x"]);
        assert_eq!(replica_set_name("web", "abc"), "web-abc");
        assert_eq!(replica_set_name(&"x".repeat(253), "abc").len(), 253);
    }
}
