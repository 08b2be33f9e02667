//! SchedulingGates: a pod with gates stays out of the active queue until the last one is removed.

use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::plugin::{EnqueueExtensions, Plugin, PreEnqueue};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};

/// The plugin.
pub struct SchedulingGates;

/// Upstream's name.
pub const NAME: &str = "SchedulingGates";

extension_points!(SchedulingGates { as_pre_enqueue: PreEnqueue, as_enqueue: EnqueueExtensions });

impl PreEnqueue for SchedulingGates {
    fn pre_enqueue(&self, pod: &PodInfo) -> Verdict {
        let gates = &pod.template.gates;
        if gates.is_empty() {
            return Ok(());
        }
        Err(Status::unresolvable(NAME, format!("waiting for scheduling gates: [{}]", gates.join(" "))))
    }
}

impl EnqueueExtensions for SchedulingGates {
    fn interests(&self) -> Vec<Interest> {
        vec![Interest { resource: Resource::UnscheduledPod, action: action::POD_GATES_GONE }]
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        match event.pods().1 {
            Some(changed) if changed.uid == pod.uid => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{pod, pod_info};

    #[test]
    fn gated_until_the_last_gate_goes() {
        let gated = pod_info(&pod("a").gates(&["x", "y"]));
        let status = PreEnqueue::pre_enqueue(&SchedulingGates, &gated).unwrap_err();
        assert_eq!(status.message(), "waiting for scheduling gates: [x y]");
        assert!(PreEnqueue::pre_enqueue(&SchedulingGates, &pod_info(&pod("a"))).is_ok());
    }
}
