//! Packets through a node's rules: clients, pods and remote pods are network namespaces, the API server is one that only
//! lists and watches. CORTEN_UPSTREAM_KUBE_PROXY=path puts upstream's program in the place of ours: what these tests say
//! must be true of both. Needs root.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod addresses;
mod balance;
mod life;
mod policies;
mod world;
