//! One request's numbers: duration, size, code, whether it lasts.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Instant,
};

use common::api::Resource;
use http::{HeaderMap, Method, header};
use parking_lot::RwLock;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets};

use super::{COMPONENT, counter, gauge, histogram};
use crate::request::{Query, RequestInfo};

const ROUTE: &[&str] = &["verb", "group", "version", "resource", "subresource", "scope", "component"];
const SELF: &str = "kube-apiserver";
/// Clients of the control plane that upstream tells apart.
const SYSTEM_CLIENTS: [&str; 4] = [SELF, "kube-controller-manager", "kube-scheduler", "cluster-policy-controller"];

/// What is asked for, as far as metrics tell requests apart. Cheap to copy and to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    verb: &'static str,
    dry_run: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    /// The subresource, or the path of requests that concern no resource.
    subresource: &'static str,
    scope: &'static str,
}

impl Kind {
    /// The kind of a request to a resource.
    #[must_use]
    pub fn of(
        method: &Method,
        info: &RequestInfo,
        resource: &'static Resource,
        query: &Query,
        headers: &HeaderMap,
    ) -> Self {
        let subresource = resource.subresource(&info.subresource).map_or("", |sub| sub.name);
        let scope = if info.names_object() || method == Method::POST {
            "resource"
        } else if resource.namespaced && !info.namespace.is_empty() {
            "namespace"
        } else {
            "cluster"
        };
        Self {
            verb: verb(method, info, subresource, headers),
            dry_run: dry_run(query),
            group: resource.group,
            version: resource.version,
            resource: resource.plural,
            subresource,
            scope,
        }
    }

    /// The kind of a health check.
    #[must_use]
    pub fn of_path(path: &'static str) -> Self {
        Self { verb: "GET", dry_run: "", group: "", version: "", resource: "", subresource: path, scope: "" }
    }

    fn is_long_running(&self) -> bool {
        matches!(self.verb, "WATCH" | "CONNECT")
    }
}

fn verb(method: &Method, info: &RequestInfo, subresource: &str, headers: &HeaderMap) -> &'static str {
    if matches!(subresource, "exec" | "attach" | "portforward" | "log" | "proxy") {
        return "CONNECT";
    }
    match *method {
        Method::GET | Method::HEAD if info.verb == "watch" => "WATCH",
        Method::GET | Method::HEAD if info.names_object() => "GET",
        Method::GET | Method::HEAD => "LIST",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => {
            let applies = headers.get(header::CONTENT_TYPE).is_some_and(|v| v == "application/apply-patch+yaml");
            if applies { "APPLY" } else { "PATCH" }
        }
        _ => "other",
    }
}

fn dry_run(query: &Query) -> &'static str {
    let mut wanted = "";
    for value in query.all("dryRun") {
        wanted = if value == "All" { "All" } else { return "invalid" };
    }
    wanted
}

struct Families {
    total: IntCounterVec,
    longrunning: IntGaugeVec,
    duration: HistogramVec,
    sli: HistogramVec,
    sizes: HistogramVec,
    terminations: IntCounterVec,
    selfrequests: IntCounterVec,
    routes: RwLock<HashMap<Kind, Arc<Route>>>,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let tail = [0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
    let buckets = |head: &[f64]| head.iter().chain(&tail).copied().collect::<Vec<_>>();
    let with = |labels: &[&'static str]| {
        let mut all = vec![ROUTE[0]];
        all.extend(labels);
        all.extend(&ROUTE[1..]);
        all
    };
    let mut total = with(&["dry_run"]);
    total.extend(["code", "system_client"]);
    let mut terminated = ROUTE.to_vec();
    terminated.push("code");
    Families {
        total: counter(
            "apiserver_request_total",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
            &total,
        ),
        longrunning: gauge(
            "apiserver_longrunning_requests",
            "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
            ROUTE,
        ),
        duration: histogram(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
            &with(&["dry_run"]),
            buckets(&[0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6]),
        ),
        sli: histogram(
            "apiserver_request_sli_duration_seconds",
            "Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
            ROUTE,
            buckets(&[0.05, 0.1, 0.2, 0.4, 0.6]),
        ),
        sizes: histogram(
            "apiserver_response_sizes",
            "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
            ROUTE,
            exponential_buckets(1000.0, 10.0, 7).expect("constant buckets"),
        ),
        terminations: counter(
            "apiserver_request_terminations_total",
            "Number of requests which apiserver terminated in self-defense.",
            &terminated,
        ),
        selfrequests: counter(
            "apiserver_selfrequest_total",
            "Counter of apiserver self-requests broken out for each verb, API resource and subresource.",
            &["verb", "group", "resource", "subresource"],
        ),
        routes: RwLock::default(),
    }
});

