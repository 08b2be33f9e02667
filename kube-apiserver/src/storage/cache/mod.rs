//! The watch cache: one per resource, in front of a [`Store`]. It keeps every object as the encoded bytes clients get
//! (with `metadata.resourceVersion` already in place) plus a small index, in a persistent ordered map; a bounded ring
//! holds the latest events and watchers are positions in it. Reads build no tree of an object.
//!
//! It starts with the first use ([`ResourceCache::ready`] or any read) and then follows the store by one watch.

use std::{borrow::Cow, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Revision, Store};

mod error;
mod list;
mod object;
mod select;
mod watch;

pub use error::CacheError;
pub use list::{ListPage, ListQuery, ResourceVersion};
pub use object::{CachedObject, Labels};
pub use select::{FieldRequirement, LabelMatcher, Selection};
pub use watch::{EventKind, WatchFrom, WatchItem, WatchQuery, Watcher, bookmark_frame};

/// Selectable fields of an object beside `metadata.name` and `metadata.namespace`.
pub type Fields = Vec<(Cow<'static, str>, String)>;

/// Extracts [`Fields`] from a stored object.
pub type FieldExtractor = Arc<dyn Fn(&serde_json::Value) -> Fields + Send + Sync>;

/// What a cache must know about its resource.
#[derive(Clone)]
pub struct ResourceSpec {
    /// The resource for logs, messages and metrics, for example `pods` or `deployments.apps`.
    pub resource: String,
    /// The key prefix with its final slash, for example `/registry/pods/`.
    pub prefix: String,
    /// Whether keys are `<prefix><namespace>/<name>` or `<prefix><name>`.
    pub namespaced: bool,
    /// Selectable fields beyond name and namespace. `None` spares parsing a tree per write.
    pub fields: Option<FieldExtractor>,
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
            fresh_timeout: Duration::from_secs(3),
            bookmark_interval: Duration::from_secs(60),
        }
    }
}

/// The cache of one resource. Cheap to clone.
#[derive(Clone)]
pub struct ResourceCache {
    store: Arc<dyn Store>,
    spec: Arc<ResourceSpec>,
    options: CacheOptions,
    shutdown: CancellationToken,
}

impl ResourceCache {
    /// A cache that starts with its first use and stops at `shutdown`.
    pub fn new(store: Arc<dyn Store>, spec: ResourceSpec, options: CacheOptions, shutdown: CancellationToken) -> Self {
        Self { store, spec: Arc::new(spec), options, shutdown }
    }

    /// What the cache is of.
    pub fn spec(&self) -> &ResourceSpec {
        &self.spec
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Starts the cache if needed and waits until it holds the store's content.
    pub async fn ready(&self) -> Result<(), CacheError> {
        Err(self.not_ready())
    }

    /// Waits until everything up to `revision` is in the cache: read-your-writes after a write of this server.
    pub async fn wait_for(&self, _revision: Revision) -> Result<(), CacheError> {
        Err(self.not_ready())
    }

    /// Reads one object. `namespace` is empty for cluster-scoped resources.
    pub async fn get(
        &self,
        _namespace: &str,
        _name: &str,
        _version: ResourceVersion,
    ) -> Result<Option<Arc<CachedObject>>, CacheError> {
        Err(self.not_ready())
    }

    /// What the cache holds at this moment, without waiting (the suggestion for the first try of a write).
    pub fn peek(&self, _namespace: &str, _name: &str) -> Option<Arc<CachedObject>> {
        None
    }

    /// The key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.spec.namespaced {
            format!("{}{namespace}/{name}", self.spec.prefix)
        } else {
            format!("{}{name}", self.spec.prefix)
        }
    }

    /// Reads a page of objects.
    pub async fn list(&self, _query: ListQuery) -> Result<ListPage, CacheError> {
        Err(self.not_ready())
    }

    /// Starts a watch.
    pub async fn watch(&self, _query: WatchQuery) -> Result<Watcher, CacheError> {
        Err(self.not_ready())
    }

    fn not_ready(&self) -> CacheError {
        CacheError::Unavailable(format!("cache of {} is not ready ({:?})", self.spec.resource, self.options))
    }
}
