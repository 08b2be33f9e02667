//! The life of the server: open, listen, bootstrap, serve, drain.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use common::serving::{Health, ServeOptions, TlsOptions, serve_with};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{ApiServer, chain::Front, follow, setup, upkeep};
use crate::{
    bootstrap,
    options::{Config, Options},
};

/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// A server that listens.
pub struct Running {
    /// Where.
    pub address: SocketAddr,
    /// The shared state.
    pub server: Arc<ApiServer>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Waits until the server has ended and the store is closed.
    ///
    /// # Errors
    /// Why serving failed.
    pub async fn wait(self) -> anyhow::Result<()> {
        let result = self.serving.await?;
        self.server.stopped.cancel();
        if let Some(audit) = &self.server.audit {
            audit.close().await;
        }
        for store in self.server.registry.backends().all() {
            store.close().await;
        }
        result
    }
}

/// How long the first clients wait for a bootstrap that does not succeed, before they are told that the server is not
/// ready. Clients give a TLS handshake ten seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// Opens the store and the port and starts to serve. Connections are accepted once the bootstrap has ended: daemons that
/// start with the server would be refused for want of roles, and try again only after seconds.
///
/// # Errors
/// A flag, file, address or store that cannot be used.
pub async fn start(options: Options, shutdown: CancellationToken) -> anyhow::Result<Running> {
    let config = options.complete().map_err(|e| anyhow::anyhow!(e))?;
    let serving = &config.options.serving;
    let wanted = SocketAddr::new(serving.bind_address, serving.secure_port);
    let listener = listen(wanted, serving.permit_port_sharing)
        .with_context(|| format!("failed to create listener: failed to listen on {wanted}"))?;
    let address = listener.local_addr()?;
    let tls = tls_options(&config);
    let ends = Ends {
        delay: serving.shutdown_delay_duration,
        send_retry_after: serving.shutdown_send_retry_after,
        request_timeout: config.options.limits.request_timeout,
        watch_grace: serving.shutdown_watch_termination_grace_period,
    };
    let streams = serving.http2_max_streams_per_connection;
    let stores = setup::open_stores(&config.options).await?;
    let (stores, ring) = setup::encrypted(&config.options, stores, &shutdown).await?;
    let server = Arc::new(setup::build(config, stores, Health::new(), shutdown.clone()).await?);
    register_checks(&server);
    if let Some(ring) = ring.filter(|ring| ring.load().has_services()) {
        server.health.register("kms-providers", move || ring.load().health());
    }
    let bootstrapped = bootstrap::spawn(&server, follow::spawn(&server));
    upkeep::spawn(&server);
    super::metrics::build_info();
    let mut options = ServeOptions { drain: DRAIN + ends.watch_grace, ..ServeOptions::default() };
    if streams > 0 {
        options.max_streams = streams;
    }
    let handler = Arc::new(Front(Arc::clone(&server)));
    let stop = CancellationToken::new();
    tokio::spawn(end(Arc::clone(&server), ends, stop.clone()));
    let serving = tokio::spawn(async move {
        let _ = stop.run_until_cancelled(tokio::time::timeout(PATIENCE, bootstrapped)).await;
        Ok(serve_with(listener, Some(tls), handler, options, stop).await?)
    });
    tracing::info!(%address, "serving securely");
    Ok(Running { address, server, serving })
}

fn listen(address: SocketAddr, share: bool) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(share)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How the server ends.
struct Ends {
    delay: Duration,
    send_retry_after: bool,
    request_timeout: Duration,
    watch_grace: Duration,
}

/// Upstream's order: not ready -> the delay, in which load balancers notice -> no new requests -> watches end -> the
/// port closes. With `--shutdown-send-retry-after` the port stays open until the requests under way are answered.
async fn end(server: Arc<ApiServer>, ends: Ends, stop: CancellationToken) {
    server.shutdown.cancelled().await;
    bootstrap::leave(&server).await;
    tokio::time::sleep(ends.delay).await;
    if ends.send_retry_after {
        server.draining.cancel();
        let _ = tokio::time::timeout(ends.request_timeout, server.inflight.drained()).await;
        server.ending.cancel();
        tokio::time::sleep(ends.watch_grace).await;
    }
    server.ending.cancel();
    stop.cancel();
}

fn tls_options(config: &Config) -> TlsOptions {
    let serving = &config.options.serving;
    let mut hosts = vec![
        config.advertise_address.to_string(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
    ];
    hosts.extend(config.kubernetes_service_ip().map(|ip| ip.to_string()));
    TlsOptions {
        cert: serving.tls_cert_file.clone(),
        key: serving.tls_private_key_file.clone(),
        client_ca: config.options.authentication.client_ca_file.clone(),
        front_proxy_ca: config.options.authentication.requestheader_client_ca_file.clone(),
        cert_dir: Some(serving.cert_dir.clone()),
        pair_name: "apiserver".to_owned(),
        self_signed_hosts: hosts,
        tls13_only: serving.tls_min_version.as_deref() == Some("VersionTLS13"),
        ..TlsOptions::default()
    }
}

/// What /readyz asks besides the bootstrap steps.
fn register_checks(server: &Arc<ApiServer>) {
    let etcd = StoreCheck::spawn(server);
    let ready = etcd.clone();
    server.health.register("log", || Ok(()));
    server.health.register("etcd", move || etcd.clone().verdict());
    server.health.register_ready("etcd-readiness", move || ready.clone().verdict());
    let shutdown = server.shutdown.clone();
    server.health.register_ready("shutdown", move || {
        if shutdown.is_cancelled() { Err("process is shutting down".to_owned()) } else { Ok(()) }
    });
}

/// Asks the store every few seconds; checks only look at the last answer.
#[derive(Clone)]
struct StoreCheck(tokio::sync::watch::Receiver<Option<String>>);

impl StoreCheck {
    fn spawn(server: &Arc<ApiServer>) -> Self {
        let (sender, receiver) = tokio::sync::watch::channel(None);
        let stores: Vec<_> = server.registry.backends().all().cloned().collect();
        let shutdown = server.shutdown.clone();
        let limit = server.config.options.storage.etcd_healthcheck_timeout;
        tokio::spawn(async move {
            while !shutdown.is_cancelled() {
                let healthy = futures::future::try_join_all(stores.iter().map(|store| store.health()));
                let verdict = match tokio::time::timeout(limit, healthy).await {
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some(format!("no answer within {limit:?}")),
                };
                sender.send_replace(verdict);
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(Duration::from_secs(5)) => {}
                }
            }
        });
        Self(receiver)
    }

    fn verdict(&self) -> Result<(), String> {
        self.0.borrow().clone().map_or(Ok(()), Err)
    }
}
