//! The cloud controller manager with the local provider against our apiserver.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod cloud;
#[path = "../../../kube-apiserver/tests/neighbour/mod.rs"]
mod neighbour;
mod start;

/// Who the daemon is.
const USER: &str = "system:cloud-controller-manager";
