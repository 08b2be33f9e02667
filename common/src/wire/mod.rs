//! Codecs over the table of API types ([`crate::schema`]): protobuf to JSON and back in one pass without a tree in
//! between, the envelope and the watch frames of protobuf.
//!
//! Beside them [`cbor`] and [`yaml`], which turn into JSON text and take the same way from there.
//!
//! All of them read bytes from outside: lengths are checked before anything is allocated for them, and nesting is
//! bounded.

mod bytes;
pub mod cbor;
mod envelope;
mod error;
mod plan;
mod raw;
mod sort;
mod text;
mod to_json;
mod to_protobuf;
pub mod yaml;

#[cfg(test)]
mod tests;

pub use envelope::{Envelope, MAGIC, element_head, envelope, first_field_len, frame_head, open, seal};
pub use error::WireError;
pub use to_json::protobuf_to_json;
pub use to_protobuf::{json_to_protobuf, tree_to_protobuf};
