//! Tables and properties of the size arithmetic.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn deployment(replicas: i32, surge: Value, unavailable: Value) -> Deployment {
    serde_json::from_value(
        json!({"metadata": {"name": "d"}, "spec": {"replicas": replicas, "selector": {}, "template": {},
        "revisionHistoryLimit": 1,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}),
    )
    .unwrap()
}

fn set(name: &str, size: i32, available: i32, desired: i32, max: i32) -> ReplicaSet {
    serde_json::from_value(
        json!({"metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", name.len()),
        "annotations": {DESIRED_REPLICAS: desired.to_string(), MAX_REPLICAS: max.to_string()}},
        "spec": {"replicas": size, "selector": {}}, "status": {"replicas": size, "availableReplicas": available}}),
    )
    .unwrap()
}

fn pairs(list: &[Resize]) -> Vec<(&str, i32)> {
    list.iter().map(|r| (r.name.as_str(), r.to)).collect()
}

#[test]
fn rolling_forward() {
    let d = deployment(10, json!(3), json!(2));
    let (old, new) = (set("old", 10, 10, 10, 13), set("newer", 0, 0, 10, 13));
    assert_eq!(pairs(&[roll_new(&d, &[&old, &new], &new).unwrap()]), [("newer", 3)]);
    // Full: 13 pods, 10 of them available: two old ones may go.
    let new = set("newer", 3, 0, 10, 13);
    assert_eq!(roll_new(&d, &[&old, &new], &new), None);
    assert_eq!(pairs(&roll_old(&d, &[&old], &new)), [("old", 8)]);
    // Nothing more until the new ones are available.
    let old = set("old", 8, 8, 10, 13);
    let new = set("newer", 5, 0, 10, 13);
    assert_eq!(pairs(&roll_old(&d, &[&old], &new)), []);
    let new = set("newer", 5, 5, 10, 13);
    assert_eq!(pairs(&roll_old(&d, &[&old], &new)), [("old", 3)]);
    // Above the wanted size: shrink at once.
    let new = set("newer", 12, 12, 12, 15);
    assert_eq!(roll_new(&d, &[&new], &new).unwrap().to, 10);
}

#[test]
fn unhealthy_old_pods_go_first() {
    let d = deployment(10, json!(3), json!(2));
    // 8 old pods none of which is available, the new set holds 5 of which 4 serve.
    let (sick, fine, new) = (set("a", 4, 0, 10, 13), set("bb", 4, 4, 10, 13), set("ccc", 5, 4, 10, 13));
    // budget 13-8-1 = 4 unhealthy; available 8 = minimum: no healthy one goes.
    assert_eq!(pairs(&roll_old(&d, &[&sick, &fine], &new)), [("a", 0)]);
}

#[test]
fn scaling() {
    let d = deployment(10, json!(0), json!(1));
    let one = set("a", 5, 5, 5, 5);
    assert_eq!(pairs(&scale(&d, &[], Some(&one))), [("a", 10)]);
    assert_eq!(pairs(&scale(&d, &[], Some(&set("a", 10, 10, 10, 10)))), []);
    // Two active sets in the middle of a rollout of 10: doubling doubles both.
    let d = deployment(20, json!(0), json!(1));
    let (old, new) = (set("a", 6, 6, 10, 10), set("bb", 4, 4, 10, 10));
    assert!(is_scaling(&d, &[&old, &new]));
    assert_eq!(pairs(&scale(&d, &[&old], Some(&new))), [("a", 12), ("bb", 8)]);
    // To zero takes everything.
    let d = deployment(0, json!(1), json!(1));
    assert_eq!(pairs(&scale(&d, &[&old], Some(&new))), [("a", 0), ("bb", 0)]);
    // A saturated new set: the rest goes.
    let d = deployment(4, json!(1), json!(1));
    let new = set("bb", 4, 4, 4, 5);
    assert_eq!(pairs(&scale(&d, &[&old], Some(&new))), [("a", 0)]);
    assert!(scale(&d, &[], None).is_empty());
    // Nothing active: the latest grows.
    let (a, b) = (set("a", 0, 0, 0, 0), set("bb", 0, 0, 0, 0));
    assert_eq!(pairs(&scale(&d, &[&a, &b], None)), [("bb", 4)]);
}

#[test]
fn recreate_has_no_surge() {
    let mut d = deployment(5, json!(3), json!(3));
    d.spec.as_mut().unwrap().strategy.as_mut().unwrap().type_ = Some("Recreate".into());
    assert_eq!((d.max_surge(), d.max_unavailable()), (0, 0));
    assert_eq!(new_size(&d, &[], 0), 5);
}

#[test]
fn history_beyond_the_limit() {
    let d = deployment(1, json!(1), json!(1));
    let old = [set("a", 0, 0, 1, 1), set("bb", 0, 0, 1, 1), set("ccc", 2, 0, 1, 1), set("dddd", 0, 0, 1, 1)];
    let names: Vec<_> = expired(&d, &old).iter().map(|r| r.name_str().to_owned()).collect();
    assert_eq!(names, ["a", "bb"]);
    assert!(expired(&d, &old[..1]).is_empty());
}

proptest! {
    /// Rolling never goes above replicas+maxSurge pods, nor below replicas-maxUnavailable available ones.
    #[test]
    fn rolling_keeps_its_promises(replicas in 1_i32..30, surge in 0_i32..6, unavailable in 0_i32..6, steps in prop::collection::vec(0_i32..4, 80)) {
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        let d = deployment(replicas, json!(surge), json!(unavailable));
        let min = replicas - d.max_unavailable();
        let (mut old_size, mut new_size_, mut ready) = (replicas, 0, 0);
        for step in steps {
            let old = set("old", old_size, old_size, replicas, replicas + surge);
            let new = set("newer", new_size_, ready, replicas, replicas + surge);
            match roll_new(&d, &[&old, &new], &new) {
                Some(r) => new_size_ = r.to,
                None => for r in roll_old(&d, &[&old], &new) { old_size = r.to },
            }
            ready = (ready + step).min(new_size_);
            prop_assert!(old_size + new_size_ <= replicas + surge);
            prop_assert!(old_size + ready >= min);
        }
        // With every new pod ready it comes to its end.
        for _ in 0..200 {
            ready = new_size_;
            let old = set("old", old_size, old_size, replicas, replicas + surge);
            let new = set("newer", new_size_, ready, replicas, replicas + surge);
            match roll_new(&d, &[&old, &new], &new) {
                Some(r) => new_size_ = r.to,
                None => for r in roll_old(&d, &[&old], &new) { old_size = r.to },
            }
        }
        prop_assert_eq!((old_size, new_size_), (0, replicas));
    }

    /// Proportional scaling always lands exactly on the allowed total.
    #[test]
    fn proportional_lands_on_the_total(from in 1_i32..40, to in 1_i32..40, surge in 0_i32..5, cut in 1_i32..39) {
        let total = from + surge;
        let first = cut.min(total - 1).max(1);
        prop_assume!(total > first);
        let (a, b) = (set("a", first, first, from, total), set("bb", total - first, 0, from, total));
        let d = deployment(to, json!(surge), json!(1));
        let plan = scale(&d, &[&a], Some(&b));
        prop_assert_eq!(plan.iter().map(|r| r.to).sum::<i32>(), to + surge);
        prop_assert!(plan.iter().all(|r| r.to >= 0));
    }
}
