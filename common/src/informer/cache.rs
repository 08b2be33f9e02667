//! One type's cache: objects by `namespace/name`, incremental indexes, handlers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Event;

/// What can be cached: any typed API object.
pub trait Object: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}
impl<K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Object for K {}

/// What an informer watches and keeps.
pub struct InformerOptions<K> {
    /// For example `spec.nodeName=n1`.
    pub field_selector: Option<String>,
    /// For example `app=web`.
    pub label_selector: Option<String>,
    /// Runs on every object before it is cached; the place to drop what nobody reads.
    pub transform: fn(&mut K),
}

/// Drops `metadata.managedFields`: large, and no daemon reads it from a cache.
pub fn drop_managed_fields<K: kube::Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

impl<K: Object> Default for InformerOptions<K> {
    fn default() -> Self {
        Self { field_selector: None, label_selector: None, transform: drop_managed_fields }
    }
}

/// `namespace/name`, or `name` for cluster-scoped objects: what controllers put on their queue.
pub fn object_key<K: kube::Resource>(object: &K) -> String {
    let meta = object.meta();
    join_key(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// Splits what [`object_key`] made into namespace (may be empty) and name.
pub fn split_key(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

fn join_key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

type IndexFn<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;
type HandlerFn<K> = Arc<dyn Fn(&Event<K>) + Send + Sync>;

struct Index<K> {
    values: IndexFn<K>,
    keys: HashMap<String, BTreeSet<Arc<str>>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &Arc<str>, object: &K) {
        for value in (self.values)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &str, object: &K) {
        for value in (self.values)(object) {
            let Some(keys) = self.keys.get_mut(&value) else { continue };
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(&value);
            }
        }
    }
}

struct State<K> {
    objects: BTreeMap<Arc<str>, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

/// The cache of one type; shared by everyone who asks the [`super::Factory`] for it.
pub struct Informer<K> {
    state: RwLock<State<K>>,
    /// Held while an event is applied and delivered, so that a new handler misses nothing and sees nothing twice.
    handlers: Mutex<Vec<HandlerFn<K>>>,
    synced: AtomicBool,
    sync_notify: Notify,
    /// The newest resourceVersion of an object that came by.
    newest: AtomicU64,
    /// When the last complete list was asked for.
    listed: Mutex<Option<Instant>>,
    pub(super) options: InformerOptions<K>,
}

impl<K: Object> Informer<K> {
    /// An empty cache; normally made by [`super::Factory::informer`]. Tests fill it with [`Self::replace`] and [`Self::apply`].
    pub fn new(options: InformerOptions<K>) -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(State { objects: BTreeMap::new(), indexes: HashMap::new() }),
            handlers: Mutex::new(Vec::new()),
            synced: AtomicBool::new(false),
            sync_notify: Notify::new(),
            newest: AtomicU64::new(0),
            listed: Mutex::new(None),
            options,
        })
    }

    /// One object; the namespace is empty for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get_by_key(&join_key(namespace, name))
    }

    /// One object by `namespace/name` (see [`object_key`]).
    pub fn get_by_key(&self, key: &str) -> Option<Arc<K>> {
        self.state.read().objects.get(key).cloned()
    }

    /// Every object, ordered by key.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// Every object of a namespace, ordered by name.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let prefix = format!("{namespace}/");
        let state = self.state.read();
        let from =
            state.objects.range::<str, _>((std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded));
        from.take_while(|(key, _)| key.starts_with(&prefix)).map(|(_, object)| object.clone()).collect()
    }

    /// How many objects are cached.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index unless one of that name exists (so sharers may all ask for it). Existing objects are indexed at once.
    pub fn add_index(&self, name: &'static str, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        let mut state = self.state.write();
        if state.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values: Box::new(values), keys: HashMap::new() };
        for (key, object) in &state.objects {
            index.insert(key, object);
        }
        state.indexes.insert(name, index);
    }

    /// The objects for which the index function gave `value`; empty when there is no such index.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let keys = state.indexes.get(index).and_then(|index| index.keys.get(value));
        keys.into_iter().flatten().filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// Calls `handler` for every object that is there already (as Added) and for every later change, in order.
    ///
    /// Handlers run on the watch's task: they put keys on a queue or update a model, and never block or call `on_event`.
    pub fn on_event(&self, handler: impl Fn(&Event<K>) + Send + Sync + 'static) {
        let mut handlers = self.handlers.lock();
        for object in self.list() {
            handler(&Event::Added(object));
        }
        handlers.push(Arc::new(handler));
    }

    /// Whether the first list is in the cache and was delivered.
    pub fn has_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Waits for [`Self::has_synced`]; false when cancelled before.
    pub async fn wait_for_sync(&self, shutdown: &CancellationToken) -> bool {
        loop {
            let notified = self.sync_notify.notified();
            if self.has_synced() {
                return true;
            }
            tokio::select! {
                () = notified => {}
                () = shutdown.cancelled() => return false,
            }
        }
    }

    /// Whether a write that the server answered with this resourceVersion at `when` has reached the cache: something as new
    /// came by, or everything was listed since.
    pub fn has_seen(&self, version: u64, when: Instant) -> bool {
        self.newest.load(Ordering::Acquire) >= version || self.listed.lock().is_some_and(|at| at > when)
    }

    fn note_version(&self, object: &K) {
        if let Some(version) = object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()) {
            self.newest.fetch_max(version, Ordering::AcqRel);
        }
    }

    /// Adds or updates one object.
    pub fn apply(&self, object: K) {
        let handlers = self.handlers.lock();
        self.apply_locked(&handlers, object);
    }

    fn apply_locked(&self, handlers: &[HandlerFn<K>], mut object: K) {
        (self.options.transform)(&mut object);
        let key: Arc<str> = object_key(&object).into();
        let new = Arc::new(object);
        let old = {
            let mut state = self.state.write();
            let State { objects, indexes } = &mut *state;
            let old = objects.insert(key.clone(), new.clone());
            for index in indexes.values_mut() {
                if let Some(old) = &old {
                    index.remove(&key, old);
                }
                index.insert(&key, &new);
            }
            old
        };
        self.note_version(&new);
        let event = match old {
            None => Event::Added(new),
            Some(old)
                if old.meta().resource_version.is_some()
                    && old.meta().resource_version == new.meta().resource_version =>
            {
                return;
            }
            Some(old) => Event::Updated { old, new },
        };
        deliver(handlers, &event);
    }

    /// Removes one object; `last` is its final state if known.
    pub fn remove(&self, key: &str, last: Option<K>) {
        let handlers = self.handlers.lock();
        self.remove_locked(&handlers, key, last);
    }

    fn remove_locked(&self, handlers: &[HandlerFn<K>], key: &str, last: Option<K>) {
        let old = {
            let mut state = self.state.write();
            let State { objects, indexes } = &mut *state;
            let Some(old) = objects.remove(key) else { return };
            for index in indexes.values_mut() {
                index.remove(key, &old);
            }
            old
        };
        let last = last.map(|mut last| {
            self.note_version(&last);
            (self.options.transform)(&mut last);
            Arc::new(last)
        });
        deliver(handlers, &Event::Deleted(last.unwrap_or(old)));
    }

    /// Makes the cache hold exactly these objects, delivering the differences; marks it as synced.
    pub fn replace(&self, objects: Vec<K>) {
        let seen: BTreeSet<String> = objects.iter().map(object_key).collect();
        let handlers = self.handlers.lock();
        for object in objects {
            self.apply_locked(&handlers, object);
        }
        self.finish_list(&handlers, |key| seen.contains(key));
    }

    /// Ends a list that was asked for at `since` and whose objects went through [`Self::apply`] one by one: who is not in `seen`
    /// was deleted meanwhile.
    pub(super) fn list_done(&self, seen: &BTreeSet<String>, since: Instant) {
        let handlers = self.handlers.lock();
        self.finish_list(&handlers, |key| seen.contains(key));
        *self.listed.lock() = Some(since);
    }

    fn finish_list(&self, handlers: &[HandlerFn<K>], seen: impl Fn(&str) -> bool) {
        let gone: Vec<Arc<str>> = self.state.read().objects.keys().filter(|key| !seen(key)).cloned().collect();
        for key in gone {
            self.remove_locked(handlers, &key, None);
        }
        self.synced.store(true, Ordering::Release);
        self.sync_notify.notify_waiters();
    }
}

