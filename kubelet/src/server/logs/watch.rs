//! Waits for something to happen to a log file: inotify on its directory (an idle follow costs nothing), and a look every
//! now and then where inotify is not to be had.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

const POLL: Duration = Duration::from_millis(200);

struct Fd(Inotify);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits for changes in one directory.
pub(super) struct Watch(Option<AsyncFd<Fd>>);

impl Watch {
    /// Watches the directory of `file`.
    pub(super) fn directory_of(file: &Path) -> Self {
        Self(file.parent().and_then(|directory| match watch(directory) {
            Ok(fd) => Some(fd),
            Err(error) => {
                tracing::debug!(%error, directory = %directory.display(), "no inotify, polling");
                None
            }
        }))
    }

    /// Returns after a change, or after a while.
    pub(super) async fn changed(&self, patience: Duration) {
        let Some(fd) = &self.0 else { return tokio::time::sleep(POLL.min(patience)).await };
        if let Ok(Ok(mut ready)) = tokio::time::timeout(patience, fd.readable()).await {
            // The events say nothing that looking at the file does not say.
            while ready.get_inner().0.read_events().is_ok_and(|events| !events.is_empty()) {}
            ready.clear_ready();
        }
    }
}

fn watch(directory: &Path) -> std::io::Result<AsyncFd<Fd>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(directory, flags)?;
    Ok(AsyncFd::try_new(Fd(inotify))?)
}
