//! Claims, volumes and classes: annotations, classes, who belongs to whom. Pure.

use std::str::FromStr as _;
use std::sync::Arc;

use common::informer::Informer;
use common::meta::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use super::meta::MetaExt;
use crate::controllers::pvc_protection::claim_names;

/// On claims whose binding was finished once.
pub(crate) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On claims and volumes that a controller, not a person, bound.
pub(crate) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On volumes that were provisioned: by whom.
pub(crate) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On claims and volumes of former built-in plugins: the CSI driver that looks after them.
pub(crate) const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
/// On claims that wait for their volume: who is to provision it.
pub(crate) const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same, as it was called before.
pub(crate) const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On claims: where the scheduler wants to run their pod.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On volumes that are being expanded: how large they were.
pub(crate) const PRE_RESIZE_CAPACITY: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Index of pods by `namespace/name` of the claims they name.
const BY_CLAIM: &str = "claim";

/// Lets [`pods_of`] find pods.
pub(crate) fn index_pods(pods: &Informer<Pod>) {
    pods.add_index(BY_CLAIM, |pod| claim_names(pod).map(|claim| format!("{}/{claim}", pod.ns_str())).collect());
}

/// The pods that name the claim `namespace/name`.
pub(crate) fn pods_of(pods: &Informer<Pod>, claim: &str) -> Vec<Arc<Pod>> {
    pods.by_index(BY_CLAIM, claim)
}

/// The class that the claim asks for; empty for none.
pub(crate) fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let field = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    claim.annotation(BETA_CLASS).or(field).unwrap_or_default()
}

/// Whether the claim says anything about its class; "none" is also an answer.
pub(crate) fn says_class(claim: &PersistentVolumeClaim) -> bool {
    claim.annotation(BETA_CLASS).is_some() || claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_some())
}

/// The class of the volume; empty for none.
pub(crate) fn class_of_volume(volume: &PersistentVolume) -> &str {
    let field = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    volume.annotation(BETA_CLASS).or(field).unwrap_or_default()
}

/// The class of claims that name none: the newest of those that are marked, of equals the first by name.
pub(crate) fn default_class(classes: &[Arc<StorageClass>]) -> Option<&StorageClass> {
    let is_default = |class: &&Arc<StorageClass>| {
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|key| class.annotation(key) == Some("true"))
    };
    let age = |class: &&Arc<StorageClass>| (std::cmp::Reverse(class.created()), class.name_str().to_owned());
    classes.iter().filter(is_default).min_by_key(age).map(|class| &**class)
}

/// The phase of the volume.
pub(crate) fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The phase of the claim.
pub(crate) fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The volume that the claim names; empty for none.
pub(crate) fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// `namespace/name` and UID (empty when a person wrote the reference) of the claim that the volume is for.
pub(crate) fn claim_ref(volume: &PersistentVolume) -> Option<(String, &str)> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    let key = format!("{namespace}/{}", reference.name.as_deref().unwrap_or_default());
    Some((key, reference.uid.as_deref().unwrap_or_default()))
}

/// Whether the volume is for this claim.
pub(crate) fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|(key, uid)| {
        key == common::informer::object_key(claim) && (uid.is_empty() || uid == claim.uid_str())
    })
}

/// How much the claim asks for.
pub(crate) fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()).and_then(|r| r.requests.as_ref());
    requests.and_then(|requests| requests.get("storage")).and_then(|q| Quantity::try_from(q).ok()).unwrap_or_else(zero)
}

/// How large the volume is.
pub(crate) fn capacity(volume: &PersistentVolume) -> Quantity {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()).and_then(|c| c.get("storage"));
    capacity.and_then(|q| Quantity::try_from(q).ok()).unwrap_or_else(zero)
}

fn zero() -> Quantity {
    Quantity::from_str("0").unwrap_or_else(|_| unreachable!("0 is a quantity"))
}

/// The former built-in plugins and the CSI drivers that do their work now.
const MIGRATED: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

/// The CSI driver of a former built-in plugin.
pub(crate) fn migrated(provisioner: &str) -> Option<&'static str> {
    MIGRATED.iter().find(|(old, _)| *old == provisioner).map(|(_, driver)| *driver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_default_wins() {
        let class = |name: &str, created: &str, default: &str| -> Arc<StorageClass> {
            let annotations = json!({"storageclass.kubernetes.io/is-default-class": default});
            let metadata = json!({"name": name, "creationTimestamp": created, "annotations": annotations});
            Arc::new(serde_json::from_value(json!({"metadata": metadata, "provisioner": "p"})).unwrap())
        };
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let name = |list: &[Arc<StorageClass>]| default_class(list).map(|class| class.name_str().to_owned());
        assert_eq!(name(&[class("a", new, "false")]), None);
        assert_eq!(name(&[class("a", old, "true"), class("b", new, "true")]).as_deref(), Some("b"));
        assert_eq!(name(&[class("b", old, "true"), class("a", old, "true")]).as_deref(), Some("a"));
    }
}
