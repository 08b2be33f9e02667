//! The ordered log of what was just committed, shared by all watches of a store.
//!
//! A store publishes each commit once, in revision order; every watch is a position in the bounded ring, so publishing
//! costs the same with one watch or sixty, and "has this watch seen revision N" needs no event of its own prefix. A
//! watch without undelivered events counts as having seen everything, so idle ones never fall behind.
//! Who falls behind the ring reads history from the store and comes back.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{ProgressRequest, Revision, StoreError, StoreEvent, WatchBatch};

/// What is kept for watches that are behind.
const MAX_EVENTS: usize = 4096;
const MAX_BYTES: usize = 8 << 20;
/// What is kept when none is, for watches that are just starting.
const IDLE_EVENTS: usize = 256;
const BATCH_EVENTS: usize = 1000;

/// The log.
pub(crate) struct Hub {
    state: Mutex<State>,
    published: AtomicU64,
}

struct State {
    ring: VecDeque<StoreEvent>,
    bytes: usize,
    /// Every event after this revision is in the ring.
    floor: Revision,
    published: Revision,
    subscribers: Vec<Arc<Subscriber>>,
    closed: Option<StoreError>,
}

struct Subscriber {
    prefix: Box<str>,
    wake: Notify,
    /// Report when this revision is published, even without events; 0 when nobody asks.
    wanted: AtomicU64,
    /// Whether events of the prefix may wait to be delivered; only changed under the log's lock.
    pending: AtomicBool,
    /// Nothing of the prefix happened up to here since the last delivery.
    skip_to: AtomicU64,
}

/// One watch's position in the log.
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    subscriber: Arc<Subscriber>,
    /// Everything up to here has been delivered.
    pub position: Revision,
}

/// What a subscription finds next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Events, or a progress report.
    Batch(WatchBatch),
    /// The ring no longer holds the position; read history.
    Lagged,
    /// The log ended.
    Closed(StoreError),
}

impl Hub {
    /// A log whose past (up to `revision`) is history.
    pub fn new(revision: Revision) -> Arc<Self> {
        let state = State {
            ring: VecDeque::new(),
            bytes: 0,
            floor: revision,
            published: revision,
            subscribers: Vec::new(),
            closed: None,
        };
        Arc::new(Self { state: Mutex::new(state), published: AtomicU64::new(revision) })
    }

    /// The newest revision that watches can see.
    pub fn published(&self) -> Revision {
        self.published.load(Ordering::Acquire)
    }

    /// Appends events (ascending) and moves the log to `revision`.
    pub fn publish(&self, events: Vec<StoreEvent>, revision: Revision) {
        let mut state = self.state.lock();
        let revision = revision.max(state.published);
        if revision == state.published && events.is_empty() {
            return;
        }
        let behind = state.subscribers.iter().any(|subscriber| subscriber.pending.load(Ordering::Acquire));
        state.trim(if behind { MAX_EVENTS } else { IDLE_EVENTS });
        let before = std::mem::replace(&mut state.published, revision);
        self.published.store(revision, Ordering::Release);
        for subscriber in &state.subscribers {
            let wanted = subscriber.wanted.load(Ordering::Acquire);
            let concerned = events.iter().any(|event| event.key().starts_with(&*subscriber.prefix));
            if concerned && !subscriber.pending.swap(true, Ordering::AcqRel) {
                subscriber.skip_to.store(before, Ordering::Release);
            }
            if concerned || (wanted != 0 && wanted <= revision) {
                subscriber.wake.notify_one();
            }
        }
        for event in events {
            state.bytes += weight(&event);
            state.ring.push_back(event);
        }
        state.trim(MAX_EVENTS);
    }

    /// Forgets the ring, so that every watch goes through history: after events may have been missed.
    pub fn reset(&self, revision: Revision) {
        let mut state = self.state.lock();
        state.ring.clear();
        state.bytes = 0;
        state.floor = revision;
        state.published = revision;
        self.published.store(revision, Ordering::Release);
        for subscriber in &state.subscribers {
            subscriber.pending.store(true, Ordering::Release);
            subscriber.skip_to.store(0, Ordering::Release);
        }
        state.wake_all();
    }

    /// Drops events up to a compacted revision, so that who still needs them hears of the compaction.
    pub fn forget(&self, compacted: Revision) {
        let mut state = self.state.lock();
        while let Some(event) = state.ring.pop_front_if(|event| event.revision() <= compacted) {
            state.bytes = state.bytes.saturating_sub(weight(&event));
        }
        state.floor = state.floor.max(compacted);
    }

    /// Ends every watch with `error`.
    pub fn close(&self, error: StoreError) {
        let mut state = self.state.lock();
        state.closed = Some(error);
        state.wake_all();
    }

    /// A watch of `prefix` that has seen everything up to `after`.
    pub fn subscribe(self: &Arc<Self>, prefix: &str, after: Revision) -> Subscription {
        let mut state = self.state.lock();
        let subscriber = Arc::new(Subscriber {
            prefix: prefix.into(),
            wake: Notify::new(),
            wanted: AtomicU64::new(0),
            pending: AtomicBool::new(after < state.published),
            skip_to: AtomicU64::new(0),
        });
        state.subscribers.push(subscriber.clone());
        drop(state);
        Subscription { hub: self.clone(), subscriber, position: after }
    }
}

impl State {
    fn trim(&mut self, events: usize) {
        while self.ring.len() > events || self.bytes > MAX_BYTES {
            let Some(event) = self.ring.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(weight(&event));
            self.floor = event.revision();
        }
    }

    fn wake_all(&self) {
        for subscriber in &self.subscribers {
            subscriber.wake.notify_one();
        }
    }

