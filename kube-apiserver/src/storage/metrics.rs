//! Times every call to a store, under the names that upstream gives calls to etcd (for the embedded store, too: the
//! dashboards are the same).

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use common::telemetry::registry;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

use super::{KeyRange, KeyValue, RangeOptions, RangeResult, Revision, Store, StoreError, StoreWatch};

const LABELS: &[&str] = &["operation", "group", "resource"];
const BUCKETS: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0,
];

struct Families {
    duration: HistogramVec,
    requests: IntCounterVec,
    errors: IntCounterVec,
    /// (group, resource) by the key prefix below the store's.
    resources: HashMap<&'static str, (&'static str, &'static str)>,
}

fn families() -> &'static Families {
    static FAMILIES: OnceLock<Families> = OnceLock::new();
    FAMILIES.get_or_init(|| {
        let buckets = HistogramOpts::new("etcd_request_duration_seconds", "Latency of calls to the store.");
        let duration = HistogramVec::new(buckets.buckets(BUCKETS.to_vec()), LABELS);
        let duration = duration.expect("metric names and labels are constant and valid");
        let counter = |name, help| {
            let family = IntCounterVec::new(Opts::new(name, help), LABELS);
            let family = family.expect("metric names and labels are constant and valid");
            let _ = registry().register(Box::new(family.clone()));
            family
        };
        let _ = registry().register(Box::new(duration.clone()));
        let stored = common::api::catalog().resources().filter_map(|resource| {
            let storage = resource.storage.as_ref()?;
            Some((storage.prefix, (storage.group, resource.plural)))
        });
        Families {
            duration,
            requests: counter("etcd_requests_total", "Calls to the store."),
            errors: counter("etcd_request_errors_total", "Calls to the store that failed."),
            resources: stored.collect(),
        }
    })
}

impl Families {
    /// The resource of `/registry/services/specs/default/web`: two segments may name it, or one.
    fn resource_of(&self, key: &str) -> (&'static str, &'static str) {
        let rest = key.trim_start_matches('/').split_once('/').map_or("", |(_, rest)| rest);
        let mut ends = rest.match_indices('/').map(|(at, _)| at);
        let (first, second) = (ends.next(), ends.next());
        let find = |end: Option<usize>| self.resources.get(rest.get(..end?)?);
        find(second).or_else(|| find(first)).copied().unwrap_or(("", ""))
    }

    fn record<T>(&self, operation: &str, key: &str, start: Instant, outcome: &Result<T, StoreError>) {
        let (group, resource) = self.resource_of(key);
        let labels = &[operation, group, resource];
        self.duration.with_label_values(labels).observe(start.elapsed().as_secs_f64());
        self.requests.with_label_values(labels).inc();
        // A refused compare-and-swap is an answer, not a failure.
        if let Err(StoreError::Unavailable(_) | StoreError::Corrupt { .. } | StoreError::Internal(_)) = outcome {
            self.errors.with_label_values(labels).inc();
        }
    }
}

/// A store whose calls are timed.
pub(super) struct Observed(Arc<dyn Store>);

/// Times the calls to `store`.
pub(super) fn observed(store: Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::new(Observed(store))
}

#[async_trait]
impl Store for Observed {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let start = Instant::now();
        let outcome = self.0.get(key, at).await;
        families().record("get", key, start, &outcome);
        outcome
    }

    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError> {
        let (start, key) = (Instant::now(), range.start.clone());
        let outcome = self.0.range(range, options).await;
        families().record("list", &key, start, &outcome);
        outcome
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision, StoreError> {
        let start = Instant::now();
        let outcome = self.0.create(key, value, ttl).await;
        families().record("create", key, start, &outcome);
        outcome
    }

    async fn update(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let start = Instant::now();
        let outcome = self.0.update(key, expected, value, ttl).await;
        families().record("update", key, start, &outcome);
        outcome
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision, StoreError> {
        let start = Instant::now();
        let outcome = self.0.delete(key, expected).await;
        families().record("delete", key, start, &outcome);
        outcome
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<StoreWatch, StoreError> {
        self.0.watch(prefix, after).await
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.0.current_revision().await
    }

    async fn compact(&self, at: Revision) -> Result<(), StoreError> {
        self.0.compact(at).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.0.health().await
    }

    async fn size(&self) -> Result<u64, StoreError> {
        self.0.size().await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::families;

    #[test]
    fn resources_are_told_from_keys() {
        for (key, expected) in [
            ("/registry/pods/default/web", ("", "pods")),
            ("/registry/pods/", ("", "pods")),
            ("/registry/services/specs/default/web", ("", "services")),
            ("/registry/deployments/default/web", ("apps", "deployments")),
            ("/registry/nothing/x", ("", "")),
            ("compact_rev_key", ("", "")),
        ] {
            assert_eq!(families().resource_of(key), expected, "{key}");
        }
    }
}
