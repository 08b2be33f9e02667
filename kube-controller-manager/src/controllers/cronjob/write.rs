//! The API calls of the CronJob controller, with their events.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, DeleteParams, PostParams, PropagationPolicy};

use super::plan::job_name;
use super::{Controller, finished, zones};
use crate::events::reference;
use crate::shared::apierr;
use crate::shared::meta::MetaExt;
use crate::shared::metrics::{Buckets, Histogram};
use crate::shared::owner::{controller_of, controller_ref};

static SKEW: Histogram = Histogram::new(
    "cronjob_controller_job_creation_skew_duration_seconds",
    "Time between when a cronjob is scheduled to be run, and when the corresponding job is created",
    &[],
    Buckets::Exponential(1.0, 2.0, 10),
);

/// The Job's annotation with the time for which it was made.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

fn status(cj: &mut CronJob) -> &mut CronJobStatus {
    cj.status.get_or_insert_default()
}

fn active(cj: &CronJob) -> &[ObjectReference] {
    cj.status.as_ref().and_then(|s| s.active.as_deref()).unwrap_or(&[])
}

fn is_active(cj: &CronJob, uid: &str) -> bool {
    active(cj).iter().any(|r| r.uid.as_deref() == Some(uid))
}

fn drop_active(cj: &mut CronJob, uid: &str) {
    status(cj).active.get_or_insert_default().retain(|r| r.uid.as_deref() != Some(uid));
}

impl Controller {
    fn jobs_api(&self, cj: &CronJob) -> Api<Job> {
        Api::namespaced(self.client.clone(), cj.ns_str())
    }

    pub(super) async fn write_status(&self, cj: &CronJob) -> Result<(), kube::Error> {
        let api: Api<CronJob> = Api::namespaced(self.client.clone(), cj.ns_str());
        api.replace_status(cj.name_str(), &PostParams::default(), cj).await.map(|_| ())
    }

    async fn delete_job(&self, cj: &mut CronJob, job: &Job) -> bool {
        let params =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        let about = reference(cj);
        match self.jobs_api(cj).delete(job.name_str(), &params).await {
            Ok(_) => {
                drop_active(cj, job.uid_str());
                self.events.normal(&about, "SuccessfulDelete", format!("Deleted job {}", job.name_str()));
                true
            }
            Err(error) => {
                let message = format!("Deleted job: {}", apierr::message(&error));
                self.events.warning(&about, "FailedDelete", message);
                false
            }
        }
    }

    /// Deletes the oldest finished Jobs beyond the history limits. Tells whether the status may have changed.
    pub(super) async fn clean_up(&self, cj: &mut CronJob, jobs: &[Arc<Job>]) -> bool {
        let (complete, failed) = (cj.spec.successful_jobs_history_limit, cj.spec.failed_jobs_history_limit);
        let limits = [("Complete", complete), ("Failed", failed)];
        let mut changed = false;
        for (kind, limit) in limits {
            let Some(limit) = limit.and_then(|n| usize::try_from(n).ok()) else { continue };
            let mut list: Vec<&Arc<Job>> = jobs.iter().filter(|j| finished(j) == Some(kind)).collect();
            list.sort_by_key(|j| {
                let started = j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
                (started.is_none(), started, j.name_str().to_owned())
            });
            let excess = list.len().saturating_sub(limit);
            for job in list.into_iter().take(excess) {
                changed |= self.delete_job(cj, job).await;
            }
        }
        changed
    }

    /// Brings the list of active Jobs up to date. Tells whether the status changed.
    pub(super) async fn note_jobs(&self, cj: &mut CronJob, jobs: &[Arc<Job>]) -> Result<bool, kube::Error> {
        let (about, mut changed) = (reference(cj), false);
        for job in jobs {
            let (uid, name) = (job.uid_str(), job.name_str());
            let Some(kind) = finished(job) else {
                if is_active(cj, uid) {
                    continue;
                }
                // The cache may not show yet that we made it.
                let api: Api<CronJob> = Api::namespaced(self.client.clone(), cj.ns_str());
                let fresh = api.get(cj.name_str()).await?;
                if is_active(&fresh, uid) {
                    *cj = fresh;
                } else {
                    let message = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.events.warning(&about, "UnexpectedJob", message);
                }
                continue;
            };
            if is_active(cj, uid) {
                drop_active(cj, uid);
                let message = format!("Saw completed job: {name}, condition: {kind}");
                self.events.normal(&about, "SawCompletedJob", message);
                changed = true;
            }
            let completed = job.status.as_ref().and_then(|s| s.completion_time.clone());
            if kind == "Complete" && completed > status(cj).last_successful_time {
                status(cj).last_successful_time = completed;
                changed = true;
            }
        }
        let known: HashSet<&str> = jobs.iter().map(|j| j.uid_str()).collect();
        for lost in active(cj).to_vec() {
            let (uid, name) = (lost.uid.unwrap_or_default(), lost.name.unwrap_or_default());
            if !known.contains(uid.as_str()) && self.jobs_api(cj).get_opt(&name).await?.is_none() {
                self.events.normal(&about, "MissingJob", format!("Active job went missing: {name}"));
                drop_active(cj, &uid);
                changed = true;
            }
        }
        Ok(changed)
    }

