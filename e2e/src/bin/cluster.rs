//! The local cluster: up, down, status, kubectl, logs.
fn main() {}
