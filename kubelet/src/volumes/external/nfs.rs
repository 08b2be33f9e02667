//! NFS volumes: mounted by the host's `mount`, which knows the options and the helpers.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use nix::mount::{MntFlags, umount2};

use super::{External, Failure};
use crate::pods::spec;
use crate::shared::Kubelet;
use crate::volumes::{blocking, command, mounts, pod_volume_dir};

const PATIENCE: Duration = Duration::from_secs(120);
/// After that the unmount is forced: a server that is gone never answers.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(60);

/// Mounts the export for a pod.
pub(super) async fn set_up(kubelet: &Kubelet, pod: &Pod, volume: &External, source: &str) -> Result<(), Failure> {
    let target = pod_volume_dir(&kubelet.config, spec::uid(pod), "nfs", &volume.name);
    if mounts::is_mount_point(&target) {
        return Ok(());
    }
    std::fs::create_dir_all(&target).map_err(|error| Failure::Final(format!("{}: {error}", target.display())))?;
    let mut options = volume.mount_options.clone();
    if volume.read_only {
        options.push("ro".into());
    }
    let mounted = command::mount(source, &target, "nfs", &options, PATIENCE).await;
    mounted.map_err(|error| {
        if mounts::is_mount_point(&target) {
            return Failure::Uncertain(error);
        }
        let _ = std::fs::remove_dir(&target);
        Failure::Final(error)
    })
}

/// Unmounts the export of a pod.
pub(super) async fn tear_down(kubelet: &Kubelet, uid: &str, volume: &External) -> Result<(), String> {
    let target = pod_volume_dir(&kubelet.config, uid, "nfs", &volume.name);
    let path = target.clone();
    let gently =
        blocking(move || if mounts::is_mount_point(&path) { unmount(&path, MntFlags::empty()) } else { Ok(()) });
    if !matches!(tokio::time::timeout(UNMOUNT_PATIENCE, gently).await, Ok(Ok(()))) {
        let path = target.clone();
        blocking(move || unmount(&path, MntFlags::MNT_FORCE)).await?;
    }
    match std::fs::remove_dir(&target) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", target.display())),
        _ => Ok(()),
    }
}

fn unmount(path: &std::path::Path, flags: MntFlags) -> Result<(), String> {
    umount2(path, flags).map_err(|error| format!("unmounting {}: {error}", path.display()))
}
