//! Upstream's metric of volumes that were taken by force.

use std::sync::OnceLock;

use prometheus::{IntCounterVec, Opts};

use super::plan::Force;

/// Counts one.
pub(super) fn forced(why: Force) {
    static COUNTER: OnceLock<Option<IntCounterVec>> = OnceLock::new();
    let make = || {
        let opts = Opts::new(
            "attach_detach_controller_attachdetach_controller_forced_detaches",
            "Number of times the A/D Controller performed a forced detach",
        );
        IntCounterVec::new(opts, &["reason"]).ok().map(common::telemetry::register)
    };
    let reason = match why {
        Force::Timeout => "timeout",
        Force::OutOfService => "out-of-service",
    };
    COUNTER.get_or_init(make).iter().for_each(|counter| counter.with_label_values(&[reason]).inc());
}
