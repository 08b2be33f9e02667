//! Watchers: positions in a resource's event ring plus a filter.

use std::sync::Arc;

use bytes::Bytes;

use super::{super::Revision, CacheError, CachedObject, Selection};

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// Unset resourceVersion: the current state as ADDED events, then changes, read consistently.
    MostRecent,
    /// `0`: as the cache has it: synthetic ADDED events, then changes.
    Any,
    /// After this revision: only changes.
    After(Revision),
    /// `sendInitialEvents=true` (resourceVersionMatch=NotOlderThan): the state not older than the revision (0: any,
    /// absent: most recent) as ADDED events, then a bookmark annotated `k8s.io/initial-events-end`, then changes.
    InitialEvents(Option<Revision>),
}

/// A watch request.
#[derive(Clone)]
pub struct WatchQuery {
    /// What is asked for.
    pub selection: Selection,
    /// Where to start.
    pub from: WatchFrom,
    /// Whether to send bookmarks.
    pub bookmarks: bool,
}

/// What happened, as the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The object exists, or entered the selection.
    Added,
    /// It changed within the selection.
    Modified,
    /// It was deleted, or left the selection.
    Deleted,
}

impl EventKind {
    /// The `type` of the watch frame.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One thing a watch tells.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// An event.
    Event {
        /// What happened.
        kind: EventKind,
        /// The revision of the event.
        revision: Revision,
        /// The object as the client is to see it; after a deletion the last state with the deletion's revision.
        object: Arc<CachedObject>,
        /// The whole frame `{"type":...,"object":...}\n`, encoded once and shared by all watchers.
        frame: Bytes,
    },
    /// Everything up to `revision` has been told; see [`bookmark_frame`].
    Bookmark {
        /// The revision.
        revision: Revision,
        /// Whether it closes the initial events.
        initial_events_end: bool,
    },
}

/// A running watch.
pub struct Watcher {}

impl Watcher {
    /// The next item; `None` when the server shuts down. After an error the watch is over: `Expired` must be told to
    /// the client as an ERROR event with its Status.
    pub async fn next(&mut self) -> Option<Result<WatchItem, CacheError>> {
        None
    }
}

/// The frame of a bookmark.
pub fn bookmark_frame(api_version: &str, kind: &str, revision: Revision, initial_events_end: bool) -> Bytes {
    let annotations = if initial_events_end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    Bytes::from(
        format!(
            r#"{{"type":"BOOKMARK","object":{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{{"resourceVersion":"{revision}"{annotations}}}}}}}"#
        ) + "\n",
    )
}
