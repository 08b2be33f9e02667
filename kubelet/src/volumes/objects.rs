//! Config maps and secrets that pods on this node refer to: each is watched once, however many pods use it, and a
//! change wakes the pods that do.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::pods::env::ObjectError;
use crate::pods::spec;

const FIRST_ANSWER: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    ConfigMap,
    Secret,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    kind: Kind,
    namespace: String,
    name: String,
}

#[derive(Clone, Debug)]
enum State {
    Pending,
    Missing,
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
    Failed(String),
}

struct Entry {
    pods: HashSet<String>,
    state: watch::Receiver<State>,
    task: tokio::task::AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The watched objects.
pub(crate) struct ObjectStore {
    client: Option<kube::Client>,
    entries: Mutex<HashMap<Key, Entry>>,
    /// Told the UIDs of pods whose object changed.
    wake: Box<dyn Fn(&str) + Send + Sync>,
}

/// What a pod's objects are at one moment.
pub(crate) struct Snapshot {
    namespace: String,
    states: HashMap<Key, State>,
}

impl ObjectStore {
    pub(crate) fn new(client: Option<kube::Client>, wake: impl Fn(&str) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { client, entries: Mutex::default(), wake: Box::new(wake) })
    }

    /// The pod's objects; waits a while for those never read before.
    pub(crate) async fn snapshot(self: &Arc<Self>, pod: &Pod) -> Snapshot {
        let keys = references(pod);
        let receivers = self.register(spec::uid(pod), &keys);
        let deadline = tokio::time::Instant::now() + FIRST_ANSWER;
        let mut states = HashMap::new();
        for (key, mut receiver) in receivers {
            let arrived = receiver.wait_for(|state| !matches!(state, State::Pending));
            let state = match tokio::time::timeout_at(deadline, arrived).await {
                Ok(Ok(state)) => state.clone(),
                _ => State::Failed(format!(
                    "failed to sync {} cache: timed out waiting for the condition",
                    kind_name(key.kind)
                )),
            };
            states.insert(key, state);
        }
        Snapshot { namespace: spec::namespace(pod).to_owned(), states }
    }

    fn register(self: &Arc<Self>, uid: &str, keys: &BTreeSet<Key>) -> Vec<(Key, watch::Receiver<State>)> {
        let mut entries = self.entries.lock();
        for (key, entry) in entries.iter_mut() {
            if !keys.contains(key) {
                entry.pods.remove(uid);
            }
        }
        entries.retain(|_, entry| !entry.pods.is_empty());
        let mut receivers = Vec::new();
        for key in keys {
            let entry = entries.entry(key.clone()).or_insert_with(|| self.start(key));
            entry.pods.insert(uid.to_owned());
            receivers.push((key.clone(), entry.state.clone()));
        }
        receivers
    }

    fn start(self: &Arc<Self>, key: &Key) -> Entry {
        let (sender, receiver) = watch::channel(State::Pending);
        let task = match self.client.clone() {
            Some(client) => tokio::spawn(follow(Arc::downgrade(self), client, key.clone(), sender)).abort_handle(),
            None => {
                let _ = sender.send(State::Failed("there is no apiserver to read it from".into()));
                tokio::spawn(async {}).abort_handle()
            }
        };
        Entry { pods: HashSet::new(), state: receiver, task }
    }

    /// A pod needs nothing any more.
    pub(crate) fn forget_pod(&self, uid: &str) {
        let mut entries = self.entries.lock();
        entries.values_mut().for_each(|entry| {
            entry.pods.remove(uid);
        });
        entries.retain(|_, entry| !entry.pods.is_empty());
    }

    fn changed(&self, key: &Key) {
        let pods = self.entries.lock().get(key).map(|entry| entry.pods.clone()).unwrap_or_default();
        pods.iter().for_each(|uid| (self.wake)(uid));
    }
}

async fn follow(store: Weak<ObjectStore>, client: kube::Client, key: Key, sender: watch::Sender<State>) {
    match key.kind {
        Kind::ConfigMap => {
            let api: kube::Api<ConfigMap> = kube::Api::namespaced(client, &key.namespace);
            follow_object(store, api, key, sender, |object| State::ConfigMap(Arc::new(object))).await;
        }
        Kind::Secret => {
            let api: kube::Api<Secret> = kube::Api::namespaced(client, &key.namespace);
            follow_object(store, api, key, sender, |object| State::Secret(Arc::new(object))).await;
        }
    }
}

