//! The secure port of the control-plane daemons (10257, 10258, 10259): TLS, delegated auth, operators' paths.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{Request, Response};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Attributes, Body, DelegatedAuth, DelegatedAuthOptions, Handler, Ops, Peer, ServeError, TlsOptions, serve};
use crate::config::flags::{ClientConnection, Serving};

/// What a daemon's port serves and under which defaults.
pub struct DaemonServer {
    /// The daemon's name, also that of its self-signed certificate.
    pub component: &'static str,
    /// The port when `--secure-port` is not given.
    pub default_port: u16,
    /// Health, metrics, configz.
    pub ops: Ops,
    /// More paths, behind the same authentication and authorization; None answers 404.
    pub more: Option<Arc<dyn Handler>>,
}

/// Serves a daemon's secure port until shutdown. Port 0 serves nothing. A taken port or an unreadable certificate is an error at once.
pub async fn run_daemon_server(
    serving: &Serving,
    server: DaemonServer,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let port = serving.secure_port.unwrap_or(server.default_port);
    if port == 0 {
        shutdown.cancelled().await;
        return Ok(());
    }
    let address = SocketAddr::new(serving.bind_address, port);
    let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
    let authn = review_client(&serving.authentication_kubeconfig, server.component).await?;
    let authz = review_client(&serving.authorization_kubeconfig, server.component).await?.or_else(|| authn.clone());
    let tls = tls_options(serving, &server);
    if let Some(client) =
        authn.clone().filter(|_| serving.client_ca_file.is_none() && !serving.authentication_skip_lookup)
    {
        tokio::spawn(look_up_client_ca(client, tls.client_ca_pem.clone(), shutdown.clone()));
    }
    let options = DelegatedAuthOptions {
        token_ttl: serving.authentication_token_webhook_cache_ttl,
        authorized_ttl: serving.authorization_webhook_cache_authorized_ttl,
        unauthorized_ttl: serving.authorization_webhook_cache_unauthorized_ttl,
        always_allow_paths: serving.authorization_always_allow_paths.clone(),
        ..DelegatedAuthOptions::default()
    };
    let auth = DelegatedAuth::new(authz, options);
    let handler = Arc::new(Guarded { auth, ops: server.ops, more: server.more });
    tracing::info!(%address, "serving securely");
    Ok(serve(listener, Some(tls), handler, shutdown).await?)
}

async fn review_client(kubeconfig: &Option<std::path::PathBuf>, component: &str) -> anyhow::Result<Option<Client>> {
    let Some(path) = kubeconfig else { return Ok(None) };
    let connection =
        ClientConnection { kubeconfig: Some(path.clone()), kube_api_qps: -1.0, ..ClientConnection::default() };
    Ok(Some(crate::client::connect(&connection, component).await?))
}

fn tls_options(serving: &Serving, server: &DaemonServer) -> TlsOptions {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    TlsOptions {
        cert: serving.tls_cert_file.clone(),
        key: serving.tls_private_key_file.clone(),
        client_ca: serving.client_ca_file.clone(),
        cert_dir: serving.cert_dir.clone(),
        pair_name: server.component.to_owned(),
        self_signed_hosts: vec![hostname.trim().to_owned(), serving.bind_address.to_string()],
        tls13_only: serving.tls_min_version.as_deref() == Some("VersionTLS13"),
        ..TlsOptions::default()
    }
}

/// Fetches the cluster's client CA; tries until it is there, since the apiserver may start later than we do.
async fn look_up_client_ca(client: Client, target: Arc<RwLock<Vec<u8>>>, shutdown: CancellationToken) {
    let api = Api::<ConfigMap>::namespaced(client, "kube-system");
    let mut delay = Duration::from_millis(500);
    loop {
        match api.get("extension-apiserver-authentication").await {
            Ok(map) => {
                if let Some(pem) = map.data.and_then(|mut data| data.remove("client-ca-file")) {
                    *target.write() = pem.into_bytes();
                }
                return;
            }
            Err(error) => tracing::debug!(%error, "cannot read kube-system/extension-apiserver-authentication yet"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(Duration::from_secs(60)),
        }
    }
}

struct Guarded {
    auth: DelegatedAuth,
    ops: Ops,
    more: Option<Arc<dyn Handler>>,
}

#[async_trait]
impl Handler for Guarded {
    async fn handle(&self, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body> {
        let attributes = Attributes::Path {
            verb: request.method().as_str().to_ascii_lowercase(),
            path: request.uri().path().to_owned(),
        };
        if let Err(response) = self.auth.check(request.headers(), &peer, &attributes).await {
            return *response;
        }
        if let Some(response) = self.ops.respond(&request) {
            return response;
        }
        match &self.more {
            Some(more) => more.handle(request, peer).await,
            None => self.ops.handle(request, peer).await,
        }
    }
}
