//! The whole kubelet in-process, between a container runtime of the tests' own and a real API server. Needs no root: pods get no
//! cgroups, and their volumes no mounts.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod claims;
mod devices;
mod images;
mod join;
mod lifecycle;
mod logs;
#[path = "../../../kube-apiserver/tests/neighbour/mod.rs"]
mod neighbour;
mod outages;
mod registration;
mod resize;
mod restarts;
mod start;
mod static_pods;
mod support;
mod volumes;
