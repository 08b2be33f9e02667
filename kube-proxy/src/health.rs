//! What load balancers and probes ask: the proxy's own health (10256) and each local-traffic service's (its health-check
//! node port).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use common::serving::{Body, Handler, Peer, json, serve, text};
use hyper::{Request, Response, StatusCode, body::Incoming};
use parking_lot::Mutex;
use serde_json::json as value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::model::Desired;

/// Namespace and name.
type ServiceName = (String, String);

/// Shared between the loop that writes it and the servers that read it.
pub(crate) struct HealthState {
    inner: Mutex<Inner>,
    /// A change that is not applied within this time means trouble.
    patience: Duration,
}

#[derive(Default)]
struct Inner {
    /// The oldest change that is not applied yet.
    pending_since: Option<SystemTime>,
    applied: Option<SystemTime>,
    node_eligible: bool,
    /// Port, service and number of local endpoints.
    services: BTreeMap<u16, (ServiceName, usize)>,
}

impl HealthState {
    pub(crate) fn new(sync_period: Duration) -> Arc<Self> {
        let inner = Inner { node_eligible: true, ..Inner::default() };
        Arc::new(Self { inner: Mutex::new(inner), patience: sync_period * 2 })
    }

    /// A change is about to be applied.
    pub(crate) fn changed(&self) {
        self.inner.lock().pending_since.get_or_insert_with(SystemTime::now);
    }

    /// Everything up to now is applied.
    pub(crate) fn applied(&self) {
        let mut inner = self.inner.lock();
        inner.pending_since = None;
        inner.applied = Some(SystemTime::now());
    }

    pub(crate) fn set_node_eligible(&self, eligible: bool) {
        self.inner.lock().node_eligible = eligible;
    }

    /// Takes over which services have health-check ports.
    pub(crate) fn set_services(&self, desired: &Desired) {
        let mut services: BTreeMap<u16, (ServiceName, usize)> = BTreeMap::new();
        for (name, routed) in &desired.ports {
            if let Some(port) = routed.service.health_check_node_port {
                let entry = services.entry(port).or_insert_with(|| ((name.namespace.clone(), name.name.clone()), 0));
                entry.1 = entry.1.max(routed.local_ready);
            }
        }
        self.inner.lock().services = services;
    }

    fn alive(inner: &Inner, patience: Duration) -> bool {
        let late = |since: SystemTime| since.elapsed().unwrap_or_default() > patience;
        inner.applied.is_some() && !inner.pending_since.is_some_and(late)
    }

    fn ports(&self) -> Vec<u16> {
        self.inner.lock().services.keys().copied().collect()
    }
}

/// RFC 3339 with milliseconds, as a human reads it.
fn time(at: Option<SystemTime>) -> String {
    at.and_then(|at| jiff::Timestamp::try_from(at).ok()).map(|at| format!("{at:.3}")).unwrap_or_default()
}

/// /healthz and /livez of the proxy.
pub(crate) struct ProxyHealth(pub(crate) Arc<HealthState>);

#[async_trait]
impl Handler for ProxyHealth {
    async fn handle(&self, request: Request<Incoming>, _: Arc<Peer>) -> Response<Body> {
        let inner = self.0.inner.lock();
        let alive = HealthState::alive(&inner, self.0.patience);
        // A node on its way out is alive but no longer a target (KEP-3836).
        let healthy = match request.uri().path() {
            "/healthz" => alive && inner.node_eligible,
            "/livez" => alive,
            _ => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        let body = value!({
            "lastUpdated": time(inner.applied), "currentTime": time(Some(SystemTime::now())), "nodeEligible": inner.node_eligible,
        });
        json(if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
    }
}

/// /metrics, /proxyMode and /configz-like questions on the loopback address.
pub(crate) struct MetricsServer;

#[async_trait]
impl Handler for MetricsServer {
    async fn handle(&self, request: Request<Incoming>, _: Arc<Peer>) -> Response<Body> {
        match request.uri().path() {
            "/metrics" => text(StatusCode::OK, &String::from_utf8_lossy(&common::telemetry::gather_text())),
            "/proxyMode" => text(StatusCode::OK, "nftables"),
            "/healthz" => text(StatusCode::OK, "ok"),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }
}

struct ServiceHealth {
    state: Arc<HealthState>,
    port: u16,
}

#[async_trait]
impl Handler for ServiceHealth {
    async fn handle(&self, _: Request<Incoming>, _: Arc<Peer>) -> Response<Body> {
        let inner = self.state.inner.lock();
        let Some(((namespace, name), local)) = inner.services.get(&self.port) else {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        };
        let healthy = HealthState::alive(&inner, self.state.patience);
        let code = if *local > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = value!({
            "service": {"namespace": namespace, "name": name}, "localEndpoints": local, "serviceProxyHealthy": healthy,
        });
        json(code, &body)
    }
}

/// Keeps one listener per health-check node port.
pub(crate) async fn serve_services(state: Arc<HealthState>, address: IpAddr, shutdown: CancellationToken) {
    let mut open: BTreeMap<u16, CancellationToken> = BTreeMap::new();
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let wanted = state.ports();
        open.retain(|port, token| {
            let keep = wanted.contains(port);
            if !keep {
                token.cancel();
            }
            keep
        });
        for port in wanted {
            if open.contains_key(&port) {
                continue;
            }
            match TcpListener::bind(SocketAddr::new(address, port)).await {
                Ok(listener) => {
                    let token = shutdown.child_token();
                    let handler = Arc::new(ServiceHealth { state: state.clone(), port });
                    tokio::spawn(serve(listener, None, handler, token.clone()));
                    open.insert(port, token);
                }
                Err(error) => tracing::warn!(port, %error, "cannot listen on a service's health-check node port"),
            }
        }
    }
}
