//! PrioritySort: higher priority first, then whoever waits longer.

use crate::framework::plugin::{Plugin, QueueSort, Rank};
use crate::queue::QueuedPod;

/// The plugin.
pub struct PrioritySort;

/// Upstream's name.
pub const NAME: &str = "PrioritySort";

extension_points!(PrioritySort { as_queue_sort: QueueSort });

impl QueueSort for PrioritySort {
    fn rank(&self, pod: &QueuedPod) -> Rank {
        Rank { priority: -i64::from(pod.pod.template.priority), since: pod.queued_at.as_nanos() }
    }
}
