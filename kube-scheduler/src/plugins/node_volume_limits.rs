//! NodeVolumeLimits: a CSI driver attaches only so many volumes to a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::{CSINode, VolumeAttachment};

use crate::cache::snapshot::NodeView;
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::plugin::{
    CycleContext, EnqueueExtensions, Filter, Plugin, PreFilter, PreFiltered, StateData, state_of,
};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};
use crate::framework::volumes::DriverVolume;
use crate::storage::{Storage, check_owner, claim_name, uses_claim};

/// Upstream's name.
pub const NAME: &str = "NodeVolumeLimits";

static EXCEEDED: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unschedulable(NAME, "node(s) exceed max volume count"));

/// The plugin.
pub struct NodeVolumeLimits {
    /// All about volumes.
    pub storage: Arc<Storage>,
}

/// The new pod's volumes, or what every node has to say instead.
type Wanted = Result<Vec<DriverVolume>, Arc<Status>>;

fn limits(node: &CSINode) -> BTreeMap<&str, i64> {
    let limit = |count: Option<i32>| count.map(i64::from);
    let drivers = node.spec.drivers.iter();
    drivers.filter_map(|driver| Some((&*driver.name, limit(driver.allocatable.as_ref()?.count)?))).collect()
}

impl NodeVolumeLimits {
    /// Volumes of a pod that is to be placed: all its claims must be there.
    fn wanted(&self, pod: &PodInfo) -> Wanted {
        let mut volumes: BTreeSet<DriverVolume> = pod.template.volumes.inline.iter().cloned().collect();
        for claim in &pod.template.volumes.claims {
            let (name, generated) = claim_name(pod, claim);
            if name.is_empty() {
                return Err(Status::error(NAME, "PersistentVolumeClaim had no name"));
            }
            let key = format!("{}/{name}", pod.namespace());
            let claim = self.storage.claims.api(&key).ok_or_else(|| {
                Status::unresolvable(NAME, format!("looking up PVC {key}: persistentvolumeclaim {name:?} not found"))
            })?;
            if generated {
                check_owner(pod, &claim).map_err(|error| Status::error(NAME, error))?;
            }
            volumes.extend(self.storage.driver_volume(&claim));
        }
        Ok(volumes.into_iter().collect())
    }

    /// Volumes of the pods on a node.
    fn of_pods(&self, node: &NodeView<'_>) -> BTreeSet<(String, String)> {
        let mut attached = BTreeSet::new();
        for pod in node.pods().iter().filter(|pod| pod.template.volumes.attachable()) {
            let claims = pod.template.volumes.claims.iter().filter_map(|claim| {
                let claim = self.storage.claims.api(&format!("{}/{}", pod.namespace(), claim_name(pod, claim).0))?;
                self.storage.driver_volume(&claim)
            });
            let all = claims.chain(pod.template.volumes.inline.iter().cloned());
            attached.extend(all.map(|volume| (volume.driver, volume.handle)));
        }
        attached
    }

    /// Volumes that are attached to a node, with or without a pod.
    fn attached(&self, node: &NodeView<'_>) -> BTreeSet<(String, String)> {
        let attachments = self.storage.attachments_of(node.name());
        let volume = |attachment: &Arc<VolumeAttachment>| {
            let volume = self.storage.volumes.api(attachment.spec.source.persistent_volume_name.as_deref()?)?;
            let handle = volume.spec.as_ref()?.csi.as_ref()?.volume_handle.clone();
            let attacher = attachment.spec.attacher.clone();
            (!attacher.is_empty()).then_some((attacher, handle))
        };
        attachments.iter().filter_map(volume).collect()
    }

    /// More volumes than can possibly be there; cheap.
    fn at_most(&self, node: &NodeView<'_>) -> usize {
        let volumes = |pod: &Arc<PodInfo>| pod.template.volumes.claims.len() + pod.template.volumes.inline.len();
        node.pods().iter().map(volumes).sum::<usize>() + self.storage.attachments_of(node.name()).len()
    }
}

extension_points!(NodeVolumeLimits { as_pre_filter: PreFilter, as_filter: Filter, as_enqueue: EnqueueExtensions });

impl PreFilter for NodeVolumeLimits {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        if !cx.pod.template.volumes.attachable() {
            return Ok(PreFiltered::Skip);
        }
        Ok(PreFiltered::with(self.wanted(cx.pod)))
    }
}

