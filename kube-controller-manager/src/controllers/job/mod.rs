//! `job-controller`: pods that run to their end, each counted exactly once.

mod backoff;
pub(crate) mod facts;
mod indexes;
mod metrics;
mod pods;
mod policies;
mod run;
#[cfg(test)]
mod run_tests;
mod sync;
mod track;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::core::Selector;
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::backoff::Records;
use self::facts::{FINALIZER, JobExt, is_tracked};
use crate::context::{Context, Task};
use crate::shared::consistency::Consistency;
use crate::shared::expectations::Expectations;
use crate::shared::meta::MetaExt;
use crate::shared::owned::{BY_CONTROLLER, Owner, Owners, index_by_controller};
use crate::shared::owner::controller_of;
use crate::shared::pod_control::PodControl;
use crate::shared::pods::uid_key;
use crate::shared::{apierr, selector};

/// Changes of pods within this time are one run.
const BATCH: Duration = Duration::from_secs(1);
/// Failed runs are retried after 1 s, 2 s, ... 1 min.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl Owner for Job {
    const KIND: &'static str = "Job";
    const API_VERSION: &'static str = "batch/v1";

    fn selector(&self) -> Result<Selector, String> {
        let selector = self.spec.as_ref().and_then(|s| s.selector.as_ref());
        selector::compile(selector.ok_or("no selector")?)
    }
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("job-controller");
    let pods = ctx.factory.informer::<Pod>();
    index_by_controller(&pods);
    let controller = Arc::new(Controller {
        control: PodControl { client: client.clone(), events: ctx.events(&client, "job-controller") },
        owners: Owners {
            cache: ctx.factory.informer(),
            queue: WorkQueue::with_backoff("job", RETRY.0, RETRY.1),
            expectations: Expectations::default(),
        },
        pods: pods.clone(),
        orphans: WorkQueue::with_backoff("job_orphan_pod", RETRY.0, RETRY.1),
        unfinalized: Mutex::default(),
        records: Records::default(),
        consistency: Consistency::new("job_controller"),
    });
    let c = controller.clone();
    controller.owners.cache.on_event(move |event| c.on_job(event));
    let c = controller.clone();
    pods.on_event(move |event| c.on_pod(event));
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.concurrent_job_syncs);
    Ok(Box::pin(async move {
        let (queue, orphans) = (controller.owners.queue.clone(), controller.orphans.clone());
        let for_orphans = controller.clone();
        let syncs = run_workers("job", queue, workers, shutdown.clone(), move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        });
        let orphaned = run_workers("job_orphan_pod", orphans, 1, shutdown, move |orphan: Orphan| {
            let controller = for_orphans.clone();
            async move { controller.release_orphans(&orphan).await }
        });
        futures::join!(syncs, orphaned);
    }))
}

/// Pods whose finalizer nobody else will remove.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Orphan {
    /// `namespace/name`.
    Pod(String),
    /// Those of the Job with this UID.
    Job(String),
}

struct Controller {
    control: PodControl,
    owners: Owners<Job>,
    pods: Arc<Informer<Pod>>,
    orphans: Arc<WorkQueue<Orphan>>,
    /// UIDs of pods whose finalizer we removed and the cache still shows, by Job.
    unfinalized: Mutex<HashMap<String, HashSet<String>>>,
    records: Records,
    consistency: Consistency,
}

impl Controller {
    fn on_job(&self, event: &Event<Job>) {
        match event {
            Event::Added(job) => {
                metrics::seen(job);
                self.owners.queue.add(object_key(&**job));
            }
            Event::Updated { new, .. } if new.is_finished() => {
                self.records.forget(&object_key(&**new));
                self.orphans.add(Orphan::Job(new.uid_str().to_owned()));
            }
            Event::Updated { old, new } if old.generation() == new.generation() => self.enqueue_batched(new),
            Event::Updated { new, .. } => self.owners.queue.add(object_key(&**new)),
            Event::Deleted(job) => {
                self.owners.queue.add(object_key(&**job));
                self.orphans.add(Orphan::Job(job.uid_str().to_owned()));
            }
        }
    }

    fn enqueue_batched(&self, job: &Job) {
        self.owners.queue.add_after(object_key(job), BATCH);
    }

