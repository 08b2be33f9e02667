//! One informer per type and selector, started together.

use std::{
    any::Any,
    any::TypeId,
    collections::{BTreeSet, HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::BoxFuture};
use kube::{Api, runtime::watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::cache::{Informer, InformerOptions, Object, object_key};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Type and selectors.
type Key = (TypeId, String);
type RunFn = Box<dyn FnOnce(Arc<Shared>, CancellationToken) -> BoxFuture<'static, ()> + Send>;
type SyncFn = Box<dyn Fn() -> bool + Send + Sync>;

struct Entry {
    informer: Arc<dyn Any + Send + Sync>,
    name: String,
    synced: SyncFn,
    run: Option<RunFn>,
}

struct Shared {
    client: kube::Client,
    entries: Mutex<HashMap<Key, Entry>>,
    /// A first list has arrived.
    synced: Notify,
}

/// Makes and starts informers. Ask for all you need, register handlers and indexes, then [`Factory::start`].
pub struct Factory {
    shared: Arc<Shared>,
    /// What was asked of this view; None: the factory itself, to which all belongs.
    asked: Option<Mutex<HashSet<Key>>>,
}

impl Factory {
    /// A factory whose informers use this client.
    pub fn new(client: kube::Client) -> Self {
        let shared = Shared { client, entries: Mutex::default(), synced: Notify::new() };
        Self { shared: Arc::new(shared), asked: None }
    }

    /// The same informers seen by one user, who waits only for those that were asked of this view.
    #[must_use]
    pub fn view(&self) -> Self {
        Self { shared: self.shared.clone(), asked: Some(Mutex::default()) }
    }

    /// The client, for those who also write.
    pub fn client(&self) -> &kube::Client {
        &self.shared.client
    }

    /// The informer over every object of the type.
    pub fn informer<K: Object>(&self) -> Arc<Informer<K>> {
        self.informer_with(InformerOptions::default())
    }

    /// The informer limited by a field selector, for example `spec.nodeName=n1`.
    pub fn informer_with_field_selector<K: Object>(&self, field_selector: &str) -> Arc<Informer<K>> {
        self.informer_with(InformerOptions {
            field_selector: Some(field_selector.to_owned()),
            ..InformerOptions::default()
        })
    }

    /// The informer with these options; who asks first decides the transform, selectors make separate informers.
    pub fn informer_with<K: Object>(&self, options: InformerOptions<K>) -> Arc<Informer<K>> {
        let selector = format!("{:?} {:?}", options.field_selector, options.label_selector);
        let key = (TypeId::of::<K>(), selector);
        if let Some(asked) = &self.asked {
            asked.lock().insert(key.clone());
        }
        let mut entries = self.shared.entries.lock();
        let known = entries.get(&key);
        if let Some(informer) = known.and_then(|entry| entry.informer.clone().downcast::<Informer<K>>().ok()) {
            return informer;
        }
        let informer = Informer::new(options);
        let (for_sync, for_run) = (informer.clone(), informer.clone());
        let entry = Entry {
            informer: informer.clone(),
            name: K::kind(&()).into_owned(),
            synced: Box::new(move || for_sync.has_synced()),
            run: Some(Box::new(move |shared, shutdown| Box::pin(run(for_run, shared, shutdown)))),
        };
        entries.insert(key, entry);
        informer
    }

    /// Starts every informer that is not running yet, also those of other views; may be called again after asking for more.
    pub fn start(&self, shutdown: &CancellationToken) {
        for entry in self.shared.entries.lock().values_mut() {
            if let Some(run) = entry.run.take() {
                tokio::spawn(run(self.shared.clone(), shutdown.clone()));
            }
        }
    }

    /// The kinds whose first list has not arrived.
    pub fn unsynced(&self) -> Vec<String> {
        let asked = self.asked.as_ref().map(Mutex::lock);
        let mine = |key: &Key| asked.as_ref().is_none_or(|asked| asked.contains(key));
        let entries = self.shared.entries.lock();
        let missing = entries.iter().filter(|(key, entry)| mine(key) && !(entry.synced)());
        missing.map(|(_, entry)| entry.name.clone()).collect()
    }

    /// Waits until every informer has its first list; false when cancelled before.
    pub async fn wait_for_sync(&self, shutdown: &CancellationToken) -> bool {
        loop {
            // Listening begins before the look, so that no arrival is missed between the two.
            let mut arrival = pin!(self.shared.synced.notified());
            arrival.as_mut().enable();
            if self.unsynced().is_empty() {
                return true;
            }
            tokio::select! {
                () = arrival => {}
                () = shutdown.cancelled() => return false,
            }
        }
    }
}

fn watch_config<K: Object>(options: &InformerOptions<K>) -> watcher::Config {
    let mut config = watcher::Config::default().any_semantic().page_size(500);
    config.field_selector = options.field_selector.clone();
    config.label_selector = options.label_selector.clone();
    config
}

/// Keeps one cache up to date until cancelled. Failures are logged and retried with a bounded, jittered back-off.
async fn run<K: Object>(informer: Arc<Informer<K>>, shared: Arc<Shared>, shutdown: CancellationToken) {
    let kind = K::kind(&()).into_owned();
    let mut stream = watcher::watcher(Api::<K>::all(shared.client.clone()), watch_config(&informer.options)).boxed();
    let mut list = List { seen: BTreeSet::new(), since: Instant::now() };
    let mut delay = BACKOFF_MIN;
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => return,
            next = stream.next() => next,
        };
        match next {
            None => return,
            Some(Ok(event)) => {
                // A list that begins has not succeeded yet: it must not reset the back-off.
                if !matches!(event, watcher::Event::Init) {
                    delay = BACKOFF_MIN;
                }
                let listed = matches!(event, watcher::Event::InitDone);
                step(&informer, &mut list, event);
                if listed {
                    shared.synced.notify_waiters();
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%kind, error = crate::client::brief(&error), "watch failed; retrying");
                let jittered = delay.mul_f64(rand::random_range(0.8..1.2));
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(jittered) => {}
                }
                delay = (delay * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// A list that is coming in.
struct List {
    seen: BTreeSet<String>,
    since: Instant,
}

fn step<K: Object>(informer: &Informer<K>, list: &mut List, event: watcher::Event<K>) {
    match event {
        watcher::Event::Init => *list = List { seen: BTreeSet::new(), since: Instant::now() },
        watcher::Event::InitApply(object) => {
            list.seen.insert(object_key(&object));
            informer.apply(object);
        }
        watcher::Event::InitDone => informer.list_done(&std::mem::take(&mut list.seen), list.since),
        watcher::Event::Apply(object) => informer.apply(object),
        watcher::Event::Delete(object) => informer.remove(&object_key(&object), Some(object)),
    }
}
