//! Taking volumes down: those from elsewhere by their own ways, then whatever is mounted below the pod's directory; and
//! removal of the directory, never descending into another file system.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{blocking, external, mounts};
use crate::shared::Kubelet;

/// Unmounts all volumes of a pod and removes what the kubelet itself put into them.
pub(crate) async fn unmount_pod(kubelet: &Arc<Kubelet>, uid: &str) -> anyhow::Result<()> {
    let directory = kubelet.config.pod_dir(uid);
    // A subPath keeps its volume busy.
    let sub_paths = directory.join("volume-subpaths");
    blocking(move || mounts::unmount_below(&sub_paths)).await.map_err(anyhow::Error::msg)?;
    external::tear_down_pod(kubelet, uid).await.map_err(anyhow::Error::msg)?;
    blocking(move || mounts::unmount_below(&directory)).await.map_err(anyhow::Error::msg)
}

/// Removes a pod's directory.
pub(crate) async fn remove_pod_dir(directory: PathBuf) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        // Below a mount that is still there may lie somebody's data: a bind mount looks like any directory.
        if let Some(mount) = mounts::below(&directory).first() {
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
