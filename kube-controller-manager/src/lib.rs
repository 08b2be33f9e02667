//! kube-controller-manager: the control loops that make what is match what is wanted.

mod clients;
mod context;
mod controllers;
mod events;
pub mod ignored_flags;
pub mod options;
mod registry;
mod shared;

pub use options::Options;

/// Placeholder until wired below.
pub async fn run(_options: Options, _shutdown: tokio_util::sync::CancellationToken) -> anyhow::Result<()> {
    anyhow::bail!("not wired")
}
