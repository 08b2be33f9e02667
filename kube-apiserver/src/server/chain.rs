//! The filter chain: every request passes these steps in this order.
//!
//! panic recovery -> audit id -> request info -> authentication -> in-flight limit -> impersonation -> authorization
//! -> timeout -> handler. Health checks of liveness probes pass authorization like everything else.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use async_trait::async_trait;
use common::serving::{Handler, Peer};
use futures::FutureExt;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;

use super::{
    ApiServer, Call, impersonate,
    lookup::CacheLookup,
    response::{self, Body, Style},
};
use crate::{
    authn::{Certificate, User},
    authz::Attributes,
    endpoints, proxy,
    request::{
        ApiError, ApiResult, Query, RequestInfo,
        negotiate::{self, Encoding},
    },
};

/// Serves requests of the secure port.
pub struct Front(pub Arc<ApiServer>);

#[async_trait]
impl Handler for Front {
    async fn handle(&self, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body> {
        let started = Instant::now();
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let audit_id = audit_id(&request);
        let mut response = match AssertUnwindSafe(self.answer(request, &peer)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                tracing::error!(%method, %uri, "a request handler panicked");
                let error = ApiError::internal("This request caused apiserver to panic. Look in the logs for details.");
                response::error(&error, PLAIN)
            }
        };
        let headers = response.headers_mut();
        headers.insert("audit-id", audit_id);
        headers.entry("cache-control").or_insert(HeaderValue::from_static("no-cache, private"));
        tracing::debug!(%method, %uri, code = response.status().as_u16(), took = ?started.elapsed(), "request");
        response
    }
}

const PLAIN: Style = Style { encoding: Encoding::Json, pretty: false, gzip: false };

/// The client's id for this request, else a new one.
fn audit_id(request: &Request<Incoming>) -> HeaderValue {
    let sent = request.headers().get("audit-id").filter(|v| !v.is_empty() && v.len() <= 64);
    sent.cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

impl Front {
    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let style = Style::of(negotiate::error(request.headers()), &query, request.headers());
        self.admit(request, query, peer).await.unwrap_or_else(|error| {
            if error.code() >= 500 {
                tracing::warn!(%error, "request failed");
            }
            response::error(&error, style)
        })
    }

    async fn admit(&self, request: Request<Incoming>, query: Query, peer: &Peer) -> ApiResult<Response<Body>> {
        let server = &self.0;
        let info = RequestInfo::parse(request.method().as_str(), request.uri().path(), &query)
            .map_err(ApiError::bad_request)?;
        let real = self.authenticate(&request, peer).await?;
        let permit = server.inflight.enter(&info, &real)?;
        let user = impersonate::impersonate(request.headers(), &real, &server.authorizer)?.unwrap_or(real);
        server.authorizer.check(&Attributes::of(&user, &info))?;
        let call = Call {
            server: Arc::clone(server),
            method: request.method().clone(),
            info,
            query,
            headers: request.headers().clone(),
            user,
            warnings: parking_lot::Mutex::default(),
        };
        let response = dispatch(&call, request).await;
        drop(permit);
        match response {
            Ok(response) => Ok(call.finish(response)),
            Err(error) => {
                tracing::debug!(%error, code = error.code(), path = call.info.path, "refused");
                Ok(call.finish(response::error(&error, call.style(negotiate::error(&call.headers)))))
            }
        }
    }

    async fn authenticate(&self, request: &Request<Incoming>, peer: &Peer) -> ApiResult<User> {
        let certificate = peer.certificate.as_ref().map(|c| Certificate {
            common_name: c.common_name.clone(),
            organizations: c.organizations.clone(),
            fingerprint: c.fingerprint.clone(),
            is_client: true,
            is_front_proxy: false,
        });
        let lookup = CacheLookup(&self.0.registry);
        let user = self.0.authenticator.authenticate(request.headers(), certificate.as_ref(), &lookup).await;
        user.map_err(|why| {
            tracing::debug!(why, "unable to authenticate the request");
            ApiError::unauthorized("Unauthorized")
        })
    }
}

/// To the handler of the path, within the request timeout unless the request may last.
async fn dispatch(call: &Call, request: Request<Incoming>) -> ApiResult<Response<Body>> {
    if call.info.is_resource && proxy::handles(&call.info.resource, &call.info.subresource) {
        return proxy::serve(call, request).await;
    }
    if call.info.is_long_running() {
        return handle(call, request).await;
    }
    match tokio::time::timeout(call.config.options.limits.request_timeout, handle(call, request)).await {
        Ok(response) => response,
        Err(_) => Err(ApiError::timeout("request did not complete within the allotted timeout", 0)),
    }
}

async fn handle(call: &Call, request: Request<Incoming>) -> ApiResult<Response<Body>> {
    if call.info.is_resource {
        return endpoints::serve(call, request.into_body()).await;
    }
    if let Some(response) = call.discovery.handle(&call.method, &call.info.path, &call.headers) {
        return Ok(response.map(response::full));
    }
    if call.info.path.starts_with("/openapi/") {
        return openapi(call, &request).await;
    }
    if let Some(response) = super::well_known::handle(call) {
        return Ok(response);
    }
    if let Some(response) = call.ops.respond(&request) {
        return Ok(response);
    }
    if !matches!(call.method, Method::GET | Method::HEAD) && call.info.path.starts_with("/api") {
        return Err(ApiError::method_not_allowed());
    }
    Ok(endpoints::not_served())
}

/// Documents may take a while to build the first time: off the reactor.
async fn openapi(call: &Call, request: &Request<Incoming>) -> ApiResult<Response<Body>> {
    let server = Arc::clone(&call.server);
    let (method, path) = (call.method.clone(), call.info.path.clone());
    let (query, headers) = (request.uri().query().map(str::to_owned), call.headers.clone());
    let task = tokio::task::spawn_blocking(move || server.openapi.handle(&method, &path, query.as_deref(), &headers));
    let response = task.await.map_err(ApiError::internal)?;
    Ok(response.map_or_else(endpoints::not_served, |r| r.map(response::full)))
}
