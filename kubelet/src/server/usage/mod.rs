//! Resource usage as clients ask for it: `/stats/summary`, `/metrics/resource` and `/metrics/cadvisor`, all drawn from one
//! snapshot that is taken when asked.

mod cadvisor;
mod exposition;
mod network;
mod resource;
mod snapshot;
mod summary;

pub(super) use cadvisor::text as cadvisor_text;
pub(super) use resource::text as resource_text;
pub(super) use snapshot::{Snapshot, take};
pub(super) use summary::summary;
