//! The cycle of a pod group (KEP-4671): all its waiting pods are placed one after the other, each beside those before it; bound
//! they are only if the group as a whole can be.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use super::decide::{Decider, Decision, Failure};
use super::{Binding, Scheduler};
use crate::cache::snapshot::Snapshot;
use crate::framework::profile::Profile;
use crate::framework::status::Status;
use crate::metrics;
use crate::plugins::gang_scheduling;
use crate::queue::QueuedPod;

/// A pod of the group after its attempt.
enum Attempt {
    /// It has a node, on which it is assumed; `preempts` when others must go first.
    Placed { binding: Box<Binding>, preempts: bool },
    /// It has none.
    Failed { queued: Box<QueuedPod>, failure: Failure },
}

/// What becomes of the group.
enum Outcome {
    /// Pods that have nodes are bound.
    Scheduled,
    /// It could be scheduled once preemption is done.
    Preempting,
    /// Too few pods have nodes.
    Unschedulable,
    /// Something broke.
    Error(String),
}

const PREEMPTING: &str = "pod group is waiting for preemption to complete";
const UNSCHEDULABLE: &str = "pod group is unschedulable";

impl Scheduler {
    /// One cycle of the group of `first`, with all its pods that wait in the queue.
    pub(super) fn schedule_group(
        self: &Arc<Self>,
        first: QueuedPod,
        decider: &mut Decider,
        snapshot: &mut Snapshot,
        permit: OwnedSemaphorePermit,
        runtime: &Handle,
    ) {
        let started = Instant::now();
        let pods = self.gather(first);
        let Some(head) = pods.first().map(|queued| queued.pod.clone()) else { return };
        let mut permits = Some(permit);
        let name = &head.template.scheduler_name;
        if let Some(other) = pods.iter().find(|queued| queued.pod.template.scheduler_name != *name) {
            let other = &other.pod.template.scheduler_name;
            let text = format!(
                "all pods in a single pod group should have the same .spec.schedulerName set, got: {name:?} and {other:?}"
            );
            for queued in pods {
                let Some(profile) = self.profiles.get(&queued.pod.template.scheduler_name).cloned() else {
                    self.queue.done(&queued.pod.uid);
                    continue;
                };
                let failure = Failure::Error(Status::error("", text.clone()));
                self.fail(&profile, queued, failure, started, runtime, self.next_permit(&mut permits, runtime));
            }
            return;
        }
        let Some(profile) = self.profiles.get(name).cloned() else {
            pods.iter().for_each(|queued| self.queue.done(&queued.pod.uid));
            return;
        };
        let (attempts, outcome) = self.attempt(&profile, pods, decider, snapshot, started);
        metrics::POD_GROUP_ALGORITHM_DURATION.observe(started.elapsed().as_secs_f64());
        let (label, condition) = match &outcome {
            Outcome::Scheduled => ("scheduled", condition("True", "Scheduled", "")),
            Outcome::Preempting => ("waiting_on_preemption", condition("False", "Unschedulable", PREEMPTING)),
            Outcome::Unschedulable => ("unschedulable", condition("False", "Unschedulable", UNSCHEDULABLE)),
            Outcome::Error(error) => ("error", condition("False", "SchedulerError", error)),
        };
        for attempt in attempts {
            let permit = self.next_permit(&mut permits, runtime);
            match attempt {
                Attempt::Placed { mut binding, preempts: false } if matches!(outcome, Outcome::Scheduled) => {
                    // The gang is complete: nobody waits for the others any more.
                    binding.waits.retain(|(plugin, _)| *plugin != gang_scheduling::NAME);
                    self.start_binding(*binding, permit, runtime);
                }
                Attempt::Placed { binding, preempts } => {
                    let failure = withheld(&outcome, &binding, preempts);
                    self.fail(&profile, binding.queued, failure, started, runtime, permit);
                }
                Attempt::Failed { queued, failure } => {
                    let failure = match (&outcome, &failure) {
                        (Outcome::Error(error), Failure::Unfit { .. }) => {
                            Failure::Error(Status::error("", error.clone()))
                        }
                        _ => failure,
                    };
                    self.fail(&profile, *queued, failure, started, runtime, permit);
                }
            }
        }
        metrics::pod_group(label, &profile.name, started.elapsed());
        let (outlet, group) = (self.outlet.clone(), self.groups.object(&head));
        runtime.spawn(async move {
            if let Some(group) = group
                && let Err(error) = outlet.group_condition(&group, condition).await
            {
                tracing::error!(group = head.template.group.as_deref(), error, "Failed to update PodGroup status");
            }
        });
    }

    /// A place among the bindings and reports under way.
    fn next_permit(&self, first: &mut Option<OwnedSemaphorePermit>, runtime: &Handle) -> Option<OwnedSemaphorePermit> {
        let next = || self.tasks.clone().try_acquire_owned().ok();
        let wait = || runtime.block_on(self.tasks.clone().acquire_owned()).ok();
        first.take().or_else(next).or_else(wait)
    }

