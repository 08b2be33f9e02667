use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::snapshot::Snapshot;
use super::*;
use crate::framework::template::Interner;

fn node(name: &str, cpu: u32, zone: &str, tainted: bool) -> Arc<Node> {
    let taints = if tainted { json!([{"key": "k", "effect": "NoSchedule"}]) } else { json!([]) };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {
                "topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name}},
            "spec": {"taints": taints, "unschedulable": tainted},
            "status": {
                "allocatable": {"cpu": cpu.to_string(), "memory": "8Gi", "pods": "110", "example.com/gpu": "2"},
                "images": [{"names": [format!("img-{zone}")], "sizeBytes": 1000}],
            },
        }))
        .unwrap(),
    )
}

fn pod(interner: &Interner, uid: &str, node: &str, milli: u32) -> Arc<PodInfo> {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": uid, "namespace": "d", "uid": uid},
        "spec": {"nodeName": node, "containers": [{"name": "c",
            "ports": [{"containerPort": 1, "hostPort": milli}],
            "resources": {"requests": {"cpu": format!("{milli}m"), "example.com/gpu": "1"}}}]},
    }))
    .unwrap();
    Arc::new(PodInfo::new(&pod, interner))
}

#[test]
fn assume_confirm_forget() {
    let interner = Interner::default();
    let cache = Cache::new(Duration::from_secs(30));
    let mut snapshot = Snapshot::default();
    cache.set_node(node("n1", 4, "a", false));
    let assumed = pod(&interner, "p", "n1", 500);
    cache.assume(assumed.clone()).unwrap();
    assert!(cache.assume(assumed.clone()).is_err(), "a pod is placed once");
    cache.update_snapshot(&mut snapshot);
    assert_eq!(snapshot.node(0).requested(resources::CPU), 500);
    cache.forget(&assumed).unwrap();
    assert_eq!(cache.forget(&assumed), Err(CacheError::NotAssumed("d/p".into())));
    cache.assume(assumed.clone()).unwrap();
    cache.add_pod(assumed.clone()).unwrap();
    assert!(!cache.is_assumed("p"));
    assert!(cache.forget(&assumed).is_err(), "a confirmed pod is not forgotten");
    cache.update_snapshot(&mut snapshot);
    assert_eq!(snapshot.node(0).requested(resources::CPU), 500, "confirmed once, counted once");
    cache.remove_pod("p");
    cache.update_snapshot(&mut snapshot);
    assert_eq!(snapshot.node(0).requested(resources::CPU), 0);
}

#[test]
fn expiry_only_after_the_binding_finished() {
    let interner = Interner::default();
    let cache = Cache::new(Duration::from_secs(30));
    cache.set_node(node("n1", 4, "a", false));
    cache.assume(pod(&interner, "p", "n1", 500)).unwrap();
    let start = Instant::now();
    assert!(cache.expire(start + Duration::from_secs(3600)).is_empty());
    cache.finish_binding("p", start);
    assert!(cache.expire(start + Duration::from_secs(29)).is_empty());
    assert_eq!(cache.expire(start + Duration::from_secs(31)).len(), 1);
    assert_eq!(cache.sizes(), (1, 0, 0));
}

#[test]
fn the_truth_wins_over_the_assumption() {
    let interner = Interner::default();
    let cache = Cache::new(Duration::ZERO);
    let mut snapshot = Snapshot::default();
    cache.set_node(node("n1", 4, "a", false));
    cache.set_node(node("n2", 4, "a", false));
    cache.assume(pod(&interner, "p", "n1", 500)).unwrap();
    assert!(matches!(cache.add_pod(pod(&interner, "p", "n2", 500)), Err(CacheError::Elsewhere(..))));
    cache.update_snapshot(&mut snapshot);
    assert_eq!(snapshot.requested[resources::CPU], [0, 500]);
}

