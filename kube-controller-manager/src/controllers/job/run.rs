//! One look at a Job: what its pods amount to, whether it is at its end, and what to do about its pods. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff::{Record, finished_at, remaining};
use super::facts::{
    FAILED, FAILURE_TARGET, JobExt, SUCCESS_MET, SUSPENDED, condition, ensure_condition, has_failed, ignored_failures,
    index_failures, index_of, is_tracked,
};
use super::indexes::Indexes;
use super::policies::{Verdict, judge, success};
use crate::shared::meta::MetaExt;
use crate::shared::{pods, ranking};

/// More than this many pods are not created or deleted in one run.
const BURST: usize = 500;

/// The state of one run. `job` is a copy whose status is brought up to date.
pub(super) struct Run {
    pub(super) job: Job,
    pub(super) pods: Vec<Arc<Pod>>,
    /// Pods whose finalizer we removed and the cache still shows.
    pub(super) unfinalized: HashSet<String>,
    pub(super) now: Timestamp,

    pub(super) active_pods: Vec<Arc<Pod>>,
    pub(super) active: i32,
    pub(super) ready: i32,
    pub(super) terminating: i32,
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    pub(super) record: Record,
    /// As the status has them, and with what succeeded since.
    pub(super) counted_indexes: Indexes,
    pub(super) succeeded_indexes: Indexes,
    pub(super) failed_indexes: Option<Indexes>,
    /// The last failed pod of each index that is to be tried again: its finalizer keeps the count of failures until then.
    pub(super) delayed: HashMap<i32, Arc<Pod>>,
    pub(super) finished: Option<JobCondition>,
    /// When the deadline ends the Job, if nothing else does.
    pub(super) deadline: Option<Duration>,
}

/// What to do about the pods of a Job that goes on.
#[derive(Debug)]
pub(super) enum Work {
    Nothing,
    Delete(Vec<Arc<Pod>>),
    /// How many, and of an indexed Job which.
    Create(usize, Vec<i32>),
    /// Nothing until then.
    Wait(Duration),
}

impl Run {
    pub(super) fn new(
        mut job: Job,
        pods: Vec<Arc<Pod>>,
        unfinalized: HashSet<String>,
        record: Record,
        now: Timestamp,
    ) -> Self {
        let suspended = job.is_suspended();
        let status = job.status.get_or_insert_default();
        status.uncounted_terminated_pods.get_or_insert_default();
        if status.start_time.is_none() && !suspended {
            status.start_time = Some(Time(now));
        }
        let active_pods: Vec<_> = pods.iter().filter(|p| pods::is_active(p)).cloned().collect();
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let mut run = Self {
            active: count(active_pods.len()),
            ready: count(active_pods.iter().filter(|p| pods::is_ready(p)).count()),
            terminating: count(pods.iter().filter(|p| pods::is_terminating(p)).count()),
            job,
            pods,
            unfinalized,
            now,
            active_pods,
            succeeded: 0,
            failed: 0,
            record,
            counted_indexes: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            delayed: HashMap::new(),
            finished: None,
            deadline: None,
        };
        run.count();
        run.find_end();
        run
    }

    pub(super) fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    /// Does the pod count at all: tracked still, and of an index that the Job has?
    fn is_valid(&self, pod: &Pod) -> bool {
        let of_job = !self.job.is_indexed() || self.valid_index(pod).is_some();
        is_tracked(pod) && !self.unfinalized.contains(pod.uid_str()) && of_job
    }

    pub(super) fn valid_index(&self, pod: &Pod) -> Option<i32> {
        index_of(pod).filter(|i| *i < self.job.completions().unwrap_or(0))
    }

    fn judge(&self, pod: &Pod) -> Verdict {
        judge(self.job.jspec().and_then(|s| s.pod_failure_policy.as_ref()), pod)
    }

    fn count(&mut self) {
        let status = self.status();
        let uncounted = status.uncounted_terminated_pods.unwrap_or_default();
        let (old_succeeded, old_failed) =
            (uncounted.succeeded.unwrap_or_default(), uncounted.failed.unwrap_or_default());
        let new = |known: &[String], test: &dyn Fn(&Pod) -> bool| -> Vec<Arc<Pod>> {
            let known: HashSet<&str> = known.iter().map(String::as_str).collect();
            let valid = self.pods.iter().filter(|p| self.is_valid(p) && !known.contains(p.uid_str()));
            valid.filter(|p| test(p)).cloned().collect()
        };
        let succeeded = new(&old_succeeded, &|p| pods::phase(p) == "Succeeded");
        let failed = new(&old_failed, &|p| has_failed(p, &self.job));
        let counted_failures = failed.iter().filter(|p| self.judge(p).counts()).count();
        let sum = |known: Option<i32>, uncounted: usize, new: usize| {
            known.unwrap_or(0).saturating_add(i32::try_from(uncounted + new).unwrap_or(i32::MAX))
        };
        self.succeeded = sum(status.succeeded, old_succeeded.len(), succeeded.len());
        self.failed = sum(status.failed, old_failed.len(), counted_failures);
        self.record = self.record.after(&succeeded, &failed);
    }

