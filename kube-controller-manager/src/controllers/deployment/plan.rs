//! How large each ReplicaSet should be next: pure arithmetic over sizes.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::facts::{DESIRED_REPLICAS, DeploymentExt, MAX_REPLICAS, ReplicaSetExt, by_age, number_annotation, sum};
use crate::shared::meta::MetaExt;

/// A ReplicaSet (by name) and the size it should get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resize {
    pub(super) name: String,
    pub(super) to: i32,
    /// Write also when the size is right, to refresh the annotations.
    pub(super) force: bool,
}

fn resize(rs: &ReplicaSet, to: i32) -> Resize {
    Resize { name: rs.name_str().to_owned(), to, force: false }
}

/// Did somebody change `spec.replicas` since the sets were last sized?
pub(super) fn is_scaling(d: &Deployment, all: &[&ReplicaSet]) -> bool {
    all.iter()
        .filter(|rs| rs.size() > 0)
        .filter_map(|rs| number_annotation(rs, DESIRED_REPLICAS))
        .any(|desired| desired != d.replicas())
}

/// The size of the current set while rolling: as much as maxSurge leaves room for.
pub(super) fn new_size(d: &Deployment, all: &[&ReplicaSet], current: i32) -> i32 {
    if !d.is_rolling() {
        return d.replicas();
    }
    let total = sum(all, ReplicaSetExt::size);
    let room = d.replicas() + d.max_surge() - total;
    if room <= 0 { current } else { current + room.min(d.replicas() - current) }
}

/// Rolling: the current set's step, if it has to change.
pub(super) fn roll_new(d: &Deployment, all: &[&ReplicaSet], new: &ReplicaSet) -> Option<Resize> {
    let (size, wanted) = (new.size(), d.replicas());
    let to = if size > wanted { wanted } else { new_size(d, all, size) };
    (to != size).then(|| resize(new, to))
}

/// Rolling: how the old sets shrink now. First pods that are not available go, then available ones as
/// far as maxUnavailable allows.
pub(super) fn roll_old(d: &Deployment, old: &[&ReplicaSet], new: &ReplicaSet) -> Vec<Resize> {
    let mut active: Vec<(&ReplicaSet, i32)> = old.iter().map(|rs| (*rs, rs.size())).filter(|(_, s)| *s > 0).collect();
    if active.is_empty() {
        return Vec::new();
    }
    active.sort_by(|a, b| by_age(a.0, b.0));
    let min_available = d.replicas() - d.max_unavailable();
    let all: i32 = sum(old, ReplicaSetExt::size) + new.size();
    let mut budget = all - min_available - (new.size() - new.available());
    if budget <= 0 {
        return Vec::new();
    }
    for (rs, size) in &mut active {
        let unhealthy = (*size - rs.available()).min(budget).max(0);
        *size -= unhealthy;
        budget -= unhealthy;
    }
    let available: i32 = active.iter().map(|(rs, _)| rs.available()).sum::<i32>() + new.available();
    let mut budget = available - min_available;
    for (_, size) in &mut active {
        let step = (*size).min(budget).max(0);
        *size -= step;
        budget -= step;
    }
    active.iter().filter(|(rs, size)| *size != rs.size()).map(|(rs, size)| resize(rs, *size)).collect()
}

/// Sizes after a change of `spec.replicas` (or while paused), without rolling forward.
pub(super) fn scale(d: &Deployment, old: &[&ReplicaSet], new: Option<&ReplicaSet>) -> Vec<Resize> {
    let all: Vec<&ReplicaSet> = old.iter().copied().chain(new).collect();
    let active: Vec<&ReplicaSet> = all.iter().copied().filter(|rs| rs.size() > 0).collect();
    let only = match active[..] {
        [] => new.or_else(|| old.iter().copied().max_by(|a, b| by_age(a, b))),
        [one] => Some(one),
        _ => None,
    };
    if let Some(rs) = only {
        return if rs.size() == d.replicas() { Vec::new() } else { vec![resize(rs, d.replicas())] };
    }
    if active.is_empty() {
        return Vec::new();
    }
    if new.is_some_and(|rs| is_saturated(d, rs)) {
        return old.iter().filter(|rs| rs.size() > 0).map(|rs| resize(rs, 0)).collect();
    }
    if d.is_rolling() { proportional(d, active) } else { Vec::new() }
}

/// The current set is complete: everything of it is there, available, and sized for this Deployment.
fn is_saturated(d: &Deployment, rs: &ReplicaSet) -> bool {
    rs.size() == d.replicas()
        && number_annotation(rs, DESIRED_REPLICAS) == Some(d.replicas())
        && rs.available() == d.replicas()
}

/// Spreads growth or shrinkage over the active sets in proportion to their sizes; what rounding
/// leaves goes to the largest.
fn proportional(d: &Deployment, mut active: Vec<&ReplicaSet>) -> Vec<Resize> {
    let total = sum(&active, ReplicaSetExt::size);
    let allowed = if d.replicas() > 0 { d.replicas() + d.max_surge() } else { 0 };
    let to_add = allowed - total;
    // Largest first; of equals the newer when growing, the older when shrinking.
    active.sort_by(|a, b| {
        let age = by_age(a, b);
        b.size().cmp(&a.size()).then(if to_add > 0 { age.reverse() } else { age })
    });
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for rs in &active {
        let share = if to_add == 0 { 0 } else { proportion(d, rs, to_add, added) };
        added += share;
        sizes.push(rs.size() + share);
    }
    if to_add != 0
        && let Some(first) = sizes.first_mut()
    {
        *first = (*first + to_add - added).max(0);
    }
    active.iter().zip(sizes).map(|(rs, to)| Resize { force: true, ..resize(rs, to) }).collect()
}

fn proportion(d: &Deployment, rs: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if rs.size() == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(d, rs);
    let left = to_add - added;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

fn fraction(d: &Deployment, rs: &ReplicaSet) -> i32 {
    if d.replicas() == 0 {
        return -rs.size();
    }
    let max_now = d.replicas() + d.max_surge();
    let max_before = number_annotation(rs, MAX_REPLICAS)
        .filter(|n| *n != 0)
        .or_else(|| d.status.as_ref().and_then(|s| s.replicas).filter(|n| *n != 0));
    let Some(max_before) = max_before else { return 0 };
    let size = f64::from(rs.size()) * f64::from(max_now) / f64::from(max_before);
    size.round() as i32 - rs.size()
}

/// Old sets beyond `revisionHistoryLimit` that hold nothing any more, oldest revision first.
pub(super) fn expired<'a>(d: &Deployment, old: &'a [ReplicaSet]) -> Vec<&'a ReplicaSet> {
    let limit = d.spec.as_ref().and_then(|s| s.revision_history_limit).filter(|l| *l != i32::MAX);
    let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) else { return Vec::new() };
    let mut live: Vec<&ReplicaSet> = old.iter().filter(|rs| !rs.is_deleting()).collect();
    if live.len() <= limit {
        return Vec::new();
    }
    live.sort_by(|a, b| super::facts::by_revision(a, b));
    live.truncate(live.len() - limit);
    live.retain(|rs| {
        let status = rs.rstatus();
        status.replicas == 0 && rs.size() == 0 && rs.generation() <= status.observed_generation.unwrap_or(0)
    });
    live
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
