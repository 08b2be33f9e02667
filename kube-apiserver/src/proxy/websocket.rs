//! WebSocket clients (RFC 6455), and SPDY inside their messages for port-forward (KEP-4006).

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{location::Location, tunnel::upgrade};
use crate::{
    request::{ApiError, ApiResult},
    server::{
        Call,
        response::{self, Body},
    },
};

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const PORT_FORWARD: &str = "portforward.k8s.io";
/// The largest message that a client may send.
const MAX_MESSAGE: usize = 4 << 20;

/// A client's connection after the handshake.
pub(crate) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// The subprotocols that a WebSocket client offers; `None` for other requests.
pub(crate) fn requested(headers: &HeaderMap) -> Option<Vec<String>> {
    let upgrade = headers.get(header::UPGRADE)?.to_str().ok()?;
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    Some(
        offers
            .flat_map(|value| value.split(','))
            .map(|word| word.trim().to_owned())
            .filter(|word| !word.is_empty())
            .collect(),
    )
}

/// Whether SPDY is to be tunnelled.
pub(super) fn is_tunnel(protocols: &[String]) -> bool {
    protocols.iter().any(|protocol| protocol == TUNNEL)
}

/// The server's answer to a handshake that agrees to `protocol`; none when it is empty.
pub(crate) fn accept(headers: &HeaderMap, protocol: &str) -> ApiResult<Response<Body>> {
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return Err(ApiError::bad_request("websocket: 'Sec-WebSocket-Key' header is missing"));
    };
    let mut text = key.as_bytes().to_vec();
    text.extend_from_slice(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text));
    let mut answer = Response::new(response::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let value = |text: &str| HeaderValue::from_str(text).map_err(ApiError::internal);
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, value(&accept)?);
    if !protocol.is_empty() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value(protocol)?);
    }
    Ok(answer)
}

/// The client's socket, once the answer is written.
pub(crate) async fn socket(client: OnUpgrade) -> Result<Socket, hyper::Error> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(client.await?), Role::Server, Some(config)).await)
}

/// Carries SPDY bytes between binary messages and a backend that speaks SPDY.
pub(super) async fn tunnel(
    call: &Call,
    location: Location,
    mut incoming: Request<Incoming>,
) -> ApiResult<Response<Body>> {
    let client = hyper::upgrade::on(&mut incoming);
    let mut headers = HeaderMap::new();
    headers.insert("x-stream-protocol-version", HeaderValue::from_static(PORT_FORWARD));
    let backend = upgrade(call, &location, Method::POST, headers, &HeaderValue::from_static("SPDY/3.1")).await?.io;
    let answer = accept(incoming.headers(), TUNNEL)?;
    let session = call.session.begin();
    tokio::spawn(async move {
        let _session = session;
        match socket(client).await {
            Ok(socket) => carry(socket, backend).await,
            Err(error) => tracing::debug!(%error, "the client did not upgrade"),
        }
    });
    Ok(answer)
}

async fn carry(socket: Socket, backend: TokioIo<hyper::upgrade::Upgraded>) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_backend, mut to_backend) = tokio::io::split(backend);
    let inward = async {
        while let Some(Ok(message)) = from_client.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => break,
                _ => continue,
            };
            if to_backend.write_all(&bytes).await.is_err() || to_backend.flush().await.is_err() {
                break;
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(count @ 1..) = from_backend.read(&mut buffer).await {
            if to_client.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                break;
            }
        }
        let _ = to_client.close().await;
    };
    // Either end ends both: half a port-forward is of no use.
    tokio::select! { () = inward => {}, () = outward => {} }
}

/// How a stream of bytes that goes one way is written into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    protocol: &'static str,
    base64: bool,
}

/// The reading protocol that is agreed to: the first offer that is known, or plain bytes when nothing is offered.
fn reading(offers: &[String]) -> Option<Reading> {
    let known = [
        Reading { protocol: "", base64: false },
        Reading { protocol: "binary.k8s.io", base64: false },
        Reading { protocol: "base64.binary.k8s.io", base64: true },
    ];
    if offers.is_empty() {
        return Some(known[0]);
    }
    offers.iter().find_map(|offer| known.into_iter().find(|reading| reading.protocol == offer))
}

/// Sends a body as messages, after an empty one that says that the stream begins. What the client sends is ignored.
pub(super) fn read(
    call: &Call,
    incoming: &mut Request<Incoming>,
    offers: &[String],
    body: Incoming,
) -> ApiResult<Response<Body>> {
    let Some(reading) = reading(offers) else {
        return Err(ApiError::bad_request(format!("websocket: none of the protocols {offers:?} is supported")));
    };
    let client = hyper::upgrade::on(&mut *incoming);
    let answer = accept(incoming.headers(), reading.protocol)?;
    let session = call.session.begin();
    tokio::spawn(async move {
        let _session = session;
        match socket(client).await {
            Ok(socket) => {
                if let Err(error) = write_messages(socket, body, reading.base64).await {
                    tracing::debug!(%error, "the client of a stream is gone");
                }
            }
            Err(error) => tracing::debug!(%error, "the client did not upgrade"),
        }
    });
    Ok(answer)
}

async fn write_messages(socket: Socket, mut body: Incoming, base64: bool) -> Result<(), tungstenite::Error> {
    let (mut to_client, mut from_client) = socket.split();
    let message = |bytes: Bytes| {
        if base64 { Message::text(STANDARD.encode(&bytes)) } else { Message::Binary(bytes) }
    };
    let outward = async {
        to_client.send(message(Bytes::new())).await?;
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(bytes) = frame.into_data() {
                to_client.send(message(bytes)).await?;
            }
        }
        to_client.close().await
    };
    let gone = async { while let Some(Ok(_)) = from_client.next().await {} };
    tokio::select! { result = outward => result, () = gone => Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_rfc_6455s() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        let answer = accept(&headers, "x").unwrap();
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn streams_are_read_in_the_first_known_protocol() {
        let agreed = |offers: &[&str]| {
            let offers: Vec<String> = offers.iter().map(|offer| (*offer).to_owned()).collect();
            reading(&offers).map(|reading| (reading.protocol, reading.base64))
        };
        assert_eq!(agreed(&[]), Some(("", false)));
        assert_eq!(
            agreed(&["v9.k8s.io", "base64.binary.k8s.io", "binary.k8s.io"]),
            Some(("base64.binary.k8s.io", true))
        );
        assert_eq!(agreed(&["v4.channel.k8s.io"]), None);
    }

    #[test]
    fn offers_are_listed_in_order() {
        let mut headers = HeaderMap::new();
        assert_eq!(requested(&headers), None);
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        headers
            .append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v5.channel.k8s.io, v4.channel.k8s.io"));
        assert_eq!(requested(&headers).unwrap(), ["v5.channel.k8s.io", "v4.channel.k8s.io"]);
        assert!(!is_tunnel(&requested(&headers).unwrap()));
    }
}
