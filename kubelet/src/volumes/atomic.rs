//! Writes a set of files so that a reader sees all of the old or all of the new: a time-stamped directory, a `..data`
//! link that is renamed over the old one, and links from the visible names through `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use super::payload::{File, Files};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Brings the directory to exactly these files; answers whether anything changed.
pub(super) fn write(target: &Path, files: &Files) -> io::Result<bool> {
    check_names(files)?;
    let data = target.join(DATA);
    let old = std::fs::read_link(&data).ok();
    if old.as_ref().is_some_and(|old| current(&target.join(old), files)) {
        link_names(target, files)?;
        return Ok(false);
    }
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let fresh_name = format!("{stamp}.{}", &unique[..10]);
    let fresh = target.join(&fresh_name);
    std::fs::create_dir(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    for (name, file) in files {
        write_file(&fresh.join(name), file)?;
    }
    let link = target.join(DATA_NEW);
    let _ = std::fs::remove_file(&link);
    symlink(&fresh_name, &link)?;
    std::fs::rename(&link, &data)?;
    link_names(target, files)?;
    remove_stale_names(target, files)?;
    if let Some(old) = old.filter(|old| *old != Path::new(&fresh_name)) {
        let _ = std::fs::remove_dir_all(target.join(old));
    }
    Ok(true)
}

/// Names come from API objects: none may lead out of the volume or clash with our own.
fn check_names(files: &Files) -> io::Result<()> {
    for name in files.keys() {
        let bad = name.is_empty()
            || name.starts_with("..")
            || Path::new(name).components().any(|part| !matches!(part, Component::Normal(_)));
        if bad {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {name:?} in volume")));
        }
    }
    Ok(())
}

fn write_file(path: &Path, file: &File) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, &file.data)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(file.mode))?;
    if let Some(uid) = file.uid {
        chown(path, Some(uid), None)?;
    }
    Ok(())
}

/// What is there already has these names, contents and modes (group bits may have been widened by fsGroup).
fn current(directory: &Path, files: &Files) -> bool {
    let mut have = BTreeMap::new();
    if walk(directory, directory, &mut have).is_err() || have.len() != files.len() {
        return false;
    }
    files.iter().all(|(name, file)| {
        have.get(name).is_some_and(|(mode, data)| *data == file.data && mode & file.mode == file.mode)
    })
}

fn walk(root: &Path, directory: &Path, found: &mut BTreeMap<String, (u32, Vec<u8>)>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = std::fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            walk(root, &path, found)?;
        } else {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            found.insert(name, (metadata.permissions().mode() & 0o7777, std::fs::read(&path)?));
        }
    }
    Ok(())
}

fn first_parts(files: &Files) -> BTreeSet<&str> {
    files.keys().map(|name| name.split('/').next().unwrap_or(name)).collect()
}

fn link_names(target: &Path, files: &Files) -> io::Result<()> {
    for name in first_parts(files) {
        let link = target.join(name);
        let to = PathBuf::from(DATA).join(name);
        if std::fs::read_link(&link).is_ok_and(|have| have == to) {
            continue;
        }
        let _ = std::fs::remove_file(&link);
        symlink(&to, &link)?;
    }
    Ok(())
}

fn remove_stale_names(target: &Path, files: &Files) -> io::Result<()> {
    let wanted = first_parts(files);
    for entry in std::fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) && entry.file_type()?.is_symlink() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |text: &str| File { data: text.as_bytes().to_vec(), mode: 0o644, uid: None };
        list.iter().map(|(name, text)| ((*name).to_owned(), file(text))).collect()
    }

    #[test]
    fn updates_replace_everything_at_once() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).ok();
        assert!(write(directory.path(), &files(&[("a", "1"), ("d/b", "2")])).expect("write"));
        assert_eq!((read("a").as_deref(), read("d/b").as_deref()), (Some("1"), Some("2")));
        assert!(!write(directory.path(), &files(&[("a", "1"), ("d/b", "2")])).expect("write"));
        assert!(write(directory.path(), &files(&[("a", "3")])).expect("write"));
        assert_eq!((read("a").as_deref(), read("d/b")), (Some("3"), None));
        let left = std::fs::read_dir(directory.path()).expect("read").count();
        assert_eq!(left, 3, "..data, one stamped directory, a");
    }

    #[test]
    fn names_cannot_leave_the_volume() {
        let directory = tempfile::tempdir().expect("temporary directory");
        for name in ["../x", "/etc/x", "..data", "a/../../x"] {
            assert!(write(directory.path(), &files(&[(name, "x")])).is_err(), "{name}");
        }
    }
}