impl Filter for NodeVolumeLimits {
    fn filter(&self, _cx: &CycleContext<'_>, state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        let wanted = match state_of::<Wanted>(state) {
            Some(Ok(wanted)) => wanted,
            Some(Err(status)) => return Err(status.clone()),
            None => return Ok(()),
        };
        // Without a CSINode there are neither limits nor successors of in-tree plugins.
        let Some(csi_node) = self.storage.csi_nodes.get("", node.name()) else { return Ok(()) };
        let limits = limits(&csi_node);
        let mut new: Vec<_> = wanted.iter().filter(|volume| limits.contains_key(&*volume.driver)).collect();
        let roomy = |volume: &&DriverVolume| (self.at_most(node) + new.len()) as i64 <= limits[&*volume.driver];
        if new.iter().all(roomy) {
            return Ok(());
        }
        let mut there = self.of_pods(node);
        new.retain(|volume| !there.contains(&(volume.driver.clone(), volume.handle.clone())));
        there.extend(self.attached(node));
        let exceeded = new.iter().any(|volume| {
            let driver = &volume.driver;
            let there = there.iter().filter(|(known, _)| known == driver).count();
            let more = new.iter().filter(|other| other.driver == *driver).count();
            (there + more) as i64 > limits[&**driver]
        });
        if exceeded { Err(EXCEEDED.clone()) } else { Ok(()) }
    }
}

impl EnqueueExtensions for NodeVolumeLimits {
    fn interests(&self) -> Vec<Interest> {
        [
            (Resource::CsiNode, action::ADD),
            (Resource::CsiNode, action::UPDATE),
            (Resource::AssignedPod, action::DELETE),
            (Resource::PersistentVolumeClaim, action::ADD),
            (Resource::VolumeAttachment, action::DELETE),
        ]
        .map(|(resource, action)| Interest { resource, action })
        .into()
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        let volumes = &pod.template.volumes;
        let queue = match event.resource {
            Resource::CsiNode => match event.objects_of::<CSINode>() {
                (Some(old), Some(new)) => {
                    let before = limits(old);
                    limits(new).iter().any(|(driver, limit)| *limit > before.get(driver).copied().unwrap_or(0))
                }
                _ => true,
            },
            Resource::AssignedPod | Resource::UnscheduledPod => event.pods().0.is_none_or(|gone| {
                (gone.node_name.is_some() || gone.nominated.is_some()) && gone.template.volumes.attachable()
            }),
            Resource::PersistentVolumeClaim => {
                event.objects_of::<PersistentVolumeClaim>().1.is_none_or(|claim| uses_claim(pod, claim))
            }
            Resource::VolumeAttachment => {
                let attacher = event.objects_of::<VolumeAttachment>().0.map(|gone| gone.spec.attacher.clone());
                volumes.named().next().is_some()
                    || volumes.inline.iter().any(|volume| Some(&volume.driver) == attacher.as_ref())
            }
            _ => true,
        };
        if queue { Hint::Queue } else { Hint::Skip }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, claim, node, pod, pod_info, storage_class, volume};
    use serde_json::json;

    fn csi_node(name: &str, limit: i32) -> CSINode {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"drivers": [
            {"name": "d", "nodeID": name, "allocatable": {"count": limit}}]}}))
        .unwrap()
    }

    fn storage() -> Storage {
        let storage = Storage::detached();
        storage.csi_nodes.apply(csi_node("full", 2));
        storage.csi_nodes.apply(csi_node("roomy", 5));
        storage.classes.apply(storage_class("fast", "WaitForFirstConsumer", "d"));
        for name in ["a", "b", "c"] {
            storage.claims.informer.apply(claim(name, json!({"volumeName": name}), json!({})));
            storage.volumes.informer.apply(volume(
                name,
                json!({}),
                json!({"csi": {"driver": "d", "volumeHandle": name}}),
            ));
        }
        storage.claims.informer.apply(claim("open", json!({"storageClassName": "fast"}), json!({})));
        storage
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new(&[node("full"), node("roomy"), node("unlimited")]);
        for slot in ["full", "roomy", "unlimited"] {
            cluster.place(&pod(&format!("{slot}-1")).claim("a"), slot);
            cluster.place(&pod(&format!("{slot}-2")).claim("b"), slot);
        }
        cluster
    }

    const FULL: &str = "node(s) exceed max volume count";

    #[test]
    fn drivers_have_limits() {
        let plugin = NodeVolumeLimits { storage: Arc::new(storage()) };
        for (name, expected) in [("a", ["", "", ""]), ("c", [FULL, "", ""]), ("open", [FULL, "", ""])] {
            assert_eq!(cluster().verdicts(&plugin, &pod_info(&pod("p").claim(name))), expected, "{name}");
        }
        let missing = "looking up PVC default/none: persistentvolumeclaim \"none\" not found";
        assert_eq!(cluster().verdicts(&plugin, &pod_info(&pod("p").claim("none"))), [missing; 3]);
    }

    #[test]
    fn attachments_without_a_pod_count() {
        let storage = storage();
        storage.csi_nodes.apply(csi_node("roomy", 3));
        let attachment = json!({"metadata": {"name": "va"}, "spec": {"attacher": "d", "nodeName": "roomy",
            "source": {"persistentVolumeName": "c"}}});
        storage.attachments.apply(serde_json::from_value(attachment).unwrap());
        let plugin = NodeVolumeLimits { storage: Arc::new(storage) };
        assert_eq!(cluster().verdicts(&plugin, &pod_info(&pod("p").claim("open"))), [FULL, FULL, ""]);
        assert_eq!(cluster().verdicts(&plugin, &pod_info(&pod("p").claim("c"))), [FULL, FULL, ""]);
    }
}
