//! Pauses between attempts at one volume: upstream's half a second, doubled up to two minutes. Pure over the time given.

use std::collections::HashMap;
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(500);
const MAX: Duration = Duration::from_secs(122);

struct Entry {
    until: Instant,
    pause: Duration,
}

/// What failed last, and when it may be tried again.
pub(super) struct Backoff<K> {
    entries: HashMap<K, Entry>,
}

impl<K> Default for Backoff<K> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<K: std::hash::Hash + Eq> Backoff<K> {
    /// How long to wait still.
    pub(super) fn left(&self, key: &K, now: Instant) -> Option<Duration> {
        let left = self.entries.get(key)?.until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// It failed; answers the pause.
    pub(super) fn failed(&mut self, key: K, most: Duration, now: Instant) -> Duration {
        let pause = match self.entries.get(&key) {
            Some(entry) => (entry.pause * 2).min(MAX).min(most),
            None => FIRST,
        };
        self.entries.insert(key, Entry { until: now + pause, pause });
        pause
    }

    /// It worked, or nobody wants it any more.
    pub(super) fn forget(&mut self, wanted: impl Fn(&K) -> bool) {
        self.entries.retain(|key, _| !wanted(key));
    }

    /// No reason to wait any longer.
    pub(super) fn hurry(&mut self, wanted: impl Fn(&K) -> bool, now: Instant) {
        self.entries.iter_mut().filter(|(key, _)| wanted(key)).for_each(|(_, entry)| entry.until = now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_two_minutes() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..10 {
            pauses.push(backoff.failed("a", Duration::MAX, now).as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 122_000, 122_000]);
        assert_eq!(backoff.left(&"a", now), Some(MAX));
        assert_eq!(backoff.left(&"a", now + MAX), None);
        backoff.hurry(|key| *key == "a", now);
        assert_eq!(backoff.left(&"a", now), None);
        backoff.forget(|key| *key == "a");
        assert_eq!(backoff.failed("a", Duration::MAX, now), FIRST);
    }
}
