//! Volumes of pods: set up before containers start, kept current while they run, taken down after they ended.
//!
//! Directories are laid out as upstream's (`<pod>/volumes/kubernetes.io~<plugin>/<name>`), so either kubelet finds the
//! other's volumes.

mod atomic;
mod empty_dir;
mod host_path;
pub(crate) mod objects;
mod ownership;
mod payload;
mod setup;
pub(crate) mod subpath;
pub(crate) mod tokens;
mod unmount;

use std::path::PathBuf;

use k8s_openapi::api::core::v1::ImageVolumeSource;

pub(crate) use setup::mount_pod;
pub(crate) use unmount::{remove_pod_dir, unmount_pod};

/// A volume that is set up.
#[derive(Clone, Debug)]
pub(crate) struct Mounted {
    /// On the host.
    pub(crate) path: PathBuf,
    /// The volume's kind allows no writes.
    pub(crate) read_only: bool,
    /// Not on the host at all: the runtime mounts this image.
    pub(crate) image: Option<ImageVolumeSource>,
}

impl Mounted {
    fn at(path: PathBuf, read_only: bool) -> Self {
        Self { path, read_only, image: None }
    }
}

/// A volume that could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {message}")]
pub(crate) struct VolumeError {
    pub(crate) volume: String,
    pub(crate) message: String,
}
