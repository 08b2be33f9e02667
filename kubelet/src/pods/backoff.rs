//! Exponential back-off of restarts and pulls. Pure over the times it is given.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

/// First delay, and upstream's factor of two up to `max`.
#[derive(Debug)]
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    delay: Duration,
    last: Timestamp,
}

fn since(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

impl Backoff {
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max: max.max(Duration::from_secs(1)), entries: HashMap::new() }
    }

    /// How much of the delay is left for something that failed at `failed`; `None` = go ahead. Also the whole delay.
    pub(crate) fn remaining(&self, key: &str, failed: Timestamp, now: Timestamp) -> Option<(Duration, Duration)> {
        let entry = self.entries.get(key)?;
        if since(failed, entry.last) > self.max * 2 {
            return None;
        }
        let gone = since(now, failed);
        (gone < entry.delay).then(|| (entry.delay - gone, entry.delay))
    }

    /// Counts one more attempt.
    pub(crate) fn next(&mut self, key: &str, failed: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if since(failed, entry.last) <= self.max * 2 => (entry.delay * 2).min(self.max),
            _ => self.initial.min(self.max),
        };
        self.entries.insert(key.to_owned(), Entry { delay, last: now });
    }

    /// Forgets all but the keys that `keep` says.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|key, _| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_ceiling_and_forgets() {
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(35));
        let at = |second: i64| Timestamp::from_second(second).expect("time");
        assert_eq!(backoff.remaining("c", at(0), at(0)), None);
        let mut seen = Vec::new();
        for start in [0, 20, 60, 100] {
            backoff.next("c", at(start), at(start));
            seen.push(backoff.remaining("c", at(start), at(start)).expect("waits").1.as_secs());
        }
        assert_eq!(seen, [10, 20, 35, 35]);
        assert_eq!(backoff.remaining("c", at(100), at(136)), None);
        assert_eq!(backoff.remaining("c", at(200), at(200)), None);
    }
}
