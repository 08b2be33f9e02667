//! Watchers: positions in a resource's event ring plus a filter.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use super::{super::Revision, CacheError, CachedObject, Inner, Selection, ring::CacheEvent, wake::Place};

/// Events a watcher takes from the ring at a time.
const CHUNK: usize = 64;
/// How long before the end of a watch the last bookmark is sent.
const LAST_BOOKMARK: std::time::Duration = std::time::Duration::from_secs(2);
/// How long before a bookmark the store is asked how far it is.
const BOOKMARK_LEAD: std::time::Duration = std::time::Duration::from_millis(200);

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// `sendInitialEvents=false` without a version: only changes to the newest state.
    Now,
    /// `sendInitialEvents=false` with version 0: only changes to whatever the cache has.
    Latest,
    /// After this revision: only changes.
    After(Revision),
    /// `sendInitialEvents=true`, or nothing said and no version or 0: the state not older than the revision (0: any,
    /// absent: newest) as ADDED events, then, for who takes bookmarks, one annotated `k8s.io/initial-events-end`, then
    /// changes.
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
pub struct Watcher {
    inner: Arc<Inner>,
    place: Place,
    selection: Selection,
    /// Initial state still to be told.
    initial: VecDeque<Arc<CachedObject>>,
    /// The bookmark that closes the initial state.
    closing: Option<Revision>,
    /// Events taken from the ring, still to be filtered.
    taken: VecDeque<Arc<CacheEvent>>,
    position: u64,
    /// Events up to here are known to the client already.
    after: Revision,
    bookmark: Option<Bookmarks>,
    /// Set anew only when another time is waited for: events must not cost a timer each.
    timer: Option<Pin<Box<Sleep>>>,
}

/// When the next bookmark is due.
struct Bookmarks {
    due: Instant,
    asked: bool,
    /// The watch is about to end: one more, so that the client resumes from as late as possible.
    last: Option<Instant>,
}

impl Bookmarks {
    fn next(now: Instant, interval: std::time::Duration, last: Option<Instant>) -> Self {
        let last = last.filter(|last| *last > now);
        let due = now + interval;
        Self { due: last.map_or(due, |last| last.min(due)), asked: false, last }
    }
}

impl Watcher {
    pub(super) fn start(inner: &Arc<Inner>, query: WatchQuery) -> Result<Self, CacheError> {
        // Join the bucket before looking, so that no event falls between.
        let place = inner.wakers.join(&query.selection);
        let state = inner.state.read();
        let mut initial = VecDeque::new();
        let (position, after, closing) = match query.from {
            WatchFrom::After(revision) => {
                let position = state.position_after(revision).ok_or_else(|| too_old(revision, state.floor))?;
                (position, revision, None)
            }
            WatchFrom::Now | WatchFrom::Latest => (state.end(), state.revision, None),
            WatchFrom::InitialEvents(_) => {
                let (root, revision, end) = (state.root.clone(), state.revision, state.end());
                drop(state);
                let objects = super::list::scan(&inner.spec, &root, &query.selection, None);
                initial.extend(objects.filter(|object| query.selection.matches(object)).cloned());
                inner.metrics().initial_events.inc_by(initial.len() as u64);
                (end, revision, query.bookmarks.then_some(revision))
            }
        };
        let bookmark = query.bookmarks.then(|| Bookmarks::next(Instant::now(), inner.options.bookmark_interval, None));
        Ok(Self {
            inner: inner.clone(),
            place,
            selection: query.selection,
            initial,
            closing,
            taken: VecDeque::new(),
            position,
            after,
            bookmark,
            timer: None,
        })
    }

    /// Says when the watch will be ended: shortly before, a last bookmark is due.
    pub fn ends_at(&mut self, deadline: Instant) {
        let Some(bookmark) = &mut self.bookmark else { return };
        let last = deadline.checked_sub(LAST_BOOKMARK);
        *bookmark = Bookmarks::next(Instant::now(), self.inner.options.bookmark_interval, last);
    }

