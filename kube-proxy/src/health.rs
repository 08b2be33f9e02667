//! What load balancers and probes ask: the proxy's own health (10256) and each local-traffic service's (its health-check
//! node port).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use common::{
    events::{EventType, EventsV1Recorder},
    serving::{Body, Handler, Peer, full, serve, text},
};
use http::{HeaderMap, HeaderValue, header};
use hyper::{Request, Response, StatusCode, body::Incoming};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    model::{Family, ServiceKey},
    settings::NodePortAddresses,
    sources::Sources,
};

/// A health-check node port and the number of endpoints here, by Service.
type Checks = BTreeMap<ServiceKey, (u16, usize)>;

/// Shared between the loop that writes it and the servers that read it.
pub(crate) struct HealthState {
    inner: Mutex<Inner>,
    /// A change that is not applied within this time means trouble.
    patience: Duration,
    services_changed: Notify,
}

#[derive(Default)]
struct Inner {
    families: BTreeMap<Family, FamilyHealth>,
    services: BTreeMap<Family, Checks>,
}

#[derive(Default)]
struct FamilyHealth {
    /// The oldest change that is not applied yet.
    pending_since: Option<SystemTime>,
    applied: Option<SystemTime>,
}

impl HealthState {
    /// `sync_period`: twice as long may a change wait.
    pub(crate) fn new(sync_period: Duration) -> Arc<Self> {
        let inner = Mutex::new(Inner::default());
        Arc::new(Self { inner, patience: sync_period * 2, services_changed: Notify::new() })
    }

    /// A change is to be applied.
    pub(crate) fn queued(&self) {
        for health in self.inner.lock().families.values_mut() {
            health.pending_since.get_or_insert_with(SystemTime::now);
        }
    }

    /// Everything up to now is applied; also said once at start, when there is nothing to apply.
    pub(crate) fn applied(&self, family: Family) {
        let now = Some(SystemTime::now());
        self.inner.lock().families.insert(family, FamilyHealth { pending_since: None, applied: now });
    }

    /// Takes over which services have health-check ports.
    pub(crate) fn set_services(&self, family: Family, checks: Checks) {
        self.inner.lock().services.insert(family, checks);
        self.services_changed.notify_one();
    }

    fn is_late(&self, health: &FamilyHealth) -> bool {
        health.pending_since.is_some_and(|since| since.elapsed().unwrap_or_default() >= self.patience)
    }

    fn healthy(&self) -> bool {
        !self.inner.lock().families.values().any(|health| self.is_late(health))
    }

    /// The body of /healthz and /livez without `nodeEligible`.
    fn report(&self, healthy: bool) -> Value {
        let inner = self.inner.lock();
        let status: serde_json::Map<String, Value> = inner
            .families
            .iter()
            .map(|(family, health)| {
                let value = json!({"lastUpdated": time(health.applied), "healthy": !self.is_late(health)});
                (family.as_str().to_owned(), value)
            })
            .collect();
        let newest = inner.families.values().filter_map(|health| health.applied).max();
        let now = Some(SystemTime::now());
        // A healthy proxy with nothing to do is as good as one that has just done something.
        let updated = if healthy { now } else { newest };
        let all = inner.families.values().all(|health| !self.is_late(health));
        json!({"lastUpdated": time(updated), "currentTime": time(now), "healthy": all, "status": status})
    }
}

/// RFC 3339 as Go prints a time.
fn time(at: Option<SystemTime>) -> String {
    let at = at.and_then(|at| jiff::Timestamp::try_from(at).ok());
    at.map_or_else(|| "0001-01-01T00:00:00Z".into(), |at| format!("{at:.9}"))
}

/// A load balancer must not pick a node that is going away (KEP-3836).
fn is_eligible(node: Option<&Node>) -> bool {
    node.is_some_and(|node| {
        let tainted = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        let leaving =
            tainted.is_some_and(|taints| taints.iter().any(|taint| taint.key == "ToBeDeletedByClusterAutoscaler"));
        node.metadata.deletion_timestamp.is_none() && !leaving
    })
}

fn answer(healthy: bool, body: String, more: HeaderMap) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.extend(more);
    response
}

/// /healthz and /livez of the proxy.
pub(crate) struct ProxyHealth {
    pub state: Arc<HealthState>,
    pub sources: Sources,
    pub metrics: Metrics,
}

