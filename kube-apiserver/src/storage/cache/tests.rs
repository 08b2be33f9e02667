//! The cache over the embedded store.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::storage::{
    StoreError,
    embedded::{self, EmbeddedOptions},
};

struct Fixture {
    store: Arc<dyn Store>,
    cache: ResourceCache,
    shutdown: CancellationToken,
    _directory: tempfile::TempDir,
}

async fn fixture(options: CacheOptions) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let embedded =
        EmbeddedOptions { directory: directory.path().to_owned(), compaction_interval: Duration::from_secs(300) };
    let store = embedded::open(embedded).await.unwrap();
    let extract: FieldExtractor = Arc::new(|tree| {
        vec![("spec.nodeName".into(), tree["spec"]["nodeName"].as_str().unwrap_or_default().to_owned())]
    });
    let spec = ResourceSpec {
        resource: "pods".into(),
        prefix: "/registry/pods/".into(),
        namespaced: true,
        fields: Some(Selectable { outline: Outline::of(["spec.nodeName"]), extract }),
        codec: None,
    };
    let shutdown = CancellationToken::new();
    let cache = ResourceCache::new(store.clone(), spec, options, shutdown.clone());
    Fixture { store, cache, shutdown, _directory: directory }
}

fn pod(name: &str, app: &str, node: &str) -> Bytes {
    let tree = serde_json::json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "spec": {"nodeName": node},
    });
    Bytes::from(serde_json::to_vec(&tree).unwrap())
}

impl Fixture {
    async fn create(&self, name: &str, app: &str, node: &str) -> Revision {
        self.store.create(&self.cache.key("default", name), pod(name, app, node), None).await.unwrap()
    }

    async fn update(&self, name: &str, expected: Revision, app: &str, node: &str) -> Revision {
        self.store.update(&self.cache.key("default", name), expected, pod(name, app, node), None).await.unwrap()
    }

    async fn delete(&self, name: &str, expected: Revision) -> Revision {
        self.store.delete(&self.cache.key("default", name), expected).await.unwrap()
    }

    async fn watch(&self, selection: Selection, from: WatchFrom, bookmarks: bool) -> Watcher {
        self.cache.watch(WatchQuery { selection, from, bookmarks }).await.unwrap()
    }
}

fn names(page: &ListPage) -> Vec<&str> {
    page.items.iter().map(|item| item.name()).collect()
}

/// `ADDED web@4` or `BOOKMARK@4`.
async fn told(watcher: &mut Watcher) -> String {
    let item = tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.expect("an item in time");
    match item.expect("a running watch").expect("an item") {
        WatchItem::Event { kind, revision, object, frame } => {
            let frame: serde_json::Value = serde_json::from_slice(&frame).unwrap();
            assert_eq!(frame["type"], kind.as_str());
            assert_eq!(frame["object"]["metadata"]["resourceVersion"], revision.to_string());
            assert_eq!(frame["object"]["metadata"]["name"], object.name());
            format!("{} {}@{revision}", kind.as_str(), object.name())
        }
        WatchItem::Bookmark { revision, initial_events_end } => {
            format!("BOOKMARK@{revision}{}", if initial_events_end { " end" } else { "" })
        }
    }
}

fn by_app(app: &'static str) -> Selection {
    Selection { labels: Some(Arc::new(move |labels: &Labels| labels.get("app") == Some(app))), ..Selection::default() }
}

fn by_node(node: &str) -> Selection {
    let term = FieldRequirement { field: "spec.nodeName".into(), value: node.into(), equal: true };
    Selection { fields: vec![term], ..Selection::default() }
}

