//! Which event to write: the same again is counted, many similar ones are combined, a flood is dropped. Pure; upstream's numbers.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Event, apimachinery::pkg::apis::meta::v1::Time};

use super::event_name;

const MAX_ENTRIES: usize = 4096;
const AGGREGATE_AFTER: usize = 10;
const AGGREGATE_SECONDS: i64 = 600;
const SPAM_BURST: f64 = 25.0;
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;

/// A map that forgets the least recently used quarter when it is full.
pub(super) struct Recent<K, V> {
    entries: HashMap<K, (u64, V)>,
    tick: u64,
}

impl<K: Eq + Hash + Clone, V> Recent<K, V> {
    pub(super) fn new() -> Self {
        Self { entries: HashMap::new(), tick: 0 }
    }

    pub(super) fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.tick += 1;
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&key) {
            let mut ticks: Vec<u64> = self.entries.values().map(|(tick, _)| *tick).collect();
            ticks.sort_unstable();
            let limit = ticks[MAX_ENTRIES / 4];
            self.entries.retain(|_, (tick, _)| *tick > limit);
        }
        let entry = self.entries.entry(key).or_insert_with(|| (0, make()));
        entry.0 = self.tick;
        &mut entry.1
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        self.entries.retain(|_, (_, value)| keep(value));
    }
}

/// What to do with an event.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Too many about this object.
    Drop,
    /// Write it.
    Create(Box<Event>),
    /// It was written before: patch count, time and message of `metadata.name`; create it if it is gone.
    Count(Box<Event>),
}

struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

struct Written {
    name: String,
    count: i32,
    first: Option<Time>,
}

struct Bucket {
    tokens: f64,
    filled: Timestamp,
}

/// Remembers what was written.
pub(super) struct Correlator {
    similar: Recent<String, Similar>,
    written: Recent<String, Option<Written>>,
    spam: Recent<String, Bucket>,
}

fn joined(event: &Event, with_reason: bool) -> String {
    let object = &event.involved_object;
    let source = event.source.clone().unwrap_or_default();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut parts = vec![
        text(&source.component),
        text(&source.host),
        text(&object.kind),
        text(&object.namespace),
        text(&object.name),
        text(&object.uid),
        text(&object.api_version),
        text(&event.type_),
    ];
    if with_reason {
        parts.push(text(&event.reason));
    }
    parts.join("\0")
}

impl Correlator {
    pub(super) fn new() -> Self {
        Self { similar: Recent::new(), written: Recent::new(), spam: Recent::new() }
    }

    pub(super) fn correlate(&mut self, event: Event, now: Timestamp) -> Outcome {
        let spam_key = joined(&event, false);
        let (mut event, key) = self.aggregate(event, now);
        let written = self.written.get_or_insert_with(key, || None);
        let again = written.is_some();
        match written {
            Some(written) => {
                written.count += 1;
                event.metadata.name = Some(written.name.clone());
                event.count = Some(written.count);
                event.first_timestamp = written.first.clone();
            }
            None => {
                *written = Some(Written {
                    name: event.metadata.name.clone().unwrap_or_default(),
                    count: 1,
                    first: event.first_timestamp.clone(),
                });
            }
        }
        if !self.accept(spam_key, now) {
            return Outcome::Drop;
        }
        if again { Outcome::Count(Box::new(event)) } else { Outcome::Create(Box::new(event)) }
    }

    fn aggregate(&mut self, mut event: Event, now: Timestamp) -> (Event, String) {
        let aggregate_key = joined(&event, true);
        let message = event.message.clone().unwrap_or_default();
        let field = event.involved_object.field_path.clone().unwrap_or_default();
        let own_key = format!("{aggregate_key}\0{field}\0{message}");
        let similar =
            self.similar.get_or_insert_with(aggregate_key.clone(), || Similar { messages: HashSet::new(), last: now });
        if now.as_second() - similar.last.as_second() > AGGREGATE_SECONDS {
            similar.messages.clear();
        }
        similar.last = now;
        if similar.messages.len() < AGGREGATE_AFTER {
            similar.messages.insert(message.clone());
        }
        if similar.messages.len() < AGGREGATE_AFTER {
            return (event, own_key);
        }
        if let Some(any) = similar.messages.iter().next().cloned() {
            similar.messages.remove(&any);
        }
        event.metadata.name = Some(event_name(&event.involved_object, now));
        event.message = Some(format!("(combined from similar events): {message}"));
        (event, aggregate_key)
    }

    fn accept(&mut self, key: String, now: Timestamp) -> bool {
        let bucket = self.spam.get_or_insert_with(key, || Bucket { tokens: SPAM_BURST, filled: now });
        let elapsed = (now.as_millisecond() - bucket.filled.as_millisecond()).max(0) as f64 / 1000.0;
        bucket.tokens = (bucket.tokens + elapsed * SPAM_PER_SECOND).min(SPAM_BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    fn event(message: &str, second: i64) -> (Event, Timestamp) {
        let now = Timestamp::from_second(second).unwrap();
        let reference = ObjectReference { name: Some("pod".into()), uid: Some("u".into()), ..Default::default() };
        let event = Event {
            metadata: kube::api::ObjectMeta { name: Some(event_name(&reference, now)), ..Default::default() },
            involved_object: reference,
            reason: Some("Failed".into()),
            message: Some(message.into()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            type_: Some("Warning".into()),
            ..Event::default()
        };
        (event, now)
    }

    fn run(correlator: &mut Correlator, message: &str, second: i64) -> Outcome {
        let (event, now) = event(message, second);
        correlator.correlate(event, now)
    }

    #[test]
    fn the_same_again_is_counted_on_the_first_event() {
        let mut correlator = Correlator::new();
        let Outcome::Create(first) = run(&mut correlator, "a", 100) else { panic!("not created") };
        run(&mut correlator, "a", 101);
        let Outcome::Count(third) = run(&mut correlator, "a", 102) else { panic!("not counted") };
        assert_eq!((third.metadata.name, third.count), (first.metadata.name, Some(3)));
        assert_eq!(third.first_timestamp, first.first_timestamp);
        assert_eq!(third.last_timestamp, Some(Time(Timestamp::from_second(102).unwrap())));
    }

    #[test]
    fn many_similar_are_combined_and_a_flood_is_dropped() {
        let mut correlator = Correlator::new();
        let mut outcomes: Vec<Outcome> =
            (0..40).map(|index| run(&mut correlator, &format!("m{index}"), 100 + index)).collect();
        let dropped = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Drop)).count();
        assert_eq!(dropped, 15, "25 pass, the rest is dropped");
        outcomes.truncate(12);
        let Some(Outcome::Count(event)) = outcomes.pop() else { panic!("not counted") };
        assert_eq!((event.message.as_deref(), event.count), (Some("(combined from similar events): m11"), Some(3)));
        let Some(Outcome::Create(_)) = outcomes.get(9) else { panic!("the tenth makes the combined event") };
        let Outcome::Create(_) = run(&mut correlator, "later", 100 + 7200) else {
            panic!("a new interval starts afresh")
        };
    }
}