    fn fail(&self, reason: &str, message: &str) -> Option<JobCondition> {
        Some(condition(FAILURE_TARGET, reason, message, self.now))
    }

    /// Is it at its end, and why?
    fn find_end(&mut self) {
        let is_true = |kind: &str| self.job.condition(kind).filter(|c| c.status == "True").cloned();
        self.finished = is_true(SUCCESS_MET);
        if self.finished.is_none() {
            let target = is_true(FAILURE_TARGET);
            self.finished = target.map(|c| failed_for(&c, self.now)).or_else(|| self.failed_by_policy());
        }
        if self.finished.is_none() {
            self.find_limits();
        }
        if self.job.is_indexed() {
            self.look_at_indexes();
        }
    }

    fn failed_by_policy(&self) -> Option<JobCondition> {
        self.job.jspec()?.pod_failure_policy.as_ref()?;
        let verdicts = self.pods.iter().filter(|p| has_failed(p, &self.job)).map(|p| self.judge(p));
        let mut messages = verdicts.filter_map(|v| match v {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        });
        messages.next().and_then(|message| self.fail("PodFailurePolicy", &message))
    }

    fn find_limits(&mut self) {
        if self.failed > self.job.backoff_limit() || self.restarted_too_often() {
            self.finished = self.fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
            return;
        }
        let Some(seconds) = self.job.jspec().and_then(|s| s.active_deadline_seconds) else { return };
        let started = self.job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        let Some(started) = started.filter(|_| !self.job.is_suspended()) else { return };
        let left = SignedDuration::from_secs(seconds) - self.now.duration_since(started);
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => self.deadline = Some(left),
            _ => self.finished = self.fail("DeadlineExceeded", "Job was active longer than specified deadline"),
        }
    }

    /// With restartPolicy OnFailure the restarts of containers count.
    fn restarted_too_often(&self) -> bool {
        let spec = self.job.jspec().and_then(|s| s.template.spec.as_ref());
        if spec.and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let living = self.pods.iter().filter(|p| matches!(pods::phase(p), "Running" | "Pending"));
        let statuses = living
            .filter_map(|p| p.status.as_ref())
            .flat_map(|s| s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten()));
        let restarts: i32 = statuses.map(|s| s.restart_count).fold(0, i32::saturating_add);
        match self.job.backoff_limit() {
            0 => restarts > 0,
            limit => restarts >= limit,
        }
    }

    fn look_at_indexes(&mut self) {
        let completions = self.job.completions().unwrap_or(0);
        let status = self.status();
        self.counted_indexes = Indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), completions);
        let done = |p: &&Arc<Pod>| pods::phase(p) == "Succeeded" && is_tracked(p);
        let new = self.pods.iter().filter(done).filter_map(|p| self.valid_index(p));
        self.succeeded_indexes = self.counted_indexes.with(new);
        self.succeeded = self.succeeded_indexes.total();
        if let Some(limit) = self.job.per_index_limit() {
            let known = Indexes::parse(status.failed_indexes.as_deref().unwrap_or(""), completions);
            let dead = self.pods.iter().filter(|p| is_tracked(p) && self.index_has_failed(p, limit));
            let failed = known.with(dead.filter_map(|p| self.valid_index(p)));
            if self.finished.is_none() {
                self.finished = self.failed_by_indexes(&failed, completions);
            }
            self.failed_indexes = Some(failed);
            self.delayed = self.delayed_pods();
        }
        if self.finished.is_none() {
            let policy = self.job.jspec().and_then(|s| s.success_policy.as_ref());
            let met = success(policy, completions, &self.succeeded_indexes);
            self.finished = met.map(|message| condition(SUCCESS_MET, "SuccessPolicy", &message, self.now));
        }
    }

    fn failed_by_indexes(&self, failed: &Indexes, completions: i32) -> Option<JobCondition> {
        let limit = self.job.jspec().and_then(|s| s.max_failed_indexes);
        if limit.is_some_and(|limit| failed.total() > limit) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return self.fail("MaxFailedIndexesExceeded", message);
        }
        let over = !failed.is_empty() && failed.total() + self.succeeded_indexes.total() >= completions;
        if over { self.fail("FailedIndexes", "Job has failed indexes") } else { None }
    }

    fn index_has_failed(&self, pod: &Pod, limit: i32) -> bool {
        has_failed(pod, &self.job)
            && match self.judge(pod) {
                Verdict::FailIndex => true,
                Verdict::Ignore => false,
                _ => index_failures(pod) >= limit,
            }
    }

    fn delayed_pods(&self) -> HashMap<i32, Arc<Pod>> {
        let active: HashSet<i32> = self.active_pods.iter().filter_map(|p| index_of(p)).collect();
        let mut delayed: HashMap<i32, Arc<Pod>> = HashMap::new();
        let failures = |p: &Pod| index_failures(p) + ignored_failures(p);
        for pod in self.pods.iter().filter(|p| self.is_valid(p) && has_failed(p, &self.job)) {
            let Some(index) = self.valid_index(pod) else { continue };
            let settled = self.succeeded_indexes.has(index)
                || self.failed_indexes.as_ref().is_some_and(|f| f.has(index))
                || active.contains(&index);
            let newer = |known: &Arc<Pod>| failures(known) <= failures(pod) && finished_at(pod) >= finished_at(known);
            if !settled && delayed.get(&index).is_none_or(newer) {
                delayed.insert(index, pod.clone());
            }
        }
        delayed
    }

    /// What a Job that goes on needs.
    pub(super) fn work(&self) -> Work {
        if self.job.is_suspended() {
            return Work::Delete(self.surplus(self.active_pods.len()));
        }
        let wanted = match self.job.completions() {
            None if self.succeeded > 0 => self.active,
            None => self.job.parallelism(),
            Some(completions) => (completions - self.succeeded).min(self.job.parallelism()).max(0),
        };
        let mut surplus = self.surplus(usize::try_from(self.active - wanted).unwrap_or(0));
        if !surplus.is_empty() {
            surplus.truncate(BURST);
            return Work::Delete(surplus);
        }
        let waiting_for = if self.job.replaces_only_failed() { self.terminating } else { 0 };
        let missing = usize::try_from(wanted - waiting_for - self.active).unwrap_or(0).min(BURST);
        if missing == 0 {
            return Work::Nothing;
        }
        let per_index = self.job.per_index_limit().is_some();
        let wait = if per_index { Duration::ZERO } else { self.record.remaining(self.now) };
        if !wait.is_zero() {
            return Work::Wait(wait);
        }
        if !self.job.is_indexed() {
            return Work::Create(missing, Vec::new());
        }
        let indexes = self.free_indexes(missing);
        let (ready, waits): (Vec<i32>, Vec<(i32, Duration)>) = {
            let delays = indexes.into_iter().map(|i| (i, self.index_delay(i)));
            let (now, later): (Vec<_>, Vec<_>) = delays.partition(|(_, delay)| delay.is_zero());
            (now.into_iter().map(|(i, _)| i).collect(), later)
        };
        match waits.iter().map(|(_, delay)| *delay).min() {
            Some(delay) if ready.is_empty() => Work::Wait(delay),
            _ => Work::Create(ready.len(), ready),
        }
    }

    fn index_delay(&self, index: i32) -> Duration {
        self.delayed.get(&index).map_or(Duration::ZERO, |pod| {
            remaining(index_failures(pod) + ignored_failures(pod) + 1, finished_at(pod), self.now)
        })
    }

    fn free_indexes(&self, count: usize) -> Vec<i32> {
        let mut taken = self.succeeded_indexes.with(self.active_pods.iter().filter_map(|p| index_of(p)));
        if self.job.replaces_only_failed() {
            taken = taken.with(self.pods.iter().filter(|p| pods::is_terminating(p)).filter_map(|p| index_of(p)));
        }
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        taken.first_missing(count, self.job.completions().unwrap_or(0))
    }

    /// The active pods to delete: of an indexed Job those of double or foreign indexes, and others up to `at_least`.
    fn surplus(&self, at_least: usize) -> Vec<Arc<Pod>> {
        let mut pool = self.active_pods.clone();
        ranking::sort_for_deletion(&mut pool, &[], self.now);
        let mut surplus = Vec::new();
        if self.job.is_indexed() {
            // From the worthiest on, each index once.
            let mut seen = HashSet::new();
            let (keep, drop): (Vec<_>, Vec<_>) =
                pool.into_iter().rev().partition(|p| self.valid_index(p).is_some_and(|i| seen.insert(i)));
            surplus = drop;
            pool = keep.into_iter().rev().collect();
        }
        let more = at_least.saturating_sub(surplus.len());
        surplus.extend(pool.into_iter().take(more));
        surplus
    }

    /// After the pods were worked on: is it complete?
    pub(super) fn is_complete(&self) -> bool {
        self.active == 0
            && match self.job.completions() {
                None => self.succeeded > 0,
                Some(completions) => self.succeeded >= completions,
            }
    }

    /// Keeps the Suspended condition; the reason of the event when it changed.
    pub(super) fn note_suspension(&mut self) -> Option<&'static str> {
        let suspended = self.job.is_suspended();
        let now = self.now;
        let status = self.job.status.get_or_insert_default();
        let (text, reason, message) = match suspended {
            true => ("True", "JobSuspended", "Job suspended"),
            false => ("False", "JobResumed", "Job resumed"),
        };
        let wanted = JobCondition { status: text.to_owned(), ..condition(SUSPENDED, reason, message, now) };
        if !ensure_condition(status.conditions.get_or_insert_default(), wanted) {
            return None;
        }
        status.start_time = (!suspended).then_some(Time(now));
        Some(if suspended { "Suspended" } else { "Resumed" })
    }
}

/// The Failed condition that a FailureTarget announced.
pub(super) fn failed_for(target: &JobCondition, now: Timestamp) -> JobCondition {
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    condition(FAILED, &text(&target.reason), &text(&target.message), now)
}
