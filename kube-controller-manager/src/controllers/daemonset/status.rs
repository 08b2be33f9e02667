//! A DaemonSet's status as a pure function of nodes and pods.

use k8s_openapi::api::apps::v1::DaemonSetStatus;

use super::plan::{PodsByNode, View, oldest_first};
use crate::shared::meta::MetaExt;
use crate::shared::pods;

/// Counts. `observed`: this generation was acted on.
pub(super) fn calculate(view: &View<'_>, by_node: &PodsByNode, observed: bool) -> DaemonSetStatus {
    let mut status = view.ds.status.clone().unwrap_or_default();
    let (mut desired, mut current, mut misscheduled, mut ready, mut updated, mut available) = (0, 0, 0, 0, 0, 0);
    for node in view.nodes {
        let oldest = by_node.get(node.name_str()).and_then(|l| l.iter().min_by(|a, b| oldest_first(a, b)));
        if !view.fit(node).should_run {
            misscheduled += i32::from(oldest.is_some());
            continue;
        }
        desired += 1;
        let Some(pod) = oldest else { continue };
        current += 1;
        ready += i32::from(pods::is_ready(pod));
        available += i32::from(view.is_available(pod));
        updated += i32::from(view.is_current(pod));
    }
    let some = |n: i32| (n != 0).then_some(n);
    status.desired_number_scheduled = desired;
    status.current_number_scheduled = current;
    status.number_misscheduled = misscheduled;
    status.number_ready = ready;
    status.updated_number_scheduled = some(updated);
    status.number_available = some(available);
    status.number_unavailable = some(desired - available);
    if observed {
        status.observed_generation = Some(view.ds.generation());
    }
    status
}

/// Whether writing `new` would change nothing; absent counts as zero.
pub(super) fn is_current(old: &DaemonSetStatus, new: &DaemonSetStatus, generation: i64) -> bool {
    let counts = |s: &DaemonSetStatus| {
        let n = |v: Option<i32>| v.unwrap_or(0);
        [
            s.desired_number_scheduled,
            s.current_number_scheduled,
            s.number_misscheduled,
            s.number_ready,
            n(s.updated_number_scheduled),
            n(s.number_available),
            n(s.number_unavailable),
        ]
    };
    counts(old) == counts(new)
        && old.observed_generation.unwrap_or(0) >= generation.min(new.observed_generation.unwrap_or(0))
}
