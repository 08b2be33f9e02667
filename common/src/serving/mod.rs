//! The HTTP(S) port that every daemon opens: TLS with reload and optional client certificates, HTTP/1.1 with upgrades and HTTP/2,
//! graceful drain, health and metrics paths, delegated authentication and authorization.

mod auth;
mod body;
mod daemon;
mod health;
mod ops;
mod server;
mod tls;
mod v1_client;
mod zpages;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

pub use auth::{Attributes, AuthError, Decision, DelegatedAuth, DelegatedAuthOptions, User};
pub use body::{Body, BoxError, empty, full, json, status, stream, text};
pub use daemon::{DaemonServer, run_daemon_server};
pub use health::Health;
pub use ops::Ops;
pub use server::{ServeError, ServeOptions, serve, serve_with};
pub use tls::{ClientCertificate, TlsOptions, parse_client_certificate};
pub use zpages::ZPages;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The peer's address.
    pub addr: SocketAddr,
    /// The client certificate, only if it was verified against the client CA.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The client certificate, only if it was verified against the front proxy's CA.
    pub front_proxy: Option<Arc<ClientCertificate>>,
    /// Cancelled when the connection shall end after the requests under way.
    pub finish: CancellationToken,
}

impl Peer {
    /// A peer without a certificate.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, certificate: None, front_proxy: None, finish: CancellationToken::new() }
    }

    /// Asks the client to open another connection: GOAWAY on HTTP/2, `Connection: close` on HTTP/1.1.
    pub fn finish_connection(&self) {
        self.finish.cancel();
    }
}

/// Answers requests. Upgrades work through `hyper::upgrade::on(&mut request)`.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    async fn handle(&self, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body>;
}