/// The metrics of one kind of request, their labels resolved.
struct Route {
    kind: Kind,
    duration: Histogram,
    sli: Histogram,
    sizes: Option<Histogram>,
    longrunning: Option<IntGauge>,
    /// By code and client; a handful at most.
    totals: RwLock<Vec<((u16, &'static str), IntCounter)>>,
}

impl Route {
    fn of(kind: Kind) -> Arc<Self> {
        let families = &*FAMILIES;
        if let Some(route) = families.routes.read().get(&kind) {
            return Arc::clone(route);
        }
        let labels = kind.labels();
        let mut with_dry_run = labels.to_vec();
        with_dry_run.insert(1, kind.dry_run);
        let route = Arc::new(Self {
            kind,
            duration: families.duration.with_label_values(&with_dry_run),
            sli: families.sli.with_label_values(&labels),
            sizes: matches!(kind.verb, "GET" | "LIST").then(|| families.sizes.with_label_values(&labels)),
            longrunning: kind.is_long_running().then(|| families.longrunning.with_label_values(&labels)),
            totals: RwLock::default(),
        });
        families.routes.write().entry(kind).or_insert(route).clone()
    }

    fn count(&self, code: u16, client: &'static str) {
        let key = (code, client);
        if let Some((_, total)) = self.totals.read().iter().find(|(known, _)| *known == key) {
            return total.inc();
        }
        let code = code.to_string();
        let mut labels = self.kind.labels().to_vec();
        labels.insert(1, self.kind.dry_run);
        labels.extend([code.as_str(), client]);
        let total = FAMILIES.total.with_label_values(&labels);
        total.inc();
        self.totals.write().push((key, total));
    }
}

impl Kind {
    fn labels(&self) -> [&'static str; 7] {
        [self.verb, self.group, self.version, self.resource, self.subresource, self.scope, COMPONENT]
    }
}

/// A request under way; counted when it is dropped, which is when its answer is sent.
pub struct Request {
    route: Arc<Route>,
    client: &'static str,
    started: Instant,
    /// The code of the answer; 0 while there is none.
    pub code: u16,
    /// Bytes of the answer.
    pub bytes: u64,
}

impl Request {
    /// Begins to observe.
    #[must_use]
    pub fn begin(kind: Kind, headers: &HeaderMap, started: Instant) -> Self {
        let route = Route::of(kind);
        if let Some(gauge) = &route.longrunning {
            gauge.inc();
        }
        let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let agent = agent.split_once('/').map_or("", |(name, _)| name);
        let client = SYSTEM_CLIENTS.into_iter().find(|known| *known == agent).unwrap_or_default();
        Self { route, client, started, code: 0, bytes: 0 }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let route = &self.route;
        if let Some(gauge) = &route.longrunning {
            gauge.dec();
        }
        // The client went away before there was an answer.
        if self.code == 0 {
            return;
        }
        let seconds = self.started.elapsed().as_secs_f64();
        route.count(self.code, self.client);
        route.duration.observe(seconds);
        if route.kind.dry_run.is_empty() {
            route.sli.observe(seconds);
        }
        if let Some(sizes) = &route.sizes {
            sizes.observe(self.bytes as f64);
        }
        if self.client == SELF {
            let kind = &route.kind;
            let labels = [kind.verb, kind.group, kind.resource, kind.subresource];
            FAMILIES.selfrequests.with_label_values(&labels).inc();
        }
    }
}

/// Counts a request that was refused with 429 before anything was done for it.
pub fn dropped(kind: Kind) {
    Route::of(kind).count(429, "");
}

/// Counts a request that the server refused or gave up to protect itself.
pub fn termination(kind: Kind, code: u16) {
    let code_text = code.to_string();
    let mut labels = kind.labels().to_vec();
    labels.push(&code_text);
    FAMILIES.terminations.with_label_values(&labels).inc();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(method: &str, url: &str, content_type: &str) -> Kind {
        let (path, raw) = url.split_once('?').unwrap_or((url, ""));
        let query = Query::parse(raw);
        let info = RequestInfo::parse(method, path, &query).unwrap();
        let resource = common::api::catalog().by_plural(&info.group, &info.version, &info.resource).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        Kind::of(&method.parse().unwrap(), &info, resource, &query, &headers)
    }

    #[test]
    fn verbs_and_scopes_are_upstreams() {
        const APPLY: &str = "application/apply-patch+yaml";
        for (method, url, content_type, verb, scope, dry_run) in [
            ("GET", "/api/v1/pods", "", "LIST", "cluster", ""),
            ("GET", "/api/v1/namespaces/a/pods", "", "LIST", "namespace", ""),
            ("GET", "/api/v1/namespaces/a/pods?watch=1", "", "WATCH", "namespace", ""),
            ("GET", "/api/v1/namespaces/a/pods/b", "", "GET", "resource", ""),
            ("GET", "/api/v1/namespaces/a", "", "GET", "resource", ""),
            ("GET", "/api/v1/namespaces/a/pods/b/log", "", "CONNECT", "resource", ""),
            ("POST", "/api/v1/namespaces/a/pods?dryRun=All", "", "POST", "resource", "All"),
            ("PATCH", "/api/v1/namespaces/a/pods/b?dryRun=x", APPLY, "APPLY", "resource", "invalid"),
            ("DELETE", "/api/v1/namespaces/a/pods", "", "DELETE", "namespace", ""),
        ] {
            let kind = kind(method, url, content_type);
            assert_eq!((kind.verb, kind.scope, kind.dry_run), (verb, scope, dry_run), "{method} {url}");
        }
    }

    #[test]
    fn an_answered_request_is_counted_once() {
        let kind = kind("GET", "/api/v1/limitranges", "");
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, "kube-scheduler/v1.36.1 (linux/amd64)".parse().unwrap());
        let mut request = Request::begin(kind, &headers, Instant::now());
        (request.code, request.bytes) = (200, 2000);
        drop(request);
        drop(Request::begin(kind, &headers, Instant::now()));
        let labels = ["LIST", "", "", "v1", "limitranges", "", "cluster", COMPONENT, "200", "kube-scheduler"];
        assert_eq!(FAMILIES.total.with_label_values(&labels).get(), 1);
        let route = Route::of(kind);
        assert_eq!(route.sizes.as_ref().unwrap().get_sample_sum(), 2000.0);
        assert_eq!(route.duration.get_sample_count(), 1);
    }
}
