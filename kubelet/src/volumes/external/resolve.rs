//! From a pod's volume to what it is: through the claim to the PersistentVolume. Errors are upstream's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, NFSVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};

use super::book::Progress;
use super::{Claim, External, Kind};
use crate::pods::spec;
use crate::quantity;
use crate::shared::Kubelet;
use crate::volumes::csi;

/// A mounted volume's claim is not looked at more often than this.
const FRESH: Duration = Duration::from_secs(10);
const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// What a volume turned out to be.
pub(in crate::volumes) enum Resolved {
    External(Arc<External>),
    /// A directory of the node, to be used as it is.
    HostPath(HostPathVolumeSource, bool),
    /// Filled by the kubelet.
    Own,
}

/// How containers use a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::volumes) struct Uses {
    pub(in crate::volumes) mounts: bool,
    pub(in crate::volumes) devices: bool,
}

/// Finds out what a volume is.
pub(in crate::volumes) async fn resolve(
    kubelet: &Kubelet,
    pod: &Pod,
    volume: &Volume,
    uses: Uses,
) -> Result<Resolved, String> {
    let (namespace, uid) = (spec::namespace(pod), spec::uid(pod));
    if let Some(source) = &volume.csi {
        let external = External {
            unique: format!("kubernetes.io/csi/{uid}-{}", volume.name),
            kind: Kind::Csi(Box::new(csi::Volume::inline(source, namespace, uid, &volume.name))),
            read_only: source.read_only == Some(true),
            ..bare(&volume.name)
        };
        return Ok(Resolved::External(Arc::new(external)));
    }
    if let Some(source) = &volume.nfs {
        let external = External { read_only: source.read_only == Some(true), ..nfs(source, uid, &volume.name) };
        return Ok(Resolved::External(Arc::new(external)));
    }
    let (claim, read_only) = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => (source.claim_name.clone(), source.read_only == Some(true)),
        (None, Some(_)) => (format!("{}-{}", spec::name(pod), volume.name), false),
        (None, None) => return Ok(Resolved::Own),
    };
    let key = (uid.to_owned(), volume.name.clone());
    let known = kubelet.volumes.resolved.lock().get(&key).cloned();
    let mounted = known.as_ref().is_some_and(|(_, external)| is_mounted(kubelet, external, uid));
    if let Some((at, external)) = known.as_ref().filter(|_| mounted)
        && at.elapsed() < FRESH
    {
        return Ok(Resolved::External(external.clone()));
    }
    let wanted = Wanted { pod, volume, claim: &claim, read_only, uses };
    match from_claim(kubelet, &wanted).await {
        Ok(Resolved::External(external)) => {
            kubelet.volumes.resolved.lock().insert(key, (Instant::now(), external.clone()));
            Ok(Resolved::External(external))
        }
        Ok(resolved) => Ok(resolved),
        // What containers use already they go on using, whatever has become of the claim or the apiserver.
        Err(error) => match known.filter(|_| mounted) {
            Some((_, external)) => {
                tracing::debug!(error, volume = volume.name, "a mounted volume's claim cannot be read");
                Ok(Resolved::External(external))
            }
            None => Err(error),
        },
    }
}

fn is_mounted(kubelet: &Kubelet, external: &External, uid: &str) -> bool {
    let book = kubelet.volumes.book.lock();
    let mount = book.get(&external.unique).and_then(|record| record.mounts.get(uid).copied());
    mount.is_some_and(|mount| mount.step.progress == Progress::Done)
}

fn bare(name: &str) -> External {
    External {
        unique: String::new(),
        name: name.to_owned(),
        kind: Kind::Nfs(String::new()),
        block: false,
        read_only: false,
        mount_options: Vec::new(),
        access_modes: Vec::new(),
        claim: None,
    }
}

fn nfs(source: &NFSVolumeSource, uid: &str, name: &str) -> External {
    let server = match source.server.contains(':') && !source.server.starts_with('[') {
        true => format!("[{}]", source.server),
        false => source.server.clone(),
    };
    External {
        unique: format!("kubernetes.io/nfs/{uid}-{name}"),
        kind: Kind::Nfs(format!("{server}:{}", source.path)),
        ..bare(name)
    }
}

