//! What the Corten daemons share.
//!
//! `api`, `schema`, `meta` and `quota` do no I/O and never use the rooms below them (`client`, `informer`, `serving`, ...).

pub mod api;
pub mod client;
pub mod config;
pub mod controlplane;
pub mod election;
pub mod events;
pub mod informer;
pub mod keys;
pub mod meta;
pub mod quota;
pub mod runtime;
pub mod schema;
pub mod serving;
pub mod telemetry;
pub mod wire;
