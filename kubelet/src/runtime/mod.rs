//! The container runtime: a CRI v1 client, our view of what it holds, and the requests that pods turn into.

mod client;
pub(crate) mod container;
pub(crate) mod devices;
pub(crate) mod hash;
pub(crate) mod labels;
mod model;
pub(crate) mod pleg;
pub(crate) mod resources;
pub(crate) mod sandbox;
pub(crate) mod security;

pub use client::{Runtime, RuntimeError, RuntimeInfo};
pub use model::{ContainerState, ContainerView, PodRuntime, SandboxView};
