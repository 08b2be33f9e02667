//! One room per controller, under upstream's name: what to do is a pure function, doing it is thin.

pub(crate) mod deployment;
pub(crate) mod endpoints;
pub(crate) mod endpointslice;
pub(crate) mod garbage_collector;
pub(crate) mod namespace;
pub(crate) mod node_ipam;
pub(crate) mod node_lifecycle;
pub(crate) mod podgc;
pub(crate) mod pv_protection;
pub(crate) mod pvc_protection;
pub(crate) mod replicaset;
pub(crate) mod resourcequota;
pub(crate) mod root_ca_publisher;
pub(crate) mod serviceaccount;
pub(crate) mod taint_eviction;
pub(crate) mod vac_protection;
