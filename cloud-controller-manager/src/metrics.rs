//! Metrics under upstream's names. A metric that the registry refuses is not counted, never an error.

use std::sync::LazyLock;

use common::telemetry;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGaugeVec, Opts, exponential_buckets};

type Lazy<T> = LazyLock<Option<T>>;

fn counter(name: &str, help: &str) -> Option<IntCounter> {
    IntCounter::new(name, help).ok().map(telemetry::register)
}

fn histogram(name: &str, help: &str, factor: f64, count: usize) -> Option<Histogram> {
    let buckets = exponential_buckets(1.0, factor, count).ok()?;
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)).ok().map(telemetry::register)
}

static RUNNING: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "Indicates where instances of a controller are currently running";
    IntGaugeVec::new(Opts::new("running_managed_controllers", help), &["name", "manager"]).ok().map(telemetry::register)
});

/// Tells whether a controller runs here.
pub(crate) fn running(name: &str, on: bool) {
    if let Some(gauge) = &*RUNNING {
        gauge.with_label_values(&[name, crate::NAME]).set(i64::from(on));
    }
}

/// Load balancers told of new nodes.
pub(crate) static BALANCER_SYNCS: Lazy<IntCounter> = Lazy::new(|| {
    counter(
        "service_controller_loadbalancer_sync_total",
        "A metric counting the amount of times any load balancer has been configured, as an effect of service/node changes on the cluster",
    )
});

/// Load balancers that could not be told.
pub(crate) static NODE_SYNC_ERRORS: Lazy<IntCounter> = Lazy::new(|| {
    counter(
        "service_controller_nodesync_error_total",
        "A metric counting the amount of times any load balancer has been configured and errored, as an effect of node changes on the cluster",
    )
});

/// All load balancers after a change of nodes.
pub(crate) static NODE_SYNC_SECONDS: Lazy<Histogram> = Lazy::new(|| {
    histogram(
        "service_controller_nodesync_latency_seconds",
        "A metric measuring the latency for nodesync which updates loadbalancer hosts on cluster node updates.",
        2.0,
        15,
    )
});

/// One load balancer after a change of nodes.
pub(crate) static UPDATE_HOSTS_SECONDS: Lazy<Histogram> = Lazy::new(|| {
    histogram(
        "service_controller_update_loadbalancer_host_latency_seconds",
        "A metric measuring the latency for updating each load balancer hosts.",
        2.0,
        15,
    )
});

/// From a node's creation to the removal of its taint.
pub(crate) static TAINT_REMOVAL_SECONDS: Lazy<Histogram> = Lazy::new(|| {
    histogram(
        "node_controller_cloud_provider_taint_removal_delay_seconds",
        "Number of seconds after node creation when NodeController removed the cloud-provider taint of a single node.",
        4.0,
        6,
    )
});

/// From a node's creation to the end of its first sync.
pub(crate) static INITIAL_SYNC_SECONDS: Lazy<Histogram> = Lazy::new(|| {
    histogram(
        "node_controller_initial_node_sync_delay_seconds",
        "Number of seconds after node creation when NodeController finished the initial synchronization of a single node.",
        4.0,
        6,
    )
});

/// Reconciliations of the routes.
pub(crate) static ROUTE_SYNCS: Lazy<IntCounter> = Lazy::new(|| {
    counter(
        "route_controller_route_sync_total",
        "A metric counting the amount of times routes have been synced with the cloud provider.",
    )
});

/// Counts one.
pub(crate) fn count(counter: &Lazy<IntCounter>) {
    if let Some(counter) = &**counter {
        counter.inc();
    }
}

/// Observes a duration in seconds.
pub(crate) fn observe(histogram: &Lazy<Histogram>, seconds: f64) {
    if let Some(histogram) = &**histogram {
        histogram.observe(seconds);
    }
}
