//! CBOR bodies: what decodes must be JSON, and survive the way back.
#![no_main]

use common::wire::cbor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut json = Vec::new();
    if cbor::cbor_to_json(bytes, &mut json).is_err() {
        return;
    }
    let tree: serde_json::Value = serde_json::from_slice(&json).expect("no JSON came out");
    let (mut encoded, mut again) = (Vec::new(), Vec::new());
    cbor::tree_to_cbor(&tree, &mut encoded);
    cbor::cbor_to_json(&encoded, &mut again).expect("own bytes don't decode");
});
