//! The mount table.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

/// A line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    device: String,
    /// Where in the file system the mount begins.
    root: PathBuf,
    point: PathBuf,
}

fn parse(line: &str) -> Option<Entry> {
    let mut fields = line.split(' ').skip(2);
    let device = fields.next()?.to_owned();
    let (root, point) = (fields.next()?, fields.next()?);
    Some(Entry { device, root: unescape(root).into(), point: unescape(point).into() })
}

/// mountinfo writes blanks and such as octal escapes.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn table() -> Vec<Entry> {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().filter_map(parse).collect()
}

fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

/// Mount points at and below a directory, deepest first. A directory that is a mount point twice is there twice.
pub(super) fn below(directory: &Path) -> Vec<PathBuf> {
    let directory = canonical(directory);
    let mut found: Vec<PathBuf> =
        table().into_iter().map(|entry| entry.point).filter(|point| point.starts_with(&directory)).collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    found
}

/// Something is mounted exactly here; a bind mount of the same file system counts, so device numbers cannot tell.
pub(super) fn is_mount_point(path: &Path) -> bool {
    let canonical = canonical(path);
    table().iter().any(|entry| entry.point == canonical)
}

/// Other places where the same files are mounted.
pub(super) fn references(path: &Path) -> Vec<PathBuf> {
    references_in(&table(), &canonical(path))
}

fn references_in(table: &[Entry], path: &Path) -> Vec<PathBuf> {
    // Of several mounts at one point the last one is seen.
    let holds = table.iter().filter(|entry| path.starts_with(&entry.point));
    let Some(holder) = holds.max_by_key(|entry| entry.point.components().count()) else { return Vec::new() };
    let rest = path.strip_prefix(&holder.point).unwrap_or(Path::new(""));
    let root: PathBuf = holder.root.join(rest).components().collect();
    let same = table.iter().filter(|entry| entry.device == holder.device && entry.root == root && entry.point != path);
    same.map(|entry| entry.point.clone()).collect()
}

/// Unmounts everything at and below a directory. What is busy is detached: it goes when its last user does.
pub(super) fn unmount_below(directory: &Path) -> Result<(), String> {
    for point in below(directory) {
        if umount2(&point, MntFlags::empty()).is_err() {
            umount2(&point, MntFlags::MNT_DETACH)
                .map_err(|error| format!("unmounting {}: {error}", point.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_mounts_of_the_same_files() {
        let table: Vec<Entry> = [
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw",
            "2 1 8:1 /disks/a /k/pods/1/v rw - ext4 /dev/sda1 rw",
            "3 1 8:2 / /mnt/b\\040c rw - ext4 /dev/sdb1 rw",
            "4 1 8:2 / /k/pods/2/v rw - ext4 /dev/sdb1 rw",
            "5 1 8:2 /sub /k/pods/3/v rw - ext4 /dev/sdb1 rw",
        ]
        .into_iter()
        .filter_map(parse)
        .collect();
        let of = |path: &str| references_in(&table, Path::new(path));
        assert_eq!(of("/disks/a"), [PathBuf::from("/k/pods/1/v")]);
        assert_eq!(of("/mnt/b c"), [PathBuf::from("/k/pods/2/v")]);
        assert_eq!(of("/mnt/b c/sub"), [PathBuf::from("/k/pods/3/v")]);
        assert_eq!(of("/disks/other"), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_root_is_a_mount_point() {
        assert!(is_mount_point(Path::new("/")));
        assert!(!is_mount_point(Path::new("/no/such/place")));
    }
}
