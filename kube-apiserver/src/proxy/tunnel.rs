//! Upgraded connections whose bytes pass through unread (SPDY, and WebSocket protocols that the other side speaks itself).

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::{
    http::{passed, refusal, request},
    location::Location,
};
use crate::{
    request::{ApiError, ApiResult},
    server::{
        Call,
        response::{self, Body},
    },
};

/// Whether the client wants to change the protocol.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    connection.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

/// A connection that speaks the new protocol, and the answer that agreed to it.
pub(super) struct Upgraded {
    pub io: TokioIo<hyper::upgrade::Upgraded>,
    pub answer: HeaderMap,
}

/// Asks the other side for `protocol`; an answer other than 101 is the client's error.
pub(super) async fn upgrade(
    call: &Call,
    location: &Location,
    method: Method,
    mut headers: HeaderMap,
    protocol: &HeaderValue,
) -> ApiResult<Upgraded> {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, protocol.clone());
    let request = request(location, method, headers, response::empty())?;
    let mut answer = call.server.backends.send(location, request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(call, answer).await);
    }
    let headers = answer.headers().clone();
    let io = hyper::upgrade::on(&mut answer)
        .await
        .map_err(|error| ApiError::internal(format!("upgrading the backend's connection: {error}")))?;
    Ok(Upgraded { io: TokioIo::new(io), answer: headers })
}

/// Joins client and other side.
pub(super) async fn serve(
    call: &Call,
    location: Location,
    mut incoming: Request<Incoming>,
) -> ApiResult<Response<Body>> {
    let client: OnUpgrade = hyper::upgrade::on(&mut incoming);
    let Some(protocol) = incoming.headers().get(header::UPGRADE).cloned() else {
        return Err(ApiError::bad_request("Upgrade request required"));
    };
    let method = incoming.method().clone();
    let upgraded = upgrade(call, &location, method, passed(incoming.headers()), &protocol).await?;
    let mut answer = Response::new(response::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = passed(&upgraded.answer);
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(header::UPGRADE, protocol);
    let mut backend = upgraded.io;
    let session = call.session.begin();
    tokio::spawn(async move {
        let _session = session;
        match client.await {
            Ok(client) => {
                let mut client = TokioIo::new(client);
                if let Err(error) = copy_bidirectional(&mut client, &mut backend).await {
                    tracing::debug!(%error, "tunnel ended");
                }
            }
            Err(error) => tracing::debug!(%error, "the client did not upgrade"),
        }
    });
    Ok(answer)
}
