//! What to do about a volume. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::matching;
use crate::shared::meta::MetaExt;
use crate::shared::volumes::{MIGRATED_TO, PROVISIONED_BY, claim_ref, migrated, phase, volume_name};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Available,
    Bound,
    /// Its claim is gone: set phase Released unless `settled`, then reclaim as its policy says.
    Release {
        settled: bool,
    },
    /// Its claim took another volume: free it.
    Unbind,
    /// Its claim has to be looked at: the pair is not complete.
    LookAtClaim,
    /// It and its claim can't be a pair: tell both.
    TellMismatch,
}

/// Decides; `claim` is the claim that the volume names, if it exists with that UID.
pub(super) fn step(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Step {
    if claim_ref(volume).is_none_or(|(_, uid)| uid.is_empty()) {
        return Step::Available;
    }
    let settled = matches!(phase(volume), "Released" | "Failed");
    let Some(claim) = claim else { return Step::Release { settled } };
    match volume_name(claim) {
        "" if !matching::same_mode(volume, claim) => Step::TellMismatch,
        "" => Step::LookAtClaim,
        name if name == volume.name_str() => Step::Bound,
        // It was made for this claim, which found another one meanwhile.
        _ if volume.annotation(PROVISIONED_BY).is_some() && policy(volume) == "Delete" => Step::Release { settled },
        _ => Step::Unbind,
    }
}

/// The reclaim policy.
pub(super) fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

/// How a released volume is reclaimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reclaim {
    /// A person, or a driver outside, does.
    Leave,
    /// The directory on this host is removed, then the volume.
    DeleteHostPath(String),
    /// It can't be: phase Failed, with this reason and message.
    Fail(&'static str, String),
}

/// Decides.
pub(super) fn reclaim(volume: &PersistentVolume) -> Reclaim {
    if volume.annotation(MIGRATED_TO).is_some_and(|driver| !driver.is_empty()) {
        return Reclaim::Leave;
    }
    match policy(volume) {
        "Retain" => Reclaim::Leave,
        "Recycle" => Reclaim::Fail("VolumeFailedRecycle", "No recycler plugin found for the volume!".into()),
        "Delete" => delete(volume),
        _ => {
            Reclaim::Fail("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy".into())
        }
    }
}

fn delete(volume: &PersistentVolume) -> Reclaim {
    let fail = |message: String| Reclaim::Fail("VolumeFailedDelete", message);
    let spec = volume.spec.as_ref();
    let provisioner = volume.annotation(PROVISIONED_BY).unwrap_or_default();
    if spec.is_some_and(|spec| spec.csi.is_some()) || migrated(provisioner).is_some() {
        return Reclaim::Leave;
    }
    match provisioner {
        "" | "kubernetes.io/host-path" => {}
        built_in if built_in.starts_with("kubernetes.io/") => {
            return fail(format!("no volume plugin matched name: {built_in}"));
        }
        _ => return Reclaim::Leave,
    }
    match spec.and_then(|spec| spec.host_path.as_ref()) {
        Some(host) if is_temporary(&host.path) => Reclaim::DeleteHostPath(host.path.clone()),
        Some(host) => fail(format!("host_path deleter only supports /tmp/.+ but received provided {}", host.path)),
        None => fail(format!(
            "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
            volume.name_str()
        )),
    }
}

/// Only below /tmp is anything removed.
fn is_temporary(path: &str) -> bool {
    path.strip_prefix("/tmp/").is_some_and(|rest| !rest.is_empty() && !path.split('/').any(|part| part == ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(metadata: Value, spec: Value, phase: &str) -> PersistentVolume {
        let mut metadata = metadata;
        metadata["name"] = json!("v");
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": {"phase": phase}})).unwrap()
    }

    fn claim(volume: Option<&str>, mode: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"volumeName": volume, "volumeMode": mode}}))
            .unwrap()
    }

    #[test]
    fn steps() {
        let bound = |uid: &str| json!({"claimRef": {"namespace": "n", "name": "a", "uid": uid}});
        let provisioned = json!({"annotations": {PROVISIONED_BY: "d.example.com"}});
        let delete =
            json!({"claimRef": {"namespace": "n", "name": "a", "uid": "u"}, "persistentVolumeReclaimPolicy": "Delete"});
        let none = json!({});
        let table = [
            (volume(none.clone(), json!({}), ""), None, Step::Available),
            (volume(none.clone(), bound(""), "Bound"), None, Step::Available),
            (volume(none.clone(), bound("u"), "Bound"), None, Step::Release { settled: false }),
            (volume(none.clone(), bound("u"), "Failed"), None, Step::Release { settled: true }),
            (volume(none.clone(), bound("u"), ""), Some(claim(None, "Filesystem")), Step::LookAtClaim),
            (volume(none.clone(), bound("u"), ""), Some(claim(None, "Block")), Step::TellMismatch),
            (volume(none.clone(), bound("u"), ""), Some(claim(Some("v"), "Filesystem")), Step::Bound),
            (volume(none.clone(), bound("u"), ""), Some(claim(Some("w"), "Filesystem")), Step::Unbind),
            (volume(none, delete.clone(), ""), Some(claim(Some("w"), "Filesystem")), Step::Unbind),
            (volume(provisioned, delete, ""), Some(claim(Some("w"), "Filesystem")), Step::Release { settled: false }),
        ];
        for (volume, claim, want) in table {
            assert_eq!(step(&volume, claim.as_ref()), want, "{volume:?} {claim:?}");
        }
    }

    #[test]
    fn policies() {
        let with = |policy: &str, source: Value, annotation: Option<&str>| {
            let mut spec = source;
            spec["persistentVolumeReclaimPolicy"] = json!(policy);
            let annotations = annotation.map(|by| json!({PROVISIONED_BY: by})).unwrap_or_else(|| json!({}));
            reclaim(&volume(json!({"annotations": annotations}), spec, "Released"))
        };
        let host = |path: &str| json!({"hostPath": {"path": path}});
        let csi = json!({"csi": {"driver": "d", "volumeHandle": "h"}});
        assert_eq!(with("Retain", host("/tmp/a"), None), Reclaim::Leave);
        assert_eq!(with("Delete", host("/tmp/a"), None), Reclaim::DeleteHostPath("/tmp/a".into()));
        assert_eq!(with("Delete", csi, None), Reclaim::Leave);
        assert_eq!(with("Delete", host("/x"), Some("d.example.com")), Reclaim::Leave);
        for path in ["/etc", "/tmp/", "/tmp/../etc", "/var/tmp/x"] {
            let Reclaim::Fail("VolumeFailedDelete", message) = with("Delete", host(path), None) else {
                panic!("{path}")
            };
            assert!(message.starts_with("host_path deleter only supports /tmp/.+"), "{message}");
        }
        let local = with("Delete", json!({"local": {"path": "/x"}}), None);
        let Reclaim::Fail(_, message) = local else { panic!("{local:?}") };
        assert_eq!(message, "error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched");
        assert!(matches!(with("Recycle", host("/tmp/a"), None), Reclaim::Fail("VolumeFailedRecycle", _)));
        assert!(matches!(with("Odd", host("/tmp/a"), None), Reclaim::Fail("VolumeUnknownReclaimPolicy", _)));
    }
}
