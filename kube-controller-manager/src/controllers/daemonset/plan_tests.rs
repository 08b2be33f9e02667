//! Tables of what a DaemonSet does to its nodes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::placement::Placement;
use super::plan::{self, Changes, View};
use super::status;
use crate::shared::meta::MetaExt;

fn set(strategy: Value) -> DaemonSet {
    serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "ns", "generation": 3},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "updateStrategy": strategy, "minReadySeconds": 10,
            "template": {"spec": {"containers": []}}}}))
    .unwrap()
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

/// `name node hash state`, where state is `ok`, `young` (ready, not yet available), `unready`, `failed`, `done` or `going`.
fn pods(lines: &[&str]) -> Vec<Arc<Pod>> {
    let pod = |(index, line): (usize, &&str)| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, node, hash, state] = words[..] else { panic!("{line}") };
        let (ready, since) = match state {
            "ok" => ("True", "2026-01-01T00:00:00Z"),
            "young" => ("True", "2026-01-01T00:59:55Z"),
            _ => ("False", "2026-01-01T00:00:00Z"),
        };
        let phase = match state {
            "failed" => "Failed",
            "done" => "Succeeded",
            _ => "Running",
        };
        let mut value = json!({"metadata": {"name": name, "uid": name, "labels": {"controller-revision-hash": hash},
                "creationTimestamp": format!("2026-01-01T00:00:{index:02}Z")},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]}});
        if state == "going" {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z");
        }
        Arc::new(serde_json::from_value(value).unwrap())
    };
    lines.iter().enumerate().map(pod).collect()
}

fn nodes(names: &[&str]) -> Vec<Arc<Node>> {
    let node = |name: &&str| {
        let taints = if name.starts_with('x') { json!([{"key": "k", "effect": "NoSchedule"}]) } else { json!([]) };
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": taints}})).unwrap())
    };
    names.iter().map(node).collect()
}

fn view<'a>(ds: &'a DaemonSet, nodes: &'a [Arc<Node>]) -> View<'a> {
    View { ds, hash: "new", placement: Placement::new(ds), nodes, now: "2026-01-01T01:00:00Z".parse().unwrap() }
}

fn told(changes: &Changes) -> String {
    let names: Vec<&str> = changes.delete.iter().map(|p| p.name_str()).collect();
    format!("+{} -{}", changes.create.join(","), names.join(","))
}

#[test]
fn one_pod_per_node() {
    let plain = rolling(json!(0), json!(1));
    let surge = rolling(json!(1), json!(0));
    for (name, strategy, on, there, want) in [
        ("empty nodes get one", &plain, &["a", "b"][..], &["p a new ok"][..], "+b -"),
        ("refusing nodes get none, and keep what is there", &plain, &["x1", "x2"], &["p x1 new ok"], "+ -"),
        ("the oldest of several stays", &plain, &["a"], &["p a new ok", "q a new ok"], "+ -q"),
        ("failed and finished ones go", &plain, &["a", "b"], &["p a new failed", "q b new done"], "+ -p,q"),
        ("nothing while one is going", &plain, &["a"], &["p a new going"], "+ -"),
        ("with surge the successor comes at once", &surge, &["a"], &["p a new going"], "+a -"),
        ("old and new stay together", &surge, &["a"], &["p a old ok", "q a new young"], "+ -"),
        ("until the new one is available", &surge, &["a"], &["p a old ok", "q a new ok"], "+ -p"),
        ("or the old one is not ready", &surge, &["a"], &["p a old unready", "q a new unready"], "+ -p"),
        ("a third goes", &surge, &["a"], &["p a old ok", "q a new young", "r a new young"], "+ -r"),
    ] {
        let (ds, on) = (set(strategy.clone()), nodes(on));
        let changes = view(&ds, &on).manage(&plan::by_node(&pods(there), false), |_| Ok(()));
        assert_eq!(told(&changes), want, "{name}");
    }
    // Driven out, and tied to a node that is gone.
    let ds = set(plain);
    let mut gone = (*pods(&["p a new ok"])[0]).clone();
    gone.spec.as_mut().unwrap().node_name = None;
    super::placement::pin(gone.spec.as_mut().unwrap(), "lost");
    let changes = view(&ds, &[]).manage(&plan::by_node(&[Arc::new(gone)], false), |_| Ok(()));
    assert_eq!(told(&changes), "+ -p");
}

