//! Protobuf bodies: the envelope, then the object of whatever kind it names. What decodes must be JSON, and encoding
//! that again must give bytes that decode to the same.
#![no_main]

use common::{schema, wire};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(envelope) = wire::open(bytes) else { return };
    let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", envelope.api_version));
    let named = schema::lookup(group, version, envelope.kind);
    let Some(ty) = named.or_else(|| schema::lookup("", "v1", "Pod")) else { return };
    let mut json = Vec::new();
    if wire::protobuf_to_json(ty, envelope.raw, None, &mut json).is_err() {
        return;
    }
    serde_json::from_slice::<serde_json::Value>(&json).expect("no JSON came out");
    let mut raw = Vec::new();
    if wire::json_to_protobuf(ty, &json, &mut raw).is_ok() {
        let mut again = Vec::new();
        wire::protobuf_to_json(ty, &raw, None, &mut again).expect("own bytes don't decode");
    }
});
