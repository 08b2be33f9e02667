//! The Kubernetes API server.
fn main() {}
