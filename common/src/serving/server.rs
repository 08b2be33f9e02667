//! Accepts connections and serves HTTP/1.1 and HTTP/2 on them until shutdown, then drains under a deadline.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulConnection},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Body, Handler, Peer, TlsOptions, parse_client_certificate, tls::Reloader};

/// What a client may send on an HTTP/2 stream before we read it: upstream's, enough for nearly every object.
const STREAM_WINDOW: u32 = 256 << 10;

/// Why a port is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Certificate, key or client CA cannot be used; the text names the file.
    #[error("TLS: {0}")]
    Tls(String),
    /// The address is taken or not ours.
    #[error("failed to create listener: failed to listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Bounds of a server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Connections served at the same time; more wait in the kernel's backlog.
    pub max_connections: usize,
    /// For the TLS handshake of a connection.
    pub handshake_timeout: Duration,
    /// For the header of an HTTP/1.1 request, and thus also for an idle connection.
    pub header_timeout: Duration,
    /// For requests under way when shutdown begins.
    pub drain: Duration,
    /// Streams of an HTTP/2 connection.
    pub max_streams: u32,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(32),
            drain: Duration::from_secs(10),
            max_streams: 1000,
        }
    }
}

/// Serves until `shutdown`, then drains. Without `tls` it speaks plain HTTP (health ports).
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsOptions>,
    handler: Arc<dyn Handler>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    serve_with(listener, tls, handler, ServeOptions::default(), shutdown).await
}

/// As [`serve`], with other bounds.
pub async fn serve_with(
    listener: TcpListener,
    tls: Option<TlsOptions>,
    handler: Arc<dyn Handler>,
    options: ServeOptions,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let server = Arc::new(Server { tls: tls.map(Reloader::new).transpose()?, handler, options });
    let slots = Arc::new(Semaphore::new(server.options.max_connections));
    let abort = CancellationToken::new();
    while let Some((stream, addr, slot)) = accept(&listener, &slots, &shutdown).await {
        let (server, ending) = (server.clone(), Ending { shutdown: shutdown.clone(), abort: abort.clone() });
        tokio::spawn(async move {
            let _slot = slot;
            server.connection(stream, addr, &ending).await;
        });
    }
    drop(listener);
    let everyone = slots.acquire_many(server.options.max_connections as u32);
    if tokio::time::timeout(server.options.drain, everyone).await.is_err() {
        tracing::info!("requests still under way at the end of the grace period are cut off");
        abort.cancel();
    }
    Ok(())
}

type Slot = tokio::sync::OwnedSemaphorePermit;

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, Slot)> {
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await, slot))
        };
        let (accepted, slot) = tokio::select! {
            () = shutdown.cancelled() => return None,
            next = next => next?,
        };
        match accepted {
            Ok((stream, addr)) => return Some((stream, addr, slot)),
            Err(error) => {
                // Out of file descriptors, or the peer went away: neither ends the server.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// First asked to finish, later cut off.
struct Ending {
    shutdown: CancellationToken,
    abort: CancellationToken,
}

struct Server {
    tls: Option<Reloader>,
    handler: Arc<dyn Handler>,
    options: ServeOptions,
}

impl Server {
    async fn connection(&self, stream: TcpStream, addr: SocketAddr, ending: &Ending) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let Some(tls) = &self.tls else {
            return self.http(stream, Peer::new(addr), ending).await;
        };
        let current = tls.current();
        let handshake = TlsAcceptor::from(current.config.clone()).accept(stream);
        let stream = match tokio::time::timeout(self.options.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%addr, %error, "TLS handshake error"),
            Err(_) => return tracing::debug!(%addr, "TLS handshake timed out"),
        };
        let mut peer = Peer::new(addr);
        if let Some(chain) = stream.get_ref().1.peer_certificates() {
            let certificate = chain.first().and_then(|der| parse_client_certificate(der)).map(Arc::new);
            let (client, front_proxy) = current.verified_by(chain);
            peer.certificate = certificate.clone().filter(|_| client);
            peer.front_proxy = certificate.filter(|_| front_proxy);
        }
        self.http(stream, peer, ending).await;
    }

    async fn http<S>(&self, stream: S, peer: Peer, ending: &Ending)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (peer, handler) = (Arc::new(peer), self.handler.clone());
        let finish = peer.finish.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (handler, peer) = (handler.clone(), peer.clone());
            async move { Ok::<Response<Body>, std::convert::Infallible>(handler.handle(request, peer).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.options.header_timeout).max_buf_size(1 << 20);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.options.max_streams)
            .max_header_list_size(1 << 20)
            .max_frame_size(STREAM_WINDOW)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(16 * STREAM_WINDOW)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let mut connection = std::pin::pin!(connection);
        let mut asked = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = ending.shutdown.cancelled(), if !asked => {
                    asked = true;
                    GracefulConnection::graceful_shutdown(connection.as_mut());
                }
                () = finish.cancelled(), if !asked => {
                    asked = true;
                    GracefulConnection::graceful_shutdown(connection.as_mut());
                }
                () = ending.abort.cancelled() => return,
            }
        }
    }
}
