//! Keys: creating, swapping, racing, listing, expiring.

use super::*;
use kube_apiserver::storage::{KeyRange, RangeOptions};

pub async fn create_and_read(store: Arc<dyn Store>) {
    let before = store.current_revision().await.unwrap();
    let first = store.create("/registry/c/a", text("1"), None).await.unwrap();
    assert!(first > before);
    let again = store.create("/registry/c/a", text("2"), None).await;
    assert!(matches!(again, Err(StoreError::Exists { .. })), "{again:?}");
    let second = store.update("/registry/c/a", first, text("2"), None).await.unwrap();
    let (kv, revision) = store.get("/registry/c/a", None).await.unwrap();
    let kv = kv.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (first, second, 2));
    assert_eq!((&kv.value[..], &*kv.key), (&b"2"[..], "/registry/c/a"));
    assert!(revision >= second);
    let (old, _) = store.get("/registry/c/a", Some(first)).await.unwrap();
    assert_eq!(old.unwrap().value, text("1"));
    let (none, _) = store.get("/registry/c/a", Some(before)).await.unwrap();
    assert_eq!(none, None);
    let future = store.get("/registry/c/a", Some(second + 1_000_000)).await;
    assert!(matches!(future, Err(StoreError::FutureRevision { .. })), "{future:?}");
    store.health().await.unwrap();
    assert!(store.size().await.unwrap() > 0);
}

pub async fn compare_and_swap(store: Arc<dyn Store>) {
    let key = "/registry/s/a";
    for wrong in [0, 1] {
        let missing = store.update(key, wrong, text("x"), None).await;
        assert!(matches!(missing, Err(StoreError::Conflict { current: None, .. })), "{missing:?}");
        let missing = store.delete(key, wrong).await;
        assert!(matches!(missing, Err(StoreError::Conflict { current: None, .. })), "{missing:?}");
    }
    let first = store.create(key, text("1"), None).await.unwrap();
    let second = store.update(key, first, text("2"), None).await.unwrap();
    for stale in [0, first, second + 1] {
        for refused in [store.update(key, stale, text("x"), None).await, store.delete(key, stale).await] {
            let Err(StoreError::Conflict { current: Some(current), .. }) = refused else { panic!("{refused:?}") };
            assert_eq!((current.mod_revision, current.value), (second, text("2")));
        }
    }
    let gone = store.delete(key, second).await.unwrap();
    assert!(gone > second);
    assert_eq!(store.get(key, None).await.unwrap().0, None);
    assert_eq!(store.get(key, Some(second)).await.unwrap().0.unwrap().value, text("2"));
    let reborn = store.create(key, text("3"), None).await.unwrap();
    let kv = store.get(key, None).await.unwrap().0.unwrap();
    assert_eq!((kv.create_revision, kv.version), (reborn, 1));
}