#[tokio::test]
async fn reads_see_every_write_at_once() {
    let fixture = fixture(CacheOptions::default()).await;
    for round in 0..20 {
        let name = format!("web-{round}");
        let revision = fixture.create(&name, "web", "").await;
        let object = fixture.cache.get("default", &name, ResourceVersion::MostRecent).await.unwrap().unwrap();
        assert_eq!(object.revision(), revision);
        // A write elsewhere moves the cache on, too.
        let other = fixture.store.create(&format!("/registry/secrets/{round}"), Bytes::new(), None).await.unwrap();
        let page = fixture.cache.list(ListQuery::default()).await.unwrap();
        assert_eq!((page.items.len(), page.revision), (round + 1, other));
    }
    assert!(fixture.cache.get("default", "none", ResourceVersion::Any).await.unwrap().is_none());
    let body = fixture.cache.list(ListQuery::default()).await.unwrap().encode("v1", "PodList");
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["items"].as_array().unwrap().len(), 20);
}

#[tokio::test]
async fn pages_stay_at_their_revision() {
    let fixture = fixture(CacheOptions::default()).await;
    for name in ["a", "b", "c", "d", "e"] {
        fixture.create(name, "web", "").await;
    }
    let query = ListQuery { limit: 2, ..ListQuery::default() };
    let first = fixture.cache.list(query.clone()).await.unwrap();
    assert_eq!((names(&first), first.remaining), (vec!["a", "b"], Some(3)));
    fixture.create("bb", "web", "").await;
    let query = ListQuery { continue_token: first.continue_token.clone(), ..query };
    let second = fixture.cache.list(query.clone()).await.unwrap();
    assert_eq!((names(&second), second.revision), (vec!["c", "d"], first.revision));
    let query = ListQuery { continue_token: second.continue_token, ..query };
    let third = fixture.cache.list(query).await.unwrap();
    assert_eq!((names(&third), third.remaining, third.continue_token.is_some()), (vec!["e"], None, false));

    let filtered = ListQuery { limit: 1, selection: by_app("none"), ..ListQuery::default() };
    assert!(fixture.cache.list(filtered).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn exact_and_expired_versions() {
    let fixture = fixture(CacheOptions::default()).await;
    let first = fixture.create("a", "web", "").await;
    let second = fixture.update("a", first, "web", "n1").await;
    let third = fixture.delete("a", second).await;
    let at = |revision| ListQuery { version: ResourceVersion::Exact(revision), ..ListQuery::default() };
    for (revision, expected) in [(first, Some(first)), (second, Some(second)), (third, None)] {
        let page = fixture.cache.list(at(revision)).await.unwrap();
        assert_eq!(page.items.first().map(|item| item.revision()), expected);
        assert_eq!(page.revision, revision);
    }
    fixture.store.compact(second).await.unwrap();
    let error = fixture.cache.list(at(first)).await.unwrap_err();
    assert_eq!(error.to_string(), "The resourceVersion for the provided list is too old.");
    let token = token::encode("/registry/pods/a", "/registry/pods/", Some(first));
    let continued = ListQuery { continue_token: token, limit: 1, ..ListQuery::default() };
    let Err(CacheError::Expired { continue_token: Some(next), .. }) = fixture.cache.list(continued).await else {
        panic!("expected a token to go on inconsistently");
    };
    let inconsistent = ListQuery { continue_token: Some(next), ..ListQuery::default() };
    assert!(fixture.cache.list(inconsistent).await.unwrap().items.is_empty());
    let future = ListQuery { version: ResourceVersion::NotOlderThan(third + 100), ..ListQuery::default() };
    let error = fixture.cache.list(future).await.unwrap_err();
    assert!(matches!(error, CacheError::TooLargeResourceVersion { .. }), "{error}");
}

#[tokio::test]
async fn watches_resume_and_follow_selectors() {
    let fixture = fixture(CacheOptions::default()).await;
    fixture.cache.ready().await.unwrap();
    let start = fixture.store.current_revision().await.unwrap();
    let mut all = fixture.watch(Selection::default(), WatchFrom::After(start), false).await;
    let mut web = fixture.watch(by_app("web"), WatchFrom::After(start), false).await;
    let mut node = fixture.watch(by_node("n1"), WatchFrom::After(start), false).await;
    let r1 = fixture.create("a", "web", "").await;
    let r2 = fixture.update("a", r1, "web", "n1").await;
    let r3 = fixture.update("a", r2, "db", "n1").await;
    let r4 = fixture.update("a", r3, "web", "n1").await;
    let r5 = fixture.delete("a", r4).await;
    for expected in [
        format!("ADDED a@{r1}"),
        format!("MODIFIED a@{r2}"),
        format!("MODIFIED a@{r3}"),
        format!("MODIFIED a@{r4}"),
        format!("DELETED a@{r5}"),
    ] {
        assert_eq!(told(&mut all).await, expected);
    }
    for expected in [
        format!("ADDED a@{r1}"),
        format!("MODIFIED a@{r2}"),
        format!("DELETED a@{r3}"),
        format!("ADDED a@{r4}"),
        format!("DELETED a@{r5}"),
    ] {
        assert_eq!(told(&mut web).await, expected);
    }
    assert_eq!(told(&mut node).await, format!("ADDED a@{r2}"));
    assert_eq!(told(&mut node).await, format!("MODIFIED a@{r3}"));
    let mut resumed = fixture.watch(Selection::default(), WatchFrom::After(r3), false).await;
    assert_eq!(told(&mut resumed).await, format!("MODIFIED a@{r4}"));
    fixture.shutdown.cancel();
    assert_eq!(told(&mut resumed).await, format!("DELETED a@{r5}"));
    assert!(resumed.next().await.is_none());
}

#[tokio::test]
async fn initial_events_and_bookmarks() {
    let options = CacheOptions { bookmark_interval: Duration::from_millis(300), ..CacheOptions::default() };
    let fixture = fixture(options).await;
    let r1 = fixture.create("a", "web", "").await;
    let r2 = fixture.update("a", r1, "web", "n1").await;
    let mut watcher = fixture.watch(Selection::default(), WatchFrom::InitialEvents(None), true).await;
    assert_eq!(told(&mut watcher).await, format!("ADDED a@{r2}"));
    assert_eq!(told(&mut watcher).await, format!("BOOKMARK@{r2} end"));
    // Bookmarks follow writes that do not concern the resource.
    let other = fixture.store.create("/registry/secrets/x", Bytes::new(), None).await.unwrap();
    while told(&mut watcher).await != format!("BOOKMARK@{other}") {}
    let mut legacy = fixture.watch(Selection::default(), WatchFrom::InitialEvents(Some(0)), false).await;
    assert_eq!(told(&mut legacy).await, format!("ADDED a@{r2}"));
    let frame = bookmark_frame("v1", "Pod", 7, true);
    let frame: serde_json::Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!(frame["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn who_falls_off_the_ring_is_told() {
    let options = CacheOptions { min_events: 5, max_events: 10, ..CacheOptions::default() };
    let fixture = fixture(options).await;
    let mut revision = fixture.create("a", "web", "").await;
    let mut idle = fixture.watch(by_node("n9"), WatchFrom::After(revision), false).await;
    let mut slow = fixture.watch(Selection::default(), WatchFrom::After(revision), false).await;
    let start = revision;
    let idle = tokio::spawn(async move { told(&mut idle).await });
    for _ in 0..50 {
        revision = fixture.update("a", revision, "web", "n1").await;
        fixture.cache.wait_for(revision).await.unwrap();
        tokio::task::yield_now().await;
    }
    let error = slow.next().await.unwrap().unwrap_err();
    assert!(error.to_string().starts_with(&format!("too old resource version: {start} (")), "{error}");
    let query = WatchQuery { selection: Selection::default(), from: WatchFrom::After(start), bookmarks: false };
    assert!(matches!(fixture.cache.watch(query).await.err(), Some(CacheError::Expired { .. })));
    // The sweep kept the watcher that nothing concerned on the ring.
    revision = fixture.update("a", revision, "web", "n9").await;
    assert_eq!(idle.await.unwrap(), format!("ADDED a@{revision}"));
}

#[tokio::test]
async fn a_damaged_object_is_left_out() {
    let fixture = fixture(CacheOptions::default()).await;
    fixture.store.create("/registry/pods/default/bad", Bytes::from_static(b"{nope"), None).await.unwrap();
    fixture.create("good", "web", "").await;
    let page = fixture.cache.list(ListQuery::default()).await.unwrap();
    assert_eq!(names(&page), ["good"]);
    let again = fixture.store.create("/registry/pods/default/bad", Bytes::new(), None).await;
    assert!(matches!(again, Err(StoreError::Exists { .. })));
}

#[tokio::test]
async fn a_cache_that_differs_is_found_out_and_repaired() {
    let fixture = fixture(CacheOptions::default()).await;
    let first = fixture.create("a", "x", "n1").await;
    fixture.create("b", "x", "n1").await;
    fixture.cache.list(ListQuery::default()).await.unwrap();
    assert_eq!(fixture.cache.verify().await.unwrap(), None);
    fixture.cache.0.state.write().root.remove("/registry/pods/default/a");
    let found = fixture.cache.verify().await.unwrap().expect("a difference");
    assert_eq!(found.stored, Some(("/registry/pods/default/a".to_owned(), first)));
    let page = fixture.cache.list(ListQuery::default()).await.unwrap();
    assert_eq!(names(&page), ["a", "b"], "reads go to the store until the cache is repaired");
    let got = fixture.cache.get("default", "a", ResourceVersion::MostRecent).await.unwrap();
    assert_eq!(got.expect("the object").revision(), first);
    while fixture.cache.0.suspect.load(Ordering::Acquire) {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.cache.verify().await.unwrap(), None);
    fixture.shutdown.cancel();
}

#[tokio::test]
async fn a_consistent_read_does_not_depend_on_the_cache_keeping_up() {
    let options = CacheOptions { fresh_timeout: Duration::from_millis(10), ..CacheOptions::default() };
    let fixture = fixture(options).await;
    fixture.create("a", "x", "n1").await;
    fixture.cache.ready().await.unwrap();
    // Nobody brings the cache forward any more.
    fixture.shutdown.cancel();
    while !fixture.cache.0.state.read().closed {
        tokio::task::yield_now().await;
    }
    let newest = fixture.create("b", "x", "n1").await;
    let page = fixture.cache.list(ListQuery::default()).await.unwrap();
    assert_eq!((names(&page), page.revision), (vec!["a", "b"], newest));
    assert!(fixture.cache.get("default", "b", ResourceVersion::MostRecent).await.unwrap().is_some());
    let exact = ListQuery { version: ResourceVersion::NotOlderThan(newest), ..ListQuery::default() };
    assert!(matches!(fixture.cache.list(exact).await, Err(CacheError::TooLargeResourceVersion { .. })));
}

#[tokio::test]
async fn who_asks_for_the_future_does_not_delay_others() {
    let options = CacheOptions { fresh_timeout: Duration::from_millis(300), ..CacheOptions::default() };
    let fixture = fixture(options).await;
    fixture.create("a", "x", "n1").await;
    let future = ListQuery { version: ResourceVersion::NotOlderThan(1_000_000), ..ListQuery::default() };
    let refused = fixture.cache.list(future).await;
    assert!(matches!(refused, Err(CacheError::TooLargeResourceVersion { requested: 1_000_000, .. })));
    let newest = fixture.store.create("/registry/other/x", pod("x", "x", ""), None).await.unwrap();
    fixture.cache.list(ListQuery::default()).await.unwrap();
    assert!(fixture.cache.revision() >= newest, "the cache caught up instead of being passed over");
    fixture.shutdown.cancel();
}
