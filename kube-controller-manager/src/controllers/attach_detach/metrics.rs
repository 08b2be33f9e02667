//! Upstream's metric of volumes that were taken by force.

use super::plan::Force;
use crate::shared::metrics::Counter;

static FORCED: Counter = Counter::new(
    "attach_detach_controller_attachdetach_controller_forced_detaches",
    "Number of times the A/D Controller performed a forced detach",
    &["reason"],
);

/// Counts one.
pub(super) fn forced(why: Force) {
    FORCED.inc(&[match why {
        Force::Timeout => "timeout",
        Force::OutOfService => "out-of-service",
    }]);
}
