//! The scheduling queue: which pod is next, and which failed pod is worth another try after an event.
//!
//! A pod that fails goes to the unschedulable pool and stays there until a plugin that rejected it says that an event may
//! help (queueing hints), or five minutes pass. Then it waits out its back-off and becomes active again. Errors skip the pool
//! and only back off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

pub mod backoff;
pub mod clock;
pub mod in_flight;
pub mod nominator;
pub mod pools;

#[cfg(test)]
mod tests;

use self::backoff::Backoff;
use self::clock::Clock;
use self::in_flight::InFlight;
use self::nominator::Nominator;
use self::pools::{Pool, Pools};
use crate::framework::events::{self, ClusterEvent, Hint, Resource, action};
use crate::framework::plugin::Rank;
use crate::framework::pod::PodInfo;
use crate::framework::status::Verdict;
use crate::metrics;

/// A pod and the history of its attempts.
#[derive(Clone, Debug)]
pub struct QueuedPod {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// When it was last added to the queue.
    pub queued_at: Duration,
    /// When it first became active.
    pub first_active: Option<Duration>,
    /// Attempts so far.
    pub attempts: u32,
    /// Times it was unschedulable.
    pub unschedulable_count: u32,
    /// Errors in a row.
    pub consecutive_errors: u32,
    /// Plugins that rejected it last time.
    pub unschedulable_plugins: BTreeSet<&'static str>,
    /// Plugins that wait for something.
    pub pending_plugins: BTreeSet<&'static str>,
    /// The PreEnqueue plugin that holds it back.
    pub gated_by: Option<&'static str>,
    /// Whether it came back only because of the five-minute flush.
    pub flushed: bool,
}

/// What the queue asks of the profiles.
pub trait Hooks: Send + Sync {
    /// Runs PreEnqueue, the plugin `first` before all others.
    fn pre_enqueue(&self, pod: &PodInfo, first: Option<&str>) -> Verdict;
    /// The order of the active queue.
    fn rank(&self, pod: &QueuedPod) -> Rank;
    /// Whether any plugin wants to hear of the event.
    fn interested(&self, event: &ClusterEvent) -> bool;
    /// What `plugin` (of the pod's profile) says to the event; `None` when it does not listen to it.
    fn hint(&self, pod: &PodInfo, plugin: &str, event: &ClusterEvent) -> Option<Hint>;
}

/// What to do with a pod after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Requeue {
    Skip,
    AfterBackoff,
    Immediately,
}

/// The queue.
pub struct SchedulingQueue {
    inner: Mutex<Inner>,
    ready: Condvar,
    hooks: Arc<dyn Hooks>,
    clock: Arc<dyn Clock>,
    backoff: Backoff,
    max_unschedulable: Duration,
    /// Pods nominated to nodes.
    pub nominator: Nominator,
}

#[derive(Default)]
struct Inner {
    pools: Pools,
    in_flight: InFlight,
    closed: bool,
}

impl SchedulingQueue {
    /// An empty queue.
    pub fn new(hooks: Arc<dyn Hooks>, clock: Arc<dyn Clock>, backoff: Backoff, max_unschedulable: Duration) -> Self {
        Self {
            inner: Mutex::default(),
            ready: Condvar::new(),
            hooks,
            clock,
            backoff,
            max_unschedulable,
            nominator: Nominator::default(),
        }
    }

    /// The queue's clock.
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// A new pod.
    pub fn add(&self, pod: Arc<PodInfo>) {
        let mut inner = self.inner.lock();
        let queued = self.fresh(pod);
        self.activate_pod(&mut inner, queued, "UnschedulablePodAdd");
    }

    fn fresh(&self, pod: Arc<PodInfo>) -> QueuedPod {
        QueuedPod {
            pod,
            queued_at: self.clock.now(),
            first_active: None,
            attempts: 0,
            unschedulable_count: 0,
            consecutive_errors: 0,
            unschedulable_plugins: BTreeSet::new(),
            pending_plugins: BTreeSet::new(),
            gated_by: None,
            flushed: false,
        }
    }

    /// A waiting pod changed.
    pub fn update(&self, old: &Arc<PodInfo>, new: Arc<PodInfo>) {
        let mut inner = self.inner.lock();
        let changes = events::pod_changes(old, &new);
        if inner.in_flight.contains(&new.uid) {
            changes.iter().for_each(|event| inner.in_flight.record(event));
            return;
        }
        let Some((mut queued, pool)) = inner.pools.take(&new.uid) else {
            let queued = self.fresh(new);
            self.activate_pod(&mut inner, queued, "UnschedulablePodUpdate");
            return;
        };
        self.nominator.update(old, &new);
        queued.pod = new;
        if pool != Pool::Unschedulable {
            self.put(&mut inner, queued, pool);
            return;
        }
        let verdict = changes
            .iter()
            .map(|event| (self.worth_requeuing(&queued, event), event.label))
            .find(|(requeue, _)| *requeue != Requeue::Skip);
        match verdict {
            Some((requeue, label)) => self.requeue(&mut inner, queued, requeue, label),
            None => self.put(&mut inner, queued, Pool::Unschedulable),
        }
    }

