//! Upstream's metrics of this controller.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::Pod;

use super::facts::{COMPLETE, JobExt, is_tracked};
use super::indexes::Indexes;
use crate::shared::metrics::{Buckets, Counter, Histogram};
use crate::shared::pods;

static SYNC_SECONDS: Histogram = Histogram::new(
    "job_controller_job_sync_duration_seconds",
    "The time it took to sync a job",
    &["completion_mode", "result", "action"],
    Buckets::Exponential(0.004, 2.0, 15),
);
static SYNCS: Counter =
    Counter::new("job_controller_job_syncs_total", "The number of job syncs", &["completion_mode", "result", "action"]);
static FINISHED: Counter = Counter::new(
    "job_controller_jobs_finished_total",
    "The number of finished jobs",
    &["completion_mode", "result", "reason"],
);
static PODS_FINISHED: Counter = Counter::new(
    "job_controller_job_pods_finished_total",
    "The number of finished Pods that are fully tracked",
    &["completion_mode", "result"],
);
static INDEXES_FINISHED: Counter = Counter::new(
    "job_controller_job_finished_indexes_total",
    "The number of finished indexes. Possible values for the status label are: \"succeeded\", \"failed\". Possible values for the backoffLimit label are: \"perIndex\" and \"global\"",
    &["status", "backoffLimit"],
);
static PODS_CREATED: Counter = Counter::new(
    "job_controller_job_pods_creation_total",
    "The number of Pods created by the Job controller labelled with a reason for the Pod creation.",
    &["reason", "status"],
);
static WITH_FINALIZER: Counter = Counter::new(
    "job_controller_terminated_pods_tracking_finalizer_total",
    "The number of terminated pods (phase=Failed|Succeeded) that have the finalizer batch.kubernetes.io/job-tracking. The event label can be \"add\" or \"delete\".",
    &["event"],
);
static ELSEWHERE: Counter = Counter::new(
    "job_controller_jobs_by_external_controller_total",
    "The number of Jobs managed by an external controller",
    &["controller_name"],
);

/// What a run did to a Job's pods.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    Reconciling,
    Tracking,
    PodsCreated,
    PodsDeleted,
}

impl Action {
    fn label(self) -> &'static str {
        match self {
            Self::Reconciling => "reconciling",
            Self::Tracking => "tracking",
            Self::PodsCreated => "pods_created",
            Self::PodsDeleted => "pods_deleted",
        }
    }
}

/// One run.
pub(super) fn synced(job: &Job, ok: bool, action: Action, took: Duration) {
    let labels = [job.mode(), if ok { "success" } else { "error" }, action.label()];
    SYNCS.inc(&labels);
    SYNC_SECONDS.took(&labels, took);
}

/// A Job that came to its end.
pub(super) fn finished(job: &Job, end: &JobCondition) {
    let result = if end.type_ == COMPLETE { "succeeded" } else { "failed" };
    FINISHED.inc(&[job.mode(), result, end.reason.as_deref().unwrap_or("")]);
}

/// Pods that were asked for.
pub(super) fn created(job: &Job, failed_before: bool, terminating: bool, (made, refused): (usize, usize)) {
    let policy = job.jspec().and_then(|s| s.pod_replacement_policy.as_deref());
    let reason = match policy {
        Some("Failed") if failed_before => "recreate_failed",
        Some("Failed") => "new",
        _ if failed_before || terminating => "recreate_terminating_or_failed",
        _ => "new",
    };
    PODS_CREATED.add(&[reason, "succeeded"], made as u64);
    PODS_CREATED.add(&[reason, "failed"], refused as u64);
}

/// A Job that another controller does.
pub(super) fn seen(job: &Job) {
    if job.is_managed_elsewhere() {
        ELSEWHERE.inc(&[job.jspec().and_then(|s| s.managed_by.as_deref()).unwrap_or("")]);
    }
}

/// A pod of a Job, before and after a change; none: it was not there, or is gone.
pub(super) fn pod_changed(before: Option<&Pod>, after: Option<&Pod>) {
    let waits = |pod: Option<&Pod>| pod.is_some_and(|pod| pods::is_terminal(pod) && is_tracked(pod));
    match (waits(before), waits(after)) {
        (false, true) => WITH_FINALIZER.inc(&["add"]),
        (true, false) => WITH_FINALIZER.inc(&["delete"]),
        _ => {}
    }
}

/// What a Job's status counts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counted {
    succeeded: i32,
    failed: i32,
    failed_indexes: i32,
}

impl Counted {
    pub(super) fn of(job: &Job) -> Self {
        let status = job.status.as_ref();
        let failed_indexes = status.and_then(|s| s.failed_indexes.as_deref()).unwrap_or("");
        Self {
            succeeded: status.and_then(|s| s.succeeded).unwrap_or(0),
            failed: status.and_then(|s| s.failed).unwrap_or(0),
            failed_indexes: Indexes::parse(failed_indexes, job.completions().unwrap_or(0)).total(),
        }
    }

    /// The status was written: what it counts more than before.
    pub(super) fn advance(&mut self, job: &Job) {
        let now = Self::of(job);
        let more = |now: i32, before: i32| u64::try_from(now - before).unwrap_or(0);
        let (succeeded, failed) = (more(now.succeeded, self.succeeded), more(now.failed, self.failed));
        if job.is_indexed() {
            let limit = if job.per_index_limit().is_some() { "perIndex" } else { "global" };
            INDEXES_FINISHED.add(&["succeeded", limit], succeeded);
            INDEXES_FINISHED.add(&["failed", limit], more(now.failed_indexes, self.failed_indexes));
        }
        PODS_FINISHED.add(&[job.mode(), "succeeded"], succeeded);
        PODS_FINISHED.add(&[job.mode(), "failed"], failed);
        *self = now;
    }
}