    /// Where a subscriber stands, given what it was last delivered.
    fn position(&self, subscriber: &Subscriber, delivered: Revision) -> Revision {
        let pending = subscriber.pending.load(Ordering::Acquire);
        delivered.max(if pending { subscriber.skip_to.load(Ordering::Acquire) } else { self.published })
    }

    fn next(&self, subscriber: &Subscriber, delivered: Revision) -> Option<Next> {
        if let Some(error) = &self.closed {
            return Some(Next::Closed(error.clone()));
        }
        let position = self.position(subscriber, delivered);
        if position < self.floor {
            return Some(Next::Lagged);
        }
        let mut complete = true;
        let mut events: Vec<StoreEvent> = Vec::new();
        let mut revision = self.published.max(position);
        let first = self.ring.partition_point(|event| event.revision() <= position);
        for event in self.ring.range(first..).filter(|event| event.key().starts_with(&*subscriber.prefix)) {
            // Events of one transaction share a revision and must stay together.
            if events.len() >= BATCH_EVENTS
                && let Some(last) = events.last()
                && last.revision() != event.revision()
            {
                revision = last.revision();
                complete = false;
                break;
            }
            events.push(event.clone());
        }
        if complete {
            subscriber.pending.store(false, Ordering::Release);
        }
        let wanted = subscriber.wanted.load(Ordering::Acquire);
        let report = wanted != 0 && wanted <= revision;
        (report || !events.is_empty()).then_some(Next::Batch(WatchBatch { revision, events }))
    }
}

impl Subscription {
    /// Waits for what comes next and moves the position behind it.
    pub async fn next(&mut self) -> Next {
        loop {
            // A permit stored by `notify_one` between the look and the wait is kept by `Notify`.
            let found = self.hub.state.lock().next(&self.subscriber, self.position);
            match found {
                Some(Next::Batch(batch)) => {
                    self.reached(batch.revision);
                    return Next::Batch(batch);
                }
                Some(other) => return other,
                None => self.subscriber.wake.notified().await,
            }
        }
    }

    /// Records that everything up to `revision` was delivered, by whatever means.
    pub fn reached(&mut self, revision: Revision) {
        self.position = self.position.max(revision);
        let wanted = self.subscriber.wanted.load(Ordering::Acquire);
        if wanted != 0 && wanted <= self.position {
            // Keep a newer wish that came in between.
            let _ = self.subscriber.wanted.compare_exchange(wanted, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Whether the ring reaches back to the position.
    pub fn reachable(&self) -> bool {
        let state = self.hub.state.lock();
        state.position(&self.subscriber, self.position) >= state.floor
    }

    /// The revision that somebody waits for, 0 when nobody does.
    pub fn wanted(&self) -> Revision {
        self.subscriber.wanted.load(Ordering::Acquire)
    }

    /// The handle through which the watcher asks for progress.
    pub fn progress(&self) -> ProgressRequest {
        let subscriber = self.subscriber.clone();
        ProgressRequest::new(move |revision| {
            subscriber.wanted.fetch_max(revision.max(1), Ordering::AcqRel);
            subscriber.wake.notify_one();
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.state.lock().subscribers.retain(|other| !Arc::ptr_eq(other, &self.subscriber));
    }
}

fn weight(event: &StoreEvent) -> usize {
    64 + event.key().len()
        + match event {
            StoreEvent::Put(kv) => kv.value.len(),
            StoreEvent::Delete { .. } => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deletion(key: &str, revision: Revision) -> StoreEvent {
        StoreEvent::Delete { key: key.into(), revision }
    }

    #[tokio::test]
    async fn only_the_prefix_and_only_what_is_new() {
        let hub = Hub::new(5);
        let mut watch = hub.subscribe("/a/", 6);
        hub.publish(vec![deletion("/a/1", 6), deletion("/b/1", 7), deletion("/a/2", 8)], 8);
        let Next::Batch(batch) = watch.next().await else { panic!("expected a batch") };
        assert_eq!((batch.revision, batch.events), (8, vec![deletion("/a/2", 8)]));
        watch.progress().request(9);
        hub.publish(vec![deletion("/b/2", 9)], 9);
        let Next::Batch(batch) = watch.next().await else { panic!("expected progress") };
        assert_eq!((batch.revision, batch.events), (9, vec![]));
    }

    #[tokio::test]
    async fn the_idle_do_not_lag() {
        let hub = Hub::new(0);
        let mut watch = hub.subscribe("/a/", 0);
        let last = 2 * MAX_EVENTS as u64;
        for revision in 1..=last {
            hub.publish(vec![deletion("/b/1", revision)], revision);
        }
        hub.forget(last);
        hub.publish(vec![deletion("/a/1", last + 1)], last + 1);
        let Next::Batch(batch) = watch.next().await else { panic!("expected a batch") };
        assert_eq!((batch.events.len(), batch.revision), (1, last + 1));
    }

    #[tokio::test]
    async fn the_slow_lag_and_the_closed_end() {
        let hub = Hub::new(0);
        let mut watch = hub.subscribe("/a/", 0);
        for revision in 1..=(MAX_EVENTS as u64 + 1) {
            hub.publish(vec![deletion("/a/1", revision)], revision);
        }
        assert!(matches!(watch.next().await, Next::Lagged));
        watch.reached(1);
        let Next::Batch(batch) = watch.next().await else { panic!("expected a batch") };
        assert_eq!((batch.events.len(), batch.revision), (BATCH_EVENTS, BATCH_EVENTS as u64 + 1));
        hub.close(StoreError::Closed);
        assert!(matches!(watch.next().await, Next::Closed(StoreError::Closed)));
    }
}
