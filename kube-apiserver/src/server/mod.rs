//! The server: listener, filter chain, shared state.
pub mod registry;
