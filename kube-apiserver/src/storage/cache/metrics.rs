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
    pub capacity: IntGauge,
    pub dispatched: IntCounter,
    pub lists: IntCounter,
    pub list_fetched: IntCounter,
    pub list_returned: IntCounter,
    pub consistent_reads: IntCounter,
    pub consistent_read_failures: IntCounter,
    pub checks: [IntCounter; 3],
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
            capacity: families.capacity.with_label_values(labels),
            dispatched: families.dispatched.with_label_values(labels),
            lists: families.lists.with_label_values(&[group, resource, ""]),
            list_fetched: families.list_fetched.with_label_values(&[group, resource, ""]),
            list_returned: families.list_returned.with_label_values(labels),
            consistent_reads: families.consistent_reads.with_label_values(&[group, resource, "true", "false"]),
            consistent_read_failures: families.consistent_reads.with_label_values(&[group, resource, "false", "true"]),
            checks: CHECKS.map(|status| families.checks.with_label_values(&[group, resource, status])),
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
    capacity: IntGaugeVec,
    dispatched: IntCounterVec,
    lists: IntCounterVec,
    list_fetched: IntCounterVec,
    list_returned: IntCounterVec,
    consistent_reads: IntCounterVec,
    checks: IntCounterVec,
}

/// How a comparison of the cache with the store may end.
const CHECKS: [&str; 3] = ["success", "failure", "error"];

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
        capacity: gauge("apiserver_watch_cache_capacity", "Total capacity of watch cache broken by resource type."),
        dispatched: counter("apiserver_watch_cache_events_dispatched_total", "Events sent on to watchers."),
        lists: labelled(
            "apiserver_cache_list_total",
            "Number of LIST requests served from watch cache",
            &["group", "resource", "index"],
        ),
        list_fetched: labelled(
            "apiserver_cache_list_fetched_objects_total",
            "Number of objects read from watch cache in the course of serving a LIST request",
            &["group", "resource", "index"],
        ),
        list_returned: counter(
            "apiserver_cache_list_returned_objects_total",
            "Number of objects returned for a LIST request from watch cache",
        ),
        consistent_reads: labelled(
            "apiserver_watch_cache_consistent_read_total",
            "Counter for consistent reads from cache.",
            &["group", "resource", "success", "fallback"],
        ),
        checks: labelled(
            "apiserver_storage_consistency_checks_total",
            "Counter for status of consistency checks between the store and the watch cache",
            &["group", "resource", "status"],
        ),
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
    labelled(name, help, LABELS)
}

fn labelled(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(IntCounterVec::new(Opts::new(name, help), labels))
}

fn histogram(name: &str, help: &str) -> HistogramVec {
    register(HistogramVec::new(HistogramOpts::new(name, help).buckets(WAIT_BUCKETS.to_vec()), LABELS))
}
