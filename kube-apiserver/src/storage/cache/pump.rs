//! The task that keeps one cache equal to the store: one complete list, then one watch; again when that breaks.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::StreamExt;

use super::{
    super::{KeyRange, KeyValue, RangeOptions, RangeResult, Revision, StoreError, StoreEvent, WatchBatch},
    CachedObject, EventKind, Inner, check,
    ring::{CacheEvent, Root},
};

const LIST_PAGE: usize = 1000;
/// Objects that one task takes in.
const SHARE: usize = 100;
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Runs until the cache's shutdown, then ends its watchers.
pub(super) async fn run(inner: Arc<Inner>) {
    let work = async { tokio::join!(follow(&inner), check::run(&inner)) };
    inner.shutdown.clone().run_until_cancelled(work).await;
    inner.state.write().closed = true;
    inner.progress_sent.send_replace(inner.state.read().revision);
    inner.wakers.wake_all();
}

async fn follow(inner: &Arc<Inner>) {
    let mut retry = FIRST_RETRY;
    let mut listed = false;
    loop {
        let started = Instant::now();
        let error = match listed {
            true => tokio::select! {
                error = watch(inner) => error,
                () = inner.start_over.notified() => {
                    listed = false;
                    continue;
                }
            },
            false => match list(inner).await {
                Ok(()) => {
                    listed = true;
                    continue;
                }
                Err(error) => error,
            },
        };
        if matches!(error, StoreError::Compacted { .. }) {
            listed = false;
        }
        if matches!(error, StoreError::Closed) {
            return;
        }
        if started.elapsed() > LAST_RETRY {
            retry = FIRST_RETRY;
        }
        tracing::warn!(resource = %inner.spec.resource, %error, "watch cache: lost the store, trying again");
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(LAST_RETRY);
    }
}

/// Reads everything at one revision. The next page comes in while the one before is taken in.
async fn list(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let mut root = Root::new();
    let mut page = page(inner.clone(), inner.spec.prefix.clone(), None).await?;
    let revision = page.revision;
    loop {
        let next = page.kvs.last().filter(|_| page.more).map(|last| {
            let start = format!("{}\0", last.key);
            tokio::spawn(self::page(inner.clone(), start, Some(revision)))
        });
        for object in take_in(inner, page.kvs).await? {
            root.insert(object.key().clone(), object);
        }
        let Some(next) = next else { break };
        page = next.await.map_err(|_| StoreError::Closed)??;
    }
    report(inner, root.len(), revision);
    inner.metrics().initializations.inc();
    inner.state.write().replace(root, revision);
    inner.suspect.store(false, Ordering::Release);
    inner.progress_sent.send_replace(revision);
    inner.wakers.wake_all();
    Ok(())
}

/// Takes in a page on as many cores as there are.
async fn take_in(inner: &Arc<Inner>, kvs: Vec<KeyValue>) -> Result<Vec<Arc<CachedObject>>, StoreError> {
    let mut shares = Vec::with_capacity(LIST_PAGE.div_ceil(SHARE));
    let mut rest = kvs.into_iter();
    while rest.len() > 0 {
        let (share, inner) = (rest.by_ref().take(SHARE).collect::<Vec<_>>(), inner.clone());
        let work =
            async move { share.iter().filter_map(|kv| ingest(&inner, kv, EventKind::Added)).collect::<Vec<_>>() };
        shares.push(tokio::spawn(work));
    }
    let mut objects = Vec::new();
    for share in shares {
        objects.extend(share.await.map_err(|_| StoreError::Closed)?);
    }
    Ok(objects)
}

async fn page(inner: Arc<Inner>, start: String, revision: Option<Revision>) -> Result<RangeResult, StoreError> {
    let options = RangeOptions { revision, limit: LIST_PAGE, count_only: false };
    inner.store.range(KeyRange::prefix_from(&inner.spec.prefix, &start), options).await
}

async fn watch(inner: &Arc<Inner>) -> StoreError {
    let after = inner.state.read().revision;
    let mut watch = match inner.store.watch(&inner.spec.prefix, after).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    let wanted = {
        let mut progress = inner.progress.lock();
        *progress = Some(watch.progress.clone());
        inner.wanted.load(Ordering::Acquire)
    };
    if wanted > after {
        watch.progress.request(wanted);
    }
    let ended = loop {
        match tokio::time::timeout(inner.options.event_age, watch.batches.next()).await {
            Ok(Some(Ok(batch))) => apply(inner, batch),
            Ok(Some(Err(error))) => break error,
            Ok(None) => break StoreError::Unavailable("the watch ended".into()),
            Err(_) => {
                inner.state.write().prune(Instant::now(), &inner.options);
                inner.snapshots.lock().prune();
            }
        }
    };
    inner.progress.lock().take();
    ended
}

/// An object that cannot be read is reported and left out: one damaged key must not take the resource down.
fn ingest(inner: &Inner, kv: &KeyValue, kind: EventKind) -> Option<Arc<CachedObject>> {
    match CachedObject::ingest(kv, &inner.spec, kind) {
        Ok(object) => {
            let mut unreadable = inner.unreadable.lock();
            if !unreadable.is_empty() {
                unreadable.remove(&kv.key);
            }
            Some(Arc::new(object))
        }
        Err(error) => {
            inner.unreadable.lock().insert(kv.key.clone());
            inner.metrics().decode_errors.inc();
            tracing::error!(resource = %inner.spec.resource, %error, "watch cache: leaving out an unreadable object");
            None
        }
    }
}

/// Brings a batch into the state, in one step for readers, and wakes whom it concerns.
fn apply(inner: &Inner, batch: WatchBatch) {
    let now = Instant::now();
    let parsed: Vec<(StoreEvent, Option<Arc<CachedObject>>)> = batch
        .events
        .into_iter()
        .map(|event| {
            let object = match &event {
                StoreEvent::Put(kv) if kv.create_revision == kv.mod_revision => ingest(inner, kv, EventKind::Added),
                StoreEvent::Put(kv) => ingest(inner, kv, EventKind::Modified),
                StoreEvent::Delete { .. } => None,
            };
            (event, object)
        })
        .collect();
    let mut published = Vec::with_capacity(parsed.len());
    let (objects, revision, sweep) = {
        let mut state = inner.state.write();
        for (event, object) in parsed {
            let previous = match &object {
                Some(object) => state.root.insert(event.key().clone(), object.clone()),
                None => state.root.remove(event.key()),
            };
            if object.is_some() || previous.is_some() {
                let event = Arc::new(CacheEvent::new(event.revision(), object, previous, now));
                state.push(event.clone(), &inner.options);
                published.push(event);
            }
        }
        state.revision = state.revision.max(batch.revision);
        (state.root.len(), state.revision, state.sweep_due(&inner.options))
    };
    inner.metrics().received.inc_by(published.len() as u64);
    inner.metrics().dispatched.inc_by(published.len() as u64);
    report(inner, objects, revision);
    inner.progress_sent.send_replace(revision);
    if sweep {
        inner.wakers.wake_all();
    } else if !published.is_empty() {
        inner.wakers.wake(&published);
    }
}

fn report(inner: &Inner, objects: usize, revision: Revision) {
    inner.metrics().capacity.set(inner.options.max_events as i64);
    inner.metrics().objects.set(objects as i64);
    inner.metrics().revision.set(revision as i64);
}
