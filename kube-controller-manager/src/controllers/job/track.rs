//! Counting finished pods exactly once. Pure.
//!
//! A finished pod's UID is written to the status, then its finalizer goes, then the UID gives way to the count: killed at any
//! point, the next run goes on from what the status and the pod say.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::facts::{
    COMPLETE, FAILURE_TARGET, JobExt, SUCCESS_MET, condition, ensure_condition, has_failed, index_of, is_tracked,
};
use super::indexes::Indexes;
use super::policies::judge;
use super::run::{Run, failed_for};
use crate::shared::meta::MetaExt;
use crate::shared::pods;

/// So many UIDs are in the status at once.
const UNCOUNTED: usize = 500;

/// What to write and whose finalizer to remove.
pub(super) struct Tracking {
    pub(super) release: Vec<Arc<Pod>>,
    /// Pods that have their finalizer.
    pub(super) tracked: HashSet<String>,
    /// The status changed.
    pub(super) write: bool,
    /// More is to come than fits.
    pub(super) full: bool,
}

impl Run {
    /// Brings the status up to date with the finished pods and the end that was found.
    pub(super) fn track(&mut self) -> Tracking {
        let tracked: HashSet<String> = self
            .pods
            .iter()
            .filter(|p| is_tracked(p) && !self.unfinalized.contains(p.uid_str()))
            .map(|p| p.uid_str().to_owned())
            .collect();
        let mut status = self.status();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let set = |list: &Option<Vec<String>>| list.iter().flatten().cloned().collect::<HashSet<String>>();
        let (was_succeeded, was_failed) = (set(&uncounted.succeeded), set(&uncounted.failed));
        let mut tracking = Tracking { write: settle(&mut status, &tracked), release: Vec::new(), tracked, full: false };
        let (mut new_indexes, mut uncounted) =
            (Vec::new(), status.uncounted_terminated_pods.take().unwrap_or_default());
        let (succeeded, failed) =
            (uncounted.succeeded.get_or_insert_default(), uncounted.failed.get_or_insert_default());
        let indexed = self.job.is_indexed();
        let mut order: Vec<&Arc<Pod>> = self.pods.iter().collect();
        if indexed {
            order.sort_by_key(|p| index_of(p));
        }
        for pod in order {
            let uid = pod.uid_str();
            if !tracking.tracked.contains(uid) || !self.may_release(pod) {
                continue;
            }
            tracking.release.push(pod.clone());
            let index = self.valid_index(pod);
            if pods::phase(pod) == "Succeeded" && !was_failed.contains(uid) {
                match index {
                    Some(index) if indexed && !self.counted_indexes.has(index) => new_indexes.push(index),
                    _ if !indexed && !was_succeeded.contains(uid) => succeeded.push(uid.to_owned()),
                    _ => continue,
                }
            } else if self.counts_as_failed(pod) && !was_failed.contains(uid) && (!indexed || index.is_some()) {
                if !judge(self.job.jspec().and_then(|s| s.pod_failure_policy.as_ref()), pod).counts() {
                    continue;
                }
                failed.push(uid.to_owned());
            } else {
                continue;
            }
            tracking.write = true;
            if new_indexes.len() + succeeded.len() + failed.len() >= UNCOUNTED {
                tracking.full = true;
                break;
            }
        }
        status.uncounted_terminated_pods = Some(uncounted);
        if indexed {
            tracking.write |= self.write_indexes(&mut status, new_indexes);
        }
        self.job.status = Some(status);
        tracking.write |= self.announce_end();
        tracking
    }

    /// A failed pod stays until its index has a successor that inherits its count of failures.
    fn may_release(&self, pod: &Pod) -> bool {
        if self.job.is_deleting() || self.finished.is_some() || pods::phase(pod) == "Succeeded" {
            return true;
        }
        let delayed = index_of(pod).and_then(|i| self.delayed.get(&i)).is_some_and(|p| p.uid_str() == pod.uid_str());
        has_failed(pod, &self.job) && !delayed
    }

    /// Pods that the end of a failed Job cuts short count as failed too.
    fn counts_as_failed(&self, pod: &Pod) -> bool {
        let cut_short = self.finished.as_ref().is_some_and(|c| c.type_ != SUCCESS_MET);
        has_failed(pod, &self.job) || (cut_short && pods::phase(pod) != "Succeeded")
    }

    fn write_indexes(&mut self, status: &mut JobStatus, new: Vec<i32>) -> bool {
        self.succeeded_indexes = self.succeeded_indexes.with(new);
        let completed = self.succeeded_indexes.to_string();
        let failed = self.failed_indexes.as_ref().map(Indexes::to_string);
        let changed = status.completed_indexes.as_deref().unwrap_or("") != completed || status.failed_indexes != failed;
        status.succeeded = Some(self.succeeded_indexes.total());
        status.completed_indexes = Some(completed).filter(|s| !s.is_empty());
        status.failed_indexes = failed;
        changed
    }

    /// Notes FailureTarget or SuccessCriteriaMet, and turns the end into the one that is written when all pods are gone.
    fn announce_end(&mut self) -> bool {
        let Some(end) = self.finished.take() else { return false };
        let known = self.job.condition(&end.type_).is_some_and(|c| c.status == "True");
        let (write, end) = match end.type_.as_str() {
            FAILURE_TARGET => (true, (Some(failed_for(&end, self.now)), Some(end))),
            SUCCESS_MET => {
                let text = |v: &Option<String>| v.clone().unwrap_or_default();
                let complete = condition(COMPLETE, &text(&end.reason), &text(&end.message), self.now);
                (!known, (Some(complete), Some(end).filter(|_| !known)))
            }
            _ => (false, (Some(end), None)),
        };
        let (last, first) = end;
        self.finished = last;
        if let Some(first) = first {
            ensure_condition(conditions(self.job.status.get_or_insert_default()), first);
        }
        write
    }

    /// Writes the end into the status, once nothing is left to count or to wait for.
    pub(super) fn finish(&mut self) -> bool {
        let Some(end) = self.finished.clone() else { return false };
        let status = self.job.status.get_or_insert_default();
        let left = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let waiting = left.succeeded.iter().chain(left.failed.iter()).any(|list| !list.is_empty());
        if waiting || self.terminating > 0 {
            return false;
        }
        if end.type_ == COMPLETE {
            status.completion_time = end.last_transition_time.clone();
        }
        ensure_condition(conditions(status), end);
        true
    }
}

fn conditions(status: &mut JobStatus) -> &mut Vec<JobCondition> {
    status.conditions.get_or_insert_default()
}

/// Turns UIDs of pods without a finalizer into counts. Tells whether there were any.
pub(super) fn settle(status: &mut JobStatus, tracked: &HashSet<String>) -> bool {
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let mut changed = false;
    for (list, total) in
        [(&mut uncounted.succeeded, &mut status.succeeded), (&mut uncounted.failed, &mut status.failed)]
    {
        let Some(list) = list else { continue };
        let before = list.len();
        list.retain(|uid| tracked.contains(uid));
        let gone = i32::try_from(before - list.len()).unwrap_or(i32::MAX);
        if gone > 0 {
            *total = Some(total.unwrap_or(0).saturating_add(gone));
            changed = true;
        }
    }
    changed
}
