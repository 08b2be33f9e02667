//! The watch cache: one per resource, in front of a [`Store`]. It keeps every object as the encoded bytes clients get
//! (with `metadata.resourceVersion` already in place) plus a small index, in a persistent ordered map; a bounded ring
//! holds the latest events and watchers are positions in it. Reads build no tree of an object.
//!
//! It starts with the first use ([`ResourceCache::ready`] or any read) and then follows the store by one watch.

use std::{
    borrow::Cow,
    collections::HashSet,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ProgressRequest, Revision, Store, codec::Codec};

mod check;
mod error;
mod list;
mod metrics;
mod object;
mod outline;
mod protobuf;
mod pump;
mod ring;
mod scan;
mod select;
mod token;
mod wake;
mod watch;

#[cfg(test)]
mod tests;

pub use check::Difference;
pub use error::CacheError;
pub use list::{ListPage, ListQuery, ResourceVersion};
pub use object::{CachedObject, Labels};
pub use outline::without_managers;
pub use protobuf::{Protobuf, frame as protobuf_frame};
pub use scan::Outline;
pub use select::{FieldRequirement, LabelMatcher, Selection};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use token::fuzz as fuzz_token;
pub use watch::{EventKind, WatchFrom, WatchItem, WatchQuery, Watcher, bookmark_frame};

/// How often the store is asked whether it has come to a revision of the future.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Selectable fields of an object beside `metadata.name` and `metadata.namespace`.
pub type Fields = Vec<(Cow<'static, str>, String)>;

/// Extracts [`Fields`] from a stored object. Of built-in kinds it sees only the members of the outline.
pub type FieldExtractor = Arc<dyn Fn(&serde_json::Value) -> Fields + Send + Sync>;

/// How selectable fields are found.
#[derive(Clone)]
pub struct Selectable {
    /// The members that they are read from.
    pub outline: Outline,
    /// Reads them.
    pub extract: FieldExtractor,
}

/// What a cache must know about its resource.
#[derive(Clone)]
pub struct ResourceSpec {
    /// The resource for logs, messages and metrics, for example `pods` or `deployments.apps`.
    pub resource: String,
    /// The key prefix with its final slash, for example `/registry/pods/`.
    pub prefix: String,
    /// Whether keys are `<prefix><namespace>/<name>` or `<prefix><name>`.
    pub namespaced: bool,
    /// Selectable fields beyond name and namespace.
    pub fields: Option<Selectable>,
    /// How objects look in protobuf; `None` for resources that only have JSON.
    pub codec: Option<Arc<Codec>>,
}

/// Limits of a cache.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Events that are always kept for watches to resume from.
    pub min_events: usize,
    /// Events that are never exceeded.
    pub max_events: usize,
    /// Bytes of events that are never exceeded once `min_events` is reached.
    pub max_event_bytes: usize,
    /// How long an event beyond `min_events` is kept.
    pub event_age: Duration,
    /// How long a read waits for the cache to hold the store's content at all.
    pub ready_timeout: Duration,
    /// How long a read waits for the cache to reach a revision.
    pub fresh_timeout: Duration,
    /// How often watchers that asked for bookmarks get one.
    pub bookmark_interval: Duration,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            min_events: 100,
            max_events: 20_000,
            max_event_bytes: 32 << 20,
            event_age: Duration::from_secs(75),
            ready_timeout: Duration::from_secs(30),
            fresh_timeout: Duration::from_secs(3),
            bookmark_interval: Duration::from_secs(60),
        }
    }
}

/// The cache of one resource. Cheap to clone.
#[derive(Clone)]
pub struct ResourceCache(Arc<Inner>);

