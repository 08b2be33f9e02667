//! subPath: a part of a volume as a mount. A container may swap a directory of the volume for a link at any time, so the
//! part is opened step by step without following links and bound from the open descriptor.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::VolumeMount;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};

use super::Mounted;
use super::mounts::is_mount_point;
use crate::pods::env::{EnvVars, expand_with};

/// Where the bind mount of a subPath goes.
pub(crate) struct Place<'a> {
    pub(crate) pod_dir: &'a Path,
    pub(crate) volume: &'a str,
    pub(crate) container: &'a str,
    pub(crate) index: usize,
}

/// The host path that a volume mount stands for.
pub(crate) async fn resolve(
    volume: &Mounted,
    wanted: &VolumeMount,
    envs: &EnvVars,
    place: &Place<'_>,
) -> Result<String, String> {
    let sub_path = match wanted.sub_path_expr.as_deref().filter(|expr| !expr.is_empty()) {
        Some(expr) => expand_strictly(expr, envs)?,
        None => wanted.sub_path.clone().unwrap_or_default(),
    };
    if sub_path.is_empty() {
        return Ok(volume.path.to_string_lossy().into_owned());
    }
    let parts = parts_of(&sub_path)?;
    let target =
        place.pod_dir.join("volume-subpaths").join(place.volume).join(place.container).join(place.index.to_string());
    let root = volume.path.clone();
    let read_only = volume.read_only;
    tokio::task::spawn_blocking(move || bind(&root, &parts, &target, read_only))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("failed to prepare subPath for volumeMount: {error}"))
}

fn expand_strictly(expr: &str, envs: &EnvVars) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let value = expand_with(expr, |name| {
        let found = envs.iter().find(|(have, _)| have == name).map(|(_, value)| value.clone());
        if found.is_none() {
            *missing.borrow_mut() = Some(name.to_owned());
        }
        found
    });
    match missing.into_inner() {
        Some(name) => Err(format!("missing value for {name:?}")),
        None => Ok(value),
    }
}

fn parts_of(sub_path: &str) -> Result<Vec<String>, String> {
    let mut parts = Vec::new();
    for component in Path::new(sub_path).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::CurDir => {}
            _ => return Err(format!("subPath {sub_path:?} must be relative and must not contain '..'")),
        }
    }
    Ok(parts)
}

/// Links of the kubelet's own volumes (`name -> ..data/name`) are followed only where they stay inside.
fn walk(root: &Path, parts: &[String], create: bool) -> std::io::Result<OwnedFd> {
    let permissions = std::fs::metadata(root)?.permissions();
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut current = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    for part in parts {
        let name = OsStr::new(part);
        current = match openat(&current, name, flags, Mode::empty()) {
            Ok(next) => next,
            Err(nix::Error::ENOENT) if create => {
                let made = mkdirat(&current, name, Mode::from_bits_truncate(0o777));
                if let Err(error) = made
                    && error != nix::Error::EEXIST
                {
                    return Err(error.into());
                }
                let next = openat(&current, name, flags, Mode::empty())?;
                // As open as the volume itself, whatever the umask says.
                std::fs::set_permissions(format!("/proc/self/fd/{}", next.as_raw_fd()), permissions.clone())?;
                next
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(current)
}

fn bind(root: &Path, parts: &[String], target: &Path, read_only: bool) -> std::io::Result<String> {
    let root = std::fs::canonicalize(root)?;
    // Where the path leads now; it must stay inside the volume.
    let now = parts.iter().fold(root.clone(), |path, part| path.join(part));
    let real = std::fs::canonicalize(&now).unwrap_or(now);
    let inside: Vec<String> = match real.strip_prefix(&root) {
        Ok(inside) => inside.iter().map(|part| part.to_string_lossy().into_owned()).collect(),
        Err(_) => return Err(std::io::Error::other(format!("{} leads out of the volume", parts.join("/")))),
    };
    let source = walk(&root, &inside, !read_only)?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    let is_dir = std::fs::metadata(&through)?.is_dir();
    while is_mount_point(target) {
        // Of an earlier start of the container; the path may lead elsewhere now.
        nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH)?;
    }
    if is_dir {
        std::fs::create_dir_all(target)?;
    } else {
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::OpenOptions::new().create(true).append(true).open(target)?;
    }
    mount(Some(&through), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(target.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_relative() {
        assert_eq!(parts_of("a/./b"), Ok(vec!["a".into(), "b".into()]));
        assert!(parts_of("/a").is_err() && parts_of("a/../b").is_err());
        let envs = vec![("POD".to_owned(), "p".to_owned())];
        assert_eq!(expand_strictly("x/$(POD)", &envs).as_deref(), Ok("x/p"));
        assert_eq!(expand_strictly("$(NO)", &envs), Err("missing value for \"NO\"".into()));
    }

    #[test]
    fn links_are_not_followed_while_walking() {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::os::unix::fs::symlink("/etc", directory.path().join("link")).expect("symlink");
        let parts = ["link".to_owned(), "passwd".to_owned()];
        assert!(walk(directory.path(), &parts, true).is_err());
        assert!(bind(directory.path(), &parts, &directory.path().join("t"), true).is_err());
    }
}
