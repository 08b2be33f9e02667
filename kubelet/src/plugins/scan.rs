//! Sockets below a directory: found by looking, prompted by inotify, with a slow look as net.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;

const LOOK: Duration = Duration::from_secs(10);
/// Several files are often made at once.
const SETTLE: Duration = Duration::from_millis(20);
/// More sockets than this are not looked at: a bound, not a target.
const MAX_SOCKETS: usize = 512;
const MAX_DEPTH: usize = 8;

/// Tells a socket from a later one at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    inode: u64,
    changed: (i64, i64),
}

/// inotify's descriptor reads like a pipe's.
struct Events {
    inotify: Inotify,
    reader: Receiver,
}

/// Watches the directories that were looked at.
#[derive(Default)]
pub(super) struct Watch {
    events: Option<Events>,
}

fn listen() -> Option<Events> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
    let descriptor = inotify.as_fd().try_clone_to_owned().ok()?;
    let reader = Receiver::from_owned_fd_unchecked(descriptor).ok()?;
    Some(Events { inotify, reader })
}

impl Watch {
    /// All sockets below `root`. Directories are watched before they are read, so nothing is missed.
    pub(super) async fn scan(&mut self, root: &Path) -> HashMap<PathBuf, Identity> {
        if self.events.is_none() {
            self.events = listen();
        }
        let mut found = HashMap::new();
        let watch = |directory: &Path| {
            let kinds = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
            if let Some(events) = &self.events {
                let _ = events.inotify.add_watch(directory, kinds);
            }
        };
        walk(root, MAX_DEPTH, &watch, &mut found);
        found
    }

    /// Returns when there may be something new.
    pub(super) async fn changed(&self) {
        let Some(events) = &self.events else { return tokio::time::sleep(LOOK / 10).await };
        if let Ok(Ok(())) = tokio::time::timeout(LOOK, events.reader.readable()).await {
            tokio::time::sleep(SETTLE).await;
            let mut dropped = [0; 4096];
            while events.reader.try_read(&mut dropped).is_ok_and(|read| read > 0) {}
        }
    }
}

fn walk(directory: &Path, depth: usize, watch: &dyn Fn(&Path), found: &mut HashMap<PathBuf, Identity>) {
    watch(directory);
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() && depth > 0 {
            walk(&entry.path(), depth - 1, watch, found);
        } else if metadata.file_type().is_socket() && found.len() < MAX_SOCKETS {
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            found.insert(entry.path(), Identity { inode: metadata.ino(), changed });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn sockets_are_found_as_they_come() {
        let root = tempfile::tempdir().unwrap();
        let mut watch = Watch::default();
        assert!(watch.scan(root.path()).await.is_empty());
        std::fs::create_dir(root.path().join("driver")).unwrap();
        watch.scan(root.path()).await;
        std::fs::write(root.path().join("driver/file"), "").unwrap();
        let _hidden = UnixListener::bind(root.path().join(".hidden.sock")).unwrap();
        let first = UnixListener::bind(root.path().join("driver/a.sock")).unwrap();
        tokio::time::timeout(Duration::from_secs(30), watch.changed()).await.unwrap();
        let one = watch.scan(root.path()).await;
        assert_eq!(one.keys().collect::<Vec<_>>(), [&root.path().join("driver/a.sock")]);
        drop(first);
        std::fs::remove_file(root.path().join("driver/a.sock")).unwrap();
        let _second = UnixListener::bind(root.path().join("driver/a.sock")).unwrap();
        assert_ne!(watch.scan(root.path()).await, one, "another socket at the same path");
    }
}
