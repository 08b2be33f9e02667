//! Block devices for pods: the device bound to a place of the pod's, and a link to it in the pod's directory.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::config::Config;
use crate::volumes::mounts;

/// Where a pod finds a device.
pub(in crate::volumes) fn pod_link(config: &Config, uid: &str, plugin: &str, name: &str) -> PathBuf {
    config.pod_dir(uid).join("volumeDevices").join(format!("kubernetes.io~{plugin}")).join(name)
}

/// The two places of a pod's device.
#[derive(Clone, Debug)]
pub(in crate::volumes) struct Link {
    pub(in crate::volumes) bound: PathBuf,
    pub(in crate::volumes) link: PathBuf,
}

fn gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Link {
    /// Makes both, or finds them as they should be.
    pub(in crate::volumes) fn make(&self, device: &Path) -> Result<(), String> {
        let work = || -> io::Result<()> {
            for path in [&self.bound, &self.link] {
                if let Some(directory) = path.parent() {
                    std::fs::create_dir_all(directory)?;
                }
            }
            if !mounts::is_mount_point(&self.bound) {
                std::fs::OpenOptions::new().create(true).append(true).open(&self.bound)?;
                mount(Some(device), &self.bound, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            }
            if std::fs::read_link(&self.link).is_ok_and(|to| to == device) {
                return Ok(());
            }
            gone(std::fs::remove_file(&self.link))?;
            symlink(device, &self.link)
        };
        work().map_err(|error| format!("mapping the device {}: {error}", device.display()))
    }

    /// Removes both.
    pub(in crate::volumes) fn remove(&self) -> Result<(), String> {
        gone(std::fs::remove_file(&self.link)).map_err(|error| format!("{}: {error}", self.link.display()))?;
        mounts::unmount_below(&self.bound)?;
        gone(std::fs::remove_file(&self.bound)).map_err(|error| format!("{}: {error}", self.bound.display()))
    }
}
