//! Opens the ports and serves them until shutdown.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use common::serving::TlsOptions;
use futures::future::try_join_all;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::auth::Auth;
use super::handler::{Access, Server, Shared};
use crate::shared::Kubelet;

/// Serves all configured ports until `shutdown`; an address or certificate that cannot be used is an error at once.
pub(crate) async fn serve(kubelet: &Arc<Kubelet>, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let file = &kubelet.config.file;
    let shared = Arc::new(Shared::new(kubelet.clone()));
    let mut ports = Vec::new();
    if file.enable_server {
        let auth = Auth::new(&kubelet.config, kubelet.client.clone())?;
        let listener = listen(&file.address, file.port).await?;
        ports.push((listener, Some(tls(kubelet)?), Access::Full(Box::new(auth))));
        if file.read_only_port > 0 {
            ports.push((listen(&file.address, file.read_only_port).await?, None, Access::ReadOnly));
        }
    }
    let serving = ports.into_iter().map(|(listener, tls, access)| {
        let handler = Arc::new(Server { shared: shared.clone(), access });
        common::serving::serve(listener, tls, handler, shutdown.clone())
    });
    try_join_all(serving).await.context("serving the kubelet's ports")?;
    shutdown.cancelled().await;
    Ok(())
}

async fn listen(address: &str, port: u16) -> anyhow::Result<TcpListener> {
    let ip: IpAddr = address.parse().with_context(|| format!("{address:?} is not an IP address to listen on"))?;
    let address = SocketAddr::new(ip, port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"))?;
    tracing::info!(address = %address, "listening");
    Ok(listener)
}

fn tls(kubelet: &Kubelet) -> anyhow::Result<TlsOptions> {
    let (config, file) = (&kubelet.config, &kubelet.config.file);
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let tls13_only = match file.tls_min_version.as_str() {
        "" | "VersionTLS12" => false,
        "VersionTLS13" => true,
        other => bail!("tlsMinVersion {other:?} is not supported: use VersionTLS12 or VersionTLS13"),
    };
    let mut hosts = vec![config.node_name.clone(), config.hostname.clone()];
    hosts.extend(config.node_ips.iter().map(ToString::to_string));
    hosts.extend(kubelet.node.host_ips());
    hosts.dedup();
    let signed = crate::certificates::serving_pair(config);
    Ok(TlsOptions {
        cert: signed.clone().or_else(|| path(&file.tls_cert_file)),
        key: signed.clone().or_else(|| path(&file.tls_private_key_file)),
        pair_comes_later: signed.is_some(),
        client_ca: path(&file.authentication.x509.client_ca_file),
        cert_dir: Some(config.cert_dir.clone()),
        pair_name: "kubelet".into(),
        self_signed_hosts: hosts,
        tls13_only,
        ..TlsOptions::default()
    })
}
