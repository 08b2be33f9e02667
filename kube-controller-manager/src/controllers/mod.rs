//! One room per controller, under upstream's name: what to do is a pure function, doing it is thin.

pub(crate) mod deployment;
pub(crate) mod replicaset;
