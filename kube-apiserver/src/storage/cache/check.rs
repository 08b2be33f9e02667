//! The cache proves itself: from time to time it is compared with the store at one revision. When they differ, reads go
//! to the store until the cache has been read anew.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::RngExt;

use super::{
    super::{KeyRange, RangeOptions, Revision},
    CacheError, Inner,
    ring::Root,
};

/// Upstream's period, stretched by up to a half so that resources do not check at the same time.
const PERIOD: Duration = Duration::from_secs(300);
const PAGE: usize = 1000;

/// Where cache and store differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: cache and store differ at revision {revision}: the cache has {cached:?}, the store {stored:?}")]
pub struct Difference {
    /// The resource.
    pub resource: String,
    /// The revision of both.
    pub revision: Revision,
    /// The first key that differs and its revision, in the cache.
    pub cached: Option<(String, Revision)>,
    /// The same in the store.
    pub stored: Option<(String, Revision)>,
}

/// Checks until dropped.
pub(super) async fn run(inner: &Arc<Inner>) {
    loop {
        let stretch: f64 = rand::rng().random_range(1.0..1.5);
        tokio::time::sleep(PERIOD.mul_f64(stretch)).await;
        if inner.state.read().ready {
            // What went wrong has been logged and counted.
            let _ = once(inner).await;
        }
    }
}

/// Compares once; a difference makes the cache start over.
pub(super) async fn once(inner: &Arc<Inner>) -> Result<Option<Difference>, CacheError> {
    let [success, failure, error] = &inner.metrics().checks;
    let compared = compare(inner).await;
    match &compared {
        Ok(None) => success.inc(),
        Ok(Some(difference)) => {
            failure.inc();
            tracing::error!(%difference, "watch cache: consistency check failed, reading the store until it is repaired");
            inner.suspect.store(true, Ordering::Release);
            inner.start_over.notify_one();
        }
        Err(why) => {
            error.inc();
            tracing::warn!(resource = %inner.spec.resource, error = %why, "watch cache: consistency check error");
        }
    }
    compared
}

async fn compare(inner: &Inner) -> Result<Option<Difference>, CacheError> {
    // Up to date first: the revision of a quiet resource may have been compacted meanwhile.
    inner.reach(inner.store.current_revision().await?).await?;
    let (root, revision): (Root, Revision) = {
        let state = inner.state.read();
        (state.root.clone(), state.revision)
    };
    let prefix = &inner.spec.prefix;
    let mut cached = root.iter().map(|(key, object)| (&**key, object.revision()));
    let difference = |cached: Option<(&str, Revision)>, stored: Option<(&str, Revision)>| Difference {
        resource: inner.spec.resource.clone(),
        revision,
        cached: cached.map(|(key, revision)| (key.to_owned(), revision)),
        stored: stored.map(|(key, revision)| (key.to_owned(), revision)),
    };
    let mut start = prefix.clone();
    loop {
        let options = RangeOptions { revision: Some(revision), limit: PAGE, count_only: false };
        let page = inner.store.range(KeyRange::prefix_from(prefix, &start), options).await?;
        let readable = |key: &str| !inner.unreadable.lock().contains(key);
        for stored in page.kvs.iter().filter(|kv| readable(&kv.key)).map(|kv| (&*kv.key, kv.mod_revision)) {
            let cached = cached.next();
            if cached != Some(stored) {
                return Ok(Some(difference(cached, Some(stored))));
            }
        }
        match page.kvs.last() {
            Some(last) if page.more => start = format!("{}\0", last.key),
            _ => return Ok(cached.next().map(|left| difference(Some(left), None))),
        }
    }
}