/// What reads, watchers and the pump share.
struct Inner {
    store: Arc<dyn Store>,
    spec: ResourceSpec,
    options: CacheOptions,
    shutdown: CancellationToken,
    started: AtomicBool,
    state: RwLock<ring::State>,
    wakers: Arc<wake::Wakers>,
    snapshots: Mutex<list::Snapshots>,
    /// The revision the state has reached; sent after every step.
    progress_sent: tokio::sync::watch::Sender<Revision>,
    /// How to ask the running store watch for progress.
    progress: Mutex<Option<ProgressRequest>>,
    /// The newest revision that somebody waits for, should the store watch have to be made anew.
    wanted: AtomicU64,
    /// A check found the cache to differ from the store: reads go there until it has been read anew.
    suspect: AtomicBool,
    start_over: tokio::sync::Notify,
    /// Keys whose values cannot be read and are left out.
    unreadable: Mutex<HashSet<Arc<str>>>,
    /// Made with the first use, so that unused caches report nothing.
    metrics: OnceLock<metrics::Metrics>,
}

impl ResourceCache {
    /// A cache that starts with its first use and stops at `shutdown`.
    pub fn new(store: Arc<dyn Store>, spec: ResourceSpec, options: CacheOptions, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            store,
            spec,
            options,
            shutdown,
            started: AtomicBool::new(false),
            state: RwLock::new(ring::State::new()),
            wakers: Arc::default(),
            snapshots: Mutex::default(),
            progress_sent: tokio::sync::watch::Sender::new(0),
            progress: Mutex::new(None),
            wanted: AtomicU64::new(0),
            suspect: AtomicBool::new(false),
            start_over: tokio::sync::Notify::new(),
            unreadable: Mutex::default(),
            metrics: OnceLock::new(),
        }))
    }

    /// What the cache is of.
    pub fn spec(&self) -> &ResourceSpec {
        &self.0.spec
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// The key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let spec = &self.0.spec;
        if spec.namespaced { format!("{}{namespace}/{name}", spec.prefix) } else { format!("{}{name}", spec.prefix) }
    }

    /// Starts the cache if needed and waits until it holds the store's content.
    pub async fn ready(&self) -> Result<(), CacheError> {
        self.0.ready().await
    }

    /// Waits until everything up to `revision` is in the cache: read-your-writes after a write of this server.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), CacheError> {
        self.0.wait_for(revision).await
    }

    /// The revision the cache has reached.
    pub fn revision(&self) -> Revision {
        self.0.state.read().revision
    }

    /// How many objects it holds.
    pub fn len(&self) -> usize {
        self.0.state.read().root.len()
    }

    /// How many objects it holds, and how many bytes they have as clients get them.
    pub fn stock(&self) -> (usize, usize) {
        let state = self.0.state.read();
        (state.root.len(), state.content)
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads one object. `namespace` is empty for cluster-scoped resources.
    pub async fn get(
        &self,
        namespace: &str,
        name: &str,
        version: ResourceVersion,
    ) -> Result<Option<Arc<CachedObject>>, CacheError> {
        match self.0.fresh(version).await {
            Ok(()) if !self.0.suspect.load(Ordering::Acquire) => Ok(self.peek(namespace, name)),
            Ok(()) => self.fetch(namespace, name).await,
            Err(CacheError::TooLargeResourceVersion { .. }) if version == ResourceVersion::MostRecent => {
                self.fetch(namespace, name).await
            }
            Err(error) => Err(error),
        }
    }

    /// Reads one object from the store.
    async fn fetch(&self, namespace: &str, name: &str) -> Result<Option<Arc<CachedObject>>, CacheError> {
        let (found, _) = self.0.store.get(&self.key(namespace, name), None).await?;
        let read = |kv| CachedObject::ingest(&kv, &self.0.spec, EventKind::Added).map(Arc::new);
        Ok(found.map(read).transpose()?)
    }

    /// Whether the cache is in use: unused ones hold nothing.
    pub fn is_started(&self) -> bool {
        self.0.started.load(Ordering::Acquire)
    }

    /// Compares the cache with the store at the cache's revision. After a difference the cache is read anew, and reads
    /// go to the store until then.
    pub async fn verify(&self) -> Result<Option<Difference>, CacheError> {
        self.0.ready().await?;
        check::once(&self.0).await
    }

    /// What the cache holds at this moment, without waiting (the suggestion for the first try of a write).
    pub fn peek(&self, namespace: &str, name: &str) -> Option<Arc<CachedObject>> {
        self.0.state.read().root.get(self.key(namespace, name).as_str()).cloned()
    }

    /// Reads a page of objects.
    pub async fn list(&self, query: ListQuery) -> Result<ListPage, CacheError> {
        list::list(&self.0, query).await
    }

    /// Starts a watch.
    pub async fn watch(&self, query: WatchQuery) -> Result<Watcher, CacheError> {
        let version = match query.from {
            WatchFrom::Now | WatchFrom::InitialEvents(None) => ResourceVersion::MostRecent,
            WatchFrom::InitialEvents(Some(revision)) if revision > 0 => ResourceVersion::NotOlderThan(revision),
            WatchFrom::Latest | WatchFrom::After(_) | WatchFrom::InitialEvents(Some(_)) => ResourceVersion::Any,
        };
        self.0.fresh(version).await?;
        Watcher::start(&self.0, query)
    }
}