    /// A waiting pod is gone (or bound by someone).
    pub fn delete(&self, uid: &str) {
        let mut inner = self.inner.lock();
        self.nominator.remove(uid);
        if let Some((queued, _)) = inner.pools.take(uid) {
            metrics::count_reasons(&queued, -1);
        }
    }

    /// Waits for the next pod; `None` once the queue is closed.
    pub fn pop(&self) -> Option<QueuedPod> {
        let mut inner = self.inner.lock();
        loop {
            if inner.closed {
                return None;
            }
            if let Some(queued) = self.pop_locked(&mut inner) {
                return Some(queued);
            }
            self.ready.wait(&mut inner);
        }
    }

    /// The next pod if there is one now.
    pub fn try_pop(&self) -> Option<QueuedPod> {
        let mut inner = self.inner.lock();
        self.pop_locked(&mut inner)
    }

    /// This very pod, wherever it waits; not when it is gated or on its way.
    pub fn pop_this(&self, uid: &str) -> Option<QueuedPod> {
        let mut inner = self.inner.lock();
        inner.pools.get(uid).filter(|(queued, _)| queued.gated_by.is_none())?;
        let (queued, _) = inner.pools.take(uid)?;
        Some(self.begin(&mut inner, queued))
    }

    fn pop_locked(&self, inner: &mut Inner) -> Option<QueuedPod> {
        let queued = inner.pools.pop()?;
        Some(self.begin(inner, queued))
    }

    /// Starts an attempt.
    fn begin(&self, inner: &mut Inner, mut queued: QueuedPod) -> QueuedPod {
        queued.attempts += 1;
        if queued.first_active.is_none() {
            queued.first_active = Some(self.clock.now());
        }
        metrics::count_reasons(&queued, -1);
        inner.in_flight.begin(queued.pod.uid.clone());
        queued
    }

    /// The attempt on a pod ended with nothing to put back.
    pub fn done(&self, uid: &str) {
        self.inner.lock().in_flight.end(uid);
    }

    /// The attempt failed; `queued` carries the plugins that rejected the pod (none of them means an error).
    pub fn add_unschedulable(&self, mut queued: QueuedPod) {
        let mut inner = self.inner.lock();
        let uid = queued.pod.uid.clone();
        if inner.pools.get(&uid).is_some() {
            inner.in_flight.end(&uid);
            return;
        }
        let error = queued.unschedulable_plugins.is_empty() && queued.pending_plugins.is_empty();
        if error {
            queued.consecutive_errors += 1;
        } else {
            queued.unschedulable_count += 1;
            queued.consecutive_errors = 0;
        }
        queued.queued_at = self.clock.now();
        queued.flushed = false;
        metrics::count_reasons(&queued, 1);
        let mut requeue = if error { Requeue::AfterBackoff } else { Requeue::Skip };
        for event in inner.in_flight.since(&uid) {
            match self.worth_requeuing(&queued, event) {
                Requeue::Skip => {}
                Requeue::AfterBackoff => requeue = Requeue::AfterBackoff,
                Requeue::Immediately => {
                    requeue = Requeue::Immediately;
                    break;
                }
            }
        }
        self.requeue(&mut inner, queued, requeue, "ScheduleAttemptFailure");
        inner.in_flight.end(&uid);
    }

    /// Something happened: pods that it may help leave the unschedulable pool. `only` narrows the pods asked.
    pub fn on_event(&self, event: &ClusterEvent, only: impl Fn(&PodInfo) -> bool) {
        if !self.hooks.interested(event) {
            return;
        }
        let mut inner = self.inner.lock();
        inner.in_flight.record(event);
        let worth: Vec<_> = inner
            .pools
            .unschedulable()
            .filter(|queued| only(&queued.pod))
            .filter(|queued| self.gate_listens(queued, event))
            .map(|queued| (queued.pod.uid.clone(), self.worth_requeuing(queued, event)))
            .filter(|(_, requeue)| *requeue != Requeue::Skip)
            .collect();
        for (uid, requeue) in worth {
            if let Some((queued, _)) = inner.pools.take(&uid) {
                self.requeue(&mut inner, queued, requeue, event.label);
            }
        }
    }

    /// A gated pod is only reconsidered for events that its gate listens to.
    fn gate_listens(&self, queued: &QueuedPod, event: &ClusterEvent) -> bool {
        queued.gated_by.is_none_or(|gate| {
            event.resource == Resource::WildCard || self.hooks.hint(&queued.pod, gate, event).is_some()
        })
    }

    /// Makes pods active at once, whatever they wait for (but gates).
    pub fn activate(&self, uids: &[Arc<str>]) {
        let mut inner = self.inner.lock();
        for uid in uids {
            if inner.in_flight.contains(uid) {
                inner.in_flight.record(&ClusterEvent::bare(Resource::WildCard, action::ALL, "ForceActivate"));
            } else if let Some((queued, _)) = inner.pools.take(uid) {
                self.activate_pod(&mut inner, queued, "ForceActivate");
            }
        }
    }

