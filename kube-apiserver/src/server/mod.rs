//! The server: listener, filter chain, shared state.
