//! The stored resources: where each lives, how it is read (watch cache) and how it is written (compare-and-swap).

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use common::api::{Resource, catalog};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::{
    flowcontrol::Stock,
    request::{ApiError, ApiResult, RequestInfo},
    resources::{self, Strategy},
    storage::{
        Revision, Store, StoreError,
        cache::{
            CacheError, CacheOptions, CachedObject, FieldExtractor, Outline, ResourceCache, ResourceSpec,
            ResourceVersion, Selectable,
        },
        codec::{self, Codec, StorageMediaType},
    },
};

/// Attempts of one optimistic write before the client is told to try again.
const MAX_ATTEMPTS: usize = 64;

/// One stored resource.
pub struct ResourceStore {
    /// The resource in the version in which it is stored.
    pub resource: &'static Resource,
    /// What is special about its kind.
    pub strategy: &'static dyn Strategy,
    /// Reads.
    pub cache: ResourceCache,
    ttl: Option<Duration>,
    codec: Option<Arc<Codec>>,
}

/// An object as it is in the store.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The tree, with `metadata.resourceVersion`.
    pub object: Value,
    /// Its revision.
    pub revision: Revision,
    /// [`codec::digest`] of the stored bytes.
    pub digest: u64,
}

/// What to do with an object.
#[derive(Debug, Clone)]
pub enum Change {
    /// Store this.
    Put(Value),
    /// Store this, then remove it: watchers see the last state before the end.
    Expire(Value),
    /// Remove it.
    Delete,
    /// Leave it as it is; answer with this tree.
    Keep(Value),
}

/// What became of an object.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is stored like this.
    Stored(Value),
    /// It is gone; this was its last state.
    Deleted(Value),
}

/// One attempt of a write: sees the current object, says what is to become of it. Called again on conflicts.
#[async_trait]
pub trait Mutation: Send {
    /// Decides.
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change>;

    /// Hears after each successful attempt whether its change was stored.
    async fn settle(&mut self, _stored: bool) {}
}

impl ResourceStore {
    /// The object, freshly as of this call.
    ///
    /// # Errors
    /// The cache or store is unavailable.
    pub async fn find(&self, namespace: &str, name: &str) -> ApiResult<Option<Stored>> {
        let found = self.cache.get(namespace, name, ResourceVersion::MostRecent).await;
        found.map_err(|e| self.cache_error(e))?.map(|cached| stored(&cached)).transpose()
    }

    /// The object as the cache has it, possibly a moment old; what admission and authentication look at.
    ///
    /// # Errors
    /// The cache is unavailable.
    pub async fn glance(&self, namespace: &str, name: &str) -> ApiResult<Option<Stored>> {
        let found = self.cache.get(namespace, name, ResourceVersion::Any).await;
        found.map_err(|e| self.cache_error(e))?.map(|cached| stored(&cached)).transpose()
    }

    /// As [`Self::find`], with 404.
    ///
    /// # Errors
    /// 404, or the cache or store is unavailable.
    pub async fn get(&self, namespace: &str, name: &str) -> ApiResult<Stored> {
        self.find(namespace, name).await?.ok_or_else(|| self.not_found(name))
    }

