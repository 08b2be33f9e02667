//! YAML bodies: what decodes must be JSON of a bounded size.
#![no_main]

use common::wire::yaml;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(json) = yaml::yaml_to_json(bytes) {
        assert!(json.len() <= (2 << 20) + bytes.len() * 16);
        serde_json::from_slice::<serde_json::Value>(&json).expect("no JSON came out");
    }
});
