//! fsGroup: the volume's group, readable (and writable for new files) by it. Links are never followed.

use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// What the group may do in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Volumes that the kubelet fills.
    Read,
    /// All others.
    Write,
}

/// Permission bits that a file or directory gets on top of its own.
fn bits(access: Access, directory: bool) -> u32 {
    let file = match access {
        Access::Read => 0o440,
        Access::Write => 0o660,
    };
    if directory { file | 0o2110 } else { file }
}

/// Gives a volume to the group.
pub(super) fn apply(path: &Path, fs_group: Option<i64>, access: Access) -> Result<(), String> {
    let Some(group) = fs_group.and_then(|group| u32::try_from(group).ok()) else { return Ok(()) };
    walk(path, group, access).map_err(|error| format!("applying fsGroup to {}: {error}", path.display()))
}

fn walk(path: &Path, group: u32, access: Access) -> std::io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if metadata.is_symlink() {
        return Ok(());
    }
    let have = metadata.permissions().mode() & 0o7777;
    let want = have | bits(access, metadata.is_dir());
    if have != want {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(want))?;
    }
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            walk(&entry?.path(), group, access)?;
        }
    }
    Ok(())
}
