//! Who is woken by which event: watchers wait in buckets, so that a kubelet's watch does not wake for other nodes' pods.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Selection, ring::CacheEvent};

/// The selectable field whose equality gets its own buckets.
const INDEXED_FIELD: &str = "spec.nodeName";

/// What a watcher can be woken by; the narrowest that covers its selection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum WakeKey {
    All,
    Namespace(Box<str>),
    Name(Box<str>),
    Field(Box<str>),
}

impl WakeKey {
    fn of(selection: &Selection) -> Self {
        if let Some(name) = selection.name.as_deref().or_else(|| selection.required("metadata.name")) {
            return Self::Name(name.into());
        }
        if let Some(value) = selection.required(INDEXED_FIELD) {
            return Self::Field(value.into());
        }
        match selection.namespace.as_deref().or_else(|| selection.required("metadata.namespace")) {
            Some(namespace) => Self::Namespace(namespace.into()),
            None => Self::All,
        }
    }
}

type Buckets = HashMap<WakeKey, (Arc<Notify>, usize)>;

/// The buckets of one cache.
#[derive(Default)]
pub(super) struct Wakers(Mutex<Buckets>);

/// A watcher's place in a bucket.
pub(super) struct Place {
    wakers: Arc<Wakers>,
    key: WakeKey,
    pub notify: Arc<Notify>,
}

impl Wakers {
    pub fn join(self: &Arc<Self>, selection: &Selection) -> Place {
        let key = WakeKey::of(selection);
        let mut buckets = self.0.lock();
        let bucket = buckets.entry(key.clone()).or_default();
        bucket.1 += 1;
        Place { wakers: self.clone(), key, notify: bucket.0.clone() }
    }

    /// Wakes those whom one of the events may concern.
    pub fn wake(&self, events: &[Arc<CacheEvent>]) {
        let buckets = self.0.lock();
        if buckets.is_empty() {
            return;
        }
        let wake = |key: &WakeKey| buckets.get(key).inspect(|bucket| bucket.0.notify_waiters());
        wake(&WakeKey::All);
        if buckets.len() == 1 && buckets.contains_key(&WakeKey::All) {
            return;
        }
        for state in events.iter().flat_map(|event| event.states()) {
            wake(&WakeKey::Namespace(state.namespace().into()));
            wake(&WakeKey::Name(state.name().into()));
            if let Some(value) = state.field(INDEXED_FIELD) {
                wake(&WakeKey::Field(value.into()));
            }
        }
    }

    /// Wakes everybody.
    pub fn wake_all(&self) {
        for (notify, _) in self.0.lock().values() {
            notify.notify_waiters();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut buckets = self.wakers.0.lock();
        if let Some(bucket) = buckets.get_mut(&self.key) {
            bucket.1 -= 1;
            if bucket.1 == 0 {
                buckets.remove(&self.key);
            }
        }
    }
}
