//! The control loops.
pub(crate) mod service;
