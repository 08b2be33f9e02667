//! fsGroup: the volume's group, readable (and writable for new files) by it. Links are never followed.

use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

const DIRECTORY_BITS: u32 = 0o2770;
const FILE_BITS: u32 = 0o660;

/// Gives a volume to the group.
pub(super) fn apply(path: &Path, fs_group: Option<i64>) -> Result<(), String> {
    let Some(group) = fs_group.and_then(|group| u32::try_from(group).ok()) else { return Ok(()) };
    walk(path, group).map_err(|error| format!("applying fsGroup to {}: {error}", path.display()))
}

fn walk(path: &Path, group: u32) -> std::io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if metadata.is_symlink() {
        return Ok(());
    }
    // Files keep being unreadable to others; the group may do what the owner may, at least read.
    let have = metadata.permissions().mode() & 0o7777;
    let want = if metadata.is_dir() { have | DIRECTORY_BITS } else { have | (FILE_BITS & (have | have >> 3 | 0o440)) };
    if have != want {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(want))?;
    }
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            walk(&entry?.path(), group)?;
        }
    }
    Ok(())
}