#[test]
fn failed_pods_wait_for_their_backoff() {
    let (ds, on) = (set(rolling(json!(0), json!(1))), nodes(&["a", "b"]));
    let there = plan::by_node(&pods(&["p a new failed", "q b new failed"]), false);
    let changes = view(&ds, &on).manage(&there, |node| match node {
        "a" => Err(Duration::from_secs(4)),
        _ => Ok(()),
    });
    assert_eq!((told(&changes).as_str(), changes.retry_after), ("+ -q", Some(Duration::from_secs(4))));
}

#[test]
fn rolling_steps() {
    let plain = |n: Value| rolling(json!(0), n);
    let surge = |n: Value| rolling(n, json!(0));
    for (name, strategy, there, want) in [
        ("one at a time", plain(json!(1)), &["p a old ok", "q b old ok", "r c old ok"][..], "+ -p"),
        ("two", plain(json!(2)), &["p a old ok", "q b old ok", "r c old ok"], "+ -p,q"),
        ("percent rounds up", plain(json!("34%")), &["p a old ok", "q b old ok", "r c old ok"], "+ -p,q"),
        ("zero is one", plain(json!(0)), &["p a old ok", "q b old ok", "r c old ok"], "+ -p"),
        ("waits for the new one", plain(json!(1)), &["p a new young", "q b old ok", "r c old ok"], "+ -"),
        ("goes on", plain(json!(1)), &["p a new ok", "q b old ok", "r c old ok"], "+ -q"),
        ("the unavailable first", plain(json!(1)), &["p a old ok", "q b old unready", "r c old ok"], "+ -q"),
        ("all of them", plain(json!(1)), &["p a old unready", "q b old unready", "r c old ok"], "+ -p,q"),
        ("a node without a pod counts", plain(json!(1)), &["p a old ok", "q b old ok"], "+ -"),
        ("surge creates", surge(json!(1)), &["p a old ok", "q b old ok", "r c old ok"], "+a -"),
        ("surge waits", surge(json!(1)), &["p a old ok", "n a new young", "q b old ok", "r c old ok"], "+ -"),
        ("surge swaps", surge(json!(1)), &["p a old ok", "n a new ok", "q b old ok", "r c old ok"], "+b -p"),
        ("surge over the unavailable", surge(json!(1)), &["p a old unready", "q b old ok", "r c old ok"], "+a,b -"),
        ("done", surge(json!(1)), &["p a new ok", "q b new ok", "r c new ok"], "+ -"),
    ] {
        let (ds, on) = (set(strategy), nodes(&["a", "b", "c"]));
        let changes = view(&ds, &on).roll(&plan::by_node(&pods(there), false)).unwrap();
        assert_eq!(told(&changes), want, "{name}");
    }
    let ds = set(plain(json!("x")));
    assert!(view(&ds, &nodes(&["a"])).roll(&plan::by_node(&[], false)).is_err());
}

#[test]
fn counts() {
    let (ds, on) = (set(rolling(json!(0), json!(1))), nodes(&["a", "b", "c", "d", "x"]));
    let list = pods(&["p a new ok", "q b old young", "r c new unready", "s x new ok"]);
    let view = view(&ds, &on);
    let s = status::calculate(&view, &plan::by_node(&list, false), true);
    assert_eq!((s.desired_number_scheduled, s.current_number_scheduled, s.number_misscheduled), (4, 3, 1));
    assert_eq!((s.number_ready, s.number_available, s.number_unavailable), (2, Some(1), Some(3)));
    assert_eq!((s.updated_number_scheduled, s.observed_generation), (Some(2), Some(3)));
    assert!(status::is_current(&s, &s, 3) && !status::is_current(&Default::default(), &s, 3));
}
