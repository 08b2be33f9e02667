//! emptyDir: a directory, or a tmpfs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use nix::mount::{MsFlags, mount};

use super::unmount::is_mount_point;
use crate::quantity;

fn make(path: &Path, mode: u32) -> Result<(), String> {
    let made = || -> std::io::Result<()> {
        std::fs::create_dir_all(path)?;
        if std::fs::metadata(path)?.permissions().mode() & 0o777 != mode & 0o777 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    };
    made().map_err(|error| format!("making {}: {error}", path.display()))
}

fn tmpfs(path: &Path, options: &str) -> Result<(), String> {
    if is_mount_point(path) {
        return Ok(());
    }
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options))
        .map_err(|error| format!("mounting tmpfs on {}: {error}", path.display()))
}

/// The directory of an emptyDir volume.
pub(super) fn set_up(path: &Path, source: &EmptyDirVolumeSource, memory_capacity: i64) -> Result<(), String> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => make(path, 0o777),
        "Memory" => {
            make(path, 0o777)?;
            let limit = source.size_limit.as_ref().map_or(0, quantity::value);
            let size = if limit > 0 { limit.min(memory_capacity) } else { memory_capacity };
            tmpfs(path, &format!("size={size},mode=0777"))
        }
        other => Err(format!("emptyDir medium {other:?} is not supported by this kubelet yet")),
    }
}

/// The directory of a volume that the kubelet fills: secrets never reach a disk.
pub(super) fn set_up_payload(path: &Path, memory: bool) -> Result<(), String> {
    make(path, 0o777)?;
    if memory { tmpfs(path, "mode=0777") } else { Ok(()) }
}