impl Inner {
    async fn ready(self: &Arc<Self>) -> Result<(), CacheError> {
        if self.state.read().ready {
            return Ok(());
        }
        if !self.started.swap(true, Ordering::AcqRel) {
            tokio::spawn(pump::run(self.clone()));
        }
        let mut progress = self.progress_sent.subscribe();
        let settled = progress.wait_for(|_| {
            let state = self.state.read();
            state.ready || state.closed
        });
        let _ = tokio::time::timeout(self.options.ready_timeout, settled).await;
        if self.state.read().ready { Ok(()) } else { Err(self.unavailable()) }
    }

    fn metrics(&self) -> &metrics::Metrics {
        self.metrics.get_or_init(|| metrics::Metrics::of(&self.spec.resource))
    }

    fn unavailable(&self) -> CacheError {
        CacheError::Unavailable("storage is (re)initializing".to_owned())
    }

    /// Makes the state new enough for a read.
    async fn fresh(self: &Arc<Self>, version: ResourceVersion) -> Result<(), CacheError> {
        self.ready().await?;
        match version {
            ResourceVersion::Any => Ok(()),
            ResourceVersion::MostRecent => {
                let current = self.store.current_revision().await?;
                self.wait_for(current).await
            }
            ResourceVersion::NotOlderThan(revision) | ResourceVersion::Exact(revision) => self.wait_for(revision).await,
        }
    }

    async fn wait_for(self: &Arc<Self>, revision: Revision) -> Result<(), CacheError> {
        self.ready().await?;
        self.reach(revision).await
    }

    /// As [`Self::wait_for`], for who knows that the cache has been started.
    async fn reach(&self, revision: Revision) -> Result<(), CacheError> {
        if self.state.read().revision >= revision {
            return Ok(());
        }
        let _timer = self.metrics().read_wait.start_timer();
        let deadline = Instant::now() + self.options.fresh_timeout;
        let mut progress = self.progress_sent.subscribe();
        loop {
            // Only what the store has can be reported: a wish for the future would hide the wishes of others.
            let there = self.store.current_revision().await?;
            self.request_progress(revision.min(there));
            let until = if there >= revision { deadline } else { deadline.min(Instant::now() + ASK_AGAIN) };
            if let Ok(Ok(_)) = tokio::time::timeout_at(until, progress.wait_for(|at| *at >= revision)).await {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let current = self.state.read().revision;
                return Err(CacheError::TooLargeResourceVersion { requested: revision, current });
            }
        }
    }

    fn request_progress(&self, revision: Revision) {
        self.wanted.fetch_max(revision, Ordering::AcqRel);
        if let Some(progress) = &*self.progress.lock() {
            progress.request(revision);
        }
    }
}
