#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kubelet::fuzz::log_query(bytes));