struct Wanted<'a> {
    pod: &'a Pod,
    volume: &'a Volume,
    claim: &'a str,
    read_only: bool,
    uses: Uses,
}

async fn from_claim(kubelet: &Kubelet, wanted: &Wanted<'_>) -> Result<Resolved, String> {
    let namespace = spec::namespace(wanted.pod);
    let about = |error: String| format!("error processing PVC {namespace}/{}: {error}", wanted.claim);
    let client = kubelet.client.clone().ok_or_else(|| about("there is no apiserver to read it from".into()))?;
    let claims: kube::Api<PersistentVolumeClaim> = kube::Api::namespaced(client.clone(), namespace);
    let claim = claims.get(wanted.claim).await.map_err(|error| {
        let error = crate::volumes::api_error(&error);
        about(format!("failed to fetch PVC from API server: {error}"))
    })?;
    let name = check_claim(&claim).map_err(about)?;
    if wanted.volume.ephemeral.is_some() {
        check_owner(&claim, wanted.pod)?;
    }
    let volumes: kube::Api<PersistentVolume> = kube::Api::all(client);
    let volume = volumes.get(&name).await.map_err(|error| {
        let error = crate::volumes::api_error(&error);
        about(format!("failed to fetch PV {name} from API server: {error}"))
    })?;
    check_volume(&volume, &name, &claim).map_err(about)?;
    check_mode(&volume, &wanted.volume.name, wanted.uses)?;
    from_volume(&volume, &claim, wanted)
}

/// Answers the name of the volume that the claim is bound to.
fn check_claim(claim: &PersistentVolumeClaim) -> Result<String, String> {
    let protected = claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == PROTECTION);
    if claim.metadata.deletion_timestamp.is_some() && !protected {
        return Err("PVC is being deleted".into());
    }
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound".into());
    }
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
    name.filter(|name| !name.is_empty()).ok_or_else(|| "PVC has empty pvc.Spec.VolumeName".into())
}

fn check_owner(claim: &PersistentVolumeClaim, pod: &Pod) -> Result<(), String> {
    let owners = claim.metadata.owner_references.iter().flatten();
    let owned = owners.into_iter().any(|owner| owner.controller == Some(true) && owner.uid == spec::uid(pod));
    if owned {
        return Ok(());
    }
    let namespace = spec::namespace(pod);
    let claim = claim.metadata.name.as_deref().unwrap_or_default();
    let pod = spec::name(pod);
    Err(format!("PVC {namespace}/{claim} was not created for pod {namespace}/{pod} (pod is not owner)"))
}

fn check_volume(volume: &PersistentVolume, name: &str, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(reference) = reference else {
        return Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    let (have, want) = (reference.uid.clone().unwrap_or_default(), claim.metadata.uid.clone().unwrap_or_default());
    if have != want {
        return Err(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {have} does not point to claim.UID {want}"
        ));
    }
    Ok(())
}

fn is_block(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block")
}

fn check_mode(volume: &PersistentVolume, name: &str, uses: Uses) -> Result<(), String> {
    let (block, mode) = if is_block(volume) { (true, "Block") } else { (false, "Filesystem") };
    if uses.mounts && block {
        return Err(format!("volume {name} has volumeMode {mode}, but is specified in volumeMounts"));
    }
    if uses.devices && !block {
        return Err(format!("volume {name} has volumeMode {mode}, but is specified in volumeDevices"));
    }
    Ok(())
}