fn deliver<K>(handlers: &[HandlerFn<K>], event: &Event<K>) {
    for handler in handlers {
        handler(event);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(namespace: &str, name: &str, version: &str, label: &str) -> ConfigMap {
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": namespace, "name": name, "resourceVersion": version, "labels": {"app": label},
                         "managedFields": [{"manager": "x"}]}
        }))
        .unwrap()
    }

    fn names(objects: &[Arc<ConfigMap>]) -> Vec<String> {
        objects.iter().map(|object| object_key(&**object)).collect()
    }

    fn informer() -> Arc<Informer<ConfigMap>> {
        let informer = Informer::new(InformerOptions::default());
        informer.add_index("app", |object: &ConfigMap| {
            object.metadata.labels.iter().flat_map(|labels| labels.values().cloned()).collect()
        });
        informer
    }

    #[test]
    fn indexes_follow_updates_and_deletes() {
        let informer = informer();
        informer.apply(object("a", "x", "1", "web"));
        informer.apply(object("ab", "y", "2", "web"));
        assert_eq!(names(&informer.by_index("app", "web")), ["a/x", "ab/y"]);
        informer.apply(object("a", "x", "3", "db"));
        assert_eq!(names(&informer.by_index("app", "web")), ["ab/y"]);
        assert_eq!(names(&informer.by_index("app", "db")), ["a/x"]);
        informer.remove("a/x", None);
        assert!(informer.by_index("app", "db").is_empty());
        assert_eq!(names(&informer.list_namespace("ab")), ["ab/y"]);
        assert!(informer.list_namespace("a").is_empty());
        assert!(informer.get("ab", "y").unwrap().metadata.managed_fields.is_none());
    }

    #[test]
    fn relist_delivers_missed_deletes_and_skips_unchanged_objects() {
        let informer = informer();
        let log = Arc::new(Mutex::new(Vec::new()));
        informer.apply(object("a", "early", "1", "web"));
        let sink = log.clone();
        informer.on_event(move |event| {
            let kind = match event {
                Event::Added(_) => "added",
                Event::Updated { .. } => "updated",
                Event::Deleted(_) => "deleted",
            };
            sink.lock().push(format!("{kind} {}", object_key(&**event.object())));
        });
        informer.apply(object("a", "gone", "2", "web"));
        assert!(!informer.has_synced());
        informer.replace(vec![object("a", "early", "1", "web"), object("a", "new", "5", "web")]);
        assert!(informer.has_synced());
        informer.apply(object("a", "new", "6", "web"));
        let now = Instant::now();
        assert!(informer.has_seen(6, now) && !informer.has_seen(7, now));
        informer.list_done(&BTreeSet::from(["a/early".to_owned(), "a/new".to_owned()]), now);
        assert!(!informer.has_seen(7, now) && informer.has_seen(7, now - std::time::Duration::from_nanos(1)));
        assert_eq!(*log.lock(), ["added a/early", "added a/gone", "added a/new", "deleted a/gone", "updated a/new"]);
    }
}
