//! Tables of what a StatefulSet does next, and runs of it to its end.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::facts::{Revision, StatefulSetExt, ordinal, pod_revision};
use super::plan::{self, Plan, Step, View};
use crate::shared::meta::MetaExt;

fn set(spec: Value) -> StatefulSet {
    let mut value = json!({"metadata": {"name": "w", "namespace": "ns", "uid": "S", "generation": 2},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": {},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}});
    for (key, wanted) in spec.as_object().unwrap() {
        value["spec"][key] = wanted.clone();
    }
    serde_json::from_value(value).unwrap()
}

/// `ordinal revision state`: `ok`, `young`, `unready`, `pending`, `failed`, or `going`.
fn pod(line: &str) -> Arc<Pod> {
    let words: Vec<&str> = line.split(' ').collect();
    let [ordinal, revision, state] = words[..] else { panic!("{line}") };
    let name = format!("w-{ordinal}");
    let (ready, since) = match state {
        "ok" => ("True", "2026-01-01T00:00:00Z"),
        "young" => ("True", "2026-01-01T00:59:55Z"),
        _ => ("False", "2026-01-01T00:00:00Z"),
    };
    let phase = match state {
        "pending" => "Pending",
        "failed" => "Failed",
        _ => "Running",
    };
    let mut value = json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("{ordinal}{revision}"),
            "labels": {"controller-revision-hash": revision, "statefulset.kubernetes.io/pod-name": name}},
        "spec": {"containers": []},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]}});
    if state == "going" {
        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z");
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

fn revision(name: &str) -> Revision {
    Revision { name: name.into(), template: Arc::default() }
}

fn planned(set: &StatefulSet, pods: &[Arc<Pod>]) -> Plan {
    let none = |_: &str| None::<Arc<PersistentVolumeClaim>>;
    let (current, update) = (revision("old"), revision("new"));
    let now = "2026-01-01T01:00:00Z".parse().unwrap();
    View { set, current: &current, update: &update, pods, claim: &none, now }.plan()
}

fn told(plan: &Plan) -> String {
    let tell = |step: &Step| match step {
        Step::Create(p) => format!("+{}{}", ordinal(p).unwrap(), if pod_revision(p) == "new" { "n" } else { "o" }),
        Step::Delete(p) => format!("-{}", ordinal(p).unwrap()),
        Step::MakeClaims(p) => format!("c{}", ordinal(p).unwrap()),
        Step::OwnClaims(p) => format!("r{}", ordinal(p).unwrap()),
        Step::Repair(p) => format!("u{}", ordinal(p).unwrap()),
    };
    plan.phases.iter().flatten().map(tell).collect::<Vec<_>>().join(" ")
}

#[test]
fn next_steps() {
    let ordered = || json!({});
    let parallel = || json!({"podManagementPolicy": "Parallel"});
    let partition = |n: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": n}}});
    let on_delete = || json!({"updateStrategy": {"type": "OnDelete"}});
    let unavailable = |n: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": n}}});
    for (name, spec, there, want) in [
        ("begins with the first", ordered(), &[][..], "+0n"),
        ("parallel makes all", parallel(), &[], "+0n +1n +2n"),
        ("from the start ordinal", json!({"ordinals": {"start": 4}}), &[], "+4n"),
        ("waits for readiness", ordered(), &["0 new unready"], ""),
        ("goes on", ordered(), &["0 new ok"], "+1n"),
        ("waits for availability", json!({"minReadySeconds": 10}), &["0 new young"], ""),
        ("fills a hole first", ordered(), &["0 new ok", "2 new ok"], "+1n"),
        ("failed pods are replaced", ordered(), &["0 new failed"], "-0"),
        ("waits for one that goes", ordered(), &["0 new going", "1 new ok"], ""),
        ("parallel does not", parallel(), &["0 new going", "1 new ok"], "+2n"),
        ("scales down from above", json!({"replicas": 1}), &["0 new ok", "1 new ok", "2 new ok"], "-2"),
        ("one after the other", json!({"replicas": 1}), &["0 new ok", "1 new ok", "2 new going"], ""),
        ("not while one below ails", json!({"replicas": 2}), &["0 new ok", "1 new unready", "2 new ok"], ""),
        ("but the ailing one itself", json!({"replicas": 1}), &["0 new ok", "1 new ok", "2 new unready"], "-2"),
        (
            "waits for the lower of two ailing",
            json!({"replicas": 1}),
            &["0 new ok", "1 new unready", "2 new unready"],
            "",
        ),
        (
            "parallel scales down at once",
            json!({"replicas": 1, "podManagementPolicy": "Parallel"}),
            &["0 new ok", "1 new ok", "2 new unready"],
            "-2 -1",
        ),
        ("updates from above", ordered(), &["0 old ok", "1 old ok", "2 old ok"], "-2"),
        ("waits for the updated", ordered(), &["0 old ok", "1 old ok", "2 new unready"], ""),
        ("goes down", ordered(), &["0 old ok", "1 old ok", "2 new ok"], "-1"),
        ("to the partition", partition(2), &["0 old ok", "1 old ok", "2 new ok"], ""),
        ("old ones below it come back old", partition(2), &["1 old ok", "2 new ok"], "+0o"),
        ("new ones above it new", partition(2), &["0 old ok", "1 old ok"], "+2n"),
        ("only on deletion", on_delete(), &["0 old ok", "1 old ok", "2 old ok"], ""),
        ("several at a time", unavailable(json!(2)), &["0 old ok", "1 old ok", "2 old ok"], "-2 -1"),
        ("counting the unavailable", unavailable(json!("70%")), &["0 old ok", "1 old ok", "2 new unready"], ""),
        ("parallel replaces one at a time", parallel(), &["0 old ok", "1 old ok", "2 old ok"], "-2"),
        ("beyond the start ordinal", json!({"ordinals": {"start": 1}, "replicas": 1}), &["0 new ok", "1 new ok"], "-0"),
    ] {
        let (set, pods) = (set(spec), there.iter().map(|l| pod(l)).collect::<Vec<_>>());
        assert_eq!(told(&planned(&set, &pods)), want, "{name}");
    }
    let mut dying = set(ordered());
    dying.metadata.deletion_timestamp = Some(crate::shared::meta::now_time());
    assert_eq!(told(&planned(&dying, &[])), "");
}

#[test]
fn lost_labels_and_claims_are_restored() {
    let mut bare = (*pod("0 new ok")).clone();
    bare.metadata.labels.as_mut().unwrap().remove("statefulset.kubernetes.io/pod-name");
    let one = set(json!({"replicas": 1}));
    assert_eq!(told(&planned(&one, &[Arc::new(bare)])), "u0");
    let claims = set(json!({"replicas": 1, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}));
    assert_eq!(told(&planned(&claims, &[pod("0 new pending")])), "c0");
}

#[test]
fn counts() {
    let s = set(json!({"minReadySeconds": 10}));
    let list: Vec<_> = ["0 new ok", "1 old young", "2 old going", "3 old pending"].iter().map(|l| pod(l)).collect();
    let mut status = planned(&s, &list).status;
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (4, Some(2), Some(1)));
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(2), Some(1)));
    plan::complete_update(&s, &mut status);
    assert_eq!(status.current_revision.as_deref(), Some("old"));
    let all: Vec<_> = ["0 new ok", "1 new ok", "2 new ok"].iter().map(|l| pod(l)).collect();
    let mut status = planned(&s, &all).status;
    plan::complete_update(&s, &mut status);
    assert_eq!((status.current_revision.as_deref(), status.current_replicas), (Some("new"), Some(3)));
    assert!(plan::is_current(&status, &status) && !plan::is_current(&Default::default(), &status));
}

