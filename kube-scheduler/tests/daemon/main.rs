//! The scheduler against our apiserver: how it starts, and where pods go.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod claims;
#[path = "../../../kube-apiserver/tests/neighbour/mod.rs"]
mod neighbour;
mod placing;
mod start;
mod volumes;

/// Who the daemon is.
const USER: &str = "system:kube-scheduler";