    fn on_pod(&self, event: &Event<Pod>) {
        let (before, after) = match event {
            Event::Added(pod) => (None, Some(&**pod)),
            Event::Updated { old, new } => (Some(&**old), Some(&**new)),
            Event::Deleted(pod) => (Some(&**pod), None),
        };
        metrics::pod_changed(before, after);
        match event {
            Event::Added(pod) if pod.is_deleting() => self.pod_gone(pod, false),
            Event::Added(pod) => match controller_of(&pod.metadata) {
                Some(_) => {
                    if let Some(job) = self.owners.owner_of(&pod.metadata) {
                        self.owners.expectations.creation_observed(&object_key(&*job));
                        self.enqueue_batched(&job);
                    }
                }
                None => self.orphan_changed(pod, true),
            },
            Event::Updated { new, .. } if new.is_deleting() => self.pod_gone(new, false),
            Event::Updated { old, new } => self.pod_updated(old, new),
            Event::Deleted(pod) => self.pod_gone(pod, true),
        }
    }

    fn pod_updated(&self, old: &Pod, new: &Pod) {
        let (was, is) = (controller_of(&old.metadata), controller_of(&new.metadata));
        let owners = [was.filter(|_| was != is).map(|_| old), is.map(|_| new)];
        for pod in owners.into_iter().flatten() {
            let Some(job) = self.owners.owner_of(&pod.metadata) else { continue };
            if !is_tracked(new) {
                self.finalizer_gone(&object_key(&*job), new.uid_str());
            }
            self.enqueue_batched(&job);
        }
        if is.is_none() {
            self.orphan_changed(new, was.is_some() || old.metadata.labels != new.metadata.labels);
        }
    }

    /// A pod without a controller: its finalizer is nobody's, and a Job may adopt it.
    fn orphan_changed(&self, pod: &Pod, adoptable: bool) {
        if is_tracked(pod) {
            self.orphans.add(Orphan::Pod(object_key(pod)));
        }
        if !adoptable {
            return;
        }
        for job in self.owners.cache.list_namespace(pod.ns_str()) {
            if job.selector().is_ok_and(|s| !s.selects_all() && selector::selects(&s, &pod.metadata)) {
                self.enqueue_batched(&job);
            }
        }
    }

    fn pod_gone(&self, pod: &Pod, deleted: bool) {
        let job = self.owners.owner_of(&pod.metadata).filter(|j| !j.is_finished());
        let Some(job) = job else {
            if is_tracked(pod) {
                self.orphans.add(Orphan::Pod(object_key(pod)));
            }
            return;
        };
        let key = object_key(&*job);
        self.owners.expectations.deletion_observed(&key, &uid_key(pod));
        if deleted || !is_tracked(pod) {
            self.finalizer_gone(&key, pod.uid_str());
        }
        self.enqueue_batched(&job);
    }

    fn finalizer_gone(&self, key: &str, uid: &str) {
        let mut all = self.unfinalized.lock();
        let Some(uids) = all.get_mut(key) else { return };
        uids.remove(uid);
        if uids.is_empty() {
            all.remove(key);
        }
    }

    /// Removes the finalizer of pods that no living Job will count.
    async fn release_orphans(&self, orphan: &Orphan) -> Result<(), kube::Error> {
        let pods = match orphan {
            Orphan::Pod(key) => self.pods.get_by_key(key).into_iter().collect(),
            Orphan::Job(uid) => self.pods.by_index(BY_CONTROLLER, uid),
        };
        for pod in pods {
            if let Some(reference) = controller_of(&pod.metadata) {
                let ours = reference.kind == Job::KIND && reference.api_version == Job::API_VERSION;
                let job = self.owners.resolve(pod.ns_str(), reference);
                if !ours || job.is_some_and(|j| j.is_managed_elsewhere() || !j.is_finished()) {
                    continue;
                }
            }
            if is_tracked(&pod) {
                apierr::ignore_not_found(self.remove_finalizer(&pod).await)?;
            }
        }
        Ok(())
    }

    async fn remove_finalizer(&self, pod: &Pod) -> Result<Pod, kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.control.client.clone(), pod.ns_str());
        let patch: Value = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        api.patch(pod.name_str(), &PatchParams::default(), &Patch::Strategic(patch)).await
    }
}
