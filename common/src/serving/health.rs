//! /healthz, /livez and /readyz in upstream's text formats.

use std::{collections::BTreeSet, sync::Arc};

use http::{Response, StatusCode};
use parking_lot::RwLock;
use prometheus::{Encoder, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use super::{Body, text};
use crate::client::Reach;

type CheckFn = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

#[derive(Clone)]
struct Check {
    name: String,
    run: CheckFn,
    endpoints: &'static [&'static str],
    /// Whether the list of all checks tells why this one fails; upstream's withhold it.
    told: bool,
}

const ENDPOINTS: &[&str] = &["healthz", "livez", "readyz"];

/// The health checks of a daemon. Clones share the checks; more may be registered at any time.
#[derive(Clone)]
pub struct Health {
    checks: Arc<RwLock<Vec<Check>>>,
    results: Results,
}

/// What `/metrics/slis` shows: the results of the checks, as they are asked for.
#[derive(Clone)]
struct Results {
    registry: Registry,
    last: IntGaugeVec,
    total: IntCounterVec,
}

impl Results {
    fn new() -> Self {
        let last = Opts::new("kubernetes_healthcheck", "This metric records the result of a single healthcheck.");
        let total = Opts::new("kubernetes_healthchecks_total", "This metric records the results of all healthcheck.");
        let results = Self {
            registry: Registry::new(),
            last: IntGaugeVec::new(last, &["name", "type"]).expect("constant metric"),
            total: IntCounterVec::new(total, &["name", "type", "status"]).expect("constant metric"),
        };
        let _ = results.registry.register(Box::new(results.last.clone()));
        let _ = results.registry.register(Box::new(results.total.clone()));
        results
    }

    fn observe(&self, name: &str, endpoint: &str, passed: bool) {
        self.last.with_label_values(&[name, endpoint]).set(i64::from(passed));
        let status = if passed { "success" } else { "error" };
        self.total.with_label_values(&[name, endpoint, status]).inc();
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Only the `ping` check, which always succeeds.
    pub fn new() -> Self {
        let health = Self { checks: Arc::default(), results: Results::new() };
        health.register("ping", || Ok(()));
        health
    }

    /// A check for all three paths. Checks are quick: they look at state, they don't wait.
    pub fn register(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.register_at(ENDPOINTS, name, check);
    }

    /// A check for /readyz only: who fails it is alive but should get no traffic yet.
    pub fn register_ready(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.register_at(&["readyz"], name, check);
    }

    /// A check for these of `healthz`, `livez` and `readyz`.
    pub fn register_at(
        &self,
        endpoints: &'static [&'static str],
        name: &str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.add(Check { name: name.to_owned(), run: Arc::new(check), endpoints, told: false });
    }

    /// The `apiserver` check of /readyz: whether the daemon's requests are answered. Everyone is told why not, since a daemon
    /// that can't reach the apiserver can't ask it who may read more.
    pub fn register_apiserver(&self, reach: Reach) {
        let run: CheckFn = Arc::new(move || reach.check());
        self.add(Check { name: "apiserver".into(), run, endpoints: &["readyz"], told: true });
    }

    fn add(&self, check: Check) {
        self.checks.write().push(check);
    }

