//! The Kubernetes node agent: keeps the pods of one node running in its container runtime and tells the apiserver.
//!
//! `run` wires the rooms together; each of them says at its head what it does.

mod certificates;
mod cgroups;
pub mod config;
pub mod devices;
pub mod dra;
mod events;
mod eviction;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod gates;
mod grpc;
mod health;
mod images;
mod metrics;
pub mod node;
mod placement;
mod plugins;
pub mod podresources;
pub mod pods;
mod probes;
mod quantity;
mod rotation;
mod rpc;
pub mod runtime;
mod server;
mod shared;
mod start;
pub mod stats;
mod userns;
mod volumes;
pub mod wire;

pub use config::{Config, Options};
pub use shared::Kubelet;
pub use start::run;
