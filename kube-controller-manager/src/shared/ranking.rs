//! Which pods go first when a ReplicaSet shrinks.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::meta::MetaExt;
use super::pods;

/// The annotation with which users say what losing a pod costs.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The facts of one pod that decide its place, read once before sorting.
struct Rank {
    assigned: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    neighbours: usize,
    ready_since: Option<Timestamp>,
    restarts: (i32, i32),
    created: Option<Timestamp>,
    uid: String,
}

/// Sorts pods so that those to delete first come first. `related` are the pods of all sets with the
/// same owner: a pod on a node with many of them goes earlier.
pub(crate) fn sort_for_deletion(victims: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut per_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|p| pods::is_active(p)) {
        *per_node.entry(pods::node_name(pod)).or_default() += 1;
    }
    victims.sort_by_cached_key(|pod| Keyed { rank: rank(pod, &per_node), now });
}

/// The deletion cost a pod states; a malformed one counts as none, as upstream's does.
pub(crate) fn deletion_cost(pod: &Pod) -> i32 {
    let Some(text) = pod.annotation(DELETION_COST) else { return 0 };
    let well_formed = text == "0" || !(text.starts_with('+') || text.trim_start_matches('-').starts_with('0'));
    if well_formed { text.parse().unwrap_or(0) } else { 0 }
}

fn rank(pod: &Pod, per_node: &HashMap<&str, usize>) -> Rank {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or(&[]);
    let inits = pod.status.as_ref().and_then(|s| s.init_container_statuses.as_deref()).unwrap_or(&[]);
    let always = |name: &str| {
        let list = pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or(&[]);
        list.iter().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
    };
    Rank {
        assigned: !pods::node_name(pod).is_empty(),
        phase: match pods::phase(pod) {
            "Unknown" => 1,
            "Running" => 2,
            _ => 0,
        },
        ready: pods::is_ready(pod),
        cost: deletion_cost(pod),
        neighbours: per_node.get(pods::node_name(pod)).copied().unwrap_or(0),
        ready_since: pods::ready_since(pod),
        restarts: (
            statuses.iter().map(|s| s.restart_count).max().unwrap_or(0),
            inits.iter().filter(|s| always(&s.name)).map(|s| s.restart_count).max().unwrap_or(0),
        ),
        created: pod.created(),
        uid: pod.uid_str().to_owned(),
    }
}

struct Keyed {
    rank: Rank,
    now: Timestamp,
}

impl Ord for Keyed {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.rank, &other.rank);
        a.assigned
            .cmp(&b.assigned)
            .then(a.phase.cmp(&b.phase))
            .then(a.ready.cmp(&b.ready))
            .then(a.cost.cmp(&b.cost))
            .then(b.neighbours.cmp(&a.neighbours))
            .then_with(|| if a.ready && b.ready { by_age(a, b, |r| r.ready_since, self.now) } else { Ordering::Equal })
            .then(b.restarts.cmp(&a.restarts))
            .then_with(|| by_age(a, b, |r| r.created, self.now))
            .then_with(|| a.uid.cmp(&b.uid))
    }
}

impl PartialOrd for Keyed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Keyed {}

/// Younger first, but ages of the same power of two count as equal and the UID decides: so scaling
/// down does not always kill the same generation.
fn by_age(a: &Rank, b: &Rank, time: impl Fn(&Rank) -> Option<Timestamp>, now: Timestamp) -> Ordering {
    match (time(a), time(b)) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(x), Some(y)) if x == y => Ordering::Equal,
        (Some(x), Some(y)) => bucket(now, x).cmp(&bucket(now, y)).then_with(|| a.uid.cmp(&b.uid)),
    }
}

fn bucket(now: Timestamp, at: Timestamp) -> u32 {
    let nanos = now.duration_since(at).as_nanos();
    u128::try_from(nanos).ok().and_then(|n| n.checked_ilog2()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn pod(uid: &str, node: &str, phase: &str, ready_at: Option<&str>, extra: Value) -> Arc<Pod> {
        let mut v = json!({
            "metadata": {"name": uid, "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "containerStatuses": []}});
        if let Some(at) = ready_at {
            v["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}]);
        }
        if let Some(cost) = extra.get("cost") {
            v["metadata"]["annotations"][DELETION_COST] = cost.clone();
        }
        if let Some(n) = extra.get("restarts") {
            v["status"]["containerStatuses"] =
                json!([{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": n}]);
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    #[test]
    fn order() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let at = "2026-01-01T01:00:00Z";
        let want = [
            pod("unassigned", "", "Pending", None, json!({})),
            pod("pending", "n1", "Pending", None, json!({})),
            pod("unknown", "n1", "Unknown", None, json!({})),
            pod("unready", "n1", "Running", None, json!({})),
            pod("cheap", "n1", "Running", Some(at), json!({"cost": "-5"})),
            pod("crowded", "n2", "Running", Some(at), json!({})),
            pod("younger", "n1", "Running", Some("2026-01-01T23:59:00Z"), json!({})),
            pod("restarting", "n1", "Running", Some(at), json!({"restarts": 3})),
            pod("plain", "n1", "Running", Some(at), json!({})),
            pod("dear", "n1", "Running", Some(at), json!({"cost": "7"})),
        ];
        let mut related: Vec<_> = (0..20).map(|i| pod(&format!("r{i}"), "n2", "Running", None, json!({}))).collect();
        related.extend(want.iter().cloned());
        let mut got: Vec<_> = want.iter().rev().cloned().collect();
        sort_for_deletion(&mut got, &related, now);
        let names = |list: &[Arc<Pod>]| list.iter().map(|p| p.uid_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&got), names(&want));
    }

    #[test]
    fn malformed_costs_count_as_none() {
        for (text, want) in [("5", 5), ("-5", -5), ("0", 0), ("+5", 0), ("05", 0), ("x", 0), ("9999999999", 0)] {
            assert_eq!(deletion_cost(&pod("p", "n", "Running", None, json!({"cost": text}))), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn ready_pods_never_go_before_unready_ones_of_the_same_phase(flags in prop::collection::vec(any::<bool>(), 1..20)) {
            let mut list: Vec<_> = flags.iter().enumerate()
                .map(|(i, r)| pod(&format!("u{i}"), "n", "Running", r.then_some("2026-01-01T01:00:00Z"), json!({})))
                .collect();
            let related = list.clone();
            sort_for_deletion(&mut list, &related, "2026-01-02T00:00:00Z".parse().unwrap());
            let ready: Vec<bool> = list.iter().map(|p| pods::is_ready(p)).collect();
            prop_assert!(ready.windows(2).all(|w| !w[0] || w[1]));
        }
    }
}