async fn follow_object<K>(
    store: Weak<ObjectStore>,
    api: kube::Api<K>,
    key: Key,
    sender: watch::Sender<State>,
    wrap: impl Fn(K) -> State,
) where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={}", key.name));
    let mut stream = Box::pin(watcher(api, config).default_backoff());
    let mut listed = None;
    while let Some(event) = stream.next().await {
        let state = match event {
            Ok(watcher::Event::Init) => {
                listed = None;
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed = Some(object);
                continue;
            }
            Ok(watcher::Event::InitDone) => listed.take().map_or(State::Missing, &wrap),
            Ok(watcher::Event::Apply(object)) => wrap(object),
            Ok(watcher::Event::Delete(_)) => State::Missing,
            // What was read before stays good while the apiserver is away.
            Err(error) => match &*sender.borrow() {
                State::Pending | State::Failed(_) => State::Failed(error.to_string()),
                _ => continue,
            },
        };
        sender.send_replace(state);
        match store.upgrade() {
            Some(store) => store.changed(&key),
            None => return,
        }
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::ConfigMap => "configmap",
        Kind::Secret => "secret",
    }
}

impl Snapshot {
    fn get(&self, kind: Kind, name: &str) -> Result<&State, ObjectError> {
        let key = Key { kind, namespace: self.namespace.clone(), name: name.to_owned() };
        match self.states.get(&key) {
            Some(State::Missing) | None => Err(ObjectError::NotFound { kind: kind_name(kind), name: name.to_owned() }),
            Some(State::Failed(message)) => Err(ObjectError::Unavailable(message.clone())),
            Some(state) => Ok(state),
        }
    }
}

impl Snapshot {
    /// A config map of the pod's namespace.
    pub(crate) fn config_map(&self, name: &str) -> Result<Arc<ConfigMap>, ObjectError> {
        match self.get(Kind::ConfigMap, name)? {
            State::ConfigMap(map) => Ok(map.clone()),
            _ => Err(ObjectError::NotFound { kind: "configmap", name: name.to_owned() }),
        }
    }

    /// A secret of the pod's namespace.
    pub(crate) fn secret(&self, name: &str) -> Result<Arc<Secret>, ObjectError> {
        match self.get(Kind::Secret, name)? {
            State::Secret(secret) => Ok(secret.clone()),
            _ => Err(ObjectError::NotFound { kind: "secret", name: name.to_owned() }),
        }
    }
}

fn references(pod: &Pod) -> BTreeSet<Key> {
    let namespace = spec::namespace(pod);
    let mut keys = BTreeSet::new();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            keys.insert(Key { kind, namespace: namespace.to_owned(), name: name.to_owned() });
        }
    };
    let Some(pod_spec) = &pod.spec else { return keys };
    for volume in pod_spec.volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            add(Kind::ConfigMap, &source.name);
        }
        if let Some(source) = &volume.secret {
            add(Kind::Secret, source.secret_name.as_deref().unwrap_or_default());
        }
        for part in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            if let Some(source) = &part.config_map {
                add(Kind::ConfigMap, &source.name);
            }
            if let Some(source) = &part.secret {
                add(Kind::Secret, &source.name);
            }
        }
    }
    for reference in pod_spec.image_pull_secrets.iter().flatten() {
        add(Kind::Secret, &reference.name);
    }
    let ephemeral: Vec<Container> = pod_spec.ephemeral_containers.iter().flatten().map(spec::from_ephemeral).collect();
    for container in pod_spec.init_containers.iter().flatten().chain(&pod_spec.containers).chain(&ephemeral) {
        for source in container.env_from.iter().flatten() {
            if let Some(reference) = &source.config_map_ref {
                add(Kind::ConfigMap, &reference.name);
            }
            if let Some(reference) = &source.secret_ref {
                add(Kind::Secret, &reference.name);
            }
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(key) = &source.config_map_key_ref {
                add(Kind::ConfigMap, &key.name);
            }
            if let Some(key) = &source.secret_key_ref {
                add(Kind::Secret, &key.name);
            }
        }
    }
    keys
}
