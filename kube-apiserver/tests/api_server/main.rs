//! The whole server in-process on the embedded store, over TLS with client certificates, driven by a real client.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod admission;
mod apply;
mod audit;
mod auth;
mod bad_input;
mod encodings;
mod encryption;
mod field_validation;
mod flowcontrol;
mod lists;
mod metrics;
mod objects;
mod operators;
mod ownership;
mod refusals;
mod server;
#[allow(dead_code, reason = "the clients' tests use the rest")]
mod support;
mod watches;