    /// The group's pods that are to be placed now, the most important first.
    fn gather(&self, first: QueuedPod) -> Vec<QueuedPod> {
        let others = self.groups.waiting(&first.pod).into_iter().filter(|uid| *uid != first.pod.uid);
        let mut pods: Vec<_> = others.filter_map(|uid| self.queue.pop_this(&uid)).collect();
        pods.push(first);
        pods.retain(|queued| {
            let skip = self.skip(&queued.pod);
            if skip {
                self.queue.done(&queued.pod.uid);
            }
            !skip
        });
        pods.sort_by_key(|queued| {
            (-i64::from(queued.pod.template.priority), queued.first_active, queued.pod.uid.clone())
        });
        pods
    }

    /// Places pod after pod. Unless the group is scheduled, nothing stays assumed.
    fn attempt(
        self: &Arc<Self>,
        profile: &Arc<Profile>,
        pods: Vec<QueuedPod>,
        decider: &mut Decider,
        snapshot: &mut Snapshot,
        started: Instant,
    ) -> (Vec<Attempt>, Outcome) {
        let mut attempts = Vec::with_capacity(pods.len());
        let (mut outcome, mut preempting) = (Outcome::Unschedulable, false);
        let mut pods = pods.into_iter();
        for queued in pods.by_ref() {
            self.cache.update_snapshot(snapshot);
            let attempt = self.attempt_one(profile, queued, decider, snapshot, started);
            match &attempt {
                Attempt::Placed { binding, preempts } => {
                    preempting |= preempts;
                    if binding.waits.is_empty() {
                        outcome = if preempting { Outcome::Preempting } else { Outcome::Scheduled };
                    }
                }
                Attempt::Failed { failure: Failure::Error(status), .. } => {
                    let error = format!("failed to schedule other pod from a pod group: {}", status.message());
                    outcome = Outcome::Error(error);
                }
                Attempt::Failed { .. } => {}
            }
            attempts.push(attempt);
            if matches!(outcome, Outcome::Error(_)) {
                break;
            }
        }
        if let Outcome::Error(error) = &outcome {
            attempts.extend(pods.map(|queued| Attempt::Failed {
                queued: Box::new(queued),
                failure: Failure::Error(Status::error("", error.clone())),
            }));
        }
        if !matches!(outcome, Outcome::Scheduled) {
            for attempt in &attempts {
                if let Attempt::Placed { binding, .. } = attempt {
                    profile.run_unreserve(&binding.assumed, &binding.node);
                    self.forget(&binding.assumed);
                }
            }
        }
        (attempts, outcome)
    }

    fn attempt_one(
        self: &Arc<Self>,
        profile: &Arc<Profile>,
        queued: QueuedPod,
        decider: &mut Decider,
        snapshot: &Snapshot,
        started: Instant,
    ) -> Attempt {
        let failed = |queued, failure| Attempt::Failed { queued: Box::new(queued), failure };
        let (decision, preempts) = match decider.decide(profile, snapshot, &queued.pod, &self.queue.nominator) {
            Ok(decision) => (decision, false),
            // Those after it must see it where it will be once its victims are gone.
            Err(Failure::Unfit { nominate: Some(Some(node)), diagnosis, nodes }) => match snapshot.by_name.get(&node) {
                Some(slot) => (Decision { slot: *slot, node, evaluated: nodes, feasible: 0 }, true),
                None => return failed(queued, Failure::Unfit { diagnosis, nodes, nominate: Some(None) }),
            },
            Err(failure) => return failed(queued, failure),
        };
        match self.commit(profile, queued.clone(), &decision, snapshot, started) {
            Ok(binding) => Attempt::Placed { binding: Box::new(binding), preempts },
            Err(failure) => failed(queued, failure),
        }
    }
}

/// Why a pod that has a node is not bound.
fn withheld(outcome: &Outcome, binding: &Binding, preempts: bool) -> Failure {
    match outcome {
        Outcome::Error(error) => Failure::Error(Status::error("", error.clone())),
        Outcome::Preempting => Failure::Group { message: PREEMPTING.into(), nominate: Some(binding.node.clone()) },
        Outcome::Scheduled | Outcome::Unschedulable => {
            let waits = binding.waits.iter().any(|(plugin, _)| *plugin == gang_scheduling::NAME);
            let message = if waits && !preempts { gang_scheduling::WAITING } else { UNSCHEDULABLE };
            Failure::Group { message: message.into(), nominate: None }
        }
    }
}

/// The group's condition PodGroupScheduled.
fn condition(status: &str, reason: &str, message: &str) -> Condition {
    Condition {
        type_: "PodGroupScheduled".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Time(Timestamp::now()),
        observed_generation: None,
    }
}
