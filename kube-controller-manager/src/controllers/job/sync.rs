//! One run for one Job: look, work on its pods, count what finished, write the status.

use std::sync::Arc;
use std::time::Instant;

use common::informer::{object_key, split_key};
use futures::{StreamExt, stream};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};

use super::Controller;
use super::facts::{COMPLETE, FINALIZER, JobExt, is_tracked};
use super::metrics::{self, Action, Counted};
use super::run::{Run, Work};
use super::track::{Tracking, settle};
use crate::events::reference;
use crate::shared::batch::{CONCURRENT_CALLS, slow_start, slow_start_over};
use crate::shared::consistency::LOOK_AGAIN;
use crate::shared::meta::{MetaExt, now};
use crate::shared::owned::{self, Owner, Owners};
use crate::shared::{apierr, pods, selector};

impl Controller {
    pub(super) async fn sync(&self, key: &str) -> Result<(), kube::Error> {
        if !self.consistency.seen(key, &self.owners.cache) || !self.consistency.seen(key, &self.pods) {
            self.owners.queue.add_after(key.to_owned(), LOOK_AGAIN);
            return Ok(());
        }
        let (namespace, name) = split_key(key);
        let Some(job) = self.owners.cache.get(namespace, name) else {
            self.owners.expectations.forget(key);
            self.unfinalized.lock().remove(key);
            self.records.forget(key);
            self.consistency.forget(key);
            return Ok(());
        };
        if job.is_managed_elsewhere() || job.is_finished() {
            return Ok(());
        }
        if !matches!(job.mode(), "Indexed" | "NonIndexed") {
            let message = "Skipped Job sync because completion mode is unknown";
            self.control.events.warning(&reference(&*job), "UnknownCompletionMode", message.into());
            return Ok(());
        }
        let (started, mut action) = (Instant::now(), Action::Reconciling);
        let result = self.work_on(key, &job, &mut action).await;
        metrics::synced(&job, result.is_ok(), action, started.elapsed());
        result
    }

    async fn work_on(&self, key: &str, job: &Arc<Job>, action: &mut Action) -> Result<(), kube::Error> {
        let selector = match job.selector() {
            Ok(selector) => selector,
            Err(error) => {
                tracing::error!(key, %error, "invalid selector");
                return Ok(());
            }
        };
        let satisfied = self.owners.expectations.satisfied(key);
        let matches = |pod: &Pod| selector::selects(&selector, &pod.metadata);
        let candidates = Owners::candidates(&**job, &self.pods);
        let pods = owned::claim(&self.control.client, &**job, candidates, matches, Some(FINALIZER)).await?;
        let unfinalized = self.unfinalized.lock().get(key).cloned().unwrap_or_default();
        let before = job.status.clone().unwrap_or_default();
        let mut run = Run::new((**job).clone(), pods, unfinalized, self.records.get(key), now());
        if let Some(deadline) = run.deadline {
            self.owners.queue.add_after(key.to_owned(), deadline);
        }
        let (result, suspension_changed) = match run.finished {
            Some(_) => (self.end(&mut run, satisfied).await, false),
            None => self.go_on(key, &mut run, satisfied, action).await,
        };
        let write = suspension_changed || set_counts(&mut run, &before);
        self.track(key, &mut run, write).await?;
        result
    }

    /// The Job is at its end: what still runs is deleted.
    async fn end(&self, run: &mut Run, satisfied: bool) -> Result<(), kube::Error> {
        let victims = run.active_pods.clone();
        let all = run.active;
        let (deleted, result) = self.delete(run, victims, false).await;
        if deleted != all || !satisfied {
            run.finished = None;
        }
        result
    }

    /// The Job goes on: pods are created and deleted as needed. Tells whether the Suspended condition changed.
    async fn go_on(
        &self,
        key: &str,
        run: &mut Run,
        satisfied: bool,
        action: &mut Action,
    ) -> (Result<(), kube::Error>, bool) {
        let acts = satisfied && !run.job.is_deleting();
        let result = match acts {
            true => self.manage(key, run, action).await,
            false => Ok(()),
        };
        if run.is_complete() {
            let message = "Reached expected number of succeeded pods";
            let met = super::facts::condition(super::facts::SUCCESS_MET, "CompletionsReached", message, run.now);
            run.finished = Some(met);
        } else if acts && let Some(reason) = run.note_suspension() {
            let message = format!("Job {}", reason.to_lowercase());
            self.control.events.normal(&reference(&run.job), reason, message);
            return (result, true);
        }
        (result, false)
    }

    async fn manage(&self, key: &str, run: &mut Run, action: &mut Action) -> Result<(), kube::Error> {
        let work = run.work();
        *action = match &work {
            Work::Nothing | Work::Wait(_) => Action::Tracking,
            Work::Delete(_) => Action::PodsDeleted,
            Work::Create(..) => Action::PodsCreated,
        };
        match work {
            Work::Nothing => Ok(()),
            Work::Wait(delay) => {
                self.owners.queue.add_after(key.to_owned(), delay.max(super::BATCH));
                Ok(())
            }
            Work::Delete(victims) => {
                self.owners.expectations.expect_deletions(key, victims.iter().map(|p| pods::uid_key(p)));
                self.delete(run, victims, true).await.1
            }
            Work::Create(count, indexes) => self.create(key, run, count, &indexes).await,
        }
    }

