//! Local volumes: a directory of the node bound into the pod's; or a disk, formatted when it is empty and mounted once.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use nix::mount::{MsFlags, mount};

use super::device::{self, Link};
use super::{External, Failure};
use crate::pods::spec;
use crate::shared::Kubelet;
use crate::volumes::command::{self, Outcome};
use crate::volumes::ownership::{self, Access, Change};
use crate::volumes::{blocking, mounts, pod_volume_dir};

/// Making or checking a large file system takes its time.
const FORMAT_PATIENCE: Duration = Duration::from_secs(30 * 60);
const MOUNT_PATIENCE: Duration = Duration::from_secs(120);

fn global(kubelet: &Kubelet, name: &str) -> PathBuf {
    kubelet.config.root_dir.join("plugins/kubernetes.io/local-volume/mounts").join(name)
}

/// A directory, or else a block device.
fn is_directory(path: &Path) -> Result<bool, String> {
    let kind = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("path {:?} does not exist", path.display().to_string()),
        _ => format!("{}: {error}", path.display()),
    })?;
    match kind.file_type() {
        kind if kind.is_dir() => Ok(true),
        kind if kind.is_block_device() => Ok(false),
        _ => Err("only directory and block device are supported".into()),
    }
}

/// Mounts a disk, once for all pods of the node.
pub(super) async fn stage(kubelet: &Kubelet, volume: &External, path: &Path, fs_type: &str) -> Result<(), Failure> {
    if is_directory(path).map_err(Failure::Final)? || volume.block {
        return Ok(());
    }
    let target = global(kubelet, &volume.name);
    if mounts::is_mount_point(&target) {
        return Ok(());
    }
    std::fs::create_dir_all(&target).map_err(|error| Failure::Final(format!("{}: {error}", target.display())))?;
    let fs_type = if fs_type.is_empty() { "ext4" } else { fs_type };
    let mounted = mount_disk(path, &target, fs_type, volume).await;
    if mounted.is_err() {
        let _ = std::fs::remove_dir(&target);
    }
    mounted.map_err(Failure::Final)
}

async fn mount_disk(disk: &Path, target: &Path, fs_type: &str, volume: &External) -> Result<(), String> {
    let disk = disk.to_string_lossy().into_owned();
    let look = ["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", &disk];
    let found = command::run("blkid", &look, MOUNT_PATIENCE).await?;
    match format_of(&found)? {
        Some(have) => {
            tracing::info!(disk, format = have, "a local disk has a file system already");
            if !volume.read_only {
                check_disk(&disk).await?;
            }
        }
        None if volume.read_only => {
            return Err(format!("cannot mount unformatted disk {disk} as we are manipulating it in read-only mode"));
        }
        None => {
            let program = format!("mkfs.{fs_type}");
            let ext = ["-F", "-m0", disk.as_str()];
            let arguments = if fs_type.starts_with("ext") { &ext[..] } else { &ext[2..] };
            let made = command::run(&program, arguments, FORMAT_PATIENCE).await?;
            if made.code != 0 {
                return Err(format!("format of disk {disk:?} failed: type:({fs_type:?}) {}", made.output));
            }
        }
    }
    let mut options = volume.mount_options.clone();
    options.push(if volume.read_only { "ro".into() } else { "defaults".into() });
    command::mount(&disk, target, fs_type, &options, MOUNT_PATIENCE).await
}

/// What a disk has on it, from blkid's words; nothing when it is empty.
fn format_of(found: &Outcome) -> Result<Option<String>, String> {
    match found.code {
        0 => {}
        // No signature at all.
        2 => return Ok(None),
        code => {
            return Err(format!("could not determine the disk's format: blkid ended with {code}: {}", found.output));
        }
    }
    let field = |name: &str| found.output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    match (field("TYPE"), field("PTTYPE")) {
        (Some(fs_type), _) => Ok(Some(fs_type.to_owned())),
        (None, Some(_)) => Ok(Some("unknown data, probably partitions".into())),
        (None, None) => Ok(None),
    }
}

async fn check_disk(disk: &str) -> Result<(), String> {
    let Ok(checked) = command::run("fsck", &["-a", disk], FORMAT_PATIENCE).await else { return Ok(()) };
    match checked.code {
        4 => Err(format!("'fsck' found errors on device {disk} but could not correct them: {}", checked.output)),
        _ => Ok(()),
    }
}

/// Unmounts a disk.
pub(super) async fn unstage(kubelet: &Kubelet, volume: &External) -> Result<(), String> {
    let target = global(kubelet, &volume.name);
    blocking(move || {
        mounts::unmount_below(&target)?;
        match std::fs::remove_dir(&target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", target.display())),
            _ => Ok(()),
        }
    })
    .await
}

