//! The kubelet's own server: HTTPS on 10250 for the apiserver and for metrics, and the plain
//! read-only port where it is asked for.

mod attributes;
mod auth;
mod checkpoint;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzing;
mod handler;
mod listen;
mod lists;
mod logs;
mod lookup;
mod query;
mod routes;
mod streams;
mod system_logs;
mod tunnel;
#[cfg(test)]
mod tunnel_tests;
mod usage;

pub(crate) use listen::serve;