    /// 404 for this resource.
    #[must_use]
    pub fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(self.resource.group, self.resource.plural, name)
    }

    /// Stores a new object and gives it its version.
    ///
    /// # Errors
    /// 409 when it exists; the store is unavailable.
    pub async fn create(&self, namespace: &str, name: &str, object: &mut Value) -> ApiResult<()> {
        let key = self.cache.key(namespace, name);
        let bytes = self.encode(object)?;
        match self.cache.store().create(&key, bytes, self.ttl).await {
            Ok(revision) => {
                object["metadata"]["resourceVersion"] = revision.to_string().into();
                Ok(())
            }
            Err(StoreError::Exists { .. }) => {
                Err(ApiError::already_exists(self.resource.group, self.resource.plural, name))
            }
            Err(error) => Err(self.store_error(name, error)),
        }
    }

    /// Runs `mutation` until its change is stored. The first attempt may look at the cache; a failure on possibly
    /// stale data is confirmed against the store before the client hears of it.
    ///
    /// # Errors
    /// 404, what the mutation answers, or the store is unavailable.
    pub async fn modify(&self, namespace: &str, name: &str, mutation: &mut dyn Mutation) -> ApiResult<Outcome> {
        let key = self.cache.key(namespace, name);
        let (mut current, mut fresh) = match self.cache.peek(namespace, name) {
            Some(cached) => (stored(&cached)?, false),
            None => (self.fetch(&key, name).await?, true),
        };
        for _ in 0..MAX_ATTEMPTS {
            let change = match mutation.attempt(&current).await {
                Ok(change) => change,
                Err(error) if fresh => return Err(error),
                Err(error) => {
                    let newer = self.fetch(&key, name).await?;
                    if newer.revision == current.revision {
                        return Err(error);
                    }
                    (current, fresh) = (newer, true);
                    continue;
                }
            };
            let committed = self.commit(&key, &current, fresh, change).await;
            mutation.settle(committed.is_ok()).await;
            match committed {
                Ok(outcome) => return Ok(outcome),
                Err(StoreError::Conflict { current: Some(newer), .. }) => {
                    current = self.decode(&newer.value, newer.mod_revision)?;
                    fresh = true;
                }
                Err(StoreError::Conflict { current: None, .. }) => return Err(self.not_found(name)),
                Err(error) => return Err(self.store_error(name, error)),
            }
        }
        Err(ApiError::server_timeout(self.resource.group, self.resource.plural, "update", 1))
    }

    async fn commit(&self, key: &str, current: &Stored, fresh: bool, change: Change) -> Result<Outcome, StoreError> {
        match change {
            Change::Keep(mut object) => {
                self.confirm(key, current, fresh).await?;
                self.normalize(&mut object);
                Ok(Outcome::Stored(object))
            }
            Change::Delete => {
                let revision = self.cache.store().delete(key, current.revision).await?;
                Ok(Outcome::Deleted(with_version(current.object.clone(), revision)))
            }
            Change::Expire(mut object) => {
                let bytes = self.encode(&mut object).map_err(|e| StoreError::Internal(e.to_string()))?;
                let revision = self.cache.store().update(key, current.revision, bytes, self.ttl).await?;
                // Whoever is faster is seen by the next attempt, which has nothing to mark any more.
                let revision = self.cache.store().delete(key, revision).await?;
                Ok(Outcome::Deleted(with_version(object, revision)))
            }
            Change::Put(mut object) => {
                let encode = |o: &mut Value| self.encode(o).map_err(|e| StoreError::Internal(e.to_string()));
                let bytes = encode(&mut object)?;
                let unchanged = self.ttl.is_none()
                    && codec::digest(&bytes) == current.digest
                    && bytes == encode(&mut current.object.clone())?;
                if unchanged && !self.cache.store().is_stale(key).await? {
                    self.confirm(key, current, fresh).await?;
                    return Ok(Outcome::Stored(current.object.clone()));
                }
                let revision = self.cache.store().update(key, current.revision, bytes, self.ttl).await?;
                Ok(Outcome::Stored(with_version(object, revision)))
            }
        }
    }

    /// Gives an object that is answered without being stored the form of stored ones.
    pub fn normalize(&self, object: &mut Value) {
        if let Some(codec) = &self.codec {
            codec.normalize(object);
        }
    }

    /// Before nothing is written on the word of the cache: a conflict when the store has something newer.
    async fn confirm(&self, key: &str, current: &Stored, fresh: bool) -> Result<(), StoreError> {
        if fresh {
            return Ok(());
        }
        let (found, _) = self.cache.store().get(key, None).await?;
        if found.as_ref().is_some_and(|kv| kv.mod_revision == current.revision) {
            return Ok(());
        }
        Err(StoreError::Conflict { key: key.to_owned(), current: found.map(Box::new) })
    }

    async fn fetch(&self, key: &str, name: &str) -> ApiResult<Stored> {
        let (found, _) = self.cache.store().get(key, None).await.map_err(|e| self.store_error(name, e))?;
        let kv = found.ok_or_else(|| self.not_found(name))?;
        self.decode(&kv.value, kv.mod_revision)
    }

    fn decode(&self, bytes: &[u8], revision: Revision) -> ApiResult<Stored> {
        let object = match &self.codec {
            Some(codec) => codec.tree(bytes),
            None => codec::to_tree(bytes),
        };
        let object = with_version(object.map_err(ApiError::internal)?, revision);
        Ok(Stored { object, revision, digest: codec::digest(bytes) })
    }

    /// The bytes that are stored: without resourceVersion, in the stored version, in upstream's order of members.
    fn encode(&self, object: &mut Value) -> ApiResult<Bytes> {
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("resourceVersion");
        }
        object["kind"] = self.resource.kind.into();
        object["apiVersion"] = self.resource.api_version().into();
        let encoded = match &self.codec {
            Some(codec) => {
                codec.normalize(object);
                codec.encode(object)
            }
            None => codec::encode_json(object),
        };
        encoded.map(Bytes::from).map_err(ApiError::internal)
    }

    /// The client's error for a failed read.
    #[must_use]
    pub fn cache_error(&self, error: CacheError) -> ApiError {
        match error {
            CacheError::Expired { message, .. } => ApiError::expired(message),
            CacheError::BadRequest(message) => ApiError::bad_request(message),
            CacheError::TooLargeResourceVersion { .. } => ApiError::timeout(&error.to_string(), 1).with_cause(
                "ResourceVersionTooLarge",
                "",
                "Too large resource version",
            ),
            CacheError::Unavailable(message) => ApiError::too_many_requests(message, 1),
            CacheError::Store(error) => self.store_error("", error),
        }
    }

    fn store_error(&self, name: &str, error: StoreError) -> ApiError {
        let (group, resource) = (self.resource.group, self.resource.plural);
        match error {
            StoreError::Exists { .. } => ApiError::already_exists(group, resource, name),
            StoreError::Conflict { .. } => ApiError::modified(group, resource, name),
            StoreError::Compacted { .. } => ApiError::expired("The resourceVersion for the provided list is too old."),
            StoreError::FutureRevision { requested, current } => {
                ApiError::timeout(&format!("Too large resource version: {requested}, current: {current}"), 1)
                    .with_cause("ResourceVersionTooLarge", "", "Too large resource version")
            }
            StoreError::TooLarge { .. } => ApiError::too_large(&error.to_string()),
            StoreError::Unavailable(_) | StoreError::Closed => ApiError::server_timeout(group, resource, "storage", 1),
            StoreError::Locked { .. } | StoreError::Corrupt { .. } | StoreError::Internal(_) => {
                ApiError::internal(error)
            }
        }
    }
}

