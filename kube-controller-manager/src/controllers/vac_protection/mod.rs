//! `volumeattributesclass-protection-controller`: a class outlives its deletion until no claim and no volume names it.

use std::collections::BTreeSet;
use std::sync::Arc;

use common::informer::{Event, Informer, Object, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::{Api, Client};

use crate::context::{Context, Task};
use crate::shared::meta::MetaExt;
use crate::shared::protection::{self, Guard, Queue};

/// Index of claims and of volumes by the classes they name.
const BY_CLASS: &str = "volume-attributes-class";

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let queue = WorkQueue::new(Classes::QUEUE);
    let guard = Classes { claims: ctx.factory.informer(), volumes: ctx.factory.informer() };
    follow(&guard.claims, &queue, of_claim);
    follow(&guard.volumes, &queue, of_volume);
    Ok(protection::start(ctx, queue, guard))
}

/// Indexes by class, and looks again when an object names a class no more.
fn follow<K: Object>(informer: &Informer<K>, queue: &Queue, classes: fn(&K) -> BTreeSet<String>) {
    informer.add_index(BY_CLASS, move |object| classes(object).into_iter().collect());
    let queue = queue.clone();
    informer.on_event(move |event| {
        let freed = match event {
            Event::Added(_) => false,
            Event::Updated { old, new } => !classes(old).is_subset(&classes(new)),
            Event::Deleted(object) => !classes(object).is_empty(),
        };
        if freed {
            queue.add(String::new());
        }
    });
}

/// The class it wants, the one it has, the one it is being moved to.
fn of_claim(claim: &PersistentVolumeClaim) -> BTreeSet<String> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target =
        status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    [wanted, current, target].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

fn of_volume(volume: &PersistentVolume) -> BTreeSet<String> {
    let name = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    name.into_iter().filter(|name| !name.is_empty()).collect()
}

struct Classes {
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
}

impl Guard for Classes {
    type Kind = VolumeAttributesClass;
    const FINALIZER: &'static str = "kubernetes.io/vac-protection";
    const IDENTITY: &'static str = "volumeattributesclass-protection-controller";
    const QUEUE: &'static str = "vacprotection";

    fn api(client: Client, _namespace: &str) -> Api<VolumeAttributesClass> {
        Api::all(client)
    }

    fn in_use(&self, class: &VolumeAttributesClass) -> bool {
        let name = class.name_str();
        !self.claims.by_index(BY_CLASS, name).is_empty() || !self.volumes.by_index(BY_CLASS, name).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_names_a_class() {
        let claim = json!({"metadata": {}, "spec": {"volumeAttributesClassName": "a"}, "status": {
            "currentVolumeAttributesClassName": "b",
            "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "c"}}});
        let claim = of_claim(&serde_json::from_value(claim).unwrap());
        assert_eq!(claim.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
        let empty = json!({"metadata": {}, "spec": {"volumeAttributesClassName": ""}});
        assert!(of_claim(&serde_json::from_value(empty.clone()).unwrap()).is_empty());
        assert!(of_volume(&serde_json::from_value(empty).unwrap()).is_empty());
        let volume = json!({"metadata": {}, "spec": {"volumeAttributesClassName": "a"}});
        assert_eq!(of_volume(&serde_json::from_value(volume).unwrap()).into_iter().collect::<Vec<_>>(), ["a"]);
    }
}
