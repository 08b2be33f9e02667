//! Upstream's metrics of the sync loop.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::telemetry::register;
use prometheus::{Gauge, Histogram, HistogramOpts, exponential_buckets};

/// Counted by the loop, scraped on /metrics.
pub(crate) struct Metrics {
    duration: Histogram,
    last: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let buckets = exponential_buckets(0.001, 2.0, 15)?;
        let name = "kubeproxy_sync_proxy_rules_duration_seconds";
        let duration =
            Histogram::with_opts(HistogramOpts::new(name, "SyncProxyRules latency in seconds").buckets(buckets))?;
        let name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
        let last = Gauge::new(name, "The last time proxy rules were successfully synced")?;
        Ok(Self { duration: register(duration), last: register(last) })
    }

    pub(crate) fn synced(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        self.last.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }
}
