//! The scheduling cycle (one pod at a time) and the binding cycle (many at once) that follows it.
//!
//! Decide on a snapshot, assume the pod on its node, then bind in a task of its own. A binding that fails is taken back
//! and the pod queued again; until then the assumption keeps its room, so no node is ever promised twice.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub mod api;
pub mod debug;
pub mod decide;
pub mod group;
pub mod handlers;
pub mod listers;
pub mod outlet;
pub mod permits;

#[cfg(test)]
mod tests;

use self::decide::{Decider, Decision, Failure};
use self::outlet::{Outlet, status_patch, truncate};
use self::permits::WaitingPods;
use crate::cache::Cache;
use crate::cache::snapshot::Snapshot;
use crate::extender::Extenders;
use crate::framework::diagnosis::Diagnosis;
use crate::framework::events::{ClusterEvent, Objects, Resource, action};
use crate::framework::groups::Groups;
use crate::framework::plugin::CycleContext;
use crate::framework::pod::PodInfo;
use crate::framework::profile::Profile;
use crate::framework::profiles::Profiles;
use crate::framework::status::Status;
use crate::framework::template::Interner;
use crate::metrics;
use crate::queue::{QueuedPod, SchedulingQueue};

/// Bindings and failure reports under way at once; the scheduling loop waits for a free place beyond this.
const IN_FLIGHT: usize = 512;
/// How long shutdown waits for them.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Everything the scheduler is made of.
pub struct Scheduler {
    /// The cluster.
    pub cache: Cache,
    /// Waiting pods.
    pub queue: SchedulingQueue,
    /// Profiles by scheduler name.
    pub profiles: Arc<Profiles>,
    /// Shared pod templates.
    pub interner: Interner,
    /// Pods held by Permit.
    pub waiting: WaitingPods,
    /// HTTP extenders.
    pub extenders: Arc<Extenders>,
    /// Pods by their pod group.
    pub groups: Arc<Groups>,
    outlet: Arc<dyn Outlet>,
    tasks: Arc<Semaphore>,
}

/// A pod on its way to its node.
struct Binding {
    profile: Arc<Profile>,
    queued: QueuedPod,
    assumed: Arc<PodInfo>,
    node: Arc<str>,
    started: Instant,
    waits: Vec<(&'static str, std::time::Duration)>,
}

impl Scheduler {
    /// Puts the parts together.
    pub fn new(cache: Cache, queue: SchedulingQueue, profiles: Arc<Profiles>, outlet: Arc<dyn Outlet>) -> Self {
        Self {
            cache,
            queue,
            profiles,
            interner: Interner::default(),
            waiting: WaitingPods::default(),
            extenders: Arc::default(),
            groups: Arc::default(),
            outlet,
            tasks: Arc::new(Semaphore::new(IN_FLIGHT)),
        }
    }

    /// Schedules until the queue closes. Blocks its thread; tasks run on `runtime`.
    pub fn run(self: &Arc<Self>, decider: &mut Decider, runtime: &Handle) {
        let mut snapshot = Snapshot::default();
        while let Some(queued) = self.queue.pop() {
            let Ok(permit) = runtime.block_on(self.tasks.clone().acquire_owned()) else { return };
            self.schedule_one(queued, decider, &mut snapshot, permit, runtime);
        }
    }

    /// One scheduling cycle.
    pub fn schedule_one(
        self: &Arc<Self>,
        queued: QueuedPod,
        decider: &mut Decider,
        snapshot: &mut Snapshot,
        permit: OwnedSemaphorePermit,
        runtime: &Handle,
    ) {
        let started = Instant::now();
        let Some(profile) = self.profiles.get(&queued.pod.template.scheduler_name).cloned() else {
            self.queue.done(&queued.pod.uid);
            return;
        };
        if self.skip(&queued.pod) {
            self.queue.done(&queued.pod.uid);
            return;
        }
        if self.groups.of(&queued.pod).is_some() {
            return self.schedule_group(queued, decider, snapshot, permit, runtime);
        }
        self.cache.update_snapshot(snapshot);
        let decision = decider.decide(&profile, snapshot, &queued.pod, &self.queue.nominator);
        let failed =
            match decision.and_then(|decision| self.commit(&profile, queued.clone(), &decision, snapshot, started)) {
                Ok(binding) => return self.start_binding(binding, Some(permit), runtime),
                Err(failure) => failure,
            };
        self.fail(&profile, queued, failed, started, runtime, Some(permit));
    }