    /// Answers `/healthz`, `/livez`, `/readyz` and `/<endpoint>/<check>`; None for other paths.
    pub fn respond(&self, path: &str, query: Option<&str>) -> Option<Response<Body>> {
        let mut parts = path.strip_prefix('/')?.splitn(2, '/');
        let endpoint = parts.next().filter(|endpoint| ENDPOINTS.contains(endpoint))?;
        let all = self.checks.read().clone();
        let checks: Vec<Check> = all.into_iter().filter(|check| check.endpoints.contains(&endpoint)).collect();
        match parts.next().filter(|name| !name.is_empty()) {
            None => Some(self.answer(endpoint, &checks, query.unwrap_or_default())),
            Some(name) => checks.iter().find(|check| check.name == name).map(|check| match (check.run)() {
                Ok(()) => text(StatusCode::OK, "ok"),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("internal server error: {error}\n")),
            }),
        }
    }

    /// The metrics of the results in prometheus' text format.
    pub fn slis(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.results.registry.gather(), &mut text) {
            tracing::warn!(%error, "cannot encode metrics");
        }
        text
    }

    fn answer(&self, endpoint: &str, checks: &[Check], query: &str) -> Response<Body> {
        let pairs: Vec<(String, String)> = query.split('&').filter(|pair| !pair.is_empty()).map(decode_pair).collect();
        let excluded = pairs.iter().filter(|(key, _)| key == "exclude").flat_map(|(_, value)| value.split(','));
        let mut unknown: BTreeSet<String> = excluded.map(str::to_owned).collect();
        let excluded = unknown.clone();
        let mut report = String::new();
        let mut failed = Vec::new();
        for check in checks {
            let name = &check.name;
            if excluded.contains(name) {
                unknown.remove(name);
                report.push_str(&format!("[+]{name} excluded: ok\n"));
                continue;
            }
            let outcome = (check.run)();
            self.results.observe(name, endpoint, outcome.is_ok());
            match outcome {
                Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
                Err(error) => {
                    let reason = if check.told { error.as_str() } else { "reason withheld" };
                    report.push_str(&format!("[-]{name} failed: {reason}\n"));
                    failed.push(format!("{name}: {error}"));
                }
            }
        }
        if !unknown.is_empty() {
            let names: Vec<_> = unknown.iter().map(|name| format!("{name:?}")).collect();
            report.push_str(&format!(
                "warn: some health checks cannot be excluded: no matches for {}\n",
                names.join(",")
            ));
        }
        if !failed.is_empty() {
            tracing::info!(checks = failed.join("; "), "{endpoint} check failed");
            return text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{report}{endpoint} check failed\n"));
        }
        if pairs.iter().any(|(key, _)| key == "verbose") {
            return text(StatusCode::OK, &format!("{report}{endpoint} check passed\n"));
        }
        text(StatusCode::OK, "ok")
    }
}

/// Health queries hold check names only: the escapes that matter are those of the comma and the slash.
fn decode_pair(pair: &str) -> (String, String) {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    (key.to_owned(), value.replace("%2C", ",").replace("%2c", ",").replace("%2F", "/").replace("%2f", "/"))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn get(health: &Health, path: &str, query: &str) -> Option<(u16, String)> {
        let response = health.respond(path, Some(query))?;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Some((code, String::from_utf8(bytes.to_vec()).unwrap()))
    }

    #[tokio::test]
    async fn texts_are_upstreams() {
        let health = Health::new();
        health.register("etcd", || Err("down".into()));
        health.register_ready("informer-sync", || Ok(()));
        for (path, query, code, body) in [
            ("/healthz", "exclude=etcd", 200, "ok"),
            ("/livez", "verbose", 500, "[+]ping ok\n[-]etcd failed: reason withheld\nlivez check failed\n"),
            ("/livez", "verbose=true&exclude=etcd", 200, "[+]ping ok\n[+]etcd excluded: ok\nlivez check passed\n"),
            (
                "/readyz",
                "verbose&exclude=etcd",
                200,
                "[+]ping ok\n[+]etcd excluded: ok\n[+]informer-sync ok\nreadyz check passed\n",
            ),
            (
                "/healthz",
                "verbose&exclude=etcd&exclude=x",
                200,
                "[+]ping ok\n[+]etcd excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\nhealthz check passed\n",
            ),
            ("/healthz/ping", "", 200, "ok"),
            ("/healthz/etcd", "", 500, "internal server error: down\n"),
        ] {
            assert_eq!(get(&health, path, query).await, Some((code, body.to_owned())), "{path}?{query}");
        }
        let slis = String::from_utf8(health.slis()).unwrap();
        assert!(slis.contains(r#"kubernetes_healthcheck{name="etcd",type="livez"} 0"#), "{slis}");
        assert!(
            slis.contains(r#"kubernetes_healthchecks_total{name="ping",status="success",type="livez"} 2"#),
            "{slis}"
        );
        assert_eq!(get(&health, "/livez/informer-sync", "").await, None);
        assert_eq!(get(&health, "/healthzz", "").await, None);
    }
}
