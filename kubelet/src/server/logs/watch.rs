//! Waits for something to happen to a log file: inotify on its directory (an idle follow costs nothing), and a look every
//! now and then where inotify is not to be had.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;

const POLL: Duration = Duration::from_millis(200);

/// Waits for changes in one directory. The descriptor of inotify is read as a pipe is; tokio has no safe type of its own
/// for it.
pub(super) struct Watch(Option<Receiver>);

impl Watch {
    /// Watches the directory of `file`.
    pub(super) fn directory_of(file: &Path) -> Self {
        Self(file.parent().and_then(|directory| match watch(directory) {
            Ok(events) => Some(events),
            Err(error) => {
                tracing::debug!(%error, directory = %directory.display(), "no inotify, polling");
                None
            }
        }))
    }

    /// Returns after a change, or after a while.
    pub(super) async fn changed(&self, patience: Duration) {
        let Some(events) = &self.0 else { return tokio::time::sleep(POLL.min(patience)).await };
        if let Ok(Ok(())) = tokio::time::timeout(patience, events.readable()).await {
            // The events say nothing that looking at the file does not say.
            let mut dropped = [0; 4096];
            while events.try_read(&mut dropped).is_ok_and(|read| read > 0) {}
        }
    }
}

fn watch(directory: &Path) -> std::io::Result<Receiver> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(directory, flags)?;
    Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn inotify_tells_of_writes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let watch = Watch::directory_of(&path);
        assert!(watch.0.is_some());
        std::fs::write(&path, "x").unwrap();
        let told = watch.changed(Duration::from_secs(600));
        tokio::time::timeout(Duration::from_secs(30), told).await.unwrap();
    }
}
