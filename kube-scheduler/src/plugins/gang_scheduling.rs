//! GangScheduling (alpha, KEP-4671): pods of a gang wait until `minCount` of them are there, and are bound only if so many have
//! nodes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::scheduling::v1alpha2::PodGroup;

use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::groups::Groups;
use crate::framework::plugin::{EnqueueExtensions, Permit, Permitted, Plugin, PreEnqueue};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};

/// Upstream's name.
pub const NAME: &str = "GangScheduling";
/// Why a pod with a node is not bound.
pub const WAITING: &str = "waiting for minCount pods from a gang to be scheduled";
/// How long a pod waits for others to be placed, outside of its group's cycle.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The plugin.
pub struct GangScheduling {
    /// Pods by group.
    pub groups: Arc<Groups>,
}

extension_points!(GangScheduling { as_pre_enqueue: PreEnqueue, as_permit: Permit, as_enqueue: EnqueueExtensions });

/// How many pods a gang needs; `None` for other groups.
fn gang_size(group: &PodGroup) -> Option<usize> {
    let gang = group.spec.scheduling_policy.gang.as_ref()?;
    Some(usize::try_from(gang.min_count).unwrap_or(0))
}

impl PreEnqueue for GangScheduling {
    fn pre_enqueue(&self, pod: &PodInfo) -> Verdict {
        let Some(name) = self.groups.of(pod) else { return Ok(()) };
        let Some(group) = self.groups.object(pod) else {
            let reason = format!("waiting for pods's pod group {name:?} to appear in scheduling queue");
            return Err(Status::unresolvable(NAME, reason));
        };
        match gang_size(&group) {
            Some(size) if self.groups.counts(pod).0 < size => {
                let reason = "waiting for minCount pods from a gang to appear in scheduling queue";
                Err(Status::unresolvable(NAME, reason))
            }
            _ => Ok(()),
        }
    }
}

impl Permit for GangScheduling {
    fn permit(&self, pod: &PodInfo, _node: &str) -> Result<Permitted, Arc<Status>> {
        let Some(name) = self.groups.of(pod) else { return Ok(Permitted::Allow) };
        let namespace = pod.namespace();
        let group = self.groups.object(pod).ok_or_else(|| {
            let missing = format!("podgroup.scheduling.k8s.io {name:?} not found");
            Status::error(NAME, format!("failed to get podGroup {namespace}/{name}: {missing}"))
        })?;
        match gang_size(&group) {
            Some(size) if self.groups.counts(pod).1 < size => Ok(Permitted::Wait(TIMEOUT)),
            _ => Ok(Permitted::Allow),
        }
    }
}

impl EnqueueExtensions for GangScheduling {
    fn interests(&self) -> Vec<Interest> {
        [(Resource::AssignedPod, action::ADD), (Resource::PodGroup, action::ADD)]
            .map(|(resource, action)| Interest { resource, action })
            .into()
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        let group = pod.template.group.as_deref();
        let helps = match event.resource {
            Resource::PodGroup => event.objects_of::<PodGroup>().1.is_none_or(|added| {
                let meta = &added.metadata;
                group.is_some() && meta.name.as_deref() == group && meta.namespace.as_deref() == Some(pod.namespace())
            }),
            _ => event.pods().1.is_none_or(|added| {
                group.is_some() && added.template.group.as_deref() == group && added.namespace() == pod.namespace()
            }),
        };
        if helps { Hint::Queue } else { Hint::Skip }
    }
}
