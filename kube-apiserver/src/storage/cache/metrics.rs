//! What a watch cache reports, under upstream's names.

use std::sync::OnceLock;

use common::telemetry::registry;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, core::Collector,
};

const LABELS: &[&str] = &["group", "resource"];
const WAIT_BUCKETS: [f64; 13] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0];

/// The metrics of one resource.
pub(super) struct Metrics {
    pub objects: IntGauge,
    pub revision: IntGauge,
    pub received: IntCounter,
    pub initializations: IntCounter,
    pub initial_events: IntCounter,
    pub terminated_watchers: IntCounter,
    pub decode_errors: IntCounter,
    pub read_wait: Histogram,
}

impl Metrics {
    /// `resource` is `pods` or `deployments.apps`.
    pub fn of(resource: &str) -> Self {
        let families = families();
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        let labels = &[group, resource];
        Self {
            objects: families.objects.with_label_values(labels),
            revision: families.revision.with_label_values(labels),
            received: families.received.with_label_values(labels),
            initializations: families.initializations.with_label_values(labels),
            initial_events: families.initial_events.with_label_values(labels),
            terminated_watchers: families.terminated_watchers.with_label_values(labels),
            decode_errors: families.decode_errors.with_label_values(labels),
            read_wait: families.read_wait.with_label_values(labels),
        }
    }
}

struct Families {
    objects: IntGaugeVec,
    revision: IntGaugeVec,
    received: IntCounterVec,
    initializations: IntCounterVec,
    initial_events: IntCounterVec,
    terminated_watchers: IntCounterVec,
    decode_errors: IntCounterVec,
    read_wait: HistogramVec,
}

fn families() -> &'static Families {
    static FAMILIES: OnceLock<Families> = OnceLock::new();
    FAMILIES.get_or_init(|| Families {
        objects: gauge("apiserver_resource_objects", "Number of stored objects."),
        revision: gauge("apiserver_watch_cache_resource_version", "Revision that the watch cache has reached."),
        received: counter("apiserver_watch_cache_events_received_total", "Events received by the watch cache."),
        initializations: counter("apiserver_watch_cache_initializations_total", "Complete loads of the watch cache."),
        initial_events: counter("apiserver_init_events_total", "Events of the initial state sent to watchers."),
        terminated_watchers: counter("apiserver_terminated_watchers_total", "Watchers ended for being too slow."),
        decode_errors: counter("apiserver_storage_decode_errors_total", "Stored objects that could not be decoded."),
        read_wait: histogram("apiserver_watch_cache_read_wait_seconds", "Time reads waited for a fresh watch cache."),
    })
}

/// Registers a family; a name that is taken already (by a test's second server) keeps counting unseen.
fn register<C: Collector + Clone + 'static>(family: Result<C, prometheus::Error>) -> C {
    let family = family.expect("metric names and labels are constant and valid");
    let _ = registry().register(Box::new(family.clone()));
    family
}

fn gauge(name: &str, help: &str) -> IntGaugeVec {
    register(IntGaugeVec::new(Opts::new(name, help), LABELS))
}

fn counter(name: &str, help: &str) -> IntCounterVec {
    register(IntCounterVec::new(Opts::new(name, help), LABELS))
}

fn histogram(name: &str, help: &str) -> HistogramVec {
    register(HistogramVec::new(HistogramOpts::new(name, help).buckets(WAIT_BUCKETS.to_vec()), LABELS))
}
