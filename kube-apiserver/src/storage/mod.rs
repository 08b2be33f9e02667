//! Where objects live: the [`Store`] trait speaks etcd's language (revisions, ranges, compare-and-swap, watch from a
//! revision, time to live, compaction); `embedded` keeps it in a durable local file, `etcd` in an etcd cluster, and
//! [`cache`] answers reads and watches in front of either. Nothing outside this folder knows which store runs.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub mod cache;
pub mod codec;
pub mod embedded;
pub mod encryption;
mod error;
pub mod etcd;
mod hub;
mod metrics;

pub use error::StoreError;

/// A point in the store's history; every successful write makes the next one.
pub type Revision = u64;

/// How often a store forgets old revisions by itself (upstream's `--etcd-compaction-interval`).
pub const DEFAULT_COMPACTION_INTERVAL: Duration = Duration::from_secs(300);

/// One key as it was at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The full key, for example `/registry/pods/default/web-0`.
    pub key: Arc<str>,
    /// The stored bytes.
    pub value: Bytes,
    /// The revision that created the key (again, after a deletion).
    pub create_revision: Revision,
    /// The revision of the last change.
    pub mod_revision: Revision,
    /// Writes since creation, starting at 1.
    pub version: u64,
}

/// A half-open span of keys, `start <= key < end`; no `end` means all keys from `start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key that belongs to the range.
    pub start: String,
    /// The first key that no longer belongs to it.
    pub end: Option<String>,
}

impl KeyRange {
    /// All keys that start with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self { start: prefix.to_owned(), end: prefix_end(prefix) }
    }

    /// The keys of `prefix` from `start` on: what a continue token asks for.
    pub fn prefix_from(prefix: &str, start: &str) -> Self {
        Self { start: start.to_owned(), end: prefix_end(prefix) }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &str) -> bool {
        key >= self.start.as_str() && self.end.as_deref().is_none_or(|end| key < end)
    }
}

/// The first string after every string that starts with `prefix`.
fn prefix_end(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        if let Some(next) = ((last as u32 + 1)..=(char::MAX as u32)).find_map(char::from_u32) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// How to read a range.
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeOptions {
    /// Read as of this revision; the newest when absent.
    pub revision: Option<Revision>,
    /// At most so many keys; 0 means all.
    pub limit: usize,
    /// Only count.
    pub count_only: bool,
}

/// What a range read answers.
#[derive(Clone, Debug, Default)]
pub struct RangeResult {
    /// The keys in order.
    pub kvs: Vec<KeyValue>,
    /// Whether `limit` cut the answer.
    pub more: bool,
    /// How many keys the whole range holds, whatever the limit.
    pub count: u64,
    /// The store's revision when it answered.
    pub revision: Revision,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// A key was created (`create_revision == mod_revision`) or changed.
    Put(KeyValue),
    /// A key was deleted, or its time to live ended.
    Delete {
        /// The key.
        key: Arc<str>,
        /// The revision of the deletion.
        revision: Revision,
    },
}

impl StoreEvent {
    /// The key that changed.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// Some events in order, and how far the watch has come.
#[derive(Clone, Debug, Default)]
pub struct WatchBatch {
    /// Every event of the watched prefix up to this revision has been delivered with or before this batch.
    pub revision: Revision,
    /// The events; none in a progress report.
    pub events: Vec<StoreEvent>,
}

/// A running watch. Dropping it ends it.
///
/// Deletions do not carry the previous value: whoever watches after a range read (the cache) already has it.
pub struct StoreWatch {
    /// The batches. An error is the last item: `Compacted` asks for a new range read, others for a new watch.
    pub batches: BoxStream<'static, Result<WatchBatch, StoreError>>,
    /// Asks for a batch, even an empty one, as soon as the watch has come to the given revision.
    pub progress: ProgressRequest,
}

/// Asks a watch to report once it has reached a revision; see [`StoreWatch::progress`].
#[derive(Clone)]
pub struct ProgressRequest(Arc<dyn Fn(Revision) + Send + Sync>);

impl ProgressRequest {
    pub(crate) fn new(request: impl Fn(Revision) + Send + Sync + 'static) -> Self {
        Self(Arc::new(request))
    }

    /// Asks for a report as soon as everything up to `revision` is delivered.
    pub fn request(&self, revision: Revision) {
        (self.0)(revision);
    }
}

/// A revisioned key-value store: etcd's semantics, whoever provides them.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads a key now or as of a revision; also answers the store's revision at that time.
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError>;

    /// Reads a range of keys.
    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError>;

    /// Writes a key that must not exist yet ([`StoreError::Exists`]).
    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision, StoreError>;

    /// Replaces a key whose last change must be `expected` ([`StoreError::Conflict`]). The time to live starts anew;
    /// without one the key no longer expires.
    async fn update(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError>;

    /// Deletes a key whose last change must be `expected` ([`StoreError::Conflict`]).
    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision, StoreError>;

    /// Streams every change under `prefix` after the given revision: first from history, then live, each once.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<StoreWatch, StoreError>;

    /// Whether the value of a key would be stored differently today (under another encryption key), so that even a write
    /// that changes nothing has to be done.
    async fn is_stale(&self, _key: &str) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// The newest revision: every write acknowledged before the call is included.
    async fn current_revision(&self) -> Result<Revision, StoreError>;

    /// Forgets history before `at`; reads and watches from before it answer [`StoreError::Compacted`].
    async fn compact(&self, at: Revision) -> Result<(), StoreError>;

    /// Whether the store can serve, for /readyz.
    async fn health(&self) -> Result<(), StoreError>;

    /// The size of the stored data on disk in bytes.
    async fn size(&self) -> Result<u64, StoreError>;

    /// Flushes and closes; later calls answer [`StoreError::Closed`]. Dropping without it loses no acknowledged write.
    async fn close(&self) {}
}
