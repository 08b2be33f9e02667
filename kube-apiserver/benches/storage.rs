//! Figures of the storage layer: `cargo bench -p kube-apiserver --bench storage`.
//!
//! Writes per second (embedded; etcd too when `CORTEN_BENCH_ETCD` names an endpoint), a large LIST, the delay of a
//! read-your-writes get, and the fan-out of events to many watchers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use kube_apiserver::storage::{
    Store, StoreError,
    cache::{
        CacheOptions, FieldExtractor, FieldRequirement, ListQuery, Outline, ResourceCache, ResourceSpec,
        ResourceVersion, Selectable, Selection, WatchFrom, WatchItem, WatchQuery,
    },
    codec::{Codec, StorageMediaType},
    embedded::{self, EmbeddedOptions},
    etcd::{self, EtcdOptions},
};
use tokio_util::sync::CancellationToken;

const OBJECTS: usize = 10_000;
const WATCHERS: usize = 1000;
const EVENTS: usize = 500;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome {
    let directory = tempfile::tempdir()?;
    let options = EmbeddedOptions { directory: directory.path().to_owned(), compaction_interval: Duration::ZERO };
    let store = embedded::open(options).await?;
    for writers in [1, 64] {
        writes("embedded", &store, writers).await?;
    }
    if let Ok(endpoint) = std::env::var("CORTEN_BENCH_ETCD") {
        let etcd = etcd::connect(EtcdOptions::new(vec![endpoint])).await?;
        for writers in [1, 64] {
            writes("etcd", &etcd, writers).await?;
        }
    }
    let before = resident();
    let cache = pods(&store).await?;
    println!("cache of {OBJECTS} pods of {} bytes: {} KiB more resident", pod(0, 0).len(), resident() - before);
    list(&cache).await?;
    own_writes(&store, &cache).await?;
    fan_out(&store, &cache, "all", false, |_| Selection::default()).await?;
    fan_out(&store, &cache, "all, in protobuf", true, |_| Selection::default()).await?;
    let by_node = |watcher| {
        let term = FieldRequirement { field: "spec.nodeName".into(), value: format!("node-{watcher}"), equal: true };
        Selection { fields: vec![term], ..Selection::default() }
    };
    fan_out(&store, &cache, "one node each", false, by_node).await?;
    let before = resident();
    let empty = (0..100).map(|at| cache_of(&store, &format!("/registry/empty{at}/"))).collect::<Vec<_>>();
    for cache in &empty {
        cache.ready().await?;
    }
    println!("100 empty caches: {} KiB more resident", resident() - before);
    Ok(())
}

async fn writes(name: &str, store: &Arc<dyn Store>, writers: usize) -> Outcome {
    let total = if writers == 1 { 500 } else { 10_000 };
    let value = pod(1, 1);
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, value) = (store.clone(), value.clone());
            tokio::spawn(async move {
                for round in 0..total / writers {
                    let key = format!("/registry/bench{writers}/{writer}-{round}");
                    store.create(&key, value.clone(), None).await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    println!("{name}: {writers} writers: {:.0} durable writes/s", total as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

/// A pod of about 4 KiB.
fn pod(number: usize, round: usize) -> Bytes {
    let environment: Vec<_> = (0..52)
        .map(|at| serde_json::json!({"name": format!("VARIABLE_{at}"), "value": "some value of some length"}))
        .collect();
    let tree = serde_json::json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": format!("pod-{number}"), "namespace": "default", "uid": "2c1f2f4e-5c57-4c8c-9a5d-0b8f2a8e6b11",
            "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9"},
        },
        "spec": {
            "nodeName": format!("node-{}", number % WATCHERS),
            "containers": [{"name": "web", "image": "registry.k8s.io/web:1", "env": environment}],
        },
        "status": {"phase": "Running", "observedGeneration": round},
    });
    Bytes::from(tree.to_string())
}

fn cache_of(store: &Arc<dyn Store>, prefix: &str) -> ResourceCache {
    let extract: FieldExtractor = Arc::new(|tree| {
        vec![("spec.nodeName".into(), tree["spec"]["nodeName"].as_str().unwrap_or_default().to_owned())]
    });
    let pods = common::api::catalog().by_plural("", "v1", "pods");
    let codec = pods.and_then(|pods| Codec::of(pods, StorageMediaType::Json, |_, _, _, _| {})).map(Arc::new);
    let spec = ResourceSpec {
        resource: "pods".into(),
        prefix: prefix.to_owned(),
        namespaced: true,
        fields: Some(Selectable { outline: Outline::of(["spec.nodeName"]), extract }),
        codec,
    };
    ResourceCache::new(store.clone(), spec, CacheOptions::default(), CancellationToken::new())
}

