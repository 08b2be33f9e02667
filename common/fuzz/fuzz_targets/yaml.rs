//! YAML bodies: what decodes must be JSON of a bounded size.
#![no_main]

use common::wire::yaml;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(document) = yaml::read(bytes) {
        assert!(document.value.to_string().len() <= (8 << 20) + bytes.len() * 64);
    }
});
