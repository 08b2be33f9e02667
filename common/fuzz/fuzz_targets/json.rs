//! JSON bodies: the decoder with its field validation, and what becomes of the tree in protobuf.
#![no_main]

use common::{schema, wire};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for (group, version, kind) in [("", "v1", "Pod"), ("apps", "v1", "Deployment"), ("", "v1", "Event")] {
        let Some(ty) = schema::lookup(group, version, kind) else { continue };
        let mut decoded = schema::decode(ty, bytes);
        if decoded.error.is_some() || !decoded.value.is_object() {
            continue;
        }
        schema::normalize(ty, &mut decoded.value);
        let mut raw = Vec::new();
        if wire::tree_to_protobuf(ty, &decoded.value, &mut raw).is_ok() {
            wire::protobuf_to_json(ty, &raw, None, &mut Vec::new()).expect("own bytes don't decode");
        }
    }
});
