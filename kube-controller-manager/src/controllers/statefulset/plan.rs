//! What a StatefulSet does next, as a pure function of what is there.
//!
//! First every wanted ordinal gets its pod, then what is beyond them goes from the highest down, then pods of other revisions are
//! replaced from the highest down. An ordered set takes one step at a time and waits for each pod to be available.

use std::sync::Arc;

use common::meta::intstr::scaled;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use super::facts::{
    Revision, StatefulSetExt, claim_name, claims_of, identity_matches, new_pod, ordinal, pod_revision, storage_matches,
};
use super::retention;
use crate::shared::meta::MetaExt;
use crate::shared::owned::Owner;
use crate::shared::pods;

/// One piece of work.
#[derive(Debug)]
pub(super) enum Step {
    /// Make the claims, then the pod.
    Create(Box<Pod>),
    Delete(Arc<Pod>),
    /// Make the claims of a pod that waits for them.
    MakeClaims(Arc<Pod>),
    /// Give the pod back its labels and volumes.
    Repair(Arc<Pod>),
    /// Let the retention policy's owner own the pod's claims.
    OwnClaims(Arc<Pod>),
}

/// What one run decides on.
pub(super) struct View<'a> {
    pub(super) set: &'a StatefulSet,
    pub(super) current: &'a Revision,
    pub(super) update: &'a Revision,
    pub(super) pods: &'a [Arc<Pod>],
    /// A claim of the set's namespace.
    pub(super) claim: &'a (dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>> + Send + Sync),
    pub(super) now: Timestamp,
}

/// What to do, phase by phase: one begins when all before succeeded. And the status to write then.
pub(super) struct Plan {
    pub(super) phases: Vec<Vec<Step>>,
    pub(super) status: StatefulSetStatus,
}

enum Slot {
    There(Arc<Pod>),
    Missing(Box<Pod>),
}

/// Whether the walk over the pods goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Wait,
}

