//! A DNS server for the Kubernetes DNS specification 1.1, for clusters that can't pull CoreDNS.

mod forward;
mod handler;
mod view;
mod zone;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use common::{
    config::flags,
    informer::Factory,
    serving::{Health, Ops, serve},
};
use hickory_server::Server;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::{handler::Handler, view::Informers, zone::Zone};

/// Serves the cluster's names from Services and EndpointSlices.
#[derive(Clone, Debug, Parser)]
#[command(name = "cluster-dns")]
pub struct Options {
    #[command(flatten)]
    logging: flags::Logging,
    #[command(flatten)]
    client: flags::ClientConnection,
    /// The cluster's domain.
    #[arg(long, default_value = "cluster.local")]
    domain: String,
    /// Where to listen, UDP and TCP.
    #[arg(long, default_value = "0.0.0.0:53")]
    listen: SocketAddr,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    health: SocketAddr,
    /// Names the resolvers for everything outside of the cluster's domain.
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// Seconds for which answers may be kept.
    #[arg(long, default_value_t = 5)]
    ttl: u32,
}

/// Runs the server until `shutdown`.
///
/// # Errors
/// When the domain is no name, an address can't be bound or the API can't be used.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<()> {
    common::telemetry::init(&options.logging);
    let zone = Zone::new(&options.domain, options.ttl).with_context(|| format!("--domain={}", options.domain))?;
    let client = common::client::connect(&options.client, "cluster-dns").await?;
    let factory = Factory::new(client);
    let view = Arc::new(Informers::new(&factory));

    let health = Health::new();
    let synced = view.clone();
    health.register_ready("informer-sync", move || {
        if synced.has_synced() { Ok(()) } else { Err("not all lists have arrived".into()) }
    });
    let listener =
        TcpListener::bind(options.health).await.with_context(|| format!("listening on {}", options.health))?;
    tokio::spawn(serve(listener, None, Arc::new(Ops::new(health)), shutdown.clone()));

    let udp = UdpSocket::bind(options.listen).await.with_context(|| format!("listening on UDP {}", options.listen))?;
    let tcp =
        TcpListener::bind(options.listen).await.with_context(|| format!("listening on TCP {}", options.listen))?;
    factory.start(&shutdown);
    // Half the services are worse than none: a wrong NXDOMAIN is remembered by clients.
    if !factory.wait_for_sync(&shutdown).await {
        return Ok(());
    }
    let handler = Handler::new(zone, view, forward::resolvers(&options.resolv_conf))?;
    let mut server = Server::new(handler);
    server.register_socket(udp);
    server.register_listener(tcp, Duration::from_secs(5), 4096);
    tracing::info!(listen = %options.listen, domain = options.domain, "serving DNS");
    shutdown.cancelled().await;
    server.shutdown_gracefully().await.context("shutting down")
}
