//! Neighbours of a kube-proxy under test: an API server that lists and watches, and network namespaces as machines.

mod api;
mod machine;

pub use api::Api;
pub use machine::{Machine, Reply};
