//! What the benches of daemons share: an API server (and etcd) of their own, a client that never is the bottleneck, figures.

pub mod client;
pub mod figures;
pub mod server;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;

use client::{Connection, Endpoint};

/// The media type.
pub const JSON: &str = "application/json";
/// Connections that requests are spread over.
const WORKERS: usize = 16;

/// Makes `total` numbered requests from several connections; how long each took.
pub async fn each<F>(endpoint: &Endpoint, total: usize, request: F) -> Result<Vec<Duration>>
where
    F: AsyncFn(&mut Connection, usize) -> Result<()>,
{
    let next = AtomicUsize::new(0);
    let worker = async || {
        let mut connection = endpoint.connect().await?;
        let mut spent = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= total {
                return Ok::<_, anyhow::Error>(spent);
            }
            let start = Instant::now();
            request(&mut connection, number).await?;
            spent.push(start.elapsed());
        }
    };
    Ok(futures::future::try_join_all((0..WORKERS).map(|_| worker())).await?.concat())
}
