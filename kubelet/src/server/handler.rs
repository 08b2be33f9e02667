//! One request: may it, what is it, who answers.

use std::sync::Arc;

use async_trait::async_trait;
use common::serving::{Body, Handler, Health, Peer, ZPages, full, json, text};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::auth::Auth;
use super::lookup::Refusal;
use super::query::Query;
use super::routes::{Route, route};
use super::{checkpoint, lists, logs, streams, system_logs, usage};
use crate::gates;
use crate::metrics::METRICS;
use crate::shared::Kubelet;

/// What a port lets through.
pub(super) enum Access {
    /// Everything, to those who may.
    Full(Box<Auth>),
    /// What only reads, to everybody.
    ReadOnly,
}

/// What all ports have in common.
pub(super) struct Shared {
    pub(super) kubelet: Arc<Kubelet>,
    health: Health,
    pages: ZPages,
}

/// What `/statusz` says that there is.
const PATHS: [&str; 12] = [
    "/healthz",
    "/pods",
    "/runningpods",
    "/stats",
    "/metrics",
    "/configz",
    "/containerLogs",
    "/exec",
    "/attach",
    "/portForward",
    "/logs",
    "/checkpoint",
];

impl Shared {
    pub(super) fn new(kubelet: Arc<Kubelet>) -> Self {
        let health = crate::health::checks(&kubelet);
        health.register("log", || Ok(()));
        Self { kubelet, health, pages: ZPages::new("kubelet", &PATHS) }
    }
}

/// The handler of one port.
pub(super) struct Server {
    pub(super) shared: Arc<Shared>,
    pub(super) access: Access,
}

#[async_trait]
impl Handler for Server {
    async fn handle(&self, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body> {
        let (method, path) = (request.method(), request.uri().path());
        if let Access::Full(auth) = &self.access
            && let Err(refused) = auth.check(method, path, request.headers(), &peer).await
        {
            return *refused;
        }
        let route = route(method, path);
        let served = match self.access {
            Access::Full(_) => true,
            Access::ReadOnly => route.is_read_only() || route == Route::WrongMethod,
        };
        if !served {
            return not_found();
        }
        let (method, label) = (request.method().clone(), path.trim_start_matches('/').to_owned());
        let label = route.label(&label);
        let long = route.is_streaming();
        let server = if matches!(self.access, Access::Full(_)) { "readwrite" } else { "readonly" };
        let begin = std::time::Instant::now();
        let answer = self.answer(route, request).await.unwrap_or_else(|refusal| refusal.response());
        METRICS.served(method.as_str(), &label, (server, long), begin.elapsed());
        answer
    }
}

fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Prometheus' text format.
fn metrics(bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// What the probes count, which is kept apart from the kubelet's other metrics.
fn probe_metrics() -> Result<Response<Body>, Refusal> {
    let families = common::telemetry::registry().gather().into_iter();
    let families: Vec<_> = families.filter(|family| family.name().starts_with("prober_")).collect();
    let mut text = Vec::new();
    let encoded = prometheus::Encoder::encode(&prometheus::TextEncoder::new(), &families, &mut text);
    encoded.map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(metrics(text))
}

impl Server {
    async fn snapshot(&self) -> Result<usage::Snapshot, Refusal> {
        usage::take(&self.shared.kubelet)
            .await
            .map_err(|error| Refusal::internal(format!("failed to get usage from the container runtime: {error}")))
    }

    async fn answer(&self, route: Route, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let kubelet = &self.shared.kubelet;
        let file = &kubelet.config.file;
        if route.is_debug() && !file.enable_debugging_handlers {
            return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n"));
        }
        let query = Query::parse(request.uri().query().unwrap_or_default());
        match route {
            Route::Health => {
                let answer = self.shared.health.respond(request.uri().path(), request.uri().query());
                Ok(answer.unwrap_or_else(not_found))
            }
            Route::Page => {
                let answer = self.shared.pages.respond(request.uri().path(), request.headers());
                Ok(answer.unwrap_or_else(not_found))
            }
            Route::Pods => lists::pods(kubelet),
            Route::RunningPods => lists::running(kubelet).await,
            Route::Configz => Ok(json(StatusCode::OK, &serde_json::json!({"kubeletconfig": file}))),
            Route::Metrics => Ok(metrics(common::telemetry::gather_text())),
            Route::ContainerLogs { namespace, pod, container } => {
                logs::serve(kubelet, &namespace, &pod, &container, &query).await
            }
            Route::Exec(target) => streams::exec(kubelet, request, &target, &query).await,
            Route::Attach(target) => streams::attach(kubelet, request, &target, &query).await,
            Route::PortForward { namespace, pod, uid } => {
                streams::port_forward(kubelet, request, (&namespace, &pod, uid.as_deref()), &query).await
            }
            Route::Run(target) => streams::run(kubelet, &target, &query).await,
            Route::Summary => {
                let snapshot = self.snapshot().await?;
                Ok(json(StatusCode::OK, &usage::summary(kubelet, &snapshot, query.flag("only_cpu_and_memory"))))
            }
            Route::ResourceMetrics => Ok(metrics(usage::resource_text(self.snapshot().await.ok().as_ref()))),
            Route::CadvisorMetrics => Ok(metrics(usage::cadvisor_text(kubelet, &self.snapshot().await?))),
            Route::ProbeMetrics => probe_metrics(),
            Route::SystemLogs(_) if !file.enable_system_log_handler => {
                Ok(text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n"))
            }
            Route::SystemLogs(_) if file.enable_system_log_query && query.get("query").is_some() => {
                Ok(text(StatusCode::NOT_IMPLEMENTED, "node log query is not supported by this kubelet\n"))
            }
            Route::SystemLogs(path) => system_logs::serve(&path).await,
            Route::Checkpoint { .. } if !gates::is_on(&file.feature_gates, "ContainerCheckpoint") => Ok(not_found()),
            Route::Checkpoint { namespace, pod, container } => {
                checkpoint::serve(kubelet, (&namespace, &pod, &container), &query).await
            }
            Route::WrongMethod => Ok(text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed")),
            Route::NotFound => Ok(not_found()),
        }
    }
}
