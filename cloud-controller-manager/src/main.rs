//! The cloud controller manager, with a provider for bare machines.
fn main() {}