    /// Starts a binding cycle.
    fn start_binding(self: &Arc<Self>, binding: Binding, permit: Option<OwnedSemaphorePermit>, runtime: &Handle) {
        if !binding.waits.is_empty() {
            self.waiting.hold(&binding.assumed.uid, &binding.waits);
        }
        let this = self.clone();
        runtime.spawn(async move {
            metrics::GOROUTINES.with_label_values(&["binding"]).inc();
            this.bind(binding).await;
            metrics::GOROUTINES.with_label_values(&["binding"]).dec();
            drop(permit);
        });
    }

    /// Waits (not for ever) for the bindings and reports under way.
    pub async fn drain(&self) {
        let all = self.tasks.acquire_many(IN_FLIGHT as u32);
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            tracing::warn!("bindings still under way at shutdown");
        }
    }

    /// A permit to hold while a binding or report is under way (for callers of [`Self::schedule_one`]).
    pub async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.tasks.clone().acquire_owned().await.ok()
    }

    /// Pods being deleted, and pods already assumed, are not scheduled.
    fn skip(&self, pod: &PodInfo) -> bool {
        if pod.deleting {
            let note = format!("skip schedule deleting pod: {}", pod.key());
            self.outlet.event(pod, true, "FailedScheduling", "Scheduling", &note);
            return true;
        }
        self.cache.is_assumed(&pod.uid)
    }

    /// Assumes the pod on its node and runs Reserve and Permit.
    fn commit(
        &self,
        profile: &Arc<Profile>,
        queued: QueuedPod,
        decision: &Decision,
        snapshot: &Snapshot,
        started: Instant,
    ) -> Result<Binding, Failure> {
        let node = decision.node.clone();
        let assumed = Arc::new(queued.pod.on_node(node.clone()));
        self.cache.assume(assumed.clone()).map_err(|error| Failure::Error(Status::error("", error.to_string())))?;
        self.groups.assume(&assumed, true);
        self.queue.nominator.remove(&assumed.uid);
        let waits = profile
            .run_reserve(&CycleContext { pod: &queued.pod, snapshot }, &assumed, decision.slot)
            .and_then(|()| profile.run_permit(&assumed, &node).inspect_err(|_| profile.run_unreserve(&assumed, &node)));
        match waits {
            Ok(waits) => {
                tracing::debug!(
                    pod = assumed.key(), %node, evaluated = decision.evaluated, feasible = decision.feasible, "node chosen"
                );
                Ok(Binding { profile: profile.clone(), queued, assumed, node, started, waits })
            }
            Err(status) => {
                self.forget(&assumed);
                Err(refused(decision.slot, status))
            }
        }
    }

    fn forget(&self, assumed: &PodInfo) {
        self.groups.assume(assumed, false);
        if let Err(error) = self.cache.forget(assumed) {
            tracing::debug!(pod = assumed.key(), %error, "the assumption is gone already");
        }
    }

    /// The binding cycle.
    async fn bind(self: &Arc<Self>, binding: Binding) {
        let Binding { profile, queued, assumed, node, started, waits } = binding;
        let permitted = if waits.is_empty() { Ok(()) } else { self.waiting.wait(&assumed.uid, &waits).await };
        let bound = match permitted {
            Ok(()) => {
                // From here on the pod can only fail with an error, so events no longer matter to it.
                self.queue.done(&assumed.uid);
                profile.run_bind(&assumed, &node, &self.extenders).await
            }
            Err(status) => Err(status),
        };
        match bound {
            Ok(()) => self.bound(&profile, &queued, &assumed, &node, started),
            Err(status) => {
                profile.run_unreserve(&assumed, &node);
                profile.undo_bind(&assumed, &node).await;
                self.forget(&assumed);
                let rejected = status.is_rejected();
                let failure = if rejected { refused(0, status) } else { Failure::Error(status) };
                let event = freed(&assumed);
                if !rejected {
                    self.queue.on_event(&event, |_| true);
                }
                let uid = assumed.uid.clone();
                self.report(&profile, queued, failure, started).await;
                if rejected {
                    self.queue.on_event(&event, |pod| pod.uid != uid);
                }
            }
        }
    }

    fn bound(&self, profile: &Profile, queued: &QueuedPod, assumed: &PodInfo, node: &str, started: Instant) {
        self.cache.finish_binding(&assumed.uid, Instant::now());
        let note = format!("Successfully assigned {} to {node}", assumed.key());
        self.outlet.event(assumed, false, "Scheduled", "Binding", &note);
        metrics::attempt("scheduled", &profile.name, started.elapsed());
        metrics::POD_ATTEMPTS.observe(f64::from(queued.attempts));
        if let Some(first) = queued.first_active {
            let took = self.queue.now().saturating_sub(first).as_secs_f64();
            metrics::SLI_DURATION.with_label_values(&[&metrics::attempts_label(queued.attempts)]).observe(took);
        }
        if queued.flushed {
            metrics::SCHEDULED_AFTER_FLUSH.inc();
        }
        tracing::info!(pod = assumed.key(), node, attempts = queued.attempts, "pod bound");
    }

    /// A failed scheduling cycle: requeue at once, tell the API server in a task.
    fn fail(
        self: &Arc<Self>,
        profile: &Arc<Profile>,
        queued: QueuedPod,
        failure: Failure,
        started: Instant,
        runtime: &Handle,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        if let Some(report) = self.requeue(profile, queued, &failure, started) {
            let this = self.clone();
            runtime.spawn(async move {
                report.send(&this.outlet).await;
                drop(permit);
            });
        }
    }

    async fn report(&self, profile: &Profile, queued: QueuedPod, failure: Failure, started: Instant) {
        if let Some(report) = self.requeue(profile, queued, &failure, started) {
            report.send(&self.outlet).await;
        }
    }

    /// Puts a failed pod back into the queue, unless it is gone, bound, or another one by now.
    fn requeue(&self, profile: &Profile, mut queued: QueuedPod, failure: &Failure, started: Instant) -> Option<Report> {
        let (reason, result, nominate) = match failure {
            Failure::Error(_) => ("SchedulerError", "error", Some(None)),
            Failure::NoNodes => ("Unschedulable", "unschedulable", Some(None)),
            Failure::Unfit { nominate, .. } => ("Unschedulable", "unschedulable", nominate.clone()),
            Failure::Group { nominate, .. } => ("Unschedulable", "unschedulable", Some(nominate.clone())),
        };
        metrics::attempt(result, &profile.name, started.elapsed());
        queued.unschedulable_plugins.clear();
        queued.pending_plugins.clear();
        if let Failure::Unfit { diagnosis, .. } = failure {
            queued.unschedulable_plugins.clone_from(&diagnosis.unschedulable);
            queued.pending_plugins.clone_from(&diagnosis.pending);
        }
        let message = failure.message();
        let uid = queued.pod.uid.clone();
        let current = self.outlet.pod(queued.pod.namespace(), &queued.pod.name);
        let info = current.as_ref().map(|pod| Arc::new(PodInfo::new(pod, &self.interner)));
        let (Some(pod), Some(info)) = (current, info.filter(|info| info.uid == uid && info.node_name.is_none())) else {
            tracing::debug!(pod = queued.pod.key(), "pod is gone or bound, not queued again");
            self.queue.done(&uid);
            return None;
        };
        match failure {
            Failure::Error(_) => tracing::error!(pod = info.key(), error = message, "error scheduling pod; retrying"),
            _ => tracing::info!(pod = info.key(), reason = message, "unable to schedule pod; waiting"),
        }
        queued.pod = info.clone();
        self.queue.add_unschedulable(queued);
        self.queue.nominator.set(&info, nominate.clone());
        let patch = status_patch(&pod, reason, &message, nominate.as_ref().map(|n| n.as_deref()), Timestamp::now());
        Some(Report { pod: info, message, patch })
    }
}

