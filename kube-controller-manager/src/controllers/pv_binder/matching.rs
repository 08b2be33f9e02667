//! Which volume is best for a claim, and why one that was asked for by name is not. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::core::Selector;

use crate::shared::meta::MetaExt;
use crate::shared::selector;
use crate::shared::volumes::{capacity, class_of_claim, class_of_volume, is_for, phase, requested};

const FILESYSTEM: &str = "Filesystem";

/// Whether both mean the same kind of device.
pub(super) fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or(FILESYSTEM);
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or(FILESYSTEM);
    of_claim == of_volume
}

fn attributes_class(name: Option<&String>) -> &str {
    name.map(String::as_str).unwrap_or_default()
}

fn same_attributes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref());
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref());
    attributes_class(of_claim) == attributes_class(of_volume)
}

fn modes(list: Option<&Vec<String>>) -> &[String] {
    list.map(Vec::as_slice).unwrap_or_default()
}

fn has_access_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let has = modes(volume.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()));
    modes(claim.spec.as_ref().and_then(|spec| spec.access_modes.as_ref())).iter().all(|mode| has.contains(mode))
}

/// Why a volume that the claim names can't be its.
pub(super) fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let why = if volume.is_deleting() {
        return Some(format!("the volume is marked for deletion {:?}", volume.name_str()));
    } else if capacity(volume).value() < requested(claim).value() {
        "requested PV is too small"
    } else if class_of_volume(volume) != class_of_claim(claim) {
        "storageClassName does not match"
    } else if !same_attributes(volume, claim) {
        "volumeAttributesClassName does not match"
    } else if !same_mode(volume, claim) {
        "incompatible volumeMode"
    } else if !has_access_modes(volume, claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// The best of the volumes: one that is reserved for the claim, else the one with the fewest access modes that will do, and of
/// those the smallest. With `delayed` only a reserved one: the scheduler chooses among the others.
pub(super) fn best(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    delayed: bool,
) -> Result<Option<Arc<PersistentVolume>>, String> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector: Option<Selector> = wanted.map(selector::compile).transpose()?;
    let size = requested(claim);
    let fits = |volume: &&Arc<PersistentVolume>| {
        capacity(volume) >= size
            && same_mode(volume, claim)
            && same_attributes(volume, claim)
            && has_access_modes(volume, claim)
            && !volume.is_deleting()
    };
    let mut fitting = volumes.iter().filter(fits);
    if let Some(reserved) = fitting.clone().find(|volume| is_for(volume, claim)) {
        return Ok(Some(reserved.clone()));
    }
    if delayed {
        return Ok(None);
    }
    let free = |volume: &&Arc<PersistentVolume>| {
        volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
            && phase(volume) == "Available"
            && class_of_volume(volume) == class_of_claim(claim)
            && selector.as_ref().is_none_or(|selector| selector::selects(selector, &volume.metadata))
    };
    let rank = |volume: &&Arc<PersistentVolume>| {
        let modes = modes(volume.spec.as_ref().and_then(|spec| spec.access_modes.as_ref())).len();
        (modes, capacity(volume), volume.name_str().to_owned())
    };
    Ok(fitting.by_ref().filter(free).min_by_key(rank).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut base = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}, "storageClassName": "c"});
        for (key, value) in spec.as_object().unwrap() {
            base[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "a", "uid": "u"}, "spec": base})).unwrap()
    }

    fn volume(name: &str, spec: Value) -> Arc<PersistentVolume> {
        let mut base =
            json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "10Gi"}, "storageClassName": "c"});
        for (key, value) in spec.as_object().unwrap() {
            base[key] = value.clone();
        }
        let labels = json!({"name": name});
        let value =
            json!({"metadata": {"name": name, "labels": labels}, "spec": base, "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn chosen(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], delayed: bool) -> Option<String> {
        best(claim, volumes, delayed).unwrap().map(|volume| volume.name_str().to_owned())
    }

    #[test]
    fn the_smallest_with_the_fewest_modes() {
        let both = json!(["ReadWriteOnce", "ReadOnlyMany"]);
        let volumes = [
            volume("too-small", json!({"capacity": {"storage": "1Gi"}})),
            volume("large", json!({"capacity": {"storage": "100Gi"}})),
            volume("middle", json!({"capacity": {"storage": "50Gi"}})),
            volume("small-with-more-modes", json!({"capacity": {"storage": "6Gi"}, "accessModes": both})),
            volume("other-class", json!({"capacity": {"storage": "5Gi"}, "storageClassName": "d"})),
            volume("block", json!({"capacity": {"storage": "5Gi"}, "volumeMode": "Block"})),
            volume("taken", json!({"capacity": {"storage": "5Gi"}, "claimRef": {"namespace": "n", "name": "b"}})),
            volume(
                "again",
                json!({"capacity": {"storage": "5Gi"}, "claimRef": {"namespace": "n", "name": "a", "uid": "old"}}),
            ),
        ];
        let table = [
            (json!({}), Some("middle")),
            (json!({"accessModes": both}), Some("small-with-more-modes")),
            (json!({"accessModes": ["ReadWriteMany"]}), None),
            (json!({"volumeMode": "Block"}), Some("block")),
            (json!({"storageClassName": "d"}), Some("other-class")),
            (json!({"storageClassName": ""}), None),
            (json!({"resources": {"requests": {"storage": "60Gi"}}}), Some("large")),
            (json!({"selector": {"matchLabels": {"name": "large"}}}), Some("large")),
            (json!({"volumeAttributesClassName": "gold"}), None),
        ];
        for (spec, want) in table {
            assert_eq!(chosen(&claim(spec.clone()), &volumes, false).as_deref(), want, "{spec}");
        }
        assert_eq!(chosen(&claim(json!({})), &volumes, true), None);
    }

    #[test]
    fn reserved_volumes_come_first() {
        let reference = json!({"namespace": "n", "name": "a"});
        let volumes = [
            volume("free", json!({"capacity": {"storage": "5Gi"}})),
            volume("reserved", json!({"claimRef": reference, "storageClassName": "other"})),
        ];
        for delayed in [false, true] {
            assert_eq!(chosen(&claim(json!({})), &volumes, delayed).as_deref(), Some("reserved"));
        }
    }

    #[test]
    fn mismatches_are_told() {
        let table = [
            (json!({}), None),
            (json!({"capacity": {"storage": "1Gi"}}), Some("requested PV is too small")),
            (json!({"storageClassName": "d"}), Some("storageClassName does not match")),
            (json!({"volumeAttributesClassName": "g"}), Some("volumeAttributesClassName does not match")),
            (json!({"volumeMode": "Block"}), Some("incompatible volumeMode")),
            (json!({"accessModes": ["ReadOnlyMany"]}), Some("incompatible accessMode")),
        ];
        for (spec, want) in table {
            assert_eq!(mismatch(&volume("v", spec.clone()), &claim(json!({}))).as_deref(), want, "{spec}");
        }
    }
}
