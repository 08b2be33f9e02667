//! The control loops, one folder or file each.

pub(crate) mod node;
pub(crate) mod node_lifecycle;
pub(crate) mod nodes;
pub(crate) mod route;
pub(crate) mod service;