/// What the API server is told of a failed attempt.
struct Report {
    pod: Arc<PodInfo>,
    message: String,
    patch: Option<serde_json::Value>,
}

impl Report {
    async fn send(self, outlet: &Arc<dyn Outlet>) {
        outlet.event(&self.pod, true, "FailedScheduling", "Scheduling", &truncate(&self.message));
        let Some(patch) = self.patch else { return };
        if let Err(error) = outlet.patch_status(self.pod.namespace(), &self.pod.name, patch).await {
            tracing::error!(pod = self.pod.key(), error, "error updating pod status");
        }
    }
}

/// A Reserve or Permit plugin said no: as upstream, a fit error over that one node; errors stay errors.
fn refused(slot: u32, status: Arc<Status>) -> Failure {
    if !status.is_rejected() {
        return Failure::Error(status);
    }
    let mut diagnosis = Diagnosis::default();
    diagnosis.blame(&status);
    diagnosis.failures.push((slot, status));
    Failure::Unfit { diagnosis: Box::new(diagnosis), nodes: 1, nominate: Some(None) }
}

/// The room of an assumed pod became free: to others it is as if the pod had been deleted.
pub(crate) fn freed(pod: &Arc<PodInfo>) -> ClusterEvent {
    ClusterEvent {
        resource: Resource::AssignedPod,
        action: action::DELETE,
        label: "AssignedPodDelete",
        objects: Objects::Pod(Some(pod.clone()), None),
    }
}