impl View<'_> {
    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.set.min_ready_seconds(), self.now)
    }

    fn slot_is_available(&self, slot: &Slot) -> bool {
        matches!(slot, Slot::There(pod) if self.is_available(pod) && !pod.is_deleting())
    }

    pub(super) fn plan(&self) -> Plan {
        let first = self.set.first();
        let mut slots: Vec<Option<Arc<Pod>>> = vec![None; usize::try_from(self.set.replicas()).unwrap_or(0)];
        let mut condemned = Vec::new();
        for pod in self.pods {
            let Some(ordinal) = ordinal(pod) else { continue };
            let place = usize::try_from(ordinal - first).ok().and_then(|i| slots.get_mut(i));
            match place {
                Some(slot) => *slot = Some(pod.clone()),
                None => condemned.push(pod.clone()),
            }
        }
        condemned.sort_by_key(|p| std::cmp::Reverse(ordinal(p)));
        let slots: Vec<Slot> = (first..)
            .zip(slots)
            .map(|(ordinal, slot)| match slot {
                Some(pod) => Slot::There(pod),
                None => Slot::Missing(Box::new(new_pod(self.set, self.revision_for(ordinal), ordinal))),
            })
            .collect();
        let mut plan = Plan { phases: Vec::new(), status: self.status() };
        if !self.set.is_deleting() {
            self.fill(slots, &condemned, &mut plan);
        }
        plan
    }

    /// New pods below the partition are of the old revision.
    fn revision_for(&self, ordinal: i32) -> &Revision {
        let set = self.set;
        let old = match set.rolling() {
            Some(_) => set.partition(),
            None if set.is_rolling() => set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0),
            None => 0,
        };
        if ordinal - set.first() < old { self.current } else { self.update }
    }

    fn fill(&self, slots: Vec<Slot>, condemned: &[Arc<Pod>], plan: &mut Plan) {
        let first_unavailable = slots.iter().find(|s| !self.slot_is_available(s)).map(|s| match s {
            Slot::There(pod) => pod.name_str().to_owned(),
            Slot::Missing(pod) => pod.name_str().to_owned(),
        });
        let first_unavailable = first_unavailable.or_else(|| {
            let bad = |p: &&Arc<Pod>| !self.is_available(p) || p.is_deleting();
            condemned.iter().rev().find(bad).map(|p| p.name_str().to_owned())
        });
        let ordered = self.set.is_ordered();
        let mut steps = Vec::new();
        let stop = slots.iter().any(|slot| self.keep(slot, ordered, &mut steps) == Next::Wait && ordered);
        plan.phases.push(steps);
        if stop {
            return;
        }
        let own: Vec<Step> =
            condemned.iter().filter(|p| !self.claims_are_owned(p)).cloned().map(Step::OwnClaims).collect();
        plan.phases.push(own);
        let mut steps = Vec::new();
        for pod in condemned {
            let next = self.condemn(pod, ordered, first_unavailable.as_deref(), &mut steps);
            if next == Next::Wait && ordered {
                plan.phases.push(steps);
                return;
            }
        }
        plan.phases.push(steps);
        if self.set.is_rolling() {
            let there = |slot| match slot {
                Slot::There(pod) => Some(pod),
                Slot::Missing(_) => None,
            };
            let slots: Vec<Option<Arc<Pod>>> = slots.into_iter().map(there).collect();
            self.roll(&slots, plan);
        }
    }

    /// One wanted ordinal.
    fn keep(&self, slot: &Slot, ordered: bool, steps: &mut Vec<Step>) -> Next {
        let pod = match slot {
            Slot::There(pod) => pod,
            Slot::Missing(pod) => {
                if !self.waits_for_old_claim(pod) {
                    steps.push(Step::Create(pod.clone()));
                }
                return Next::Wait;
            }
        };
        match pods::phase(pod) {
            "Failed" | "Succeeded" => {
                if !pod.is_deleting() {
                    steps.push(Step::Delete(pod.clone()));
                }
                return Next::Wait;
            }
            "Pending" if !self.claims_are_there(pod) || !self.claims_are_owned(pod) => {
                steps.push(Step::MakeClaims(pod.clone()));
            }
            _ => {}
        }
        let settled = !pod.is_deleting() && pods::phase(pod) == "Running" && self.is_available(pod);
        if ordered && !settled {
            return Next::Wait;
        }
        if !identity_matches(self.set, pod) || !storage_matches(self.set, pod) || !self.claims_are_owned(pod) {
            steps.push(Step::Repair(pod.clone()));
        }
        Next::Go
    }

    /// One pod beyond the wanted ordinals. Before it goes the others must be well, unless it is itself what ails.
    fn condemn(&self, pod: &Arc<Pod>, ordered: bool, first_bad: Option<&str>, steps: &mut Vec<Step>) -> Next {
        if pod.is_deleting() {
            return if ordered { Next::Wait } else { Next::Go };
        }
        let well = pods::phase(pod) == "Running" && self.is_available(pod);
        if ordered && !well && first_bad != Some(pod.name_str()) {
            return Next::Wait;
        }
        steps.push(Step::Delete(pod.clone()));
        Next::Wait
    }

    /// Replaces pods of other revisions, from the highest ordinal down to the partition.
    fn roll(&self, slots: &[Option<Arc<Pod>>], plan: &mut Plan) {
        let bad = |slot: &Option<Arc<Pod>>| !slot.as_ref().is_some_and(|p| self.is_available(p) && !p.is_deleting());
        let from = usize::try_from(self.set.partition()).unwrap_or(0).min(slots.len());
        let outdated =
            |slot: &Option<Arc<Pod>>| slot.clone().filter(|p| pod_revision(p) != self.update.name && !p.is_deleting());
        let limit = self.set.rolling().and_then(|r| r.max_unavailable.as_ref());
        let victims: Vec<Arc<Pod>> = match limit {
            Some(limit) => {
                let limit = scaled(limit, self.set.replicas(), false).unwrap_or(1).max(1);
                let missing = slots.iter().filter(|s| bad(s)).count();
                let room = usize::try_from(limit).unwrap_or(1).saturating_sub(missing);
                slots[from..].iter().rev().filter_map(outdated).take(room).collect()
            }
            // One at a time, and none below one that is not available.
            None => {
                let next = slots[from..].iter().rev().find(|s| outdated(s).is_some() || bad(s));
                next.and_then(outdated).into_iter().collect()
            }
        };
        let gone = i32::try_from(victims.len()).unwrap_or(0);
        plan.phases.push(victims.into_iter().map(Step::Delete).collect());
        // As upstream: pods deleted for an update are not current any more.
        plan.status.current_replicas = plan.status.current_replicas.map(|n| n - gone);
    }

    fn each_claim(&self, pod: &Pod, test: impl Fn(Option<&PersistentVolumeClaim>) -> bool) -> bool {
        let Some(ordinal) = ordinal(pod) else { return true };
        let templates = self.set.claim_templates().iter();
        templates.map(|t| (self.claim)(&claim_name(self.set, t, ordinal))).all(|c| test(c.as_deref()))
    }

    fn claims_are_owned(&self, pod: &Pod) -> bool {
        self.each_claim(pod, |claim| claim.is_none_or(|c| retention::is_current(c, self.set, pod)))
    }

    fn claims_are_there(&self, pod: &Pod) -> bool {
        self.each_claim(pod, |claim| claim.is_some_and(|c| !c.is_deleting()))
    }

    /// A claim that goes with an earlier pod of this name must be gone first.
    fn waits_for_old_claim(&self, pod: &Pod) -> bool {
        let (_, when_scaled) = self.set.retention();
        when_scaled && !self.each_claim(pod, |claim| !claim.is_some_and(|c| retention::is_of_earlier_pod(c, pod)))
    }

    fn status(&self) -> StatefulSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let count = |test: &dyn Fn(&Pod) -> bool| {
            let pods = self.pods.iter().filter(|p| ordinal(p).is_some() && !pods::phase(p).is_empty());
            i32::try_from(pods.filter(|p| test(p)).count()).unwrap_or(i32::MAX)
        };
        let ready = |p: &Pod| pods::phase(p) == "Running" && pods::is_ready(p);
        let of = |p: &Pod, revision: &Revision| !p.is_deleting() && pod_revision(p) == revision.name;
        StatefulSetStatus {
            observed_generation: Some(self.set.generation()),
            current_revision: Some(self.current.name.clone()),
            update_revision: Some(self.update.name.clone()),
            replicas: count(&|_| true),
            ready_replicas: Some(count(&ready)),
            available_replicas: Some(count(&|p| ready(p) && self.is_available(p))),
            current_replicas: Some(count(&|p| of(p, self.current))),
            updated_replicas: Some(count(&|p| of(p, self.update))),
            collision_count: old.collision_count,
            conditions: old.conditions,
        }
    }
}

