//! `replicaset-controller` and `replicationcontroller-controller`: keep as many pods as the set asks for.
//!
//! Events on sets and pods put the set's key on the queue; [`sync`] compares and acts. Between asking
//! the server for pods and seeing them in the cache, [`Expectations`] hold the set back.

pub(crate) mod kinds;
mod status;
mod sync;

use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use self::kinds::ReplicaKind;
use crate::context::{Context, Task};
use crate::shared::expectations::Expectations;
use crate::shared::meta::MetaExt;
use crate::shared::owner::controller_of;
use crate::shared::pod_control::PodControl;
use crate::shared::{pods, selector};

/// Index of pods by the UID of their controller, or by [`orphan_key`].
pub(crate) const BY_CONTROLLER: &str = "controller-uid";

/// Under this value of [`BY_CONTROLLER`] are the pods of a namespace that nothing controls.
pub(crate) fn orphan_key(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

/// Makes the pod informer answer who controls what.
pub(crate) fn index_pods(pods: &Informer<Pod>) {
    pods.add_index(BY_CONTROLLER, |pod| {
        vec![controller_of(&pod.metadata).map_or_else(|| orphan_key(pod.ns_str()), |r| r.uid.clone())]
    });
}

/// Sets up `replicaset-controller`.
pub(crate) fn start_replicaset(ctx: &Context) -> anyhow::Result<Task> {
    start::<ReplicaSet>(ctx, "replicaset-controller", "replicaset", ctx.options.concurrent_replicaset_syncs)
}

/// Sets up `replicationcontroller-controller`.
pub(crate) fn start_replication(ctx: &Context) -> anyhow::Result<Task> {
    let workers = ctx.options.concurrent_rc_syncs;
    start::<ReplicationController>(ctx, "replication-controller", "replicationmanager", workers)
}

fn start<K: ReplicaKind>(
    ctx: &Context,
    identity: &str,
    queue_name: &'static str,
    workers: usize,
) -> anyhow::Result<Task> {
    let client = ctx.client(identity);
    let sets = ctx.factory.informer::<K>();
    let pods = ctx.factory.informer::<Pod>();
    index_pods(&pods);
    let controller = Arc::new(Controller {
        control: PodControl { client: client.clone(), events: ctx.events(&client, identity) },
        sets: sets.clone(),
        pods: pods.clone(),
        expectations: Expectations::default(),
        queue: WorkQueue::new(queue_name),
    });
    let c = controller.clone();
    sets.on_event(move |event| c.on_set(event));
    let c = controller.clone();
    pods.on_event(move |event| c.on_pod(event));
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        let queue = controller.queue.clone();
        run_workers(queue_name, queue, workers, shutdown, move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        })
        .await;
    }))
}

/// One instance per kind.
struct Controller<K> {
    control: PodControl,
    sets: Arc<Informer<K>>,
    pods: Arc<Informer<Pod>>,
    expectations: Expectations,
    queue: Arc<WorkQueue<String>>,
}

impl<K: ReplicaKind> Controller<K> {
    fn on_set(&self, event: &Event<K>) {
        match event {
            Event::Added(set) => self.queue.add(object_key(&**set)),
            Event::Updated { old, new } => {
                if old.uid_str() != new.uid_str() {
                    self.expectations.forget(&object_key(&**old));
                }
                self.queue.add(object_key(&**new));
            }
            Event::Deleted(set) => {
                self.expectations.forget(&object_key(&**set));
                self.queue.add(object_key(&**set));
            }
        }
    }

    fn on_pod(&self, event: &Event<Pod>) {
        match event {
            Event::Added(pod) if pod.is_deleting() => self.pod_gone(pod),
            Event::Added(pod) => match controller_of(&pod.metadata) {
                Some(reference) => {
                    if let Some(set) = self.resolve(pod.ns_str(), reference) {
                        let key = object_key(&*set);
                        self.expectations.creation_observed(&key);
                        self.queue.add(key);
                    }
                }
                None => self.enqueue_selecting(pod),
            },
            Event::Updated { old, new } => self.pod_updated(old, new),
            Event::Deleted(pod) => self.pod_gone(pod),
        }
    }

    fn pod_updated(&self, old: &Pod, new: &Pod) {
        let labels_changed = old.metadata.labels != new.metadata.labels;
        if new.is_deleting() {
            // A pod that is going counts as gone: its replacement need not wait for the kubelet.
            self.pod_gone(new);
            if labels_changed {
                self.pod_gone(old);
            }
            return;
        }
        let (was, is) = (controller_of(&old.metadata), controller_of(&new.metadata));
        if let Some(reference) = was.filter(|_| was != is)
            && let Some(set) = self.resolve(old.ns_str(), reference)
        {
            self.queue.add(object_key(&*set));
        }
        match is {
            Some(reference) => {
                let Some(set) = self.resolve(new.ns_str(), reference) else { return };
                let key = object_key(&*set);
                self.queue.add(key.clone());
                let min_ready = u64::try_from(set.min_ready_seconds()).unwrap_or(0);
                if !pods::is_ready(old) && pods::is_ready(new) && min_ready > 0 {
                    // One second more, because the condition's time is rounded down.
                    self.queue.add_after(key, Duration::from_secs(min_ready + 1));
                }
            }
            None if labels_changed || was.is_some() => self.enqueue_selecting(new),
            None => {}
        }
    }

    fn pod_gone(&self, pod: &Pod) {
        let Some(reference) = controller_of(&pod.metadata) else { return };
        let Some(set) = self.resolve(pod.ns_str(), reference) else { return };
        let key = object_key(&*set);
        self.expectations.deletion_observed(&key, &pods::uid_key(pod));
        self.queue.add(key);
    }

    /// The set that a reference points at, if it is of this kind and still the same object.
    fn resolve(&self, namespace: &str, reference: &OwnerReference) -> Option<Arc<K>> {
        if reference.kind != K::KIND {
            return None;
        }
        self.sets.get(namespace, &reference.name).filter(|set| set.uid_str() == reference.uid)
    }

    /// Sets that might adopt this orphan.
    fn enqueue_selecting(&self, pod: &Pod) {
        for set in self.sets.list_namespace(pod.ns_str()) {
            if set.selector().is_ok_and(|s| !s.selects_all() && selector::selects(&s, &pod.metadata)) {
                self.queue.add(object_key(&*set));
            }
        }
    }
}
