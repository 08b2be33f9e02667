//! The controller manager against our apiserver: how it starts, what its controllers bring about, who leads.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod autoscaling;
mod budgets;
mod cluster;
mod election;
mod jobs;
mod loops;
#[path = "../../../kube-apiserver/tests/neighbour/mod.rs"]
mod neighbour;
mod protection;
mod start;
mod volumes;
mod workloads;

/// Who the daemon is.
const USER: &str = "system:kube-controller-manager";
