//! Expectations: what a controller has asked the server for and not yet seen in its cache.
//! While they are open, counting the cache would create or delete twice.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// After this long an unseen event is taken as lost and the cache is trusted again.
const TTL: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
struct Open {
    creations: i64,
    deletions: HashSet<String>,
    since: Instant,
}

/// Open creations (a count) and deletions (by pod UID key) per owner key.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    open: Mutex<HashMap<String, Open>>,
}

impl Expectations {
    /// May the owner act on the cache as it is?
    pub(crate) fn satisfied(&self, owner: &str) -> bool {
        self.satisfied_at(owner, Instant::now())
    }

    fn satisfied_at(&self, owner: &str, now: Instant) -> bool {
        match self.open.lock().get(owner) {
            None => true,
            Some(open) => (open.creations <= 0 && open.deletions.is_empty()) || now.duration_since(open.since) > TTL,
        }
    }

    /// Before `count` creations.
    pub(crate) fn expect_creations(&self, owner: &str, count: usize) {
        self.expect(owner, count, []);
    }

    /// Before deleting the pods of these keys.
    pub(crate) fn expect_deletions(&self, owner: &str, keys: impl IntoIterator<Item = String>) {
        self.expect(owner, 0, keys);
    }

    /// Before `count` creations and deleting the pods of these keys.
    pub(crate) fn expect(&self, owner: &str, count: usize, keys: impl IntoIterator<Item = String>) {
        let deletions = keys.into_iter().collect();
        let open = Open { creations: i64::try_from(count).unwrap_or(i64::MAX), deletions, since: Instant::now() };
        self.open.lock().insert(owner.to_owned(), open);
    }

    /// A creation was seen, or failed and will never be.
    pub(crate) fn creation_observed(&self, owner: &str) {
        if let Some(open) = self.open.lock().get_mut(owner) {
            open.creations -= 1;
        }
    }

    /// A deletion was seen, or failed and will never be.
    pub(crate) fn deletion_observed(&self, owner: &str, key: &str) {
        if let Some(open) = self.open.lock().get_mut(owner) {
            open.deletions.remove(key);
        }
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &str) {
        self.open.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_and_closes() {
        let e = Expectations::default();
        assert!(e.satisfied("a"));
        e.expect_creations("a", 2);
        assert!(!e.satisfied("a"));
        assert!(e.satisfied("b"));
        e.creation_observed("a");
        assert!(!e.satisfied("a"));
        e.creation_observed("a");
        assert!(e.satisfied("a"));
        e.creation_observed("a"); // a surprise does not open it again
        assert!(e.satisfied("a"));

        e.expect_deletions("a", ["x".to_owned(), "y".to_owned()]);
        e.deletion_observed("a", "x");
        e.deletion_observed("a", "x"); // the same pod seen twice counts once
        assert!(!e.satisfied("a"));
        e.deletion_observed("a", "y");
        assert!(e.satisfied("a"));
    }

    #[test]
    fn expires() {
        let e = Expectations::default();
        e.expect_creations("a", 1);
        assert!(!e.satisfied_at("a", Instant::now() + TTL - Duration::from_secs(1)));
        assert!(e.satisfied_at("a", Instant::now() + TTL + Duration::from_secs(1)));
        e.forget("a");
        assert!(e.satisfied("a"));
    }
}
