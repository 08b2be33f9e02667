//! The whole server in-process on the embedded store, over TLS with client certificates, driven by a real client.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod admission;
mod apply;
mod auth;
mod bad_input;
mod encodings;
mod objects;
mod ownership;
mod support;
mod watches;