#[derive(Clone, Debug)]
enum Step {
    SetNode(u8, u8, bool),
    RemoveNode(u8),
    Assume(u8, u8, u32),
    Forget(u8),
    Add(u8, u8, u32),
    RemovePod(u8),
    Refresh,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u8, 0..3u8, any::<bool>()).prop_map(|(n, z, t)| Step::SetNode(n, z, t)),
        (0..6u8).prop_map(Step::RemoveNode),
        (0..12u8, 0..6u8, 1..2000u32).prop_map(|(p, n, m)| Step::Assume(p, n, m)),
        (0..12u8).prop_map(Step::Forget),
        (0..12u8, 0..6u8, 1..2000u32).prop_map(|(p, n, m)| Step::Add(p, n, m)),
        (0..12u8).prop_map(Step::RemovePod),
        Just(Step::Refresh),
    ]
}

/// What a snapshot says, by node name, free of slot and value numbers.
fn facts(snapshot: &Snapshot) -> BTreeMap<String, String> {
    snapshot
        .order
        .iter()
        .map(|slot| {
            let view = snapshot.node(*slot);
            assert_eq!(snapshot.by_name.get(view.name()), Some(slot));
            assert!(snapshot.live.contains(*slot));
            let mut pods: Vec<_> = view.pods().iter().map(|pod| pod.uid.to_string()).collect();
            pods.sort();
            let mut ports: Vec<_> = view.ports().iter().map(|port| port.port).collect();
            ports.sort_unstable();
            let gpu = snapshot.resources.column("example.com/gpu").map(|c| (view.allocatable(c), view.requested(c)));
            let zone = view.label("topology.kubernetes.io/zone").unwrap_or_default();
            let image = snapshot.images.get(&format!("img-{zone}")).map(|i| (i.count, i.nodes.contains(*slot)));
            let fact = format!(
                "{:?} {:?} {gpu:?} {pods:?} {ports:?} {} {} {zone} {:?} {image:?} {}",
                view.allocatable(resources::CPU),
                view.requested(resources::CPU),
                view.taints().len(),
                snapshot.unschedulable.contains(*slot),
                view.label("kubernetes.io/hostname"),
                snapshot.nonzero_memory[*slot as usize],
            );
            (view.name().to_string(), fact)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn incremental_snapshot_equals_a_rebuild(steps in prop::collection::vec(step(), 1..80)) {
        let interner = Interner::default();
        let cache = Cache::new(Duration::ZERO);
        let mut incremental = Snapshot::default();
        for step in steps.into_iter().chain([Step::Refresh]) {
            match step {
                Step::SetNode(n, z, t) => cache.set_node(node(&format!("n{n}"), 4 + u32::from(z), &format!("z{z}"), t)),
                Step::RemoveNode(n) => cache.remove_node(&format!("n{n}")),
                Step::Assume(p, n, m) => { let _ = cache.assume(pod(&interner, &format!("p{p}"), &format!("n{n}"), m)); }
                Step::Forget(p) => {
                    if let Some(pod) = cache.pod(&format!("p{p}")) { let _ = cache.forget(&pod); }
                }
                Step::Add(p, n, m) => { let _ = cache.add_pod(pod(&interner, &format!("p{p}"), &format!("n{n}"), m)); }
                Step::RemovePod(p) => cache.remove_pod(&format!("p{p}")),
                Step::Refresh => {
                    cache.update_snapshot(&mut incremental);
                    let mut rebuilt = Snapshot::default();
                    let twin = Cache::new(Duration::ZERO);
                    {
                        let inner = cache.inner.lock();
                        for record in inner.slots.iter().flatten() {
                            if let Some(row) = &record.row { twin.set_node(row.node.clone()); }
                            for pod in record.usage.pods.iter() { twin.add_pod(pod.clone()).unwrap(); }
                        }
                    }
                    twin.update_snapshot(&mut rebuilt);
                    prop_assert_eq!(facts(&incremental), facts(&rebuilt));
                    prop_assert_eq!(incremental.live.len(), rebuilt.live.len());
                }
            }
        }
    }
}
