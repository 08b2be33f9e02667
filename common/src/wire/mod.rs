//! Codecs over the API types. So far: protobuf request bodies (what kubectl's typed commands send) into JSON trees.

mod protobuf;
mod table;

pub use protobuf::{Envelope, WireError, decode, open};