pub async fn races(store: Arc<dyn Store>) {
    const WRITERS: usize = 16;
    const STEPS: usize = 5;
    let key = "/registry/r/counter";
    let creators: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.create(key, text("0"), None).await.is_ok() })
        })
        .collect();
    let winners = futures::future::join_all(creators).await;
    assert_eq!(winners.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1);
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut seen = store.get(key, None).await.unwrap().0.unwrap();
                let mut done = 0;
                while done < STEPS {
                    let number: usize = std::str::from_utf8(&seen.value).unwrap().parse().unwrap();
                    match store.update(key, seen.mod_revision, text(&(number + 1).to_string()), None).await {
                        Ok(_) => {
                            done += 1;
                            seen = store.get(key, None).await.unwrap().0.unwrap();
                        }
                        Err(StoreError::Conflict { current: Some(current), .. }) => seen = *current,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let kv = store.get(key, None).await.unwrap().0.unwrap();
    assert_eq!((kv.value, kv.version), (text(&(WRITERS * STEPS).to_string()), (WRITERS * STEPS) as u64 + 1));
}

pub async fn ranges(store: Arc<dyn Store>) {
    for name in ["a", "b", "c", "d", "e"] {
        store.create(&format!("/registry/l/{name}"), text(name), None).await.unwrap();
    }
    let outside = store.create("/registry/l0", text("x"), None).await.unwrap();
    let prefix = "/registry/l/";
    let keys = |result: &kube_apiserver::storage::RangeResult| {
        result.kvs.iter().map(|kv| kv.key.trim_start_matches(prefix).to_owned()).collect::<Vec<_>>()
    };
    let limit = |limit, revision| RangeOptions { limit, revision, count_only: false };
    let all = store.range(KeyRange::prefix(prefix), RangeOptions::default()).await.unwrap();
    assert_eq!((keys(&all), all.more, all.count), (["a", "b", "c", "d", "e"].map(str::to_owned).to_vec(), false, 5));
    assert!(all.revision >= outside);
    let page = store.range(KeyRange::prefix(prefix), limit(2, None)).await.unwrap();
    assert_eq!((keys(&page), page.more, page.count), (vec!["a".into(), "b".into()], true, 5));
    // The rest of the list stays as it was, whatever happens meanwhile.
    let first = all.kvs[2].mod_revision;
    store.delete("/registry/l/c", first).await.unwrap();
    store.create("/registry/l/bb", text("bb"), None).await.unwrap();
    let changed = store.update("/registry/l/d", all.kvs[3].mod_revision, text("new"), None).await.unwrap();
    let rest = KeyRange::prefix_from(prefix, "/registry/l/b\0");
    let page = store.range(rest, limit(2, Some(page.revision))).await.unwrap();
    assert_eq!((keys(&page), page.more, page.count), (vec!["c".into(), "d".into()], true, 3));
    assert_eq!(page.kvs[1].value, text("d"));
    let now = store.range(KeyRange::prefix(prefix), limit(0, Some(changed))).await.unwrap();
    assert_eq!(keys(&now), ["a", "b", "bb", "d", "e"]);
    let count = RangeOptions { count_only: true, ..RangeOptions::default() };
    let count = store.range(KeyRange::prefix(prefix), count).await.unwrap();
    assert_eq!((count.kvs.len(), count.more, count.count), (0, false, 5));
    let none = store.range(KeyRange::prefix("/registry/none/"), limit(3, None)).await.unwrap();
    assert_eq!((none.kvs.len(), none.more, none.count), (0, false, 0));
}

pub async fn sizes(store: Arc<dyn Store>) {
    let large = Bytes::from(vec![b'x'; 1 << 20]);
    store.create("/registry/z/large", large.clone(), None).await.unwrap();
    assert_eq!(store.get("/registry/z/large", None).await.unwrap().0.unwrap().value, large);
    let refused = store.create("/registry/z/huge", Bytes::from(vec![b'x'; 4 << 20]), None).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    assert_eq!(store.get("/registry/z/huge", None).await.unwrap().0, None);
}

pub async fn time_to_live(store: Arc<dyn Store>) {
    let ttl = Some(Duration::from_secs(1));
    let start = store.current_revision().await.unwrap();
    let mut watch = store.watch("/registry/t/", start).await.unwrap();
    let kept = store.create("/registry/t/kept", text("1"), ttl).await.unwrap();
    store.update("/registry/t/kept", kept, text("2"), None).await.unwrap();
    store.create("/registry/t/a", text("1"), ttl).await.unwrap();
    store.create("/registry/t/b", text("1"), ttl).await.unwrap();
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let batch = tokio::time::timeout(PATIENCE, watch.batches.next()).await.unwrap().unwrap().unwrap();
        for event in batch.events {
            if let StoreEvent::Delete { key, .. } = event {
                gone.push(key.to_string());
            }
        }
    }
    gone.sort();
    assert_eq!(gone, ["/registry/t/a", "/registry/t/b"]);
    assert_eq!(store.get("/registry/t/a", None).await.unwrap().0, None);
    assert_eq!(store.get("/registry/t/kept", None).await.unwrap().0.unwrap().value, text("2"));
}
