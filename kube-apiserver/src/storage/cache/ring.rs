//! The state of one cache: the newest map of objects, and the bounded ring of the events that led to it.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use imbl::OrdMap;

use super::{super::Revision, CacheOptions, CachedObject, EventKind, Selection, WatchItem};

/// All objects at some revision; cloning is free.
pub(super) type Root = OrdMap<Arc<str>, Arc<CachedObject>>;

/// One change of one object.
pub(super) struct CacheEvent {
    pub revision: Revision,
    /// The new state; `None` after a deletion.
    pub object: Option<Arc<CachedObject>>,
    /// The state before.
    pub previous: Option<Arc<CachedObject>>,
    /// The last state with this event's revision, for watchers that lose the object; made once.
    gone: OnceLock<Arc<CachedObject>>,
    /// The ADDED frame for watchers whose selection a changed object enters; made once.
    entered: OnceLock<Bytes>,
    at: Instant,
}

impl CacheEvent {
    pub fn new(
        revision: Revision,
        object: Option<Arc<CachedObject>>,
        previous: Option<Arc<CachedObject>>,
        at: Instant,
    ) -> Self {
        Self { revision, object, previous, gone: OnceLock::new(), entered: OnceLock::new(), at }
    }

    /// Both states that a wake-up may depend on.
    pub fn states(&self) -> impl Iterator<Item = &Arc<CachedObject>> {
        self.object.iter().chain(&self.previous)
    }

    fn key(&self) -> Option<&Arc<str>> {
        self.states().next().map(|state| state.key())
    }

    fn weight(&self) -> usize {
        self.states().map(|state| state.weight()).sum::<usize>() + 128
    }

    /// What a watcher with this selection is told: entering is ADDED, leaving is DELETED with the last state seen.
    pub fn seen_by(&self, selection: &Selection) -> Option<WatchItem> {
        let now = self.object.as_ref().filter(|object| selection.matches(object));
        let before = self.previous.as_ref().filter(|object| selection.matches(object));
        let (kind, object) = match (now, before) {
            (None, None) => return None,
            (Some(object), None) => (EventKind::Added, object.clone()),
            (Some(object), Some(_)) => (EventKind::Modified, object.clone()),
            (None, Some(before)) => {
                let gone = || Arc::new(before.at_revision(self.revision, EventKind::Deleted));
                (EventKind::Deleted, self.gone.get_or_init(gone).clone())
            }
        };
        let frame = match kind {
            EventKind::Added if self.previous.is_some() => {
                self.entered.get_or_init(|| object.frame(EventKind::Added)).clone()
            }
            _ => object.frame(kind),
        };
        Some(WatchItem::Event { kind, revision: self.revision, object, frame })
    }
}

/// The newest state and the recent past.
pub(super) struct State {
    pub root: Root,
    /// Bytes of all objects of the root.
    pub content: usize,
    pub revision: Revision,
    pub ready: bool,
    pub closed: bool,
    ring: VecDeque<Arc<CacheEvent>>,
    /// The sequence number of the first event in the ring.
    first: u64,
    /// Every event after this revision is in the ring.
    pub floor: Revision,
    bytes: usize,
    /// Events and their weight since everybody was last woken, and when that was.
    unswept: (usize, usize, Instant),
}

impl State {
    pub fn new() -> Self {
        Self {
            root: Root::new(),
            content: 0,
            revision: 0,
            ready: false,
            closed: false,
            ring: VecDeque::new(),
            first: 0,
            floor: 0,
            bytes: 0,
            unswept: (0, 0, Instant::now()),
        }
    }

    /// Starts over from a complete list. Watchers of before fall off.
    pub fn replace(&mut self, root: Root, revision: Revision) {
        self.first = self.end() + 1;
        self.ring.clear();
        self.bytes = 0;
        self.content = root.values().map(|object| object.bytes().len()).sum();
        self.root = root;
        self.revision = revision;
        self.floor = revision;
        self.ready = true;
    }

    /// The sequence number the next event gets.
    pub fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    pub fn push(&mut self, event: Arc<CacheEvent>, options: &CacheOptions) {
        self.revision = self.revision.max(event.revision);
        let size = |state: &Option<Arc<CachedObject>>| state.as_ref().map_or(0, |object| object.bytes().len());
        self.content = (self.content + size(&event.object)).saturating_sub(size(&event.previous));
        self.bytes += event.weight();
        self.unswept.0 += 1;
        self.unswept.1 += event.weight();
        let now = event.at;
        self.ring.push_back(event);
        self.prune(now, options);
    }

    /// Lets go of events beyond the limits.
    pub fn prune(&mut self, now: Instant, options: &CacheOptions) {
        while self.ring.len() > options.min_events {
            let Some(oldest) = self.ring.front() else { break };
            let full = self.ring.len() > options.max_events || self.bytes > options.max_event_bytes;
            if !full && now.saturating_duration_since(oldest.at) <= options.event_age {
                break;
            }
            self.floor = oldest.revision;
            self.bytes = self.bytes.saturating_sub(oldest.weight());
            self.ring.pop_front();
            self.first += 1;
        }
    }

    /// Whether it is time to wake even watchers that nothing concerned, lest they fall off the ring.
    pub fn sweep_due(&mut self, options: &CacheOptions) -> bool {
        let (events, bytes, since) = self.unswept;
        let aged = events > options.min_events / 2 && since.elapsed() > options.event_age / 4;
        let due = aged || events > options.max_events / 4 || bytes > options.max_event_bytes / 4;
        if due {
            self.unswept = (0, 0, Instant::now());
        }
        due
    }

    /// The position behind everything up to `revision`; `None` when the ring no longer reaches back.
    pub fn position_after(&self, revision: Revision) -> Option<u64> {
        let reachable = revision >= self.floor;
        reachable.then(|| self.first + self.ring.partition_point(|event| event.revision <= revision) as u64)
    }

    /// Up to `limit` events from a position on; `None` when it fell off.
    pub fn events_from(&self, position: u64, limit: usize) -> Option<impl Iterator<Item = &Arc<CacheEvent>>> {
        let skip = position.checked_sub(self.first)? as usize;
        Some(self.ring.range(skip.min(self.ring.len())..).take(limit))
    }

    /// The objects as they were at `revision`, by taking back the events since.
    pub fn root_at(&self, revision: Revision) -> Option<Root> {
        if revision < self.floor || revision > self.revision {
            return None;
        }
        let mut root = self.root.clone();
        for event in self.ring.iter().rev().take_while(|event| event.revision > revision) {
            match (&event.previous, event.key()) {
                (Some(previous), Some(key)) => drop(root.insert(key.clone(), previous.clone())),
                (None, Some(key)) => drop(root.remove(key)),
                (_, None) => {}
            }
        }
        Some(root)
    }
}