/// Applies a plan as server and kubelet would: what is created runs, what is deleted is gone.
fn apply(plan: &Plan, pods: &mut Vec<Arc<Pod>>) -> usize {
    let mut done = 0;
    for step in plan.phases.iter().flatten() {
        done += 1;
        match step {
            Step::Create(new) => {
                assert!(pods.iter().all(|p| p.name_str() != new.name_str()), "two pods of {}", new.name_str());
                pods.push(pod(&format!("{} {} ok", ordinal(new).unwrap(), pod_revision(new))));
            }
            Step::Delete(gone) => pods.retain(|p| p.name_str() != gone.name_str()),
            _ => {}
        }
    }
    done
}

proptest! {
    /// From any state every set comes to rest with exactly the wanted ordinals, the updated ones from the partition up.
    #[test]
    fn comes_to_rest(there in prop::collection::btree_map(0..8_i32, (any::<bool>(), 0..4_usize), 0..8),
        replicas in 0..6_i32, start in 0..3_i32, partition in 0..4_i32, parallel in any::<bool>()) {
        // Beyond the wanted ordinals none has failed: of two such neither goes, here as upstream.
        let state = |o: i32, state: usize| if state == 0 && (start..start + replicas).contains(&o) { "failed" } else { "ok" };
        let mut pods: Vec<_> = there.iter()
            .map(|(o, (new, s))| pod(&format!("{o} {} {}", if *new { "new" } else { "old" }, state(*o, *s))))
            .collect();
        let policy = if parallel { "Parallel" } else { "OrderedReady" };
        let s = set(json!({"replicas": replicas, "ordinals": {"start": start}, "podManagementPolicy": policy,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}}));
        let mut rounds = 0;
        while apply(&planned(&s, &pods), &mut pods) > 0 {
            rounds += 1;
            prop_assert!(rounds < 100, "does not come to rest");
        }
        let mut ordinals: Vec<i32> = pods.iter().filter_map(|p| ordinal(p)).collect();
        ordinals.sort_unstable();
        prop_assert_eq!(ordinals, (start..start + replicas).collect::<Vec<_>>());
        for pod in &pods {
            let index = ordinal(pod).unwrap() - s.first();
            prop_assert!(index < partition || pod_revision(pod) == "new");
        }
    }
}
