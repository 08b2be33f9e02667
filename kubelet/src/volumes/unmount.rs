//! Taking volumes down: unmount whatever is mounted below the pod's directory, then remove the directory, never
//! descending into another file system.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use crate::shared::Kubelet;

/// Mount points below a directory, deepest first.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(4))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with(directory))
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    found
}

/// mountinfo writes blanks and such as octal escapes.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Something is mounted exactly here; a bind mount of the same file system counts, so device numbers cannot tell.
pub(super) fn is_mount_point(path: &Path) -> bool {
    let canonical = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    mounts_below(&canonical).contains(&canonical)
}

/// Unmounts all volumes of a pod and removes what the kubelet itself put into them.
pub(crate) async fn unmount_pod(kubelet: &Kubelet, uid: &str) -> anyhow::Result<()> {
    let directory = kubelet.config.pod_dir(uid);
    tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let canonical = std::fs::canonicalize(&directory).unwrap_or(directory);
        for mount in mounts_below(&canonical) {
            if umount2(&mount, MntFlags::empty()).is_err() {
                umount2(&mount, MntFlags::MNT_DETACH)?;
            }
        }
        Ok(())
    })
    .await?
}

/// Removes a pod's directory.
pub(crate) async fn remove_pod_dir(directory: PathBuf) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        // Below a mount that is still there may lie somebody's data: a bind mount looks like any directory.
        let canonical = std::fs::canonicalize(&directory).unwrap_or_else(|_| directory.clone());
        if let Some(mount) = mounts_below(&canonical).first() {
            anyhow::bail!("{} is still mounted", mount.display());
        }
        match std::fs::symlink_metadata(&directory) {
            Ok(metadata) => Ok(remove_tree(&directory, metadata.dev())?),
            Err(_) => Ok(()),
        }
    })
    .await?
}

fn remove_tree(path: &Path, device: u64) -> std::io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.dev() != device {
        return Err(std::io::Error::other(format!("{} is still mounted", path.display())));
    }
    if !metadata.is_dir() {
        return std::fs::remove_file(path);
    }
    for entry in std::fs::read_dir(path)? {
        remove_tree(&entry?.path(), device)?;
    }
    std::fs::remove_dir(path)
}