/// All stored resources.
pub struct Registry {
    stores: HashMap<&'static str, ResourceStore>,
    /// What clients may use of the catalog.
    served: std::collections::HashSet<(&'static str, &'static str, &'static str)>,
    backends: Backends,
    prefix: String,
    media_type: StorageMediaType,
}

/// The stores: one for nearly everything, and those of single resources (`--etcd-servers-overrides`).
pub struct Backends {
    /// The store.
    pub main: Arc<dyn Store>,
    /// By group and plural.
    pub overrides: HashMap<(String, String), Arc<dyn Store>>,
}

impl Backends {
    /// The store of a resource.
    #[must_use]
    pub fn of(&self, group: &str, plural: &str) -> &Arc<dyn Store> {
        let found = self.overrides.iter().find(|((g, p), _)| g == group && p == plural);
        found.map_or(&self.main, |(_, store)| store)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Store>> {
        std::iter::once(&self.main).chain(self.overrides.values())
    }
}

impl Registry {
    /// A registry over stores; caches start with their first use. `served` says which resources clients may use.
    pub fn new(
        backends: Backends,
        prefix: &str,
        media_type: StorageMediaType,
        event_ttl: Duration,
        served: impl Fn(&Resource) -> bool,
        shutdown: &CancellationToken,
    ) -> Self {
        let mut stores = HashMap::new();
        for resource in catalog().resources() {
            let Some(storage) = &resource.storage else { continue };
            // A storage version that is no longer served (CRDs: v1beta1) has the form of the served one.
            let kept = catalog().by_plural(storage.group, storage.version, resource.plural).unwrap_or(resource);
            stores.entry(storage.prefix).or_insert_with(|| {
                let ttl = (storage.prefix == "events").then_some(event_ttl);
                let codec = Codec::of(kept, media_type, crate::endpoints::convert::upgrade);
                let codec =
                    codec.map(|codec| Arc::new(codec.filled_by(crate::resources::fill(kept.group, kept.plural))));
                let store = backends.of(kept.group, kept.plural);
                resource_store(store, prefix, storage.prefix, kept, codec, ttl, shutdown)
            });
        }
        let served = catalog().resources().filter(|r| served(r)).map(|r| (r.group, r.version, r.plural)).collect();
        Self { stores, served, backends, prefix: prefix.to_owned(), media_type }
    }

    /// The resource at a URL, if it is served.
    #[must_use]
    pub fn resolve(&self, group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
        let found = catalog().by_plural(group, version, plural)?;
        self.served.contains(&(found.group, found.version, found.plural)).then_some(found)
    }

    /// Whether anything of a group version is served.
    #[must_use]
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.served.iter().any(|(g, v, _)| *g == group && *v == version)
    }

    /// Where a resource is stored; `None` for reviews and the like.
    #[must_use]
    pub fn store_of(&self, resource: &Resource) -> Option<&ResourceStore> {
        self.stores.get(resource.storage.as_ref()?.prefix)
    }

