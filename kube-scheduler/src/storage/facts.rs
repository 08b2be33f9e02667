//! Plain facts about storage objects.

use std::collections::BTreeMap;

use common::meta::quantity::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::framework::volumes::DriverVolume;
use common::meta::nodeselector::Term;

/// Where the scheduler wants a volume to be made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Says that the controller is done with binding a claim.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Says that a machine, not a person, bound the volume.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// The value of an annotation.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The class of a claim; empty for none.
pub fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    let named = || claim.spec.as_ref()?.storage_class_name.as_deref();
    annotation(&claim.metadata, CLASS).or_else(named).unwrap_or_default()
}

/// The class of a volume; empty for none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let named = || volume.spec.as_ref()?.storage_class_name.as_deref();
    annotation(&volume.metadata, CLASS).or_else(named).unwrap_or_default()
}

/// The volume that a claim names; empty for none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// Whether the controller has bound the claim for good.
pub fn fully_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// Whether claims of the class wait for their first pod; `None` when the class does not say.
pub fn waits_for_consumer(class: &StorageClass) -> Option<bool> {
    class.volume_binding_mode.as_deref().map(|mode| mode == "WaitForFirstConsumer")
}

/// Whether volumes of the class can be made.
pub fn provisions(class: &StorageClass) -> bool {
    !class.provisioner.is_empty() && class.provisioner != NO_PROVISIONER
}

fn storage(amounts: Option<&BTreeMap<String, ApiQuantity>>) -> Option<Quantity> {
    Quantity::try_from(amounts?.get("storage")?).ok()
}

/// How much a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    storage(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref())
}

/// How much a volume holds.
pub fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    storage(volume.spec.as_ref()?.capacity.as_ref())
}

/// The largest volume that a pool of storage can give; `None` when it does not say.
pub fn volume_limit(capacity: &CSIStorageCapacity) -> Option<i64> {
    let limit = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref())?;
    Quantity::try_from(limit).ok().map(|limit| limit.value())
}

/// Whether the volume is bound or pre-bound to the claim.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// The nodes that reach a volume; `None` for all.
pub fn reach(volume: &PersistentVolume) -> Option<Vec<Term>> {
    volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref().map(Term::parse_all)
}

/// Whether a node is among those.
pub fn reaches<'a>(terms: Option<&[Term]>, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    // Upstream asks by labels alone; the node has no name there.
    terms.is_none_or(|terms| terms.iter().any(|term| term.matches("", &label)))
}

/// Whether a node lies in the topologies that a class allows.
pub fn allows<'a>(topologies: &[TopologySelectorTerm], label: impl Fn(&str) -> Option<&'a str>) -> bool {
    topologies.is_empty()
        || topologies.iter().filter_map(|term| term.match_label_expressions.as_ref()).any(|expressions| {
            !expressions.is_empty()
                && expressions.iter().all(|expression| {
                    label(&expression.key).is_some_and(|value| expression.values.iter().any(|known| known == value))
                })
        })
}

/// The volume as its CSI driver knows it.
pub fn driver_volume(volume: &PersistentVolume) -> Option<DriverVolume> {
    let spec = volume.spec.as_ref()?;
    if let Some(source) = &spec.csi {
        let known = !source.driver.is_empty() && !source.volume_handle.is_empty();
        return known.then(|| DriverVolume {
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            migrated: false,
        });
    }
    let label = |key: &str| volume.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let zone = || label("topology.kubernetes.io/zone").or_else(|| label("failure-domain.beta.kubernetes.io/zone"));
    if let Some(disk) = &spec.gce_persistent_disk {
        return Some(DriverVolume::gce(&disk.pd_name, zone()));
    }
    if let Some(disk) = &spec.aws_elastic_block_store {
        return Some(DriverVolume::ebs(&disk.volume_id));
    }
    if let Some(disk) = &spec.azure_disk {
        return Some(DriverVolume::azure(&disk.disk_uri));
    }
    if let Some(disk) = &spec.cinder {
        return Some(DriverVolume::cinder(&disk.volume_id));
    }
    spec.portworx_volume.as_ref().map(|disk| DriverVolume::portworx(&disk.volume_id))
}
