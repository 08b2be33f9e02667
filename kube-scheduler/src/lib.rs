//! The Kubernetes scheduler: finds a node for every pod that has none.
//!
//! `queue` says which pod is next, `cache` what the cluster looks like, `framework` and `plugins` how to decide, `cycle` puts
//! a decision into effect.

mod app;
pub mod cache;
pub mod config;
pub mod cycle;
pub mod extender;
pub mod framework;
pub mod metrics;
#[cfg(test)]
mod model;
pub mod options;
pub mod plugins;
pub mod preemption;
pub mod queue;
pub mod storage;
#[cfg(test)]
pub(crate) mod testing;

pub use app::run;
