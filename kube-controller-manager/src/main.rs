//! The Kubernetes controller manager.
fn main() {}
