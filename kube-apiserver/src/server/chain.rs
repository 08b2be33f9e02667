//! The filter chain: every request passes these steps in this order.
//!
//! panic recovery -> audit id -> edge (CORS, transport security) -> leaving -> request info -> deadline
//! -> authentication -> audit -> impersonation -> flow control -> authorization -> metrics -> handler.
//! Health checks of liveness probes pass authorization like everything else.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use common::{
    config::parse_go_duration,
    serving::{Handler, Peer},
};
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::{
    ApiServer, Call, Session, edge, impersonate,
    lookup::{CacheLookup, Notes},
    metrics,
    response::{self, Body, Style},
    trail::{self, Mark},
};
use crate::{
    audit::{Stage, Trail},
    authn::{ANONYMOUS, Certificate, User},
    authz::Attributes,
    endpoints,
    flowcontrol::{Entry, Pass},
    proxy,
    request::{ApiError, ApiResult, Query, RequestInfo, negotiate},
};

/// By whom a request was let in: uids, so that the names stay private.
const FLOW_SCHEMA: &str = "x-kubernetes-pf-flowschema-uid";
const PRIORITY_LEVEL: &str = "x-kubernetes-pf-prioritylevel-uid";
/// No request waits longer for its turn.
const MOST_PATIENCE: Duration = Duration::from_secs(60);

/// Serves requests of the secure port.
pub struct Front(pub Arc<ApiServer>);

