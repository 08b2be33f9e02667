//! `kubelet_certificate_manager_*`: how long certificates last, and how renewals go.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter};

use super::template::Kind;

/// No certificate.
const NONE: i64 = i64::MAX;

/// Seconds until the certificate ends, computed when it is read.
#[derive(Clone)]
struct Ttl {
    gauge: Gauge,
    ends: Arc<AtomicI64>,
}

impl Collector for Ttl {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    #[allow(clippy::cast_precision_loss, reason = "seconds")]
    fn collect(&self) -> Vec<MetricFamily> {
        let ends = self.ends.load(Ordering::Relaxed);
        let left = if ends == NONE { f64::INFINITY } else { (ends - jiff::Timestamp::now().as_second()) as f64 };
        self.gauge.set(left);
        self.gauge.collect()
    }
}

/// The metrics of one certificate.
pub(super) struct Metrics {
    ttl: Ttl,
    failures: IntCounter,
    /// Age of replaced serving certificates.
    rotation: Option<Histogram>,
}

impl Metrics {
    #[allow(clippy::expect_used, reason = "constant metrics")]
    pub(super) fn new(kind: Kind) -> Self {
        let (ttl, ttl_help, failures, failures_help) = match kind {
            Kind::Client => (
                "kubelet_certificate_manager_client_ttl_seconds",
                "Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate expiry (negative if already expired). If client certificate is invalid or unused, the value will be +INF.",
                "kubelet_certificate_manager_client_expiration_renew_errors",
                "Counter of certificate renewal errors.",
            ),
            Kind::Serving => (
                "kubelet_certificate_manager_server_ttl_seconds",
                "Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until certificate expiry (negative if already expired). If serving certificate is invalid or unused, the value will be +INF.",
                "kubelet_server_expiration_renew_errors",
                "Counter of certificate renewal errors.",
            ),
        };
        let gauge = Gauge::new(ttl, ttl_help).expect("constant metric");
        let ttl = common::telemetry::register(Ttl { gauge, ends: Arc::new(AtomicI64::new(NONE)) });
        let failures = IntCounter::new(failures, failures_help).expect("constant metric");
        let rotation = (kind == Kind::Serving).then(|| {
            const MINUTE: f64 = 60.0;
            const HOUR: f64 = 60.0 * MINUTE;
            const DAY: f64 = 24.0 * HOUR;
            let buckets = [
                MINUTE,
                HOUR,
                4.0 * HOUR,
                DAY,
                7.0 * DAY,
                30.0 * DAY,
                90.0 * DAY,
                180.0 * DAY,
                360.0 * DAY,
                1440.0 * DAY,
            ];
            let help = "Histogram of the number of seconds the previous certificate lived before being rotated.";
            let options = HistogramOpts::new("kubelet_certificate_manager_server_rotation_seconds", help);
            let histogram = Histogram::with_opts(options.buckets(buckets.to_vec())).expect("constant metric");
            common::telemetry::register(histogram)
        });
        Self { ttl, failures: common::telemetry::register(failures), rotation }
    }

    /// The certificate in use ends then.
    pub(super) fn ends(&self, end: Option<jiff::Timestamp>) {
        self.ttl.ends.store(end.map_or(NONE, |end| end.as_second()), Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failures.inc();
    }

    /// A certificate of that begin was replaced.
    #[allow(clippy::cast_precision_loss, reason = "seconds")]
    pub(super) fn replaced(&self, begin: jiff::Timestamp) {
        if let Some(rotation) = &self.rotation {
            rotation.observe((jiff::Timestamp::now().as_second() - begin.as_second()) as f64);
        }
    }
}
