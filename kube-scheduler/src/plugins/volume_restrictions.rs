//! VolumeRestrictions: disks that only one pod of a node may use, and claims that only one pod of all may use.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::cache::snapshot::{NodeView, Snapshot};
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::plugin::{
    CycleContext, EnqueueExtensions, Filter, Plugin, PreFilter, PreFiltered, StateData, state_of,
};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};
use crate::storage::Storage;

/// Upstream's name.
pub const NAME: &str = "VolumeRestrictions";

static DISK: LazyLock<Arc<Status>> = LazyLock::new(|| Status::unschedulable(NAME, "node(s) had no available disk"));
static ONE_POD: LazyLock<Arc<Status>> = LazyLock::new(|| {
    let reason = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
    Status::unschedulable(NAME, reason)
});

/// The plugin.
pub struct VolumeRestrictions {
    /// Claims.
    pub storage: Arc<Storage>,
}

/// Claims of the pod that are for one pod alone, and how many other pods use them.
#[derive(Clone)]
struct InUse {
    claims: Arc<BTreeSet<String>>,
    users: i64,
}

impl InUse {
    fn count(&self, pod: &PodInfo) -> i64 {
        pod.template.volumes.named().filter(|name| self.claims.contains(*name)).count() as i64
    }
}

/// Whether a pod of this namespace, placed on any node, uses the claim.
fn used(snapshot: &Snapshot, namespace: &str, claim: &str) -> bool {
    snapshot.with_claims.iter().any(|slot| {
        snapshot.pods[slot as usize]
            .iter()
            .any(|pod| pod.namespace() == namespace && pod.template.volumes.named().any(|name| name == claim))
    })
}

fn disks_conflict(pod: &PodInfo, other: &PodInfo) -> bool {
    let theirs = &other.template.volumes.disks;
    pod.template.volumes.disks.iter().any(|disk| theirs.iter().any(|other| disk.conflicts(other)))
}

extension_points!(VolumeRestrictions { as_pre_filter: PreFilter, as_filter: Filter, as_enqueue: EnqueueExtensions });

impl PreFilter for VolumeRestrictions {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        let volumes = &cx.pod.template.volumes;
        if volumes.claims.is_empty() && volumes.disks.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        let mut claims = BTreeSet::new();
        for name in volumes.named() {
            let claim = self.storage.claims.api(&format!("{}/{name}", cx.pod.namespace()));
            let claim =
                claim.ok_or_else(|| Status::unresolvable(NAME, format!("persistentvolumeclaim {name:?} not found")))?;
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
            if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                claims.insert(name.to_owned());
            }
        }
        let users = claims.iter().filter(|name| used(cx.snapshot, cx.pod.namespace(), name)).count() as i64;
        if users == 0 && volumes.disks.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        Ok(PreFiltered::with(InUse { claims: Arc::new(claims), users }))
    }

    fn add_pod(&self, _cx: &CycleContext<'_>, state: &mut dyn StateData, added: &PodInfo, _node: &NodeView<'_>) {
        if let Some(state) = state.as_any_mut().downcast_mut::<InUse>() {
            state.users += state.count(added);
        }
    }

    fn remove_pod(&self, _cx: &CycleContext<'_>, state: &mut dyn StateData, gone: &PodInfo, _node: &NodeView<'_>) {
        if let Some(state) = state.as_any_mut().downcast_mut::<InUse>() {
            state.users -= state.count(gone);
        }
    }
}

impl Filter for VolumeRestrictions {
    fn filter(&self, cx: &CycleContext<'_>, state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        if !cx.pod.template.volumes.disks.is_empty() && node.pods().iter().any(|other| disks_conflict(cx.pod, other)) {
            return Err(DISK.clone());
        }
        match state_of::<InUse>(state) {
            Some(state) if state.users > 0 => Err(ONE_POD.clone()),
            _ => Ok(()),
        }
    }
}

