//! Allocation records straight in the store, at upstream's keys.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

use super::{Record, RecordError, Records};
use crate::{
    resources::value::{remove, set, str_at},
    storage::{KeyRange, KeyValue, RangeOptions, Store, StoreError},
};

/// [`Records`] over a store that keeps objects as JSON below `prefix` (`/registry`).
pub struct StoreRecords {
    store: Arc<dyn Store>,
    prefix: String,
}

impl StoreRecords {
    /// `prefix` is `--etcd-prefix`, without a slash at the end.
    pub fn new(store: Arc<dyn Store>, prefix: &str) -> StoreRecords {
        StoreRecords { store, prefix: prefix.trim_end_matches('/').to_string() }
    }

    fn key(&self, record: Record, name: &str) -> String {
        let folder = match record {
            Record::IpAddress => "ipaddresses",
            Record::ServiceCidr => "servicecidrs",
            Record::Service => "services/specs",
            Record::Range => "ranges",
        };
        format!("{}/{folder}/{name}", self.prefix)
    }
}

fn decode(kv: &KeyValue) -> Result<Value, RecordError> {
    let mut object: Value =
        serde_json::from_slice(&kv.value).map_err(|error| RecordError::Other(format!("{}: {error}", kv.key)))?;
    if let Some(meta) = object.get_mut("metadata") {
        set(meta, "resourceVersion", kv.mod_revision.to_string());
    }
    Ok(object)
}

fn encode(mut object: Value) -> Result<Bytes, RecordError> {
    if let Some(meta) = object.get_mut("metadata") {
        remove(meta, "resourceVersion");
    }
    serde_json::to_vec(&object).map(Bytes::from).map_err(|error| RecordError::Other(error.to_string()))
}

fn failed(error: StoreError) -> RecordError {
    match error {
        StoreError::Exists { .. } => RecordError::Exists,
        StoreError::Conflict { .. } => RecordError::Conflict,
        other => RecordError::Other(other.to_string()),
    }
}

#[async_trait]
impl Records for StoreRecords {
    async fn get(&self, record: Record, name: &str) -> Result<Option<Value>, RecordError> {
        let (found, _) = self.store.get(&self.key(record, name), None).await.map_err(failed)?;
        found.as_ref().map(decode).transpose()
    }

    async fn list(&self, record: Record) -> Result<Vec<Value>, RecordError> {
        let range = KeyRange::prefix(&self.key(record, ""));
        let result = self.store.range(range, RangeOptions::default()).await.map_err(failed)?;
        result.kvs.iter().map(decode).collect()
    }

    async fn create(&self, record: Record, name: &str, object: Value) -> Result<(), RecordError> {
        self.store.create(&self.key(record, name), encode(object)?, None).await.map(|_| ()).map_err(failed)
    }

    async fn update(&self, record: Record, name: &str, object: Value) -> Result<(), RecordError> {
        let expected = str_at(&object, "metadata.resourceVersion").parse().unwrap_or_default();
        let key = self.key(record, name);
        self.store.update(&key, expected, encode(object)?, None).await.map(|_| ()).map_err(failed)
    }

    async fn delete(&self, record: Record, name: &str) -> Result<(), RecordError> {
        let key = self.key(record, name);
        let (Some(found), _) = self.store.get(&key, None).await.map_err(failed)? else { return Ok(()) };
        match self.store.delete(&key, found.mod_revision).await.map_err(failed) {
            Ok(_) | Err(RecordError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
