//! Which events may help pods that the plugin refused.

use k8s_openapi::api::resource::v1::ResourceClaim;

use super::claims::{allocation, uid};
use super::{DynamicResources, pod};
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::plugin::EnqueueExtensions;
use crate::framework::pod::PodInfo;

impl EnqueueExtensions for DynamicResources {
    fn interests(&self) -> Vec<Interest> {
        use action::{ADD, NODE_ALLOCATABLE, NODE_LABEL, POD_CLAIMS, UPDATE};
        [
            (Resource::Node, ADD | NODE_LABEL | NODE_ALLOCATABLE),
            (Resource::ResourceClaim, ADD | UPDATE),
            (Resource::AssignedPod, POD_CLAIMS),
            (Resource::DeviceClass, ADD | UPDATE),
            (Resource::ResourceSlice, ADD | UPDATE),
        ]
        .map(|(resource, action)| Interest { resource, action })
        .into()
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        let queue = match event.resource {
            Resource::ResourceClaim => match event.objects_of::<ResourceClaim>() {
                (old, Some(new)) => self.claim_helps(pod, old, new),
                _ => true,
            },
            Resource::AssignedPod | Resource::UnscheduledPod => match event.pods().1 {
                Some(changed) => changed.uid == pod.uid && pod::claims_of(changed, &self.devices.claims).is_ok(),
                None => true,
            },
            _ => true,
        };
        if queue { Hint::Queue } else { Hint::Skip }
    }
}

impl DynamicResources {
    fn claim_helps(&self, pod: &PodInfo, old: Option<&ResourceClaim>, new: &ResourceClaim) -> bool {
        let Ok(claims) = pod::claims_of(pod, &self.devices.claims) else { return false };
        let freed = old.is_some_and(|old| allocation(old).is_some()) && allocation(new).is_none();
        let own = claims.iter().any(|claim| uid(claim) == uid(new));
        freed || (own && old.is_none_or(|old| old.status != new.status))
    }
}
