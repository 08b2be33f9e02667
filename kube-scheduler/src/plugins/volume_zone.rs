//! VolumeZone: a volume labelled with zones or regions is used only there.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::cache::snapshot::NodeView;
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::plugin::{
    CycleContext, EnqueueExtensions, Filter, Plugin, PreFilter, PreFiltered, StateData, state_of,
};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};
use crate::storage::{Storage, facts};

/// Upstream's name.
pub const NAME: &str = "VolumeZone";

static CONFLICT: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unresolvable(NAME, "node(s) had no available volume zone"));

/// Label keys, the beta ones with what took their place.
const KEYS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// The plugin.
pub struct VolumeZone {
    /// Claims, volumes and classes.
    pub storage: Arc<Storage>,
}

/// A key, what took its place, and the values that will do.
type Topology = (&'static str, &'static str, BTreeSet<String>);

/// Where a volume's labels put it. A label with an empty zone in its list says nothing.
fn topologies(volume: &PersistentVolume) -> Vec<Topology> {
    let labels = volume.metadata.labels.as_ref();
    let zones = |value: &String| -> Option<BTreeSet<String>> {
        let zones: BTreeSet<String> = value.split("__").map(|zone| zone.trim().to_owned()).collect();
        (!zones.contains("")).then_some(zones)
    };
    KEYS.iter().filter_map(|(key, now)| Some((*key, *now, zones(labels?.get(*key)?)?))).collect()
}

impl VolumeZone {
    fn of_pod(&self, pod: &PodInfo) -> Result<Vec<Topology>, Arc<Status>> {
        let refuse = |reason: String| Status::unresolvable(NAME, reason);
        let mut all = Vec::new();
        for name in pod.template.volumes.named() {
            if name.is_empty() {
                return Err(refuse("PersistentVolumeClaim had no name".into()));
            }
            let claim = self.storage.claims.api(&format!("{}/{name}", pod.namespace()));
            let claim = claim.ok_or_else(|| refuse(format!("persistentvolumeclaim {name:?} not found")))?;
            let volume = facts::volume_name(&claim);
            if volume.is_empty() {
                self.unbound(&claim).map_err(refuse)?;
                continue;
            }
            let found = self.storage.volumes.api(volume);
            let found = found.ok_or_else(|| refuse(format!("persistentvolume {volume:?} not found")))?;
            all.extend(topologies(&found));
        }
        Ok(all)
    }

    /// A claim without a volume is fine only when it waits for its first pod.
    fn unbound(&self, claim: &PersistentVolumeClaim) -> Result<(), String> {
        let name = facts::claim_class(claim);
        if name.is_empty() {
            return Err("PersistentVolumeClaim had no pv name and storageClass name".into());
        }
        let class = self.storage.classes.get("", name);
        let class = class.ok_or_else(|| format!("storageclass.storage.k8s.io {name:?} not found"))?;
        match facts::waits_for_consumer(&class) {
            Some(true) => Ok(()),
            Some(false) => Err("PersistentVolume had no name".into()),
            None => Err(format!("VolumeBindingMode not set for StorageClass {name:?}")),
        }
    }
}

extension_points!(VolumeZone { as_pre_filter: PreFilter, as_filter: Filter, as_enqueue: EnqueueExtensions });

impl PreFilter for VolumeZone {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        if cx.pod.template.volumes.claims.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        let topologies = self.of_pod(cx.pod)?;
        Ok(if topologies.is_empty() { PreFiltered::Skip } else { PreFiltered::with(topologies) })
    }
}

impl Filter for VolumeZone {
    fn filter(&self, _cx: &CycleContext<'_>, state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        let Some(topologies) = state_of::<Vec<Topology>>(state) else { return Ok(()) };
        // A node without any such label is in a cluster of one zone.
        if KEYS.iter().all(|(key, _)| node.label(key).is_none()) {
            return Ok(());
        }
        let fits = |(key, now, values): &Topology| {
            node.label(key).or_else(|| node.label(now)).is_some_and(|value| values.contains(value))
        };
        if topologies.iter().all(fits) { Ok(()) } else { Err(CONFLICT.clone()) }
    }
}

impl EnqueueExtensions for VolumeZone {
    fn interests(&self) -> Vec<Interest> {
        use action::{ADD, NODE_LABEL, UPDATE};
        [
            (Resource::StorageClass, ADD),
            (Resource::Node, ADD | NODE_LABEL),
            (Resource::PersistentVolumeClaim, ADD | UPDATE),
            (Resource::PersistentVolume, ADD | UPDATE),
        ]
        .map(|(resource, action)| Interest { resource, action })
        .into()
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        let queue = match event.resource {
            Resource::StorageClass => {
                let added = event.objects_of::<StorageClass>().1;
                added.is_none_or(|class| facts::waits_for_consumer(class) == Some(true))
            }
            Resource::PersistentVolumeClaim => event.objects_of::<PersistentVolumeClaim>().1.is_none_or(|claim| {
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                claim.metadata.namespace.as_deref() == Some(pod.namespace())
                    && pod.template.volumes.named().any(|known| known == name)
            }),
            Resource::PersistentVolume => match event.objects_of::<PersistentVolume>() {
                (Some(old), Some(new)) => topologies(old) != topologies(new),
                _ => true,
            },
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

    const NO: &str = "node(s) had no available volume zone";

    #[test]
    fn zones_of_volumes_bind_pods() {
        let zone = "topology.kubernetes.io/zone";
        let beta = "failure-domain.beta.kubernetes.io/zone";
        let cluster = Cluster::new(&[node("a").label(zone, "za"), node("b").label(beta, "zb"), node("bare")]);
        for (labels, expected) in [
            (json!({zone: "za"}), ["", NO, ""]),
            (json!({beta: "za"}), ["", NO, ""]),
            (json!({beta: "zb__za"}), ["", "", ""]),
            (json!({zone: "zb"}), [NO, NO, ""]),
            (json!({beta: "za__"}), ["", "", ""]),
            (json!({}), ["", "", ""]),
        ] {
            let storage = Storage::detached();
            storage.claims.informer.apply(claim("data", json!({"volumeName": "v"}), json!({})));
            storage.volumes.informer.apply(volume("v", labels.clone(), json!({})));
            let plugin = VolumeZone { storage: Arc::new(storage) };
            assert_eq!(cluster.verdicts(&plugin, &pod_info(&pod("p").claim("data"))), expected, "{labels}");
        }
    }

    #[test]
    fn unbound_claims_must_wait_for_their_pod() {
        let cluster = Cluster::new(&[node("a")]);
        let storage = Storage::detached();
        storage.classes.apply(storage_class("late", "WaitForFirstConsumer", "p"));
        storage.classes.apply(storage_class("now", "Immediate", "p"));
        for (name, class) in [("late", Some("late")), ("now", Some("now")), ("lost", Some("nope")), ("bare", None)] {
            storage.claims.informer.apply(claim(name, json!({"storageClassName": class}), json!({})));
        }
        let plugin = VolumeZone { storage: Arc::new(storage) };
        for (name, expected) in [
            ("late", ""),
            ("now", "PersistentVolume had no name"),
            ("lost", "storageclass.storage.k8s.io \"nope\" not found"),
            ("bare", "PersistentVolumeClaim had no pv name and storageClass name"),
            ("gone", "persistentvolumeclaim \"gone\" not found"),
        ] {
            assert_eq!(cluster.verdicts(&plugin, &pod_info(&pod("p").claim(name))), [expected]);
        }
    }
}