#[async_trait]
impl Handler for Front {
    async fn handle(&self, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body> {
        let started = Instant::now();
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let audit_id = audit_id(&request);
        let id = String::from_utf8_lossy(audit_id.as_bytes()).into_owned();
        let mark = Mark { audit_id: id, received: jiff::Timestamp::now(), trail: Mutex::default() };
        let (extra, answer) = self.0.edge.meet(&request, &peer);
        let answer = answer.or_else(|| {
            let leaving = self.0.draining.is_cancelled();
            leaving.then(|| edge::leaving(&request, &peer)).flatten()
        });
        let mut response = match answer {
            Some(response) => response,
            None => match AssertUnwindSafe(self.answer(request, &peer, started, &mark)).catch_unwind().await {
                Ok(response) => response,
                Err(why) => {
                    let why = trail::panic_text(&*why);
                    tracing::error!(%method, %uri, why, "a request handler panicked");
                    trail::panicked(&mark, why).await;
                    response::text(500, "This request caused apiserver to panic. Look in the logs for details.\n")
                }
            },
        };
        let headers = response.headers_mut();
        headers.extend(extra);
        headers.insert("audit-id", audit_id);
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        tracing::debug!(%method, %uri, code = response.status().as_u16(), took = ?started.elapsed(), "request");
        response
    }
}

/// A request, and what is known of it before it is let in.
struct Arrived {
    request: Request<Incoming>,
    query: Query,
    info: Arc<RequestInfo>,
    trail: Option<Arc<Trail>>,
    limit: Option<Duration>,
    started: Instant,
    warnings: Vec<String>,
    session: Arc<Session>,
}

/// The client's id for this request, else a new one.
fn audit_id(request: &Request<Incoming>) -> HeaderValue {
    request.headers().get("audit-id").filter(|v| !v.is_empty()).cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

impl Front {
    async fn answer(&self, request: Request<Incoming>, peer: &Peer, started: Instant, mark: &Mark) -> Response<Body> {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let style = Style::of(negotiate::error(request.headers()), &query, request.headers());
        self.admit(request, query, peer, started, mark).await.unwrap_or_else(|error| failed(&error, style))
    }

    /// Finds out what is asked and by whom, and records it.
    async fn admit(
        &self,
        mut request: Request<Incoming>,
        query: Query,
        peer: &Peer,
        started: Instant,
        mark: &Mark,
    ) -> ApiResult<Response<Body>> {
        let server = &self.0;
        let info = match RequestInfo::parse(request.method().as_str(), request.uri().path(), &query) {
            Ok(info) => Arc::new(info),
            Err(error) => return Ok(no_request_info(request.uri().path(), &error)),
        };
        let limit = time_limit(&query, server.config.options.limits.request_timeout, &info)?;
        let lookup = CacheLookup::new(&server.registry);
        let real = self.authenticate(&mut request, peer, &lookup).await;
        let authenticated = Instant::now();
        let Notes { annotations, warnings } = lookup.into_notes();
        let tell = |trail: &Trail| annotations.iter().for_each(|(key, value)| trail.annotate(key, value));
        let real = match real {
            Ok(real) => real,
            Err(error) => {
                if let Some(trail) = trail::begin(server, &mut request, &info, &User::default(), peer, mark) {
                    tell(&trail);
                    trail::unauthenticated(&trail, &error).await;
                }
                return Err(error);
            }
        };
        let trail = trail::begin(server, &mut request, &info, &real, peer, mark);
        if let Some(trail) = &trail {
            tell(trail);
            trail.took("authentication", authenticated.saturating_duration_since(started));
        }
        if let Some(trail) = &trail
            && !trail.reach(Stage::RequestReceived).await
        {
            let text = format!("Internal Server Error: {:?}: failed to store audit event\n", info.path);
            return Ok(response::text(500, text));
        }
        let style = Style::of(negotiate::error(request.headers()), &query, request.headers());
        let session = Arc::<Session>::default();
        let lasting = Arc::clone(&session);
        let arrived = Arrived {
            request,
            query,
            info: Arc::clone(&info),
            trail: trail.clone(),
            limit,
            started,
            warnings,
            session,
        };
        let response = self.control(arrived, real).await.unwrap_or_else(|error| failed(&error, style));
        Ok(match trail {
            Some(trail) => trail::finish(trail, &info, &lasting, response).await,
            None => response,
        })
    }

    /// Finds out as whom the request is served, and lets it in when it is its turn.
    async fn control(&self, mut arrived: Arrived, real: User) -> ApiResult<Response<Body>> {
        let server = &self.0;
        let headers = arrived.request.headers_mut();
        let other = impersonate::impersonate(headers, &real, &server.authorizer)?;
        impersonate::clear(headers);
        if let (Some(trail), Some(other)) = (&arrived.trail, &other) {
            trail.impersonates(other);
        }
        let user = Arc::new(other.unwrap_or(real));
        let style = Style::of(negotiate::error(headers), &arrived.query, headers);
        let queued = Instant::now();
        let Some(entry) = self.flow(&arrived, &user).await else { return self.serve(arrived, user, None).await };
        if let Some(trail) = &arrived.trail {
            trail.took("apf-queue-wait", queued.elapsed());
        }
        let mut response = match entry.pass {
            Err(seconds) => too_many(server, &arrived, seconds),
            Ok(pass) => {
                let served = self.serve(arrived, user, Some(pass)).await;
                served.unwrap_or_else(|error| failed(&error, style))
            }
        };
        response.headers_mut().insert(FLOW_SCHEMA, entry.schema);
        response.headers_mut().insert(PRIORITY_LEVEL, entry.level);
        Ok(response)
    }

    /// Classifies the request and waits for its turn; `None` for those that are not controlled.
    async fn flow(&self, arrived: &Arrived, user: &Arc<User>) -> Option<Entry> {
        let (control, info) = (self.0.flow_control.as_ref()?, &arrived.info);
        if info.is_long_running() && info.verb != "watch" {
            return None;
        }
        // A quarter of its time may be spent waiting.
        let patience = arrived.limit.unwrap_or(self.0.config.options.limits.request_timeout) / 4;
        let until = tokio::time::Instant::from_std(arrived.started) + patience.min(MOST_PATIENCE);
        control.enter(info, user, &arrived.query, || self.0.registry.stock(info), until).await
    }

    async fn serve(&self, arrived: Arrived, user: Arc<User>, pass: Option<Pass>) -> ApiResult<Response<Body>> {
        let server = &self.0;
        let (seat, watching) = pass.map_or((None, None), |pass| (Some(pass.seat), pass.watching));
        let Ok(slot) = server.inflight.enter(&arrived.info, &user) else {
            return Ok(too_many(server, &arrived, 1));
        };
        authorize(server, &user, &arrived)?;
        let Arrived { request, query, info, trail, limit, started, warnings, session } = arrived;
        let call = Call {
            server: Arc::clone(server),
            method: request.method().clone(),
            info,
            query,
            headers: request.headers().clone(),
            user,
            seat: Mutex::new(seat),
            upgrade: Mutex::default(),
            trail,
            warnings: Mutex::new(warnings),
            session,
        };
        let kind = kind(server, &call.method, &call.info, &call.query, &call.headers);
        let observed = kind.map(|kind| metrics::Request::begin(kind, &call.headers, started));
        let response = match limit {
            None => dispatch(&call, request).await,
            Some(limit) => {
                let left = limit.saturating_sub(started.elapsed());
                tokio::time::timeout(left, dispatch(&call, request)).await.unwrap_or_else(|_| {
                    kind.into_iter().for_each(|kind| metrics::termination(kind, 504));
                    Err(ApiError::timeout("request did not complete within the allotted timeout", 0))
                })
            }
        };
        drop(slot);
        let response = call.finish(response.unwrap_or_else(|error| {
            tracing::debug!(%error, code = error.code(), path = call.info.path, "refused");
            response::error(&error, call.style(negotiate::error(&call.headers)))
        }));
        let response = match observed {
            Some(observed) => metrics::observe(observed, response),
            None => response,
        };
        Ok(match watching {
            Some(watching) => response::holding(watching, response),
            None => response,
        })
    }

    /// The user; the credentials are taken out of the request, so that none is passed on to a proxied server.
    async fn authenticate(
        &self,
        request: &mut Request<Incoming>,
        peer: &Peer,
        lookup: &CacheLookup<'_>,
    ) -> ApiResult<User> {
        let started = Instant::now();
        let certificate = peer.certificate.as_ref().or(peer.front_proxy.as_ref()).map(|c| Certificate {
            common_name: c.common_name.clone(),
            organizations: c.organizations.clone(),
            uid: c.uid.clone().unwrap_or_default(),
            fingerprint: c.fingerprint.clone(),
            is_client: peer.certificate.is_some(),
            is_front_proxy: peer.front_proxy.is_some(),
        });
        let authenticator = &self.0.authenticator;
        let outcome = authenticator.authenticate(request.headers(), certificate.as_ref(), lookup).await;
        let attempt = match &outcome {
            Ok(_) => metrics::Attempt::Success,
            Err(_) if certificate.is_some() || request.headers().contains_key(header::AUTHORIZATION) => {
                metrics::Attempt::Error
            }
            Err(_) => metrics::Attempt::Failure,
        };
        let name = outcome.as_ref().map_or("", |user| user.name.as_str());
        metrics::authentication(attempt, name, started.elapsed());
        // Who is nobody shall not keep a connection of many streams (CVE-2023-44487).
        if request.version() == Version::HTTP_2 && (name.is_empty() || name == ANONYMOUS) {
            peer.finish_connection();
        }
        authenticator.clear_credentials(request.headers_mut());
        outcome.map_err(|why| {
            tracing::debug!(why, "unable to authenticate the request");
            ApiError::unauthorized("Unauthorized")
        })
    }
}

fn no_request_info(path: &str, error: &str) -> Response<Body> {
    response::text(500, format!("Internal Server Error: {path:?}: failed to create RequestInfo: {error}\n"))
}

/// How long the request may take: as `timeout` asks, but no longer than the flag says. `None` for those that may last.
fn time_limit(query: &Query, maximum: Duration, info: &RequestInfo) -> ApiResult<Option<Duration>> {
    if info.is_long_running() {
        return Ok(None);
    }
    let Some(text) = query.non_empty("timeout") else { return Ok(Some(maximum)) };
    // Upstream takes negative ones for none.
    let wanted = parse_go_duration(text.strip_prefix('-').map_or(text, |_| "0s"))
        .map_err(|e| ApiError::bad_request(format!("invalid timeout specified in the request URL - {e}")))?;
    Ok(Some(if wanted.is_zero() { maximum } else { wanted.min(maximum) }))
}

fn authorize(server: &ApiServer, user: &User, arrived: &Arrived) -> ApiResult<()> {
    let started = Instant::now();
    let attributes = Attributes::of(user, &arrived.info);
    let decision = server.authorizer.decide(&attributes);
    metrics::authorization(decision.allowed, decision.denied, started.elapsed());
    if let Some(trail) = &arrived.trail {
        trail.annotate("authorization.k8s.io/decision", if decision.allowed { "allow" } else { "forbid" });
        trail.annotate("authorization.k8s.io/reason", &decision.reason);
        trail.took("authorization", started.elapsed());
    }
    if decision.allowed { Ok(()) } else { Err(attributes.forbidden(&decision.reason)) }
}

fn failed(error: &ApiError, style: Style) -> Response<Body> {
    if error.code() >= 500 {
        tracing::warn!(%error, "request failed");
    }
    response::error(error, style)
}

fn too_many(server: &ApiServer, arrived: &Arrived, seconds: u64) -> Response<Body> {
    let Arrived { request, info, query, .. } = arrived;
    if let Some(kind) = kind(server, request.method(), info, query, request.headers()) {
        metrics::dropped(kind);
        metrics::termination(kind, 429);
    }
    let mut response = response::text(429, "Too many requests, please try again later.\n");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// What metrics know the request as; `None` for what they do not count.
fn kind(
    server: &ApiServer,
    method: &Method,
    info: &RequestInfo,
    query: &Query,
    headers: &HeaderMap,
) -> Option<metrics::Kind> {
    if !info.is_resource {
        let health = ["/healthz", "/livez", "/readyz"].into_iter().find(|path| *path == info.path)?;
        return Some(metrics::Kind::of_path(health));
    }
    let resource = server.registry.resolve(&info.group, &info.version, &info.resource)?;
    Some(metrics::Kind::of(method, info, resource, query, headers))
}

/// To the handler of the path.
async fn dispatch(call: &Call, mut request: Request<Incoming>) -> ApiResult<Response<Body>> {
    if call.info.is_resource {
        super::deprecations::tell(call);
        if proxy::handles(&call.info.resource, &call.info.subresource) {
            return proxy::serve(call, request).await;
        }
        if call.info.verb == "watch" && proxy::websocket::requested(&call.headers).is_some() {
            *call.upgrade.lock() = Some(hyper::upgrade::on(&mut request));
        }
        return endpoints::serve(call, request.into_body()).await;
    }
    if let Some(response) = call.discovery.handle(&call.method, &call.info.path, &call.headers) {
        return Ok(response?.map(response::full));
    }
    if call.info.path.starts_with("/openapi/") {
        return openapi(call, &request).await;
    }
    if let Some(response) = super::well_known::handle(call) {
        return response;
    }
    if call.info.path == "/metrics" {
        super::upkeep::measure_storage(call).await;
    }
    if let Some(text) = call.flow_control.as_ref().and_then(|control| control.dump(&call.info.path, &call.query)) {
        return Ok(response::text(200, text));
    }
    if let Some(response) = call.ops.respond(&request) {
        return Ok(response);
    }
    let path = call.info.path.as_str();
    if let Some((group, version)) = group_version(path)
        && common::api::catalog().group(group).is_some()
    {
        let known = call.registry.serves(group, version);
        return Err(if known { ApiError::method_not_allowed() } else { ApiError::unknown_resource() });
    }
    if !matches!(call.method, Method::GET | Method::HEAD) && path.starts_with("/api") {
        return Err(ApiError::method_not_allowed());
    }
    Ok(endpoints::not_served())
}

/// Group and version of a path of discovery.
fn group_version(path: &str) -> Option<(&str, &str)> {
    let grouped = path.strip_prefix("/apis/").and_then(|rest| rest.split_once('/'));
    let (group, version) = grouped.or_else(|| Some(("", path.strip_prefix("/api/")?)))?;
    Some((group, version.trim_end_matches('/')))
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
