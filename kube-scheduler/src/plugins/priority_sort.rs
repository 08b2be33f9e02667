//! PrioritySort: higher priority first, then whoever waits longer.

use crate::framework::plugin::{Plugin, QueueSort, Rank};
use crate::queue::QueuedPod;

/// The plugin.
pub struct PrioritySort;

/// Upstream's name.
pub const NAME: &str = "PrioritySort";

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        NAME
    }
    fn as_queue_sort(&self) -> Option<&dyn QueueSort> {
        Some(self)
    }
}

impl QueueSort for PrioritySort {
    fn rank(&self, pod: &QueuedPod) -> Rank {
        Rank { priority: -i64::from(pod.pod.template.priority), since: pod.queued_at.as_nanos() }
    }
}
