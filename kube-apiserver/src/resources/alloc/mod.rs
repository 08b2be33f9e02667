//! Allocation of cluster IPs and node ports for Services.
//!
//! The truth lives in the store: one `IPAddress` object per address and one bitmap object for node ports, so that two apiservers on one
//! store never hand out the same number twice. What is kept in memory only makes the first guess a good one.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use ipnet::IpNet;
use serde_json::Value;

use super::field::ErrorList;

mod families;
mod ip;
mod port;
mod service;

pub use service::{Allocators, Transaction};

/// Why an allocation failed.
#[derive(Debug, thiserror::Error)]
pub enum AllocError {
    /// The request asks for something it cannot have: an `Invalid` status on the Service.
    #[error("{}", .0.message())]
    Invalid(ErrorList),
    /// The server cannot serve it: an `InternalError` status.
    #[error("{0}")]
    Internal(String),
}

/// What the allocators hand out.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--service-cluster-ip-range`: one range, or one per IP family; the first is the primary family.
    pub service_cidrs: Vec<IpNet>,
    /// `--service-node-port-range`.
    pub node_ports: RangeInclusive<u16>,
}

/// Why a write of an allocation record failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Create: somebody else has this record.
    #[error("record exists")]
    Exists,
    /// Update or delete: the record changed or vanished in between.
    #[error("record changed")]
    Conflict,
    /// The store failed.
    #[error("{0}")]
    Other(String),
}

/// Which kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// `networking.k8s.io` `ipaddresses`.
    IpAddress,
    /// `networking.k8s.io` `servicecidrs`.
    ServiceCidr,
    /// core `services` (read only, for the repair loop); names are `namespace/name`.
    Service,
    /// The `RangeAllocation` at `/registry/ranges/<name>`, served by no endpoint.
    Range,
}

/// What the allocators need of the store; given by the server. Names of namespaced records are `namespace/name`.
/// Returned objects carry `metadata.resourceVersion`; `update` compares it.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// One record.
    async fn get(&self, record: Record, name: &str) -> Result<Option<Value>, RecordError>;
    /// All records of a kind.
    async fn list(&self, record: Record) -> Result<Vec<Value>, RecordError>;
    /// Creates; `Exists` when taken. Fills no system fields: the object arrives complete (uid, creationTimestamp).
    async fn create(&self, record: Record, name: &str, object: Value) -> Result<(), RecordError>;
    /// Replaces the record if its resourceVersion is still the one in `object`.
    async fn update(&self, record: Record, name: &str, object: Value) -> Result<(), RecordError>;
    /// Deletes; a missing record is no error.
    async fn delete(&self, record: Record, name: &str) -> Result<(), RecordError>;
}
