//! The Kubernetes service proxy: makes Services' addresses answer on this node, with nftables.

mod conntrack;
mod health;
mod metrics;
mod model;
mod nftables;
mod options;
mod proxier;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use anyhow::{Context, Result};
use common::{client, informer::Factory, serving::serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use options::Options;

use crate::{
    health::{HealthState, MetricsServer, ProxyHealth, serve_services},
    metrics::Metrics,
    proxier::{Proxier, Sources},
};

/// Runs the proxy until `shutdown`; its rules stay in place then. With `--cleanup` it removes them and returns.
///
/// # Errors
/// When options are wrong, an address can't be bound or the kubeconfig can't be used.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<()> {
    common::telemetry::init(&options.logging);
    if options.cleanup {
        nftables::cleanup().await?;
        tracing::info!("removed all rules of kube-proxy");
        return Ok(());
    }
    let config = options.complete()?;
    let health = HealthState::new(config.full_sync_period);
    let mut address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if let Some(bind) = config.healthz {
        address = bind.ip();
        let listener =
            TcpListener::bind(bind).await.with_context(|| format!("listening on {bind} for health checks"))?;
        tokio::spawn(serve(listener, None, Arc::new(ProxyHealth(health.clone())), shutdown.clone()));
    }
    if let Some(bind) = config.metrics {
        let listener = TcpListener::bind(bind).await.with_context(|| format!("listening on {bind} for metrics"))?;
        tokio::spawn(serve(listener, None, Arc::new(MetricsServer), shutdown.clone()));
    }
    tokio::spawn(serve_services(health.clone(), address, shutdown.clone()));

    let client = client::connect(&config.client, "kube-proxy").await?;
    let factory = Factory::new(client);
    let sources = Sources::new(&factory, &config.node);
    factory.start(&shutdown);
    // Old rules serve until everything is known: half a list would cut connections.
    if !factory.wait_for_sync(&shutdown).await {
        return Ok(());
    }
    tracing::info!(node = config.node, "caches are filled, programming nftables");
    Proxier::new(config, sources, health, Metrics::new()?).run(shutdown).await;
    Ok(())
}
