#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kube_apiserver::fuzz::yaml_body(bytes));