impl EnqueueExtensions for VolumeRestrictions {
    fn interests(&self) -> Vec<Interest> {
        [
            (Resource::AssignedPod, action::DELETE),
            (Resource::Node, action::ADD),
            (Resource::PersistentVolumeClaim, action::ADD),
        ]
        .map(|(resource, action)| Interest { resource, action })
        .into()
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        let shares = |gone: &PodInfo| {
            let theirs: BTreeSet<&str> = gone.template.volumes.named().collect();
            pod.template.volumes.named().any(|name| theirs.contains(name))
        };
        let queue = match event.resource {
            Resource::AssignedPod | Resource::UnscheduledPod => event
                .pods()
                .0
                .is_none_or(|gone| gone.namespace() == pod.namespace() && (disks_conflict(pod, gone) || shares(gone))),
            Resource::PersistentVolumeClaim => event.objects_of::<PersistentVolumeClaim>().1.is_none_or(|claim| {
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                claim.metadata.namespace.as_deref() == Some(pod.namespace())
                    && pod.template.volumes.named().any(|known| known == name)
            }),
            _ => true,
        };
        if queue { Hint::Queue } else { Hint::Skip }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, claim, node, pod, pod_info};
    use serde_json::json;

    #[test]
    fn a_disk_is_for_one_pod_of_a_node() {
        let mut cluster = Cluster::new(&[node("n1"), node("n2")]);
        let disk = json!([{"name": "v", "awsElasticBlockStore": {"volumeID": "1"}}]);
        cluster.place(&pod("old").spec("volumes", disk.clone()), "n1");
        let plugin = VolumeRestrictions { storage: Arc::new(Storage::detached()) };
        let verdicts = cluster.verdicts(&plugin, &pod_info(&pod("new").spec("volumes", disk)));
        assert_eq!(verdicts, ["node(s) had no available disk", ""]);
        assert_eq!(cluster.verdicts(&plugin, &pod_info(&pod("other"))), ["", ""]);
    }

    #[test]
    fn a_claim_for_one_pod_is_in_use_everywhere_and_freed_by_preemption() {
        let storage = Storage::detached();
        storage.claims.informer.apply(claim("mine", json!({"accessModes": ["ReadWriteOncePod"]}), json!({})));
        storage.claims.informer.apply(claim("ours", json!({"accessModes": ["ReadWriteOnce"]}), json!({})));
        let plugin = VolumeRestrictions { storage: Arc::new(storage) };
        let mut cluster = Cluster::new(&[node("n1"), node("n2")]);
        cluster.place(&pod("old").claim("mine"), "n1");
        cluster.place(&pod("older").claim("ours"), "n1");
        let wants = pod_info(&pod("new").claim("mine"));
        let verdicts = cluster.verdicts(&plugin, &wants);
        assert!(verdicts.iter().all(|verdict| verdict.contains("ReadWriteOncePod")), "{verdicts:?}");
        assert_eq!(cluster.verdicts(&plugin, &pod_info(&pod("new").claim("ours"))), ["", ""]);
        let cx = cluster.context(&wants);
        let Ok(PreFiltered::Continue { state: Some(mut state), .. }) = plugin.pre_filter(&cx) else { panic!() };
        let view = cluster.snapshot.node(0);
        plugin.remove_pod(&cx, &mut *state, &pod_info(&pod("old").claim("mine")), &view);
        assert!(plugin.filter(&cx, Some(&*state), &view).is_ok());
    }

    #[test]
    fn who_shares_a_claim_is_told_of_its_end() {
        let plugin = VolumeRestrictions { storage: Arc::new(Storage::detached()) };
        let event = |gone: &crate::testing::PodBuilder| crate::cycle::freed(&pod_info(gone));
        let waiting = pod_info(&pod("p").claim("c"));
        assert_eq!(plugin.hint(&waiting, &event(&pod("a").claim("c"))), Hint::Queue);
        assert_eq!(plugin.hint(&waiting, &event(&pod("a").claim("d"))), Hint::Skip);
        assert_eq!(plugin.hint(&waiting, &event(&pod("a").namespace("other").claim("c"))), Hint::Skip);
    }
}