    /// Whether some of what there was at the start is still to be told.
    pub fn is_initializing(&self) -> bool {
        !self.initial.is_empty() || self.closing.is_some()
    }

    /// The next item; `None` when the server shuts down. After an error the watch is over: `Expired` must be told to
    /// the client as an ERROR event with its Status. Safe to drop half-way (in `select!`).
    pub async fn next(&mut self) -> Option<Result<WatchItem, CacheError>> {
        if let Some(item) = self.next_initial() {
            return Some(Ok(item));
        }
        let notify = self.place.notify.clone();
        loop {
            let notified = notify.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            match self.step() {
                Step::Item(item) => return Some(Ok(item)),
                Step::Failed(error) => return Some(Err(error)),
                Step::Closed => return None,
                Step::Again => tokio::task::consume_budget().await,
                Step::Wait(None) => notified.await,
                Step::Wait(Some(until)) => {
                    let timer = self.timer_at(until);
                    tokio::select! {
                        () = notified => {}
                        () = timer => {}
                    }
                }
            }
        }
    }

    fn timer_at(&mut self, until: Instant) -> Pin<&mut Sleep> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut()
    }

    /// What can be told without waiting, so that a writer can put many frames into one write.
    pub fn try_next(&mut self) -> Option<WatchItem> {
        if let Some(item) = self.next_initial() {
            return Some(item);
        }
        loop {
            match self.step() {
                Step::Item(item) => return Some(item),
                Step::Again => {}
                _ => return None,
            }
        }
    }

    fn next_initial(&mut self) -> Option<WatchItem> {
        if let Some(object) = self.initial.pop_front() {
            let frame = object.frame(EventKind::Added);
            return Some(WatchItem::Event { kind: EventKind::Added, revision: object.revision(), object, frame });
        }
        let revision = self.closing.take()?;
        Some(WatchItem::Bookmark { revision, initial_events_end: true })
    }

    /// One look at the ring.
    fn step(&mut self) -> Step {
        while let Some(event) = self.taken.pop_front() {
            if let Some(item) = event.seen_by(&self.selection) {
                return Step::Item(item);
            }
        }
        let state = self.inner.state.read();
        let Some(events) = state.events_from(self.position, CHUNK) else {
            self.inner.metrics().terminated_watchers.inc();
            return Step::Failed(too_old(self.after, state.floor));
        };
        let mut seen = 0;
        for event in events {
            seen += 1;
            if event.revision > self.after {
                self.taken.push_back(event.clone());
            }
        }
        self.position += seen;
        if let Some(last) = self.taken.back() {
            self.after = last.revision.saturating_sub(1).max(self.after);
        }
        if seen > 0 {
            return Step::Again;
        }
        if state.closed {
            return Step::Closed;
        }
        let revision = state.revision;
        drop(state);
        self.bookmark_step(revision)
    }

    /// Nothing is left in the ring: bookmark or wait.
    fn bookmark_step(&mut self, revision: Revision) -> Step {
        let Some(bookmark) = &mut self.bookmark else { return Step::Wait(None) };
        let now = Instant::now();
        if now >= bookmark.due {
            *bookmark = Bookmarks::next(now, self.inner.options.bookmark_interval, bookmark.last);
            let revision = revision.max(self.after);
            return Step::Item(WatchItem::Bookmark { revision, initial_events_end: false });
        }
        let ask_at = bookmark.due.checked_sub(BOOKMARK_LEAD).unwrap_or(now);
        if bookmark.asked {
            return Step::Wait(Some(bookmark.due));
        }
        if now >= ask_at {
            bookmark.asked = true;
            self.inner.request_progress(1);
            return Step::Wait(Some(bookmark.due));
        }
        Step::Wait(Some(ask_at))
    }
}

/// What one look at the ring gives.
enum Step {
    Item(WatchItem),
    Failed(CacheError),
    Closed,
    Again,
    Wait(Option<Instant>),
}

fn too_old(revision: Revision, floor: Revision) -> CacheError {
    CacheError::expired(format!("too old resource version: {revision} ({floor})"))
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