async fn pods(store: &Arc<dyn Store>) -> Outcome<ResourceCache> {
    let creates = (0..OBJECTS).map(|number| async move {
        store.create(&format!("/registry/pods/default/pod-{number}"), pod(number, 0), None).await
    });
    for created in futures::future::join_all(creates).await {
        created?;
    }
    let cache = cache_of(store, "/registry/pods/");
    let start = Instant::now();
    cache.ready().await?;
    println!("cache: {OBJECTS} pods loaded in {:?}", start.elapsed());
    Ok(cache)
}

async fn list(cache: &ResourceCache) -> Outcome {
    const ROUNDS: usize = 50;
    let start = Instant::now();
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let page = cache.list(ListQuery::default()).await?;
        bytes += page.encode("v1", "PodList").len();
    }
    let spent = start.elapsed().as_secs_f64();
    println!("LIST of {OBJECTS} pods: {:.2} ms, {:.2} GB/s", spent * 1e3 / ROUNDS as f64, bytes as f64 / spent / 1e9);
    let codec = cache.spec().codec.clone().ok_or("pods have no codec")?;
    for name in ["the first", "again"] {
        let start = Instant::now();
        let mut body = Vec::new();
        for object in cache.list(ListQuery::default()).await?.items {
            let raw = object.protobuf(&codec)?.raw();
            body.extend_from_slice(&common::wire::element_head(2, raw.len()));
            body.extend_from_slice(&raw);
        }
        println!("LIST of {OBJECTS} pods in protobuf, {name}: {:?}, {} KiB", start.elapsed(), body.len() >> 10);
    }
    Ok(())
}

/// How long after a write was answered a consistent get sees it.
async fn own_writes(store: &Arc<dyn Store>, cache: &ResourceCache) -> Outcome {
    const ROUNDS: usize = 200;
    let mut spent = Duration::ZERO;
    for round in 0..ROUNDS {
        let name = format!("own-{round}");
        store.create(&cache.key("default", &name), pod(round, 0), None).await?;
        let start = Instant::now();
        let found = cache.get("default", &name, ResourceVersion::MostRecent).await?;
        spent += start.elapsed();
        assert!(found.is_some());
    }
    println!("get after own write: {:?}", spent / ROUNDS as u32);
    Ok(())
}

async fn fan_out(
    store: &Arc<dyn Store>,
    cache: &ResourceCache,
    name: &str,
    protobuf: bool,
    selection: impl Fn(usize) -> Selection,
) -> Outcome {
    let (delivered, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let from = WatchFrom::After(store.current_revision().await?);
    let mut tasks = Vec::with_capacity(WATCHERS);
    for watcher in 0..WATCHERS {
        let query = WatchQuery { selection: selection(watcher), from, bookmarks: false };
        let mut watch = cache.watch(query).await?;
        let (delivered, bytes, codec) = (delivered.clone(), bytes.clone(), cache.spec().codec.clone());
        tasks.push(tokio::spawn(async move {
            while let Some(Ok(item)) = watch.next().await {
                if let WatchItem::Event { frame, object, kind, .. } = item {
                    let encoded = codec.as_ref().filter(|_| protobuf).and_then(|codec| object.protobuf(codec).ok());
                    let frame = encoded.map_or(frame, |encoded| encoded.frame(kind));
                    bytes.fetch_add(frame.len(), Ordering::Relaxed);
                    delivered.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    let expected = if name.starts_with("all") { EVENTS * WATCHERS } else { EVENTS };
    let start = Instant::now();
    let updates = (0..EVENTS).map(|number| async move {
        let key = format!("/registry/pods/default/pod-{number}");
        let (current, _) = store.get(&key, None).await?;
        let expected = current.map_or(0, |kv| kv.mod_revision);
        store.update(&key, expected, pod(number, 1), None).await
    });
    for updated in futures::future::join_all(updates).await {
        updated?;
    }
    let written = start.elapsed();
    while delivered.load(Ordering::Relaxed) < expected {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let spent = start.elapsed();
    println!(
        "{EVENTS} events to {WATCHERS} watchers ({name}): written in {written:?}, delivered in {spent:?}: {:.0} frames/s, {:.2} GB/s",
        expected as f64 / spent.as_secs_f64(),
        bytes.load(Ordering::Relaxed) as f64 / spent.as_secs_f64() / 1e9
    );
    for task in tasks {
        task.abort();
    }
    Ok(())
}

/// Resident memory in KiB.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
