//! fsGroup: the volume's group, readable (and writable for new files) by it. Links are never followed.

use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

/// What the group may do in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Volumes that the kubelet fills.
    Read,
    /// All others.
    Write,
}

/// Whether every file is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Always,
    /// Only when the volume's root is not as it should be. The root is changed last, so what was broken off is seen.
    OnRootMismatch,
}

impl Change {
    /// `fsGroupChangePolicy`.
    pub(super) fn of(pod: &Pod) -> Self {
        let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        match context.and_then(|context| context.fs_group_change_policy.as_deref()) {
            Some("OnRootMismatch") => Self::OnRootMismatch,
            _ => Self::Always,
        }
    }
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
pub(super) fn apply(path: &Path, fs_group: Option<i64>, access: Access, change: Change) -> Result<(), String> {
    let Some(group) = fs_group.and_then(|group| u32::try_from(group).ok()) else { return Ok(()) };
    let work = || match change {
        Change::OnRootMismatch if is_right(path, group, access)? => Ok(()),
        _ => walk(path, group, access),
    };
    work().map_err(|error| format!("applying fsGroup to {}: {error}", path.display()))
}

fn is_right(path: &Path, group: u32, access: Access) -> std::io::Result<bool> {
    let metadata = std::fs::symlink_metadata(path)?;
    let want = bits(access, true);
    Ok(metadata.gid() == group && metadata.permissions().mode() & want == want)
}

fn walk(path: &Path, group: u32, access: Access) -> std::io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            walk(&entry?.path(), group, access)?;
        }
    }
    if metadata.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if metadata.is_symlink() {
        return Ok(());
    }
    let have = metadata.permissions().mode() & 0o7777;
    let want = have | bits(access, metadata.is_dir());
    // A change of the owner may have taken bits away.
    if have != want || metadata.gid() != group {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(want))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_root_saves_the_walk() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        std::fs::write(&file, "").unwrap();
        let metadata = std::fs::metadata(directory.path()).unwrap();
        let group = Some(i64::from(metadata.gid()));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o2770)).unwrap();
        apply(directory.path(), group, Access::Write, Change::OnRootMismatch).unwrap();
        assert_eq!(mode(&file), 0o600, "not looked at");
        apply(directory.path(), group, Access::Write, Change::Always).unwrap();
        assert_eq!(mode(&file), 0o660);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        apply(directory.path(), group, Access::Write, Change::OnRootMismatch).unwrap();
        assert_eq!((mode(&file), mode(directory.path())), (0o660, 0o2770));
    }
}
