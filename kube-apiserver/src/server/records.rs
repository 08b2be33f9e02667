//! Allocation records of Services, kept in the store beside the objects.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

use super::registry::{Registry, with_version};
use crate::{
    resources::alloc::{Record, RecordError, Records},
    storage::{KeyRange, RangeOptions, Store, StoreError, codec},
};

/// Records straight from the store.
pub struct StoreRecords(pub Arc<Registry>);

impl StoreRecords {
    fn prefix(&self, record: Record) -> String {
        let below = match record {
            Record::IpAddress => "ipaddresses",
            Record::ServiceCidr => "servicecidrs",
            Record::Service => "services/specs",
            Record::Range => "ranges",
        };
        self.0.key(&format!("{below}/"))
    }

    fn store(&self, record: Record) -> &dyn Store {
        let (group, plural) = match record {
            Record::IpAddress => ("networking.k8s.io", "ipaddresses"),
            Record::ServiceCidr => ("networking.k8s.io", "servicecidrs"),
            Record::Service | Record::Range => ("", "services"),
        };
        self.0.backends().of(group, plural).as_ref()
    }

    fn key(&self, record: Record, name: &str) -> String {
        format!("{}{name}", self.prefix(record))
    }
}

fn failed(error: StoreError) -> RecordError {
    match error {
        StoreError::Exists { .. } => RecordError::Exists,
        StoreError::Conflict { .. } => RecordError::Conflict,
        other => RecordError::Other(other.to_string()),
    }
}

fn decode(bytes: &[u8], revision: u64) -> Result<Value, RecordError> {
    let object = codec::to_tree(bytes).map_err(|e| RecordError::Other(e.to_string()))?;
    Ok(with_version(object, revision))
}

/// The bytes and the revision that the object claims.
fn encode(registry: &Registry, mut object: Value) -> Result<(Bytes, u64), RecordError> {
    let version = object.get_mut("metadata").and_then(Value::as_object_mut).and_then(|m| m.remove("resourceVersion"));
    let revision = version.as_ref().and_then(Value::as_str).and_then(|v| v.parse().ok()).unwrap_or(0);
    let bytes = codec::encode(&object, registry.media_type()).map_err(|e| RecordError::Other(e.to_string()))?;
    Ok((Bytes::from(bytes), revision))
}

#[async_trait]
impl Records for StoreRecords {
    async fn get(&self, record: Record, name: &str) -> Result<Option<Value>, RecordError> {
        let (found, _) = self.store(record).get(&self.key(record, name), None).await.map_err(failed)?;
        found.map(|kv| decode(&kv.value, kv.mod_revision)).transpose()
    }

    async fn list(&self, record: Record) -> Result<Vec<Value>, RecordError> {
        let range = KeyRange::prefix(&self.prefix(record));
        let found = self.store(record).range(range, RangeOptions::default()).await.map_err(failed)?;
        found.kvs.iter().map(|kv| decode(&kv.value, kv.mod_revision)).collect()
    }

    async fn create(&self, record: Record, name: &str, object: Value) -> Result<(), RecordError> {
        let (bytes, _) = encode(&self.0, object)?;
        self.store(record).create(&self.key(record, name), bytes, None).await.map(drop).map_err(failed)
    }

    async fn update(&self, record: Record, name: &str, object: Value) -> Result<(), RecordError> {
        let (bytes, revision) = encode(&self.0, object)?;
        self.store(record).update(&self.key(record, name), revision, bytes, None).await.map(drop).map_err(failed)
    }

    async fn delete(&self, record: Record, name: &str) -> Result<(), RecordError> {
        let key = self.key(record, name);
        let (found, _) = self.store(record).get(&key, None).await.map_err(failed)?;
        let Some(kv) = found else { return Ok(()) };
        match self.store(record).delete(&key, kv.mod_revision).await {
            Ok(_) | Err(StoreError::Conflict { current: None, .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}
