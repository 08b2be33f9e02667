//! Pods being scheduled right now, and what happened meanwhile: a pod that fails must not miss an event that would have
//! helped it. Events are kept in one list; each pod remembers where in it its attempt began.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::framework::events::ClusterEvent;

/// The attempts under way and the events since the oldest of them began.
#[derive(Default)]
pub struct InFlight {
    starts: HashMap<Arc<str>, u64>,
    by_start: BTreeMap<u64, usize>,
    events: VecDeque<ClusterEvent>,
    first: u64,
}

impl InFlight {
    /// An attempt begins.
    pub fn begin(&mut self, uid: Arc<str>) {
        let start = self.first + self.events.len() as u64;
        if self.starts.insert(uid, start).is_none() {
            *self.by_start.entry(start).or_default() += 1;
        }
    }

    /// An attempt ended; events that nobody needs any more are dropped.
    pub fn end(&mut self, uid: &str) {
        let Some(start) = self.starts.remove(uid) else { return };
        if let Some(count) = self.by_start.get_mut(&start) {
            *count -= 1;
            if *count == 0 {
                self.by_start.remove(&start);
            }
        }
        match self.by_start.keys().next() {
            None => {
                self.first += self.events.len() as u64;
                self.events.clear();
            }
            Some(oldest) => {
                while self.first < *oldest {
                    self.events.pop_front();
                    self.first += 1;
                }
            }
        }
    }

    /// Whether the pod is being scheduled.
    pub fn contains(&self, uid: &str) -> bool {
        self.starts.contains_key(uid)
    }

    /// Whether no pod is being scheduled.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Something happened.
    pub fn record(&mut self, event: &ClusterEvent) {
        if !self.starts.is_empty() {
            self.events.push_back(event.clone());
        }
    }

    /// What happened since the pod's attempt began.
    pub fn since(&self, uid: &str) -> impl Iterator<Item = &ClusterEvent> {
        let skip = self.starts.get(uid).map_or(self.events.len(), |start| (start - self.first) as usize);
        self.events.iter().skip(skip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::events::{Resource, action};

    #[test]
    fn each_attempt_sees_what_came_after_its_start() {
        let event = |label| ClusterEvent::bare(Resource::Node, action::ADD, label);
        let labels = |flight: &InFlight, uid: &str| flight.since(uid).map(|e| e.label).collect::<Vec<_>>();
        let mut flight = InFlight::default();
        flight.record(&event("nobody"));
        flight.begin("a".into());
        flight.record(&event("one"));
        flight.begin("b".into());
        flight.record(&event("two"));
        assert_eq!(labels(&flight, "a"), ["one", "two"]);
        assert_eq!(labels(&flight, "b"), ["two"]);
        flight.end("a");
        assert_eq!(flight.events.len(), 1, "what only a needed is dropped");
        assert_eq!(labels(&flight, "b"), ["two"]);
        flight.end("b");
        assert!(flight.events.is_empty() && flight.is_empty());
    }
}