    /// Makes the Job of a time, unless the concurrency policy is against it. Tells, also of failures, whether the status changed.
    pub(super) async fn run_job(&self, cj: &mut CronJob, at: Timestamp) -> Result<bool, (bool, kube::Error)> {
        let name = job_name(cj, at);
        let last = cj.status.as_ref().and_then(|s| s.last_schedule_time.as_ref()).map(|t| t.0);
        if last == Some(at) || active(cj).iter().any(|r| r.name.as_deref() == Some(&name)) {
            return Ok(false);
        }
        let policy = cj.spec.concurrency_policy.clone().unwrap_or_default();
        let about = reference(cj);
        if policy == "Forbid" && !active(cj).is_empty() {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.events.normal(&about, "JobAlreadyActive", message.into());
            return Ok(false);
        }
        let mut changed = false;
        if policy == "Replace" {
            changed = self.replace_running(cj).await?;
        }
        let job = new_job(cj, name, at);
        let created = match self.jobs_api(cj).create(&PostParams::default(), &job).await {
            Ok(created) => {
                if let Some(created) = created.created() {
                    SKEW.observe(&[], created.duration_since(at).as_secs_f64());
                }
                self.events.normal(&about, "SuccessfulCreate", format!("Created job {}", created.name_str()));
                created
            }
            Err(error) if apierr::is_already_exists(&error) => {
                // Ours, made before the status could be written? Then the status is what is missing.
                let existing = self.jobs_api(cj).get(job.name_str()).await.map_err(|e| (changed, e))?;
                let ours = controller_of(&existing.metadata).is_some_and(|r| r.uid == cj.uid_str());
                if !ours || is_active(cj, existing.uid_str()) {
                    return Ok(changed);
                }
                existing
            }
            Err(error) => {
                if !apierr::is_namespace_terminating(&error) {
                    let message = format!("Error creating job: {}", apierr::message(&error));
                    self.events.warning(&about, "FailedCreate", message);
                }
                return Err((changed, error));
            }
        };
        let reference = reference(&created);
        let status = status(cj);
        status.active.get_or_insert_default().push(reference);
        status.last_schedule_time = Some(Time(at));
        Ok(true)
    }

    async fn replace_running(&self, cj: &mut CronJob) -> Result<bool, (bool, kube::Error)> {
        let mut changed = false;
        for running in active(cj).to_vec() {
            let name = running.name.unwrap_or_default();
            let job = match self.jobs_api(cj).get(&name).await {
                Ok(job) => job,
                Err(error) => {
                    let message = format!("Get job: {}", apierr::message(&error));
                    self.events.warning(&reference(cj), "FailedGet", message);
                    return Err((changed, error));
                }
            };
            if !self.delete_job(cj, &job).await {
                let text = format!("could not replace job {}/{name}", cj.ns_str());
                return Err((changed, kube::Error::Service(text.into())));
            }
            changed = true;
        }
        Ok(changed)
    }
}

fn new_job(cj: &CronJob, name: String, at: Timestamp) -> Job {
    let template = cj.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let zone = zones::load(cj.spec.time_zone.as_deref().unwrap_or("")).unwrap_or(jiff::tz::TimeZone::UTC);
    let local = at.to_zoned(zone);
    let stamp = match local.offset().is_zero() && local.time_zone() == &jiff::tz::TimeZone::UTC {
        true => at.to_string(),
        false => local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    };
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.to_owned(), stamp);
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cj.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(cj, "batch/v1", "CronJob")]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn jobs_bear_their_time() {
        let cj = |zone: Option<&str>| -> CronJob {
            serde_json::from_value(
                json!({"metadata": {"name": "c", "namespace": "ns", "uid": "U"}, "spec": {"schedule": "",
                "timeZone": zone, "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}}}),
            )
            .unwrap()
        };
        let at: Timestamp = "2026-07-01T10:00:00Z".parse().unwrap();
        let stamp = |zone| new_job(&cj(zone), job_name(&cj(zone), at), at);
        let job = stamp(None);
        assert_eq!((job.name_str(), job.annotation(SCHEDULED_AT)), ("c-29715000", Some("2026-07-01T10:00:00Z")));
        assert_eq!(stamp(Some("Europe/Berlin")).annotation(SCHEDULED_AT), Some("2026-07-01T12:00:00+02:00"));
        assert_eq!(controller_of(&job.metadata).unwrap().kind, "CronJob");
    }
}
