//! History: watches in order without gaps or duplicates, progress, compaction, and a cache on top.

use super::*;
use kube_apiserver::storage::{
    KeyRange, RangeOptions,
    cache::{CacheOptions, ListQuery, ResourceCache, ResourceSpec},
};
use tokio_util::sync::CancellationToken;

/// Writes, changes and deletes under two prefixes from many tasks at once; answers the last revision.
async fn churn(store: &Arc<dyn Store>, prefix: &'static str, writers: usize, rounds: usize) -> Revision {
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut last = 0;
                for round in 0..rounds {
                    let key = format!("{prefix}{writer}-{round}");
                    let first = store.create(&key, text("1"), None).await.unwrap();
                    let other = format!("/registry/elsewhere{prefix}{writer}-{round}");
                    store.create(&other, text("1"), None).await.unwrap();
                    let second = store.update(&key, first, text("2"), None).await.unwrap();
                    last = store.delete(&key, second).await.unwrap();
                }
                last
            })
        })
        .collect();
    futures::future::join_all(tasks).await.into_iter().map(|last| last.unwrap()).max().unwrap()
}

/// Every key is created, changed and deleted exactly once, at ascending revisions.
fn assert_complete(events: &[StoreEvent], keys: usize) {
    let revisions: Vec<Revision> = events.iter().map(StoreEvent::revision).collect();
    assert!(revisions.is_sorted_by(|a, b| a < b), "revisions must ascend");
    assert_eq!(events.len(), keys * 3);
    let mut stages = std::collections::HashMap::<&str, Vec<String>>::new();
    for event in events {
        let stage = match event {
            StoreEvent::Put(kv) => String::from_utf8_lossy(&kv.value).into_owned(),
            StoreEvent::Delete { .. } => "gone".into(),
        };
        stages.entry(event.key()).or_default().push(stage);
    }
    assert_eq!(stages.len(), keys);
    assert!(stages.values().all(|stages| stages == &["1", "2", "gone"]), "{stages:?}");
}

pub async fn live(store: Arc<dyn Store>) {
    let start = store.current_revision().await.unwrap();
    let mut watch = store.watch("/registry/wl/", start).await.unwrap();
    let last = churn(&store, "/registry/wl/", 8, 5).await;
    assert_complete(&until(&mut watch, last).await, 40);
}

pub async fn resumes(store: Arc<dyn Store>) {
    let start = store.current_revision().await.unwrap();
    let last = churn(&store, "/registry/wr/", 3, 3).await;
    let mut watch = store.watch("/registry/wr/", start).await.unwrap();
    let all = until(&mut watch, last).await;
    assert_complete(&all, 9);
    for (at, event) in all.iter().enumerate() {
        let mut resumed = store.watch("/registry/wr/", event.revision()).await.unwrap();
        let rest = until(&mut resumed, last).await;
        let expected: Vec<_> = all[at + 1..].iter().map(show).collect();
        assert_eq!(rest.iter().map(show).collect::<Vec<_>>(), expected);
    }
    // A watch may start in the future.
    let mut future = store.watch("/registry/wr/", last + 1).await.unwrap();
    let skipped = store.create("/registry/wr/skipped", text("1"), None).await.unwrap();
    let told = store.create("/registry/wr/told", text("1"), None).await.unwrap();
    let events = until(&mut future, told).await;
    let expected = if skipped > last + 1 { 2 } else { 1 };
    assert_eq!(events.len(), expected, "{events:?}");
}

/// More events than the log in memory holds, read while more are written.
pub async fn far_back(store: Arc<dyn Store>) {
    const WRITERS: usize = 32;
    const ROUNDS: usize = 40;
    let start = store.current_revision().await.unwrap();
    let mut early = store.watch("/registry/wf/", start).await.unwrap();
    let (writing, last) = (store.clone(), tokio::sync::oneshot::channel());
    let (send, receive) = last;
    let writers = tokio::spawn(async move {
        let _ = send.send(churn(&writing, "/registry/wf/", WRITERS, ROUNDS).await);
    });
    // A watch that starts in the middle sees the history and then what is written.
    let mut middle = store.watch("/registry/wf/", start).await.unwrap();
    let last = receive.await.unwrap();
    writers.await.unwrap();
    assert_complete(&until(&mut middle, last).await, WRITERS * ROUNDS);
    assert_complete(&until(&mut early, last).await, WRITERS * ROUNDS);
    let mut late = store.watch("/registry/wf/", start).await.unwrap();
    assert_complete(&until(&mut late, last).await, WRITERS * ROUNDS);
    let more = store.create("/registry/wf/more", text("1"), None).await.unwrap();
    assert_eq!(until(&mut late, more).await.len(), 1);
}