/// When every pod is of the new revision it becomes the current one.
pub(super) fn complete_update(set: &StatefulSet, status: &mut StatefulSetStatus) {
    let all = set.replicas();
    let n = |v: Option<i32>| v.unwrap_or(0);
    if set.is_rolling()
        && n(status.updated_replicas) == all
        && n(status.ready_replicas) == all
        && status.replicas == all
    {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
}

/// Whether writing `new` would change nothing; absent counts as zero.
pub(super) fn is_current(old: &StatefulSetStatus, new: &StatefulSetStatus) -> bool {
    let counts = |s: &StatefulSetStatus| {
        let n = |v: Option<i32>| v.unwrap_or(0);
        let text = |v: &Option<String>| v.clone().unwrap_or_default();
        (
            [s.replicas, n(s.current_replicas), n(s.ready_replicas), n(s.updated_replicas), n(s.available_replicas)],
            [text(&s.current_revision), text(&s.update_revision)],
        )
    };
    counts(old) == counts(new) && old.observed_generation.unwrap_or(0) >= new.observed_generation.unwrap_or(0)
}

/// The claims of a pod that are not there yet; those that are being deleted are an error.
pub(super) fn missing_claims(
    set: &StatefulSet,
    pod: &Pod,
    claim: &dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
) -> (Vec<PersistentVolumeClaim>, Option<String>) {
    let Some(ordinal) = ordinal(pod) else { return (Vec::new(), None) };
    let (mut missing, mut error) = (Vec::new(), None);
    for (_, wanted) in claims_of(set, ordinal) {
        match claim(wanted.name_str()) {
            None => missing.push(wanted),
            Some(known) if known.is_deleting() => error = Some(format!("pvc {} is being deleted", known.name_str())),
            Some(_) => {}
        }
    }
    (missing, error)
}
