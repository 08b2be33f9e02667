//! Claims and volumes as they should be written; None when they are so already. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::events::reference;
use crate::shared::meta::MetaExt;
use crate::shared::volumes::{
    BETA_PROVISIONER, BIND_COMPLETED, BOUND_BY_CONTROLLER, MIGRATED_TO, PRE_RESIZE_CAPACITY, PROVISIONED_BY,
    PROVISIONER, claim_ref, is_for, migrated, phase, volume_name,
};

fn annotate<K: kube::Resource>(object: &mut K, key: &str, value: &str) {
    object.meta_mut().annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

/// The volume with a reference to the claim, and a note if nobody but us wanted that.
pub(super) fn volume_for_claim(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let ours = !is_for(volume, claim);
    let complete = !ours && claim_ref(volume).is_some_and(|(_, uid)| uid == claim.uid_str());
    if complete {
        return None;
    }
    let mut wanted = volume.clone();
    wanted.spec.get_or_insert_default().claim_ref = Some(reference(claim));
    if ours {
        annotate(&mut wanted, BOUND_BY_CONTROLLER, "yes");
    }
    Some(wanted)
}

/// The volume free again: for the claim of that name if a person reserved it, else for everybody.
pub(super) fn freed_volume(volume: &PersistentVolume) -> PersistentVolume {
    let mut wanted = volume.clone();
    let by_us = volume.annotation(BOUND_BY_CONTROLLER).is_some();
    if let Some(spec) = &mut wanted.spec {
        match by_us {
            true => spec.claim_ref = None,
            false => spec.claim_ref.iter_mut().for_each(|reference| reference.uid = None),
        }
    }
    if let Some(annotations) = wanted.metadata.annotations.as_mut().filter(|_| by_us) {
        annotations.remove(BOUND_BY_CONTROLLER);
    }
    wanted
}

/// The volume in another phase.
pub(super) fn volume_in_phase(volume: &PersistentVolume, wanted: &str, message: &str) -> Option<PersistentVolume> {
    if phase(volume) == wanted {
        return None;
    }
    let mut changed = volume.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some(wanted.to_owned());
    status.message = Some(message.to_owned()).filter(|message| !message.is_empty());
    Some(changed)
}

/// The claim with the name of its volume.
pub(super) fn claim_on_volume(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> Option<PersistentVolumeClaim> {
    let named = volume_name(claim) == volume.name_str();
    if named && claim.annotation(BIND_COMPLETED).is_some() {
        return None;
    }
    let mut wanted = claim.clone();
    if !named {
        wanted.spec.get_or_insert_default().volume_name = Some(volume.name_str().to_owned());
        annotate(&mut wanted, BOUND_BY_CONTROLLER, "yes");
    }
    annotate(&mut wanted, BIND_COMPLETED, "yes");
    Some(wanted)
}

/// The claim in a phase, with what its status says of the volume.
///
/// # Errors
/// When the volume does not say how large it is.
pub(super) fn claim_in_phase(
    claim: &PersistentVolumeClaim,
    wanted: &str,
    volume: Option<&PersistentVolume>,
) -> Result<Option<PersistentVolumeClaim>, String> {
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    let before = status.clone();
    status.phase = Some(wanted.to_owned());
    match volume.and_then(|volume| Some((volume, volume.spec.as_ref()?))) {
        None => {
            status.access_modes = None;
            status.capacity = None;
            status.current_volume_attributes_class_name = None;
        }
        Some((volume, spec)) => {
            status.access_modes = spec.access_modes.clone();
            // Of a bound claim the capacity is the affair of who resizes it.
            if before.phase.as_deref() != Some(wanted) {
                let capacity = spec.capacity.clone().filter(|capacity| capacity.contains_key("storage"));
                let missing = || format!("PersistentVolume {:?} is without a storage capacity", volume.name_str());
                let mut capacity = capacity.ok_or_else(missing)?;
                if let Some(size) = volume.annotation(PRE_RESIZE_CAPACITY) {
                    capacity.insert("storage".into(), Quantity(size.to_owned()));
                }
                status.capacity = Some(capacity);
            }
            if before.phase.as_deref() == Some("Pending") && wanted == "Bound" {
                status.current_volume_attributes_class_name = spec.volume_attributes_class_name.clone();
            }
        }
    }
    Ok((*status != before).then_some(changed))
}

/// The claim with a request to a provisioner outside.
pub(super) fn claim_for_provisioner(claim: &PersistentVolumeClaim, provisioner: &str) -> Option<PersistentVolumeClaim> {
    if claim.annotation(PROVISIONER) == Some(provisioner) {
        return None;
    }
    let mut wanted = claim.clone();
    annotate(&mut wanted, BETA_PROVISIONER, provisioner);
    annotate(&mut wanted, PROVISIONER, provisioner);
    Some(wanted)
}

/// The annotation that tells which CSI driver looks after an object of a former built-in plugin, if it is not right.
fn migration<K: MetaExt>(object: &K, keys: &[&str]) -> Option<Option<&'static str>> {
    let provisioner = keys.iter().find_map(|key| object.annotation(key))?;
    let wanted = migrated(provisioner);
    let current = object.annotation(MIGRATED_TO).filter(|driver| !driver.is_empty());
    (wanted != current).then_some(wanted)
}

fn set_migration<K: kube::Resource + Clone>(object: &K, driver: Option<&str>) -> K {
    let mut wanted = object.clone();
    match driver {
        Some(driver) => annotate(&mut wanted, MIGRATED_TO, driver),
        None => drop(wanted.meta_mut().annotations.get_or_insert_default().remove(MIGRATED_TO)),
    }
    wanted
}

/// The claim with the right note of its driver.
pub(super) fn migrated_claim(claim: &PersistentVolumeClaim) -> Option<PersistentVolumeClaim> {
    migration(claim, &[PROVISIONER, BETA_PROVISIONER]).map(|driver| set_migration(claim, driver))
}

/// The volume with the right note of its driver.
pub(super) fn migrated_volume(volume: &PersistentVolume) -> Option<PersistentVolume> {
    migration(volume, &[PROVISIONED_BY]).map(|driver| set_migration(volume, driver))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(value: Value) -> PersistentVolumeClaim {
        let mut value = value;
        value["metadata"]["namespace"] = json!("n");
        value["metadata"]["name"] = json!("a");
        value["metadata"]["uid"] = json!("u");
        serde_json::from_value(value).unwrap()
    }

    fn volume(spec: Value) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap()
    }

    #[test]
    fn binding_a_volume() {
        let claim = claim(json!({"metadata": {}}));
        let free = volume_for_claim(&volume(json!({})), &claim).unwrap();
        assert_eq!(claim_ref(&free), Some(("n/a".into(), "u")));
        assert_eq!(free.annotation(BOUND_BY_CONTROLLER), Some("yes"));
        assert_eq!(volume_for_claim(&free, &claim), None);
        let reserved = volume(json!({"claimRef": {"namespace": "n", "name": "a"}}));
        let bound = volume_for_claim(&reserved, &claim).unwrap();
        assert_eq!((claim_ref(&bound), bound.annotation(BOUND_BY_CONTROLLER)), (Some(("n/a".into(), "u")), None));
        assert_eq!(claim_ref(&freed_volume(&bound)), Some(("n/a".into(), "")), "the reservation stays");
        let freed = freed_volume(&free);
        assert_eq!((claim_ref(&freed), freed.annotation(BOUND_BY_CONTROLLER)), (None, None));
    }

    #[test]
    fn binding_a_claim() {
        let volume = volume(
            json!({"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "volumeAttributesClassName": "g"}),
        );
        let open = claim(json!({"metadata": {}, "spec": {}, "status": {"phase": "Pending"}}));
        let bound = claim_on_volume(&open, &volume).unwrap();
        assert_eq!((volume_name(&bound), bound.annotation(BOUND_BY_CONTROLLER)), ("v", Some("yes")));
        assert_eq!(claim_on_volume(&bound, &volume), None);
        let named = claim(json!({"metadata": {}, "spec": {"volumeName": "v"}}));
        assert_eq!(claim_on_volume(&named, &volume).unwrap().annotation(BOUND_BY_CONTROLLER), None);

        let done = claim_in_phase(&bound, "Bound", Some(&volume)).unwrap().unwrap();
        let status = done.status.clone().unwrap();
        assert_eq!(status.capacity.unwrap()["storage"].0, "2Gi");
        assert_eq!(status.current_volume_attributes_class_name.as_deref(), Some("g"));
        assert_eq!(claim_in_phase(&done, "Bound", Some(&volume)).unwrap(), None);
        let lost = claim_in_phase(&done, "Lost", None).unwrap().unwrap().status.unwrap();
        assert_eq!((lost.phase.as_deref(), lost.capacity, lost.access_modes), (Some("Lost"), None, None));
        assert!(claim_in_phase(&open, "Bound", Some(&super::tests::volume(json!({})))).is_err());
        // The size is the resizer's once the claim is bound.
        let larger = super::tests::volume(json!({"capacity": {"storage": "9Gi"}, "accessModes": ["ReadWriteOnce"]}));
        assert_eq!(claim_in_phase(&done, "Bound", Some(&larger)).unwrap(), None);
    }

    #[test]
    fn former_plugins_have_drivers() {
        let ours = claim(json!({"metadata": {"annotations": {PROVISIONER: "kubernetes.io/aws-ebs"}}}));
        let noted = migrated_claim(&ours).unwrap();
        assert_eq!(noted.annotation(MIGRATED_TO), Some("ebs.csi.aws.com"));
        assert_eq!(migrated_claim(&noted), None);
        let wrong = claim(json!({"metadata": {"annotations": {PROVISIONER: "d.example.com", MIGRATED_TO: "x"}}}));
        assert_eq!(migrated_claim(&wrong).unwrap().annotation(MIGRATED_TO), None);
        assert_eq!(migrated_claim(&claim(json!({"metadata": {}}))), None);
    }
}
