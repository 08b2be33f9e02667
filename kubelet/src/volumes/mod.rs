//! Volumes of pods: set up before containers start, kept current while they run, taken down after they ended.
//!
//! Directories are laid out as upstream's (`<pod>/volumes/kubernetes.io~<plugin>/<name>`), so either kubelet finds the
//! other's volumes.

mod atomic;
mod command;
pub(crate) mod csi;
mod empty_dir;
pub(crate) mod external;
mod host_path;
mod metrics;
mod mounts;
pub(crate) mod objects;
mod ownership;
mod payload;
mod setup;
pub(crate) mod subpath;
pub(crate) mod tokens;
mod unmount;

use std::path::PathBuf;

use k8s_openapi::api::core::v1::ImageVolumeSource;

use crate::config::Config;

pub(crate) use setup::{Waiting, mount_pod};
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
    /// A device, not a directory.
    pub(crate) device: bool,
}

impl Mounted {
    fn at(path: PathBuf, read_only: bool) -> Self {
        Self { path, read_only, image: None, device: false }
    }
}

/// `<pod>/volumes/kubernetes.io~<plugin>/<name>`.
fn pod_volume_dir(config: &Config, uid: &str, plugin: &str, name: &str) -> PathBuf {
    config.pod_dir(uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
}

/// Work on files, which may wait for a disk or for a server that is gone.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

/// What the apiserver said, without the trappings.
fn api_error(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}