fn link(kubelet: &Kubelet, uid: &str, name: &str) -> Link {
    let devices = kubelet.config.root_dir.join("plugins/kubernetes.io/local-volume/volumeDevices");
    Link { bound: devices.join(name).join(uid), link: device::pod_link(&kubelet.config, uid, "local-volume", name) }
}

/// Gives the volume to a pod.
pub(super) async fn set_up(kubelet: &Kubelet, pod: &Pod, volume: &External, path: &Path) -> Result<(), Failure> {
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Failure::Final(format!("invalid path: {} must not contain '..'", path.display())));
    }
    let uid = spec::uid(pod);
    if volume.block {
        let (link, device) = (link(kubelet, uid, &volume.name), path.to_owned());
        return blocking(move || link.make(&device)).await.map_err(Failure::Final);
    }
    let directory = is_directory(path).map_err(Failure::Final)?;
    let source = if directory { path.to_owned() } else { global(kubelet, &volume.name) };
    let target = pod_volume_dir(&kubelet.config, uid, "local-volume", &volume.name);
    let of_pods = kubelet.config.root_dir.join("pods");
    let group = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|c| c.fs_group);
    let (read_only, change) = (volume.read_only, Change::of(pod));
    let (from, to) = (source.clone(), target.clone());
    let shared = blocking(move || {
        if mounts::is_mount_point(&target) {
            return Ok(false);
        }
        let shared = mounts::references(&source).iter().any(|other| other.starts_with(&of_pods));
        bind(&source, &target, read_only).map_err(|error| {
            let _ = std::fs::remove_dir(&target);
            format!("mounting {} on {}: {error}", source.display(), target.display())
        })?;
        // Another pod uses the files as they are now.
        if !read_only && !shared {
            ownership::apply(&target, group, Access::Write, change)?;
        }
        Ok(shared)
    })
    .await
    .map_err(|error| if mounts::is_mount_point(&to) { Failure::Uncertain(error) } else { Failure::Final(error) })?;
    if shared {
        warn_of_other_group(kubelet, pod, volume, &from, group);
    }
    Ok(())
}

fn warn_of_other_group(kubelet: &Kubelet, pod: &Pod, volume: &External, source: &Path, group: Option<i64>) {
    use std::os::unix::fs::MetadataExt;
    let (Some(wanted), Ok(metadata)) = (group, std::fs::metadata(source)) else { return };
    let have = i64::from(metadata.gid());
    if wanted != have {
        let name = &volume.name;
        let message = format!(
            "The requested fsGroup is {wanted}, but the volume {name} has GID {have}. The volume may not be shareable."
        );
        kubelet.events.pod(pod, true, "AlreadyMountedVolume", &message);
    }
}

fn bind(source: &Path, target: &Path, read_only: bool) -> std::io::Result<()> {
    std::fs::create_dir_all(target)?;
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    if read_only {
        let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, target, None::<&str>, again, None::<&str>)?;
    }
    Ok(())
}

/// Takes the volume from a pod.
pub(super) async fn tear_down(kubelet: &Kubelet, uid: &str, volume: &External) -> Result<(), String> {
    let link = link(kubelet, uid, &volume.name);
    blocking(move || {
        link.remove()?;
        match link.bound.parent().map(std::fs::remove_dir) {
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::debug!(%error, "the device is still in use by other pods");
            }
            _ => {}
        }
        Ok(())
    })
    .await?;
    let target = pod_volume_dir(&kubelet.config, uid, "local-volume", &volume.name);
    blocking(move || {
        mounts::unmount_below(&target)?;
        match std::fs::remove_dir(&target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", target.display())),
            _ => Ok(()),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blkid_tells_what_is_on_a_disk() {
        let of = |code: i32, output: &str| format_of(&Outcome { code, output: output.into() });
        assert_eq!(of(2, ""), Ok(None));
        assert_eq!(of(0, "DEVNAME=/dev/x\nTYPE=ext4\n"), Ok(Some("ext4".into())));
        assert!(of(0, "DEVNAME=/dev/x\nPTTYPE=dos\n").unwrap().is_some(), "partitions are not formatted over");
        assert!(of(1, "no").is_err());
    }

    #[test]
    fn only_directories_and_disks_are_local_volumes() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(is_directory(directory.path()), Ok(true));
        let file = directory.path().join("f");
        assert!(is_directory(&file).unwrap_err().ends_with("does not exist"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(is_directory(&file), Err("only directory and block device are supported".into()));
    }
}