#[async_trait]
impl Handler for ProxyHealth {
    async fn handle(&self, request: Request<Incoming>, _: Arc<Peer>) -> Response<Body> {
        let path = request.uri().path();
        let alive = self.state.healthy();
        let eligible = is_eligible(self.sources.world.lock().node.as_ref());
        // A node on its way out is alive but no longer a target.
        let healthy = match path {
            "/healthz" => alive && eligible,
            "/livez" => alive,
            _ => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        let mut body = self.state.report(healthy);
        if path == "/healthz" {
            body["nodeEligible"] = eligible.into();
        }
        let response = answer(healthy, body.to_string(), HeaderMap::new());
        self.metrics.probed(path, response.status().as_u16());
        response
    }
}

struct ServiceHealth {
    state: Arc<HealthState>,
    family: Family,
    service: ServiceKey,
}

#[async_trait]
impl Handler for ServiceHealth {
    async fn handle(&self, _: Request<Incoming>, _: Arc<Peer>) -> Response<Body> {
        let count = {
            let inner = self.state.inner.lock();
            inner.services.get(&self.family).and_then(|checks| checks.get(&self.service)).map_or(0, |(_, count)| *count)
        };
        let healthy = self.state.healthy();
        let (namespace, name) = self.service.split_once('/').unwrap_or_default();
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
        );
        let weight = HeaderValue::from(count);
        let headers =
            HeaderMap::from_iter([(header::HeaderName::from_static("x-load-balancing-endpoint-weight"), weight)]);
        answer(count > 0 && healthy, body, headers)
    }
}

/// Keeps the listeners of health-check node ports.
pub(crate) struct ServiceServers {
    pub state: Arc<HealthState>,
    pub families: Vec<(Family, NodePortAddresses)>,
    pub node: String,
    pub recorder: EventsV1Recorder,
}

impl ServiceServers {
    /// Runs until `shutdown`. A port that cannot be opened is tried again with the next change.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut open: BTreeMap<(Family, ServiceKey), (u16, CancellationToken)> = BTreeMap::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.state.services_changed.notified() => {}
            }
            let wanted: BTreeMap<(Family, ServiceKey), u16> = {
                let inner = self.state.inner.lock();
                let all = inner.services.iter().flat_map(|(family, checks)| {
                    checks.iter().map(|(service, (port, _))| ((*family, service.clone()), *port))
                });
                all.collect()
            };
            open.retain(|id, (port, token)| {
                let keep = wanted.get(id) == Some(port);
                if !keep {
                    token.cancel();
                }
                keep
            });
            for ((family, service), port) in wanted {
                if open.contains_key(&(family, service.clone())) {
                    continue;
                }
                let token = shutdown.child_token();
                match self.open(family, &service, port, &token).await {
                    Ok(()) => drop(open.insert((family, service), (port, token))),
                    Err(error) => {
                        token.cancel();
                        self.complain(&service, port, &error);
                    }
                }
            }
        }
    }

    async fn open(
        &self,
        family: Family,
        service: &ServiceKey,
        port: u16,
        token: &CancellationToken,
    ) -> std::io::Result<()> {
        let chosen = self.families.iter().find(|(known, _)| *known == family).map(|(_, addresses)| addresses);
        let addresses = match chosen.filter(|addresses| !addresses.match_all()) {
            Some(addresses) => addresses.node_ips(),
            None if family.is_v6() => vec![IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
            None => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
        };
        for address in addresses {
            let listener = listen(SocketAddr::new(address, port))?;
            let handler = ServiceHealth { state: self.state.clone(), family, service: service.clone() };
            tokio::spawn(serve(listener, None, Arc::new(handler), token.clone()));
        }
        Ok(())
    }

    fn complain(&self, service: &ServiceKey, port: u16, error: &std::io::Error) {
        let note = format!("node {} failed to start healthcheck \"{service}\" on port {port}: {error}", self.node);
        tracing::error!(%service, port, %error, "cannot listen on a service's health-check node port");
        let (namespace, name) = service.split_once('/').unwrap_or_default();
        let reference = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            ..ObjectReference::default()
        };
        let reason = "FailedToStartServiceHealthcheck";
        self.recorder.event(&reference, None, EventType::Warning, reason, "Listen", &note);
    }
}

/// An IPv6 wildcard without the IPv4 one: that has a listener of its own.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
    };
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::MAXCONN)?;
    TcpListener::from_std(std::net::TcpListener::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy() {
        let state = HealthState::new(Duration::ZERO);
        assert!(state.healthy(), "healthy while it starts");
        state.applied(Family::V4);
        assert!(state.healthy());
        state.queued();
        assert!(!state.healthy());
        let report = state.report(false);
        assert_eq!((&report["healthy"], &report["status"]["IPv4"]["healthy"]), (&json!(false), &json!(false)));
        state.applied(Family::V4);
        assert!(state.healthy());
    }

    #[test]
    fn a_node_that_leaves_is_not_eligible() {
        let node = |value: Value| serde_json::from_value::<Node>(value).unwrap();
        assert!(!is_eligible(None));
        assert!(is_eligible(Some(&node(json!({"metadata": {"name": "n"}})))));
        let taint = json!({"metadata": {}, "spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}});
        assert!(!is_eligible(Some(&node(taint))));
        assert!(!is_eligible(Some(&node(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})))));
    }
}