fn from_volume(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    wanted: &Wanted<'_>,
) -> Result<Resolved, String> {
    let name = volume.metadata.name.clone().unwrap_or_default();
    let spec = volume.spec.clone().unwrap_or_default();
    if let Some(source) = spec.host_path {
        return Ok(Resolved::HostPath(source, wanted.read_only));
    }
    let base = External {
        block: is_block(volume),
        read_only: wanted.read_only,
        mount_options: mount_options(volume),
        access_modes: spec.access_modes.clone().unwrap_or_default(),
        claim: Some(Claim {
            namespace: spec::namespace(wanted.pod).to_owned(),
            name: wanted.claim.to_owned(),
            volume_size: quantity::of(spec.capacity.as_ref(), "storage"),
            known_size: quantity::of(claim.status.as_ref().and_then(|status| status.capacity.as_ref()), "storage"),
        }),
        ..bare(&name)
    };
    let external = if let Some(source) = &spec.csi {
        let unique = format!("kubernetes.io/csi/{}^{}", source.driver, source.volume_handle);
        External { unique, kind: Kind::Csi(Box::new(csi::Volume::persistent(source))), ..base }
    } else if let Some(source) = &spec.local {
        let unique = format!("kubernetes.io/local-volume/{name}");
        let fs_type = source.fs_type.clone().unwrap_or_default();
        External { unique, kind: Kind::Local { path: source.path.clone().into(), fs_type }, ..base }
    } else if let Some(source) = &spec.nfs {
        let found = nfs(source, spec::uid(wanted.pod), &name);
        External { unique: found.unique, kind: found.kind, ..base }
    } else {
        return Err(format!("failed to get Plugin from volumeSpec for volume {name:?} err=no volume plugin matched"));
    };
    Ok(Resolved::External(Arc::new(external)))
}

/// Of the spec, or of the annotation from before there was such a field.
fn mount_options(volume: &PersistentVolume) -> Vec<String> {
    let beta = volume.metadata.annotations.as_ref();
    let beta = beta.and_then(|annotations| annotations.get("volume.beta.kubernetes.io/mount-options"));
    match beta {
        Some(options) => options.split(',').map(str::to_owned).collect(),
        None => volume.spec.as_ref().and_then(|spec| spec.mount_options.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(status: &str, volume: &str) -> PersistentVolumeClaim {
        let object = json!({
            "metadata": {"name": "c", "uid": "u"}, "spec": {"volumeName": volume}, "status": {"phase": status}
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn claims_must_be_bound() {
        assert_eq!(check_claim(&claim("Pending", "")), Err("PVC is not bound".into()));
        assert_eq!(check_claim(&claim("Bound", "")), Err("PVC has empty pvc.Spec.VolumeName".into()));
        assert_eq!(check_claim(&claim("Bound", "pv")), Ok("pv".into()));
        let mut going = claim("Bound", "pv");
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(check_claim(&going), Err("PVC is being deleted".into()));
        going.metadata.finalizers = Some(vec![PROTECTION.into()]);
        assert_eq!(check_claim(&going), Ok("pv".into()));
    }

    #[test]
    fn the_volume_must_be_bound_to_the_claim() {
        let volume = |reference: serde_json::Value| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": {"claimRef": reference}})).unwrap()
        };
        let check = |reference| check_volume(&volume(reference), "pv", &claim("Bound", "pv"));
        assert!(check(json!(null)).unwrap_err().contains("nil pv.Spec.ClaimRef"));
        assert!(check(json!({"uid": "x"})).unwrap_err().ends_with("ClaimRef.UID x does not point to claim.UID u"));
        assert_eq!(check(json!({"uid": "u"})), Ok(()));
    }

    #[test]
    fn modes_must_fit() {
        let volume = |mode: &str| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": {"volumeMode": mode}})).unwrap()
        };
        let (mounts, devices) = (Uses { mounts: true, devices: false }, Uses { mounts: false, devices: true });
        assert_eq!(check_mode(&volume("Filesystem"), "v", mounts), Ok(()));
        assert_eq!(check_mode(&volume("Block"), "v", devices), Ok(()));
        let want = "volume v has volumeMode Block, but is specified in volumeMounts";
        assert_eq!(check_mode(&volume("Block"), "v", mounts), Err(want.into()));
        let want = "volume v has volumeMode Filesystem, but is specified in volumeDevices";
        assert_eq!(check_mode(&volume("Filesystem"), "v", devices), Err(want.into()));
    }

    #[test]
    fn addresses_of_servers_may_be_v6() {
        let source = |server: &str| NFSVolumeSource { server: server.into(), path: "/e".into(), read_only: None };
        assert_eq!(nfs(&source("h"), "u", "v").kind, Kind::Nfs("h:/e".into()));
        assert_eq!(nfs(&source("fd00::1"), "u", "v").kind, Kind::Nfs("[fd00::1]:/e".into()));
    }
}
