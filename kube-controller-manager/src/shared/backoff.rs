//! Exponential back-off by key, for what cannot be told by failures of a run.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Doubling delays, forgotten when nothing happened for twice the maximum.
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    entries: Mutex<HashMap<String, (Duration, Instant)>>,
}

impl Backoff {
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, entries: Mutex::default() }
    }

    /// May it happen now? Yes: the delay until the next time grows. No: how long the delay is.
    pub(crate) fn attempt(&self, key: &str, now: Instant) -> Result<(), Duration> {
        let mut entries = self.entries.lock();
        let max = self.max;
        entries.retain(|_, (_, at)| now.saturating_duration_since(*at) <= max * 2);
        let delay = match entries.get(key) {
            None => self.initial,
            Some((delay, at)) if now.saturating_duration_since(*at) < *delay => return Err(*delay),
            Some((delay, _)) => (*delay * 2).min(max),
        };
        entries.insert(key.to_owned(), (delay, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_and_forgets() {
        let b = Backoff::new(Duration::from_secs(1), Duration::from_secs(3));
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let delay = |seconds| Err(Duration::from_secs(seconds));
        assert_eq!(b.attempt("a", at(0)), Ok(()));
        assert_eq!(b.attempt("a", at(0)), delay(1));
        assert_eq!(b.attempt("b", at(0)), Ok(()));
        assert_eq!(b.attempt("a", at(1)), Ok(()));
        assert_eq!(b.attempt("a", at(2)), delay(2));
        assert_eq!(b.attempt("a", at(3)), Ok(()));
        assert_eq!(b.attempt("a", at(5)), delay(3));
        assert_eq!(b.attempt("a", at(20)), Ok(()));
        assert_eq!(b.attempt("a", at(20)), delay(1));
    }
}
