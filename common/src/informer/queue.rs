//! The controllers' work queue: a key waits at most once, runs at most once at a time, and runs again if added meanwhile.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::workers::QueueMetrics;

/// Upstream's defaults for retries of one item.
const BASE_DELAY: Duration = Duration::from_millis(5);
const MAX_DELAY: Duration = Duration::from_secs(1000);

struct Inner<T> {
    ready: VecDeque<T>,
    /// Wants a run: waiting in `ready`, or processing and added again.
    dirty: HashMap<T, Instant>,
    processing: HashMap<T, Instant>,
    /// Delayed adds by time; an entry counts only while `waiting` agrees with it.
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    waiting: HashMap<T, (Instant, u64)>,
    by_sequence: HashMap<u64, T>,
    sequence: u64,
    failures: HashMap<T, u32>,
    closed: bool,
}

/// A de-duplicating, delaying, rate-limited queue. Its size is bounded by the number of distinct keys.
pub struct WorkQueue<T> {
    inner: Mutex<Inner<T>>,
    notify: Notify,
    base_delay: Duration,
    max_delay: Duration,
    metrics: QueueMetrics,
}

impl<T: Clone + Eq + Hash + Send + 'static> WorkQueue<T> {
    /// A queue with upstream's retry delays (5 ms doubling up to 1000 s); the name labels its metrics.
    pub fn new(name: &str) -> Arc<Self> {
        Self::with_backoff(name, BASE_DELAY, MAX_DELAY)
    }

    /// A queue with other retry delays.
    pub fn with_backoff(name: &str, base_delay: Duration, max_delay: Duration) -> Arc<Self> {
        let inner = Inner {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashMap::new(),
            delayed: BinaryHeap::new(),
            waiting: HashMap::new(),
            by_sequence: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            closed: false,
        };
        let metrics = QueueMetrics::new(name);
        Arc::new(Self { inner: Mutex::new(inner), notify: Notify::new(), base_delay, max_delay, metrics })
    }

    /// Asks for a run of this item, now or after the run that is under way.
    pub fn add(&self, item: T) {
        let mut inner = self.inner.lock();
        self.add_locked(&mut inner, item);
    }

    fn add_locked(&self, inner: &mut Inner<T>, item: T) {
        if inner.closed || inner.dirty.contains_key(&item) {
            return;
        }
        self.metrics.added();
        inner.dirty.insert(item.clone(), Instant::now());
        if inner.processing.contains_key(&item) {
            return;
        }
        inner.ready.push_back(item);
        self.metrics.depth(inner.ready.len());
        self.notify.notify_one();
    }

    /// Asks for a run after a delay; of several delays for one item the shortest counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let at = Instant::now() + delay;
        let mut inner = self.inner.lock();
        if inner.closed || inner.waiting.get(&item).is_some_and(|(earlier, _)| *earlier <= at) {
            return;
        }
        inner.sequence += 1;
        let sequence = inner.sequence;
        if let Some((_, stale)) = inner.waiting.insert(item.clone(), (at, sequence)) {
            inner.by_sequence.remove(&stale);
        }
        inner.by_sequence.insert(sequence, item);
        inner.delayed.push(Reverse((at, sequence)));
        self.notify.notify_one();
    }

    /// Asks for a run after the item's back-off, which doubles until [`Self::forget`].
    pub fn add_rate_limited(&self, item: T) {
        let delay = {
            let mut inner = self.inner.lock();
            let failures = inner.failures.entry(item.clone()).or_insert(0);
            let delay = self.base_delay.saturating_mul(1u32.checked_shl((*failures).min(31)).unwrap_or(u32::MAX));
            *failures = failures.saturating_add(1);
            delay.min(self.max_delay)
        };
        self.metrics.retried();
        self.add_after(item, delay);
    }

    /// Resets the item's back-off; call it when a run succeeded.
    pub fn forget(&self, item: &T) {
        self.inner.lock().failures.remove(item);
    }

    /// How often the item went through [`Self::add_rate_limited`] since it was forgotten.
    pub fn num_requeues(&self, item: &T) -> u32 {
        self.inner.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// How many items wait for a worker.
    pub fn len(&self) -> usize {
        self.inner.lock().ready.len()
    }

    /// Whether nothing waits for a worker.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next item to work on; give it back with [`Self::done`]. None when the queue is shut down and empty.
    pub async fn next(&self) -> Option<T> {
        loop {
            let notified = self.notify.notified();
            let wake_at = {
                let mut inner = self.inner.lock();
                let wake_at = self.release_due(&mut inner);
                if let Some(item) = self.take(&mut inner) {
                    return Some(item);
                }
                if inner.closed {
                    // Pass the wake-up on to the other workers.
                    self.notify.notify_one();
                    return None;
                }
                wake_at
            };
            match wake_at {
                Some(at) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => notified.await,
            }
        }
    }

    fn take(&self, inner: &mut Inner<T>) -> Option<T> {
        let item = inner.ready.pop_front()?;
        self.metrics.depth(inner.ready.len());
        let now = Instant::now();
        if let Some(added) = inner.dirty.remove(&item) {
            self.metrics.queued_for(now - added);
        }
        inner.processing.insert(item.clone(), now);
        self.metrics.unfinished(inner.processing.values());
        if !inner.ready.is_empty() || !inner.delayed.is_empty() {
            self.notify.notify_one();
        }
        Some(item)
    }

    /// Moves delayed items whose time has come; tells when to look again.
    fn release_due(&self, inner: &mut Inner<T>) -> Option<Instant> {
        let now = Instant::now();
        while let Some(Reverse((at, sequence))) = inner.delayed.peek().copied() {
            if at > now && inner.by_sequence.contains_key(&sequence) {
                return Some(at);
            }
            inner.delayed.pop();
            if let Some(item) = inner.by_sequence.remove(&sequence) {
                inner.waiting.remove(&item);
                self.add_locked(inner, item);
            }
        }
        None
    }

    /// Ends the run of an item; if it was added meanwhile it runs again.
    pub fn done(&self, item: &T) {
        let mut inner = self.inner.lock();
        if let Some(started) = inner.processing.remove(item) {
            self.metrics.worked_for(started.elapsed());
        }
        self.metrics.unfinished(inner.processing.values());
        if inner.dirty.contains_key(item) {
            inner.ready.push_back(item.clone());
            self.metrics.depth(inner.ready.len());
            self.notify.notify_one();
        }
    }

    /// Refuses new items; [`Self::next`] hands out what is ready and then None.
    pub fn shut_down(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.delayed.clear();
        inner.waiting.clear();
        inner.by_sequence.clear();
        drop(inner);
        self.notify.notify_waiters();
        self.notify.notify_one();
    }

    /// The items that are being worked on (for health and tests).
    pub fn processing(&self) -> HashSet<T> {
        self.inner.lock().processing.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_run_per_key_and_again_when_added_meanwhile() {
        let queue = WorkQueue::new("test-dedupe");
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.len(), 0, "not handed out while it runs");
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
        queue.done(&"a");
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test]
    async fn delays_release_in_order_and_the_shortest_counts() {
        let queue = WorkQueue::new("test-delay");
        queue.add_after("late", Duration::from_millis(100));
        queue.add_after("soon", Duration::from_secs(6000));
        queue.add_after("soon", Duration::from_millis(5));
        assert_eq!(queue.next().await, Some("soon"));
        assert_eq!(queue.next().await, Some("late"));
        queue.done(&"soon");
        assert!(queue.inner.lock().waiting.is_empty(), "the longer delay is forgotten");
    }

    #[tokio::test]
    async fn backoff_doubles_until_forgotten() {
        let queue = WorkQueue::new("test-backoff");
        for round in 0..4u32 {
            let start = Instant::now();
            queue.add_rate_limited("a");
            assert_eq!(queue.next().await, Some("a"));
            assert!(start.elapsed() >= Duration::from_millis(5) * 2u32.pow(round));
            queue.done(&"a");
        }
        assert_eq!(queue.num_requeues(&"a"), 4);
        queue.forget(&"a");
        assert_eq!(queue.num_requeues(&"a"), 0);
    }

    #[tokio::test]
    async fn shut_down_drains_then_ends_every_worker() {
        let queue = WorkQueue::new("test-close");
        queue.add(1);
        queue.shut_down();
        queue.add(2);
        assert_eq!(queue.next().await, Some(1));
        let (left, right) = tokio::join!(queue.next(), queue.next());
        assert_eq!((left, right), (None, None));
    }
}
