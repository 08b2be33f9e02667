//! Where a queued pod is: exactly one of the active heap, the two back-off heaps and the unschedulable pool.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::QueuedPod;
use crate::framework::plugin::Rank;

/// The pool of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Ready to be scheduled.
    Active,
    /// Waiting out its back-off after being unschedulable.
    Backoff,
    /// Waiting out its back-off after an error; never taken early.
    ErrorBackoff,
    /// Waiting for an event (or gated).
    Unschedulable,
}

impl Pool {
    /// The metric label of the pool.
    pub fn label(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Backoff | Self::ErrorBackoff => "backoff",
            Self::Unschedulable => "unschedulable",
        }
    }
}

type Key = (Duration, Rank, Arc<str>);

#[derive(Clone)]
struct Entry {
    pool: Pool,
    key: Key,
    pod: QueuedPod,
}

/// All queued pods.
#[derive(Default)]
pub struct Pools {
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeSet<Key>,
    backoff: BTreeSet<Key>,
    error_backoff: BTreeSet<Key>,
    unschedulable: BTreeSet<Arc<str>>,
    gated: usize,
}

impl Pools {
    fn heap(&mut self, pool: Pool) -> Option<&mut BTreeSet<Key>> {
        match pool {
            Pool::Active => Some(&mut self.active),
            Pool::Backoff => Some(&mut self.backoff),
            Pool::ErrorBackoff => Some(&mut self.error_backoff),
            Pool::Unschedulable => None,
        }
    }

    /// Puts a pod into a pool. `expiry` orders the back-off heaps, `rank` the active one.
    pub fn put(&mut self, pod: QueuedPod, pool: Pool, expiry: Duration, rank: Rank) {
        let uid = pod.pod.uid.clone();
        self.take(&uid);
        let first = if pool == Pool::Active { Duration::ZERO } else { expiry };
        let key = (first, rank, uid.clone());
        match self.heap(pool) {
            Some(heap) => {
                heap.insert(key.clone());
            }
            None => {
                self.unschedulable.insert(uid.clone());
                self.gated += usize::from(pod.gated_by.is_some());
            }
        }
        self.entries.insert(uid, Entry { pool, key, pod });
    }

    /// Takes a pod out of whatever pool it is in.
    pub fn take(&mut self, uid: &str) -> Option<(QueuedPod, Pool)> {
        let entry = self.entries.remove(uid)?;
        match self.heap(entry.pool) {
            Some(heap) => {
                heap.remove(&entry.key);
            }
            None => {
                self.unschedulable.remove(uid);
                self.gated -= usize::from(entry.pod.gated_by.is_some());
            }
        }
        Some((entry.pod, entry.pool))
    }

    /// A pod and its pool.
    pub fn get(&self, uid: &str) -> Option<(&QueuedPod, Pool)> {
        self.entries.get(uid).map(|entry| (&entry.pod, entry.pool))
    }

    /// The next pod to schedule: the best active one, else the one whose back-off ends first.
    pub fn pop(&mut self) -> Option<QueuedPod> {
        let uid = self.active.first().or_else(|| self.backoff.first()).map(|key| key.2.clone())?;
        self.take(&uid).map(|(pod, _)| pod)
    }

    /// Pods whose back-off ended before `now`, rounded to the window as `expired` says.
    pub fn expired(&self, expired: impl Fn(&QueuedPod) -> bool) -> Vec<Arc<str>> {
        [&self.backoff, &self.error_backoff]
            .into_iter()
            .flat_map(|heap| heap.iter().take_while(|key| self.entries.get(&key.2).is_some_and(|e| expired(&e.pod))))
            .map(|key| key.2.clone())
            .collect()
    }

    /// The pods in the unschedulable pool.
    pub fn unschedulable(&self) -> impl Iterator<Item = &QueuedPod> {
        self.unschedulable.iter().filter_map(|uid| self.entries.get(uid)).map(|entry| &entry.pod)
    }

    /// Every pod.
    pub fn all(&self) -> impl Iterator<Item = &QueuedPod> {
        self.entries.values().map(|entry| &entry.pod)
    }

    /// Numbers of active, backing-off, unschedulable and gated pods.
    pub fn sizes(&self) -> [(&'static str, usize); 4] {
        [
            ("active", self.active.len()),
            ("backoff", self.backoff.len() + self.error_backoff.len()),
            ("unschedulable", self.unschedulable.len() - self.gated),
            ("gated", self.gated),
        ]
    }
}
