//! Upstream's metrics of volume operations.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Instant;

use prometheus::{HistogramOpts, HistogramVec, IntGaugeVec, Opts};

use super::external::{External, Kind};

static SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let options = HistogramOpts::new("storage_operation_duration_seconds", "Storage operation duration")
        .buckets(vec![0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0]);
    let labels = ["volume_plugin", "operation_name", "status", "migrated"];
    #[allow(clippy::expect_used, reason = "a constant description")]
    let histogram = HistogramVec::new(options, &labels).expect("a valid metric");
    common::telemetry::register(histogram)
});

static TOTALS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let options = Opts::new("volume_manager_total_volumes", "Number of volumes in Volume Manager");
    #[allow(clippy::expect_used, reason = "a constant description")]
    let gauge = IntGaugeVec::new(options, &["plugin_name", "state"]).expect("a valid metric");
    common::telemetry::register(gauge)
});

/// An operation that is timed.
pub(super) struct Operation {
    name: &'static str,
    plugin: String,
    begin: Instant,
}

impl Operation {
    pub(super) fn begin(name: &'static str, volume: &External) -> Self {
        let plugin = match &volume.kind {
            Kind::Csi(source) => format!("kubernetes.io/csi:{}", source.driver),
            Kind::Local { .. } | Kind::Nfs(_) => format!("kubernetes.io/{}", volume.plugin()),
        };
        Self { name, plugin, begin: Instant::now() }
    }

    pub(super) fn end(self, good: bool) {
        let status = if good { "success" } else { "fail-unknown" };
        let labels = [self.plugin.as_str(), self.name, status, "false"];
        SECONDS.with_label_values(&labels).observe(self.begin.elapsed().as_secs_f64());
    }
}

/// (wanted, mounted) by plugin.
pub(super) fn set_totals(totals: &BTreeMap<&'static str, (usize, usize)>) {
    TOTALS.reset();
    for (plugin, (wanted, mounted)) in totals {
        let name = format!("kubernetes.io/{plugin}");
        for (state, count) in [("desired_state_of_world", wanted), ("actual_state_of_world", mounted)] {
            TOTALS.with_label_values(&[name.as_str(), state]).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }
}
