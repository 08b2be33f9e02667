//! A store whose values are sealed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use super::{CryptError, Ring};
use crate::storage::{
    KeyRange, KeyValue, RangeOptions, RangeResult, Revision, Store, StoreError, StoreEvent, StoreWatch, WatchBatch,
};

/// A resource and its group.
type Resource = (String, String);

/// Seals what is written to a store and opens what is read.
pub struct Encrypted(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    ring: Arc<ArcSwap<Ring>>,
    /// `/registry/`.
    prefix: String,
    resources: HashMap<&'static str, Resource>,
}

impl Encrypted {
    /// Seals with the keys of `ring`, which may be swapped at any time. Keys of objects start with `prefix`.
    pub fn new(store: Arc<dyn Store>, prefix: &str, ring: Arc<ArcSwap<Ring>>) -> Self {
        let stored = common::api::catalog().resources().filter_map(|resource| {
            let storage = resource.storage.as_ref()?;
            Some((storage.prefix, (resource.plural.to_owned(), storage.group.to_owned())))
        });
        let others = [
            ("ranges/serviceips", "serviceipallocations"),
            ("ranges/servicenodeports", "servicenodeportallocations"),
            ("masterleases", "apiserveripinfo"),
        ];
        let others = others.map(|(prefix, name)| (prefix, (name.to_owned(), String::new())));
        let resources = stored.chain(others).collect();
        Self(Arc::new(Inner { store, ring, prefix: format!("{}/", prefix.trim_end_matches('/')), resources }))
    }
}

impl Inner {
    /// Whose key it is: one or two segments name a built-in resource, group and plural a custom one.
    fn resource_of(&self, key: &str) -> Resource {
        let rest = key.strip_prefix(&self.prefix).unwrap_or(key);
        let mut ends = rest.match_indices('/').map(|(at, _)| at).chain([rest.len()]);
        let (first, second) = (ends.next().unwrap_or(0), ends.next());
        let known = |end: usize| self.resources.get(&rest[..end]).cloned();
        if let Some(found) = second.and_then(known).or_else(|| known(first)) {
            return found;
        }
        let plural = second.map_or("", |end| &rest[first + 1..end]);
        (plural.to_owned(), rest[..first].to_owned())
    }

    async fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, StoreError> {
        let (resource, group) = self.resource_of(key);
        let sealed = self.ring.load_full().seal((&resource, &group), key, value).await;
        sealed.map_err(|error| failed(key, &error))
    }

    async fn open(&self, mut kv: KeyValue) -> Result<KeyValue, StoreError> {
        let (resource, group) = self.resource_of(&kv.key);
        let opened = self.ring.load_full().open((&resource, &group), &kv.key, kv.value).await;
        kv.value = opened.map_err(|error| failed(&kv.key, &error))?.value;
        Ok(kv)
    }

    /// A refused compare-and-swap shows what is there: that is opened, too.
    async fn settle<T: Send>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        match outcome {
            Err(StoreError::Conflict { key, current: Some(current) }) => {
                Err(StoreError::Conflict { key, current: Some(Box::new(self.open(*current).await?)) })
            }
            other => other,
        }
    }

    async fn open_batch(&self, batch: WatchBatch) -> Result<WatchBatch, StoreError> {
        let mut events = Vec::with_capacity(batch.events.len());
        for event in batch.events {
            events.push(match event {
                StoreEvent::Put(kv) => StoreEvent::Put(self.open(kv).await?),
                delete @ StoreEvent::Delete { .. } => delete,
            });
        }
        Ok(WatchBatch { events, revision: batch.revision })
    }
}

fn failed(key: &str, error: &CryptError) -> StoreError {
    StoreError::Internal(format!("unable to transform key {key:?}: {error}"))
}

#[async_trait]
impl Store for Encrypted {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let (found, revision) = self.0.store.get(key, at).await?;
        Ok(match found {
            Some(kv) => (Some(self.0.open(kv).await?), revision),
            None => (None, revision),
        })
    }

    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError> {
        let mut result = self.0.store.range(range, options).await?;
        let mut opened = Vec::with_capacity(result.kvs.len());
        for kv in std::mem::take(&mut result.kvs) {
            opened.push(self.0.open(kv).await?);
        }
        result.kvs = opened;
        Ok(result)
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision, StoreError> {
        let sealed = self.0.seal(key, value).await?;
        self.0.store.create(key, sealed, ttl).await
    }

    async fn update(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let sealed = self.0.seal(key, value).await?;
        let outcome = self.0.store.update(key, expected, sealed, ttl).await;
        self.0.settle(outcome).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision, StoreError> {
        let outcome = self.0.store.delete(key, expected).await;
        self.0.settle(outcome).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<StoreWatch, StoreError> {
        let StoreWatch { batches, progress } = self.0.store.watch(prefix, after).await?;
        let inner = Arc::clone(&self.0);
        let batches = batches.then(move |batch| {
            let inner = Arc::clone(&inner);
            async move { inner.open_batch(batch?).await }
        });
        Ok(StoreWatch { batches: batches.boxed(), progress })
    }

    async fn is_stale(&self, key: &str) -> Result<bool, StoreError> {
        let (Some(kv), _) = self.0.store.get(key, None).await? else { return Ok(false) };
        let (resource, group) = self.0.resource_of(key);
        let opened = self.0.ring.load_full().open((&resource, &group), key, kv.value).await;
        Ok(opened.map_err(|error| failed(key, &error))?.stale)
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.0.store.current_revision().await
    }

    async fn compact(&self, at: Revision) -> Result<(), StoreError> {
        self.0.store.compact(at).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.0.store.health().await
    }

    async fn size(&self) -> Result<u64, StoreError> {
        self.0.store.size().await
    }

    async fn close(&self) {
        self.0.store.close().await;
    }
}
