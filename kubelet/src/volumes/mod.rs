//! Volumes of pods: set up before containers start, kept current while they run, taken down after they ended.
//!
//! Directories are laid out as upstream's (`<pod>/volumes/kubernetes.io~<plugin>/<name>`), so either kubelet finds the
//! other's volumes.

mod atomic;
mod command;
pub(crate) mod csi;
mod empty_dir;
mod env_file;
pub(crate) mod external;
mod host_path;
mod metrics;
mod mounts;
pub(crate) mod objects;
mod ownership;
mod payload;
pub(crate) mod recursive;
mod setup;
pub(crate) mod subpath;
pub(crate) mod tokens;
mod unmount;
pub(crate) mod usage;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, FileKeySelector, ImageVolumeSource, Secret};

use crate::config::Config;
use crate::pods::env::{ObjectError, Objects};

pub(crate) use setup::{Step, Waiting, mount_pod};
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

/// A pod's objects, and the volumes that its containers' variables may come from.
pub(crate) struct Sources<'a> {
    pub(crate) objects: objects::Snapshot,
    pub(crate) volumes: &'a HashMap<String, Mounted>,
}

impl Objects for Sources<'_> {
    fn config_map(&self, name: &str) -> Result<Arc<ConfigMap>, ObjectError> {
        self.objects.config_map(name)
    }

    fn secret(&self, name: &str) -> Result<Arc<Secret>, ObjectError> {
        self.objects.secret(name)
    }

    fn file(&self, selector: &FileKeySelector) -> Result<Option<String>, String> {
        let volume = &selector.volume_name;
        let mounted = self.volumes.get(volume).filter(|mounted| !mounted.device && mounted.image.is_none());
        let mounted = mounted.ok_or_else(|| format!("cannot find the volume {volume:?} referenced by FileKeyRef"))?;
        let found = env_file::read(&mounted.path, &selector.path, &selector.key)?;
        if found.is_none() && selector.optional != Some(true) {
            let path = mounted.path.join(&selector.path);
            let path = path.display().to_string();
            return Err(format!("environment variable key {:?} not found in file {path:?}", selector.key));
        }
        Ok(found)
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