pub async fn progress(store: Arc<dyn Store>) {
    let start = store.current_revision().await.unwrap();
    let mut watch = store.watch("/registry/wp/", start).await.unwrap();
    for round in 0..5 {
        let other = store.create(&format!("/registry/other/{round}"), text("1"), None).await.unwrap();
        assert_eq!(until(&mut watch, other).await, []);
    }
    let own = store.create("/registry/wp/a", text("1"), None).await.unwrap();
    assert_eq!(until(&mut watch, own).await.len(), 1);
}

pub async fn cache(store: Arc<dyn Store>) {
    let spec = ResourceSpec {
        resource: "widgets".into(),
        prefix: "/registry/cc/".into(),
        namespaced: false,
        fields: None,
        codec: None,
    };
    let shutdown = CancellationToken::new();
    let cache = ResourceCache::new(store.clone(), spec, CacheOptions::default(), shutdown.clone());
    for round in 0..10 {
        let key = format!("/registry/cc/{round}");
        let value = format!(r#"{{"metadata":{{"name":"{round}"}}}}"#);
        let revision = store.create(&key, text(&value), None).await.unwrap();
        let page = cache.list(ListQuery::default()).await.unwrap();
        assert_eq!(page.items.len(), round + 1);
        assert_eq!(page.items.iter().map(|item| item.revision()).max(), Some(revision));
        let other = store.create(&format!("/registry/co/{round}"), text("1"), None).await.unwrap();
        assert!(cache.list(ListQuery::default()).await.unwrap().revision >= other);
    }
    shutdown.cancel();
}

pub async fn compaction(store: Arc<dyn Store>) {
    let key = "/registry/k/a";
    let first = store.create(key, text("1"), None).await.unwrap();
    let second = store.update(key, first, text("2"), None).await.unwrap();
    let doomed = store.create("/registry/k/b", text("1"), None).await.unwrap();
    let gone = store.delete("/registry/k/b", doomed).await.unwrap();
    let third = store.update(key, second, text("3"), None).await.unwrap();
    store.compact(gone).await.unwrap();
    let at = |revision| RangeOptions { revision: Some(revision), ..RangeOptions::default() };
    for old in [first, second, doomed] {
        let read = store.get(key, Some(old)).await;
        assert!(matches!(read, Err(StoreError::Compacted { .. })), "{read:?}");
        let read = store.range(KeyRange::prefix("/registry/k/"), at(old)).await;
        assert!(matches!(read, Err(StoreError::Compacted { .. })), "{read:?}");
    }
    let error = watch_error(&store, "/registry/k/", first).await;
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
    // The compacted revision itself and everything after stay readable.
    let kept = store.range(KeyRange::prefix("/registry/k/"), at(gone)).await.unwrap();
    assert_eq!(kept.kvs.iter().map(|kv| kv.mod_revision).collect::<Vec<_>>(), [second]);
    assert_eq!(store.get(key, None).await.unwrap().0.unwrap().mod_revision, third);
    let mut watch = store.watch("/registry/k/", gone).await.unwrap();
    let events = until(&mut watch, third).await;
    assert_eq!(events.iter().map(show).collect::<Vec<_>>(), [format!("{key}=3@{third}")]);
    let again = store.compact(gone).await;
    assert!(matches!(again, Err(StoreError::Compacted { .. })), "{again:?}");
    let future = store.compact(third + 1_000_000).await;
    assert!(matches!(future, Err(StoreError::FutureRevision { .. })), "{future:?}");
    store.compact(third).await.unwrap();
    assert_eq!(store.get(key, None).await.unwrap().0.unwrap().value, text("3"));
}
