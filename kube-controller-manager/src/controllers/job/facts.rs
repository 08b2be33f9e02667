//! Reading Jobs and their pods. All pure.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::shared::meta::MetaExt;
use crate::shared::pods;

/// Keeps a pod until it was counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label with the pod's index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index failed before this pod.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often it failed without being counted.
pub(super) const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Who else but us `managedBy` may name and mean us.
const OURSELVES: &str = "kubernetes.io/job-controller";

pub(super) const SUCCESS_MET: &str = "SuccessCriteriaMet";
pub(super) const COMPLETE: &str = "Complete";
pub(super) const FAILURE_TARGET: &str = "FailureTarget";
pub(super) const FAILED: &str = "Failed";
pub(super) const SUSPENDED: &str = "Suspended";

/// Shorter access to the spec, absent as default.
pub(crate) trait JobExt {
    fn jspec(&self) -> Option<&JobSpec>;
    fn condition(&self, kind: &str) -> Option<&JobCondition>;

    /// Complete or Failed.
    fn is_finished(&self) -> bool {
        [COMPLETE, FAILED].iter().any(|kind| self.condition(kind).is_some_and(|c| c.status == "True"))
    }
    fn completions(&self) -> Option<i32> {
        self.jspec().and_then(|s| s.completions)
    }
    fn parallelism(&self) -> i32 {
        self.jspec().and_then(|s| s.parallelism).unwrap_or(1)
    }
    fn backoff_limit(&self) -> i32 {
        self.jspec().and_then(|s| s.backoff_limit).unwrap_or(6)
    }
    fn per_index_limit(&self) -> Option<i32> {
        self.jspec().and_then(|s| s.backoff_limit_per_index)
    }
    fn is_suspended(&self) -> bool {
        self.jspec().and_then(|s| s.suspend).unwrap_or(false)
    }
    fn mode(&self) -> &str {
        self.jspec().and_then(|s| s.completion_mode.as_deref()).unwrap_or("NonIndexed")
    }
    fn is_indexed(&self) -> bool {
        self.mode() == "Indexed"
    }
    /// Another controller does this Job.
    fn is_managed_elsewhere(&self) -> bool {
        self.jspec().and_then(|s| s.managed_by.as_deref()).is_some_and(|name| name != OURSELVES)
    }
    /// A pod is replaced only when it has failed, not when it begins to go.
    fn replaces_only_failed(&self) -> bool {
        self.jspec()
            .is_some_and(|s| s.pod_replacement_policy.as_deref() == Some("Failed") || s.pod_failure_policy.is_some())
    }
}

impl JobExt for Job {
    fn jspec(&self) -> Option<&JobSpec> {
        self.spec.as_ref()
    }
    fn condition(&self, kind: &str) -> Option<&JobCondition> {
        self.status.as_ref()?.conditions.as_deref()?.iter().find(|c| c.type_ == kind)
    }
}

/// A condition that became True now.
pub(super) fn condition(kind: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()).filter(|s| !s.is_empty()),
        message: Some(message.to_owned()).filter(|s| !s.is_empty()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Puts a condition on the list unless it says so already; a False one only over another. Tells whether it did.
pub(super) fn ensure_condition(list: &mut Vec<JobCondition>, wanted: JobCondition) -> bool {
    match list.iter_mut().find(|c| c.type_ == wanted.type_) {
        Some(known) => {
            let says = |c: &JobCondition| (c.status.clone(), c.reason.clone(), c.message.clone());
            let changed = says(known) != says(&wanted);
            if changed {
                *known = wanted;
            }
            changed
        }
        None if wanted.status == "False" => false,
        None => {
            list.push(wanted);
            true
        }
    }
}

/// Does the pod wait to be counted?
pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// The index of a pod, if it has a valid one.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotation(INDEX)?.parse().ok().filter(|i| *i >= 0)
}

/// Has it failed as the Job sees it?
pub(super) fn has_failed(pod: &Pod, job: &Job) -> bool {
    let phase = pods::phase(pod);
    phase == "Failed" || (!job.replaces_only_failed() && pod.is_deleting() && phase != "Succeeded")
}

fn count(pod: &Pod, annotation: &str) -> i32 {
    pod.annotation(annotation).and_then(|v| v.parse().ok()).filter(|n| *n >= 0).unwrap_or(0)
}

/// Failures of the pod's index before it that count.
pub(super) fn index_failures(pod: &Pod) -> i32 {
    count(pod, FAILURES)
}

/// Failures of the pod's index before it that do not count.
pub(super) fn ignored_failures(pod: &Pod) -> i32 {
    count(pod, IGNORED_FAILURES)
}