    /// How much there is of what a request is about; `None` when that is not kept here.
    #[must_use]
    pub fn stock(&self, info: &RequestInfo) -> Option<Stock> {
        let resource = catalog().by_plural(&info.group, &info.version, &info.resource)?;
        let (objects, bytes) = self.store_of(resource)?.cache.stock();
        Some(Stock { objects: objects as u64, size: (bytes / objects.max(1)) as u64 })
    }

    /// The store of a resource by group and plural, in whatever version.
    ///
    /// # Errors
    /// 404 when there is no such resource.
    pub fn of(&self, group: &str, plural: &str) -> ApiResult<&ResourceStore> {
        catalog()
            .group(group)
            .into_iter()
            .flat_map(|g| &g.versions)
            .flat_map(|v| &v.resources)
            .filter(|r| r.plural == plural)
            .find_map(|r| self.store_of(r))
            .ok_or_else(ApiError::unknown_resource)
    }

    /// The store of a core resource.
    ///
    /// # Errors
    /// 404 when there is no such resource.
    pub fn core(&self, plural: &str) -> ApiResult<&ResourceStore> {
        self.of("", plural)
    }

    /// Compares every cache in use with the store; the first difference is the error.
    ///
    /// # Errors
    /// A cache differs from the store, or cannot be compared.
    pub async fn verify_caches(&self) -> anyhow::Result<()> {
        for store in self.stores.values().filter(|store| store.cache.is_started()) {
            if let Some(difference) = store.cache.verify().await? {
                return Err(difference.into());
            }
        }
        Ok(())
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.backends.main
    }

    /// All stores.
    #[must_use]
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// In which form objects are stored.
    #[must_use]
    pub fn media_type(&self) -> StorageMediaType {
        self.media_type
    }

    /// A key below the prefix.
    #[must_use]
    pub fn key(&self, rest: &str) -> String {
        format!("{}/{rest}", self.prefix)
    }
}

fn resource_store(
    store: &Arc<dyn Store>,
    prefix: &str,
    below: &str,
    resource: &'static Resource,
    codec: Option<Arc<Codec>>,
    ttl: Option<Duration>,
    shutdown: &CancellationToken,
) -> ResourceStore {
    let strategy = resources::strategy(resource.group, resource.plural);
    let selectable = strategy.field_labels().iter().any(|f| !matches!(*f, "metadata.name" | "metadata.namespace"));
    let fields = selectable.then(|| {
        let extract: FieldExtractor = Arc::new(move |object: &Value| {
            strategy
                .fields(object)
                .into_iter()
                .filter(|(field, _)| !matches!(*field, "metadata.name" | "metadata.namespace"))
                .map(|(field, value)| (Cow::Borrowed(field), value))
                .collect()
        });
        Selectable { outline: Outline::of(strategy.read_for_fields()), extract }
    });
    let spec = ResourceSpec {
        resource: crate::request::status::qualified(resource.group, resource.plural),
        prefix: format!("{prefix}/{below}/"),
        namespaced: resource.namespaced,
        fields,
        codec: codec.clone(),
    };
    let cache = ResourceCache::new(Arc::clone(store), spec, CacheOptions::default(), shutdown.clone());
    ResourceStore { resource, strategy, cache, ttl, codec }
}

fn stored(cached: &CachedObject) -> ApiResult<Stored> {
    let object = serde_json::from_slice(cached.bytes()).map_err(ApiError::internal)?;
    Ok(Stored { object, revision: cached.revision(), digest: cached.digest() })
}

/// Sets `metadata.resourceVersion`.
#[must_use]
pub fn with_version(mut object: Value, revision: Revision) -> Value {
    object["metadata"]["resourceVersion"] = revision.to_string().into();
    object
}

/// JSON with `kind`, `apiVersion` and `metadata` first.
///
/// # Errors
/// The tree cannot be written.
pub fn encode_ordered(object: &Value) -> serde_json::Result<Vec<u8>> {
    let Value::Object(map) = object else { return serde_json::to_vec(object) };
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    let first = ["kind", "apiVersion", "metadata"];
    let head = first.iter().filter_map(|k| map.get_key_value(*k));
    let rest = map.iter().filter(|(k, _)| !first.contains(&k.as_str()));
    for (index, (key, value)) in head.chain(rest).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut out, key)?;
        out.push(b':');
        serde_json::to_writer(&mut out, value)?;
    }
    out.push(b'}');
    Ok(out)
}

/// The members of an object's metadata.
#[must_use]
pub fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.as_object()
}
