//! HTTP/2 over TLS and nothing more: bodies are counted, not decoded, so that the generator is never the bottleneck.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;

use super::JSON;
use crate::Layout;

/// Flow-control windows of client-go's transport.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Where a server is and how to prove who asks.
#[derive(Clone)]
pub struct Endpoint {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

/// What is asked.
pub struct Ask<'a> {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// Media types of the answer.
    pub accept: &'a str,
    /// Media type of the body; empty without one.
    pub content_type: &'a str,
    /// The body.
    pub body: Bytes,
}

impl<'a> Ask<'a> {
    /// A GET.
    pub fn get(path: &'a str, accept: &'a str) -> Self {
        Self { method: Method::GET, path, accept, content_type: "", body: Bytes::new() }
    }

    /// A request with a JSON body; PATCHes are merge patches.
    pub fn json(method: Method, path: &'a str, body: Bytes) -> Self {
        let content_type = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        Self { method, path, accept: JSON, content_type, body }
    }
}

/// One connection; requests on it run beside each other.
#[derive(Clone)]
pub struct Connection(http2::SendRequest<Full<Bytes>>);

impl Endpoint {
    /// The server at `address`, asked as the administrator.
    pub fn new(layout: &Layout, address: SocketAddr) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(layout.pki("ca.crt"))?)?;
        let certificate = CertificateDer::from_pem_file(layout.pki("admin.crt"))?;
        let key = PrivateKeyDer::from_pem_file(layout.pki("admin.key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { address, tls: Arc::new(tls) })
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let stream = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }
}

impl Connection {
    /// The body of a successful answer as it comes in.
    pub async fn stream(&mut self, ask: Ask<'_>) -> Result<Incoming> {
        let mut request = Request::builder()
            .method(ask.method)
            .uri(format!("https://localhost{}", ask.path))
            .header(header::ACCEPT, ask.accept)
            .header(header::USER_AGENT, "bench");
        if !ask.content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, ask.content_type);
        }
        self.0.ready().await?;
        let response = self.0.send_request(request.body(Full::new(ask.body))?).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let text = response.into_body().collect().await?.to_bytes();
        bail!("{} answered {status}: {}", ask.path, String::from_utf8_lossy(&text[..text.len().min(500)]))
    }

    /// Reads an answer to its end and tells its size.
    pub async fn size(&mut self, ask: Ask<'_>) -> Result<usize> {
        let mut body = self.stream(ask).await?;
        let mut size = 0;
        while let Some(frame) = body.frame().await {
            size += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(size)
    }

    /// Reads an answer whole.
    pub async fn whole(&mut self, ask: Ask<'_>) -> Result<Bytes> {
        let path = ask.path.to_owned();
        Ok(self.stream(ask).await?.collect().await.with_context(|| path)?.to_bytes())
    }
}
