//! The nftables backend. Chains and rules go through `nft` as scripts; elements, which are the many, go to the kernel
//! directly. docs/kube-proxy.md shows a packet's way through the table.

mod apply;
mod changes;
mod claims;
mod element;
mod kernel;
mod render;
#[cfg(test)]
mod tests;

pub(crate) use apply::Nft;
pub(crate) use kernel::{NftError, check, cleanup};

/// The table that holds everything of ours, in families `ip` and `ip6`.
const TABLE: &str = "kube-proxy";
