//! Upstream's metrics of this controller.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::plan::Tally;
use crate::shared::metrics::{Buckets, Counter, Gauge, Histogram};

const SIZES: Buckets = Buckets::Exponential(2.0, 2.0, 15);

static ADDED: Histogram = Histogram::new(
    "endpoint_slice_controller_endpoints_added_per_sync",
    "Number of endpoints added on each Service sync",
    &[],
    SIZES,
);
static REMOVED: Histogram = Histogram::new(
    "endpoint_slice_controller_endpoints_removed_per_sync",
    "Number of endpoints removed on each Service sync",
    &[],
    SIZES,
);
static ENDPOINTS: Gauge = Gauge::new("endpoint_slice_controller_endpoints_desired", "Number of endpoints desired", &[]);
static SLICES: Gauge = Gauge::new("endpoint_slice_controller_num_endpoint_slices", "Number of EndpointSlices", &[]);
static IDEAL_SLICES: Gauge = Gauge::new(
    "endpoint_slice_controller_desired_endpoint_slices",
    "Number of EndpointSlices that would exist with perfect endpoint allocation",
    &[],
);
static BY_DISTRIBUTION: Gauge = Gauge::new(
    "endpoint_slice_controller_services_count_by_traffic_distribution",
    "Number of Services using some specific trafficDistribution",
    &["traffic_distribution"],
);
/// Writes, by operation.
pub(super) static CHANGES: Counter =
    Counter::new("endpoint_slice_controller_changes", "Number of EndpointSlice changes", &["operation"]);
/// Runs, by their end.
pub(super) static SYNCS: Counter =
    Counter::new("endpoint_slice_controller_syncs", "Number of EndpointSlice syncs", &["result"]);
/// Slices written in one run.
pub(super) static CHANGED_PER_SYNC: Histogram = Histogram::new(
    "endpoint_slice_controller_endpointslices_changed_per_sync",
    "Number of EndpointSlices changed on each Service sync",
    &["topology", "traffic_distribution"],
    Buckets::Default,
);

/// What the gauges count of one Service.
#[derive(Default)]
struct Share {
    endpoints: f64,
    slices: f64,
    ideal_slices: f64,
    distribution: String,
}

/// What each Service adds to the gauges.
#[derive(Default)]
pub(super) struct Totals {
    services: Mutex<HashMap<String, Share>>,
}

impl Totals {
    /// One run of a Service.
    pub(super) fn note(&self, key: &str, tally: &Tally, distribution: &str) {
        for (added, removed) in &tally.moved {
            ADDED.observe(&[], *added as f64);
            REMOVED.observe(&[], *removed as f64);
        }
        let share = Share {
            endpoints: tally.endpoints as f64,
            slices: tally.slices as f64,
            ideal_slices: tally.ideal_slices as f64,
            distribution: distribution.to_owned(),
        };
        let mut services = self.services.lock();
        count(&share, 1.0);
        if let Some(old) = services.insert(key.to_owned(), share) {
            count(&old, -1.0);
        }
    }

    /// The Service is gone.
    pub(super) fn forget(&self, key: &str) {
        if let Some(old) = self.services.lock().remove(key) {
            count(&old, -1.0);
        }
    }
}

fn count(share: &Share, sign: f64) {
    ENDPOINTS.add(&[], sign * share.endpoints);
    SLICES.add(&[], sign * share.slices);
    IDEAL_SLICES.add(&[], sign * share.ideal_slices);
    if !share.distribution.is_empty() {
        BY_DISTRIBUTION.add(&[&share.distribution], sign);
    }
}
