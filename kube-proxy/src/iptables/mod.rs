//! The iptables backend, with upstream's chains: one program goes on with what the other left. docs/kube-proxy.md names them.

mod apply;
mod cleanup;
mod program;
mod render;
#[cfg(test)]
mod tests;

pub(crate) use apply::Iptables;
pub(crate) use cleanup::cleanup;
pub(crate) use program::{IptablesError, Program};