    async fn create(&self, key: &str, run: &mut Run, count: usize, indexes: &[i32]) -> Result<(), kube::Error> {
        if count == 0 {
            return Ok(());
        }
        self.owners.expectations.expect_creations(key, count);
        let (about, template, namespace) = (reference(&run.job), run.new_pod(), run.job.ns_str().to_owned());
        let about = &about;
        let create = |pod: Pod| {
            let namespace = &namespace;
            async move {
                match self.control.create(namespace, &pod, about).await {
                    Ok(created) => {
                        self.consistency.wrote(key, &created);
                        Ok(())
                    }
                    // Nothing more can be created here; the Job goes with its namespace.
                    Err(error) if apierr::is_namespace_terminating(&error) => Ok(()),
                    Err(error) => Err(error),
                }
            }
        };
        let (created, result) = match indexes {
            [] => slow_start(count, 1, || create(template.clone())).await,
            indexes => {
                let look = &*run;
                slow_start_over(indexes, |index| {
                    let mut pod = template.clone();
                    look.set_index(&mut pod, *index);
                    create(pod)
                })
                .await
            }
        };
        for _ in created..count {
            self.owners.expectations.creation_observed(key);
        }
        metrics::created(&run.job, run.failed > 0, run.terminating > 0, (created, count - created));
        run.active += i32::try_from(created).unwrap_or(i32::MAX);
        result
    }

    /// Deletes pods and keeps the run's counts; with `uncounted` they are of no interest any more. Answers how many went.
    async fn delete(&self, run: &mut Run, victims: Vec<Arc<Pod>>, uncounted: bool) -> (i32, Result<(), kube::Error>) {
        let (about, key) = (reference(&run.job), object_key(&run.job));
        let (about, key) = (&about, &key);
        let calls = victims.into_iter().map(|pod| async move {
            let result = async {
                if uncounted && is_tracked(&pod) {
                    self.consistency.wrote(key, &self.remove_finalizer(&pod).await?);
                }
                self.control.delete(&pod, about).await
            };
            let result = result.await;
            if result.is_err() {
                self.owners.expectations.deletion_observed(key, &pods::uid_key(&pod));
            }
            (pods::is_ready(&pod), apierr::ignore_not_found(result))
        });
        let results: Vec<_> = stream::iter(calls).buffer_unordered(CONCURRENT_CALLS).collect().await;
        let mut deleted = 0;
        let mut outcome = Ok(());
        for (ready, result) in results {
            match result {
                Ok(()) => {
                    deleted += 1;
                    run.ready -= i32::from(ready);
                }
                Err(error) => outcome = Err(error),
            }
        }
        run.active -= deleted;
        run.terminating += deleted;
        (deleted, outcome)
    }

    /// Counts finished pods (see [`super::track`]) and writes the status, also the last one.
    async fn track(&self, key: &str, run: &mut Run, write: bool) -> Result<(), kube::Error> {
        let mut counted = Counted::of(&run.job);
        let mut tracking = run.track();
        tracking.write |= write;
        if tracking.write {
            self.write_status(key, run, &mut counted).await?;
            self.records.set(key, run.record);
            tracking.write = false;
        }
        let released = self.release(key, &mut tracking).await;
        tracking.write |= settle(run.job.status.get_or_insert_default(), &tracking.tracked);
        if let Err(error) = released {
            if tracking.write {
                self.write_status(key, run, &mut counted).await?;
            }
            return Err(error);
        }
        let finished = !tracking.full && run.finish();
        if tracking.write || finished {
            self.write_status(key, run, &mut counted).await?;
        }
        if finished {
            self.tell_finished(run);
            self.records.forget(key);
        }
        Ok(())
    }

    async fn release(&self, key: &str, tracking: &mut Tracking) -> Result<(), kube::Error> {
        let pods = std::mem::take(&mut tracking.release);
        if pods.is_empty() {
            return Ok(());
        }
        let uids = pods.iter().map(|p| p.uid_str().to_owned());
        self.unfinalized.lock().entry(key.to_owned()).or_default().extend(uids);
        let calls = pods.into_iter().map(|pod| async move {
            let result = self.remove_finalizer(&pod).await;
            if result.is_err() {
                self.finalizer_gone(key, pod.uid_str());
            }
            (pod.uid_str().to_owned(), apierr::ignore_not_found(result))
        });
        let results: Vec<_> = stream::iter(calls).buffer_unordered(CONCURRENT_CALLS).collect().await;
        let mut outcome = Ok(());
        for (uid, result) in results {
            match result {
                Ok(()) => {
                    tracking.tracked.remove(&uid);
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    async fn write_status(&self, key: &str, run: &mut Run, counted: &mut Counted) -> Result<(), kube::Error> {
        let api: Api<Job> = Api::namespaced(self.control.client.clone(), run.job.ns_str());
        run.job = api.replace_status(run.job.name_str(), &PostParams::default(), &run.job).await?;
        self.consistency.wrote(key, &run.job);
        counted.advance(&run.job);
        Ok(())
    }

    fn tell_finished(&self, run: &Run) {
        let Some(end) = &run.finished else { return };
        let (about, events) = (reference(&run.job), &self.control.events);
        metrics::finished(&run.job, end);
        if end.type_ != COMPLETE {
            let text = |v: &Option<String>| v.clone().unwrap_or_default();
            return events.warning(&about, &text(&end.reason), text(&end.message));
        }
        let succeeded = run.job.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0);
        if run.job.completions().is_some_and(|wanted| succeeded > wanted) {
            let message = "Too many succeeded pods running after completion count reached";
            events.warning(&about, "TooManySucceededPods", message.into());
        }
        events.normal(&about, "Completed", "Job completed".into());
    }
}

/// Writes the counts of the run into the status; tells whether they differ from `before`.
fn set_counts(run: &mut Run, before: &JobStatus) -> bool {
    let (active, ready, terminating) = (run.active, run.ready, run.terminating);
    let status = run.job.status.get_or_insert_default();
    status.active = Some(active);
    status.ready = Some(ready);
    status.terminating = Some(terminating);
    before.active.unwrap_or(0) != active || before.ready != Some(ready) || before.terminating != Some(terminating)
}
