//! The nftables backend: renders the desired state into objects of one table per IP family and applies the difference to
//! what was applied last in one nft transaction. docs/kube-proxy.md shows a packet's way through the table.

mod apply;
mod render;
mod ruleset;
#[cfg(test)]
mod tests;

pub(crate) use apply::{Nft, cleanup};
pub(crate) use render::{Family, Settings, render};

/// The table that holds everything of ours, in families `ip` and `ip6`.
pub(crate) const TABLE: &str = "kube-proxy";
