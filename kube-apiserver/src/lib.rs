//! The Kubernetes API server.
//!
//! A request travels: listener -> request info -> authentication -> audit -> impersonation -> flow control -> authorization -> verb handler
//! (admission, defaulting, validation) -> store. `server/chain.rs` shows the order in one place.

pub mod admission;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod discovery;
pub mod endpoints;
pub mod flowcontrol;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod openapi;
pub mod options;
pub mod patch;
pub mod proxy;
pub mod request;
pub mod resources;
pub mod server;
pub mod storage;

use tokio_util::sync::CancellationToken;

/// Serves until `shutdown`.
///
/// # Errors
/// What keeps the server from starting, or made it stop.
pub async fn run(options: options::Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    server::start(options, shutdown).await?.wait().await
}
