//! Passes an upgraded connection (SPDY or WebSocket) through to the runtime's streaming server, byte for byte.

use std::time::Duration;

use bytes::Bytes;
use common::serving::{Body, empty};
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::lookup::Refusal;

const CONNECT: Duration = Duration::from_secs(10);
/// What the runtime may still send after the client has said its last word.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Joins the client with the streaming server at `url`; ends with `shutdown`.
pub(super) async fn serve(
    mut request: Request<Incoming>,
    url: &str,
    shutdown: CancellationToken,
) -> Result<Response<Body>, Refusal> {
    let failed = |error: String| {
        tracing::error!(%error, "Error while proxying request");
        Refusal::internal(error)
    };
    let url: Uri = url.parse().map_err(|error| failed(format!("the runtime's streaming URL {url:?}: {error}")))?;
    let onward = onward(&request, &url).map_err(failed)?;
    let answered = tokio::time::timeout(CONNECT, send(&url, onward)).await;
    let mut answer = answered
        .unwrap_or_else(|_| Err("i/o timeout".into()))
        .map_err(|error| failed(format!("error dialing backend: {error}")))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut parts, body) = answer.into_parts();
        strip_hop(&mut parts.headers);
        return Ok(Response::from_parts(parts, body.map_err(Into::into).boxed_unsync()));
    }
    let (runtime, client) = (hyper::upgrade::on(&mut answer), hyper::upgrade::on(&mut request));
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    tokio::spawn(async move {
        tokio::select! {
            result = join(client, runtime) => if let Err(error) = result {
                tracing::debug!(%error, "stream ended");
            },
            () = shutdown.cancelled() => {}
        }
    });
    Ok(response)
}

/// Whether the client wants to change the protocol.
pub(super) fn wants_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asks = connection.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    asks && headers.contains_key(header::UPGRADE)
}

fn strip_hop(headers: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
}

/// The client's request with the runtime's address; credentials stay here.
fn onward(request: &Request<Incoming>, url: &Uri) -> Result<Request<Empty<Bytes>>, String> {
    if url.scheme_str() != Some("http") {
        return Err(format!("the runtime's streaming server at {url} does not speak plain HTTP"));
    }
    let host = url.authority().ok_or_else(|| format!("the runtime's streaming URL {url} names no host"))?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut onward = Request::new(Empty::new());
    *onward.method_mut() = request.method().clone();
    *onward.uri_mut() = path.parse().map_err(|error| format!("{path:?}: {error}"))?;
    let mut headers = request.headers().clone();
    for name in [header::AUTHORIZATION, header::COOKIE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers.insert(header::HOST, host.as_str().parse().map_err(|error| format!("{host}: {error}"))?);
    *onward.headers_mut() = headers;
    Ok(onward)
}

async fn send(url: &Uri, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, url.port_u16().unwrap_or(80))).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to the runtime's streaming server ended");
        }
    });
    sender.send_request(request).await.map_err(|error| error.to_string())
}

async fn join(client: OnUpgrade, runtime: OnUpgrade) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (client, runtime) = tokio::try_join!(client, runtime)?;
    carry(TokioIo::new(client), TokioIo::new(runtime)).await?;
    Ok(())
}

/// Carries bytes both ways. When the runtime is done so is the stream; when the client is done, the runtime may finish.
async fn carry(
    client: impl AsyncRead + AsyncWrite + Unpin,
    runtime: impl AsyncRead + AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_runtime, mut to_runtime) = split(runtime);
    let up = async {
        let result = copy(&mut from_client, &mut to_runtime).await;
        let _ = to_runtime.shutdown().await;
        result
    };
    let down = async {
        let result = copy(&mut from_runtime, &mut to_client).await;
        let _ = to_client.shutdown().await;
        result
    };
    let mut down = std::pin::pin!(down);
    tokio::select! {
        result = &mut down => result.map(|_| ()),
        result = up => {
            result?;
            match tokio::time::timeout(LAST_WORDS, down).await {
                Ok(result) => result.map(|_| ()),
                Err(_) => Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    #[tokio::test]
    async fn carries_both_ways_and_ends_with_the_runtime() {
        let (mut client, client_far) = duplex(64);
        let (mut runtime, runtime_far) = duplex(64);
        let task = tokio::spawn(carry(client_far, runtime_far));
        client.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        runtime.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        runtime.write_all(b"last words").await.unwrap();
        drop(runtime);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "last words");
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_the_runtime_sends_after_the_client_is_done_arrives() {
        let (mut client, client_far) = duplex(64);
        let (mut runtime, runtime_far) = duplex(64);
        let task = tokio::spawn(carry(client_far, runtime_far));
        client.shutdown().await.unwrap();
        let mut text = String::new();
        runtime.read_to_string(&mut text).await.unwrap();
        runtime.write_all(b"status").await.unwrap();
        drop(runtime);
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "status");
        task.await.unwrap().unwrap();
    }

    #[test]
    fn upgrades_are_recognised() {
        let mut headers = HeaderMap::new();
        assert!(!wants_upgrade(&headers));
        headers.insert(header::CONNECTION, "keep-alive, Upgrade".parse().unwrap());
        assert!(!wants_upgrade(&headers));
        headers.insert(header::UPGRADE, "SPDY/3.1".parse().unwrap());
        assert!(wants_upgrade(&headers));
    }
}
