//! Subresources that lead to a node, a pod or a service: log, exec, attach, portforward, proxy.
//!
//! An upgraded connection is a tunnel of bytes, except when a WebSocket client asks for a protocol that container runtimes
//! don't speak (KEP-4006): then exec and attach are translated to SPDY, and port-forward's SPDY is taken out of its messages.

mod connect;
mod http;
mod links;
mod location;
mod remote_command;
mod spdy;
mod tunnel;
pub(crate) mod websocket;

pub use connect::{Backends, KubeletOptions, ProxyError};

use ::http::Response;
use hyper::{Request, body::Incoming};

use crate::{
    request::{ApiError, ApiResult},
    server::{Call, response::Body},
};

/// Whether a subresource is served here.
#[must_use]
pub fn handles(resource: &str, subresource: &str) -> bool {
    matches!(
        (resource, subresource),
        ("pods", "log" | "exec" | "attach" | "portforward" | "proxy") | ("services" | "nodes", "proxy")
    )
}

/// Serves such a subresource. The whole request is needed: it may become a tunnel.
///
/// # Errors
/// What the client is to hear when the other side can't be found, reached or refuses.
pub async fn serve(call: &Call, mut request: Request<Incoming>) -> ApiResult<Response<Body>> {
    let info = &call.info;
    if info.subresource == "log" && call.method != ::http::Method::GET {
        return Err(ApiError::method_not_allowed());
    }
    let location = match (info.resource.as_str(), info.subresource.as_str()) {
        ("pods", "log") => return http::log(call, &mut request).await,
        ("pods", sub @ ("exec" | "attach" | "portforward")) => location::streaming(call, sub).await?,
        ("pods", "proxy") => location::pod(call).await?,
        ("services", "proxy") => location::service(call).await?,
        ("nodes", "proxy") => location::node(call).await?,
        _ => return Err(ApiError::unknown_resource()),
    };
    match (info.subresource.as_str(), websocket::requested(request.headers())) {
        ("exec" | "attach", Some(protocols)) if remote_command::protocol(&protocols).is_some() => {
            remote_command::serve(call, location, request, &protocols).await
        }
        ("portforward", Some(protocols)) if websocket::is_tunnel(&protocols) => {
            websocket::tunnel(call, location, request).await
        }
        _ if tunnel::wanted(request.headers()) => tunnel::serve(call, location, request).await,
        ("exec" | "attach" | "portforward", _) => Err(ApiError::bad_request("Upgrade request required")),
        _ => http::forward(call, location, request).await,
    }
}
