//! The Kubernetes service proxy: makes Services' addresses answer on this node, with nftables or iptables.

mod backend;
mod config;
mod conntrack;
mod health;
mod iptables;
mod metrics;
mod model;
mod names;
mod netlink;
mod nftables;
mod proxier;
mod server;
mod settings;
mod sources;
mod start;
mod sysctls;

pub use config::Options;
pub use start::run;