    /// Moves pods whose back-off is over to the active queue. Call every second.
    pub fn flush_backoff(&self) {
        let mut inner = self.inner.lock();
        let now = self.clock.now();
        for uid in inner.pools.expired(|queued| !self.backoff.waits(queued, now)) {
            if let Some((queued, _)) = inner.pools.take(&uid) {
                self.put(&mut inner, queued, Pool::Active);
            }
        }
    }

    /// Gives pods that waited too long for an event another try. Call every 30 seconds.
    pub fn flush_unschedulable(&self) {
        let mut inner = self.inner.lock();
        let now = self.clock.now();
        let late: Vec<_> = inner
            .pools
            .unschedulable()
            .filter(|queued| now.saturating_sub(queued.queued_at) > self.max_unschedulable)
            .map(|queued| queued.pod.uid.clone())
            .collect();
        for uid in late {
            if let Some((mut queued, _)) = inner.pools.take(&uid) {
                queued.flushed = true;
                self.requeue(&mut inner, queued, Requeue::AfterBackoff, "UnschedulableTimeout");
            }
        }
    }

    /// Wakes and ends every [`Self::pop`].
    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.ready.notify_all();
    }

    /// Every queued pod, in no order.
    pub fn pending(&self) -> Vec<Arc<PodInfo>> {
        self.inner.lock().pools.all().map(|queued| queued.pod.clone()).collect()
    }

    /// Pods per pool, for the metric and for tests.
    pub fn sizes(&self) -> [(&'static str, usize); 4] {
        self.inner.lock().pools.sizes()
    }

    fn worth_requeuing(&self, queued: &QueuedPod, event: &ClusterEvent) -> Requeue {
        if queued.unschedulable_plugins.is_empty() && queued.pending_plugins.is_empty() {
            return Requeue::AfterBackoff;
        }
        if event.resource == Resource::WildCard {
            return match event.pods().1 {
                Some(target) if target.uid != queued.pod.uid => Requeue::Skip,
                _ => Requeue::AfterBackoff,
            };
        }
        let says_queue = |plugin: &&&'static str| self.hooks.hint(&queued.pod, plugin, event) == Some(Hint::Queue);
        if queued.pending_plugins.iter().any(|plugin| says_queue(&plugin)) {
            return Requeue::Immediately;
        }
        let any = queued.unschedulable_plugins.iter().any(|plugin| says_queue(&plugin));
        if any { Requeue::AfterBackoff } else { Requeue::Skip }
    }

    fn requeue(&self, inner: &mut Inner, queued: QueuedPod, requeue: Requeue, why: &str) {
        match requeue {
            Requeue::Skip => {
                metrics::INCOMING_PODS.with_label_values(&["unschedulable", why]).inc();
                self.put(inner, queued, Pool::Unschedulable);
            }
            Requeue::AfterBackoff if self.backoff.waits(&queued, self.clock.now()) => {
                let error = queued.unschedulable_plugins.is_empty() && queued.pending_plugins.is_empty();
                let pool = if error { Pool::ErrorBackoff } else { Pool::Backoff };
                self.enter(inner, queued, pool, why);
            }
            Requeue::AfterBackoff | Requeue::Immediately => self.activate_pod(inner, queued, why),
        }
    }

    fn activate_pod(&self, inner: &mut Inner, queued: QueuedPod, why: &str) {
        if why.starts_with("UnschedulablePod") {
            self.nominator.set(&queued.pod, None);
        }
        self.enter(inner, queued, Pool::Active, why);
    }

    /// Runs PreEnqueue and puts the pod where it belongs.
    fn enter(&self, inner: &mut Inner, mut queued: QueuedPod, pool: Pool, why: &str) {
        match self.hooks.pre_enqueue(&queued.pod, queued.gated_by) {
            Ok(()) => {
                queued.gated_by = None;
                if pool == Pool::Active {
                    queued.first_active.get_or_insert(self.clock.now());
                }
                metrics::INCOMING_PODS.with_label_values(&[pool.label(), why]).inc();
                self.put(inner, queued, pool);
            }
            Err(status) => {
                queued.gated_by = Some(status.plugin);
                if queued.unschedulable_plugins.insert(status.plugin) {
                    metrics::count_reason(status.plugin, &queued.pod.template.scheduler_name, 1);
                }
                metrics::INCOMING_PODS.with_label_values(&["gated", why]).inc();
                self.put(inner, queued, Pool::Unschedulable);
            }
        }
    }

    fn put(&self, inner: &mut Inner, queued: QueuedPod, pool: Pool) {
        let expiry = self.backoff.expiry(&queued);
        let rank = self.hooks.rank(&queued);
        inner.pools.put(queued, pool, expiry, rank);
        if pool != Pool::Unschedulable {
            self.ready.notify_one();
        }
    }
}
