//! Tables of node health.

use super::*;
use serde_json::{Value, json};

fn node(ready: &str, heartbeat: &str, taints: Value) -> Node {
    serde_json::from_value(
        json!({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"taints": taints},
        "status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat}]}}),
    )
    .unwrap()
}

fn keys(taints: &[Taint]) -> Vec<String> {
    taints.iter().map(|t| format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect)).collect()
}

#[test]
fn signs_of_life() {
    let t0 = Instant::now();
    let after = |s| t0 + Duration::from_secs(s);
    let grace = Duration::from_secs(50);
    let n = node("True", "2026-01-01T00:00:01Z", json!([]));
    let mut h = Health::new(&n, None, t0);
    assert_eq!(h.remaining(grace, after(20)), Some(Duration::from_secs(30)));
    assert_eq!(h.remaining(grace, after(51)), None);
    h.note(&n, None, after(30));
    assert_eq!(h.seen, t0, "the same heartbeat is no new sign");
    let lease = |s: &str| MicroTime(s.parse().unwrap());
    h.note(&n, Some(&lease("2026-01-01T00:00:02Z")), after(31));
    assert_eq!(h.seen, after(31));
    h.note(&n, Some(&lease("2026-01-01T00:00:02Z")), after(40));
    assert_eq!(h.seen, after(31));
    h.note(&node("True", "2026-01-01T00:05:00Z", json!([])), Some(&lease("2026-01-01T00:00:02Z")), after(41));
    assert_eq!(h.seen, after(41));
}

#[test]
fn silence_turns_conditions_unknown() {
    let mut n = node("True", "2026-01-01T00:00:01Z", json!([]));
    assert!(mark_unknown(&mut n, Timestamp::UNIX_EPOCH));
    let c = condition(&n, "Ready").unwrap();
    assert_eq!((c.status.as_str(), c.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
    assert_eq!(condition(&n, "DiskPressure").unwrap().reason.as_deref(), Some("NodeStatusNeverUpdated"));
    assert!(!mark_unknown(&mut n, Timestamp::UNIX_EPOCH));
}

#[test]
fn taints_follow_conditions() {
    let now = Timestamp::UNIX_EPOCH;
    let t = |key: &str, effect: &str| json!({"key": key, "effect": effect});
    let desired = |n: &Node, evict| desired_taints(n, evict, now).map(|l| keys(&l));
    assert_eq!(desired(&node("True", "2026-01-01T00:00:00Z", json!([])), true), None);
    let dead = node("Unknown", "2026-01-01T00:00:00Z", json!([t("mine", "NoExecute")]));
    assert_eq!(desired(&dead, false).unwrap(), ["mine:NoExecute", "unreachable:NoSchedule"]);
    assert_eq!(desired(&dead, true).unwrap(), ["mine:NoExecute", "unreachable:NoSchedule", "unreachable:NoExecute"]);
    // One state turns into the other without waiting for its turn.
    let turned =
        node("False", "2026-01-01T00:00:00Z", json!([t(UNREACHABLE, "NoExecute"), t(UNREACHABLE, "NoSchedule")]));
    assert_eq!(desired(&turned, false).unwrap(), ["not-ready:NoSchedule", "not-ready:NoExecute"]);
    let back = node(
        "True",
        "2026-01-01T00:00:00Z",
        json!([t(UNREACHABLE, "NoExecute"), t(NOT_READY, "NoSchedule"), t("mine", "NoSchedule")]),
    );
    assert_eq!(desired(&back, true).unwrap(), ["mine:NoSchedule"]);
    let mut cordoned = node("True", "2026-01-01T00:00:00Z", json!([]));
    cordoned.spec.as_mut().unwrap().unschedulable = Some(true);
    assert_eq!(desired(&cordoned, true).unwrap(), ["unschedulable:NoSchedule"]);
}

#[test]
fn zones() {
    for (ready, not_ready, want) in [
        (0, 0, ZoneState::Normal),
        (1, 1, ZoneState::Normal),
        (1, 2, ZoneState::Normal),
        (1, 3, ZoneState::Partial),
        (10, 3, ZoneState::Normal),
        (0, 1, ZoneState::Full),
    ] {
        assert_eq!(zone_state(ready, not_ready, 0.55), want, "{ready}/{not_ready}");
    }
}
