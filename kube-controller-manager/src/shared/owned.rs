//! What the workload controllers do alike with their dependants: which owner an event concerns, and adopting and releasing.

use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, Object, WorkQueue, object_key};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams};
use kube::core::{NamespaceResourceScope, Selector};
use kube::{Client, Error, Resource};

use super::batch::CONCURRENT_CALLS;
use super::expectations::Expectations;
use super::meta::MetaExt;
use super::owner::{self, Claim, controller_of, controller_ref};
use super::pod_control::PodControl;
use super::{apierr, pods, selector};

/// Index of dependants by the UID of their controller, or by [`orphan_key`].
pub(crate) const BY_CONTROLLER: &str = "controller-uid";

/// Under this value of [`BY_CONTROLLER`] are the objects of a namespace that nothing controls.
pub(crate) fn orphan_key(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

/// Makes an informer answer who controls what.
pub(crate) fn index_by_controller<D: Object>(informer: &Informer<D>) {
    informer.add_index(BY_CONTROLLER, |object| {
        let meta = object.meta();
        vec![controller_of(meta).map_or_else(|| orphan_key(object.ns_str()), |r| r.uid.clone())]
    });
}

/// A workload: it has a selector, and manages what it selects.
pub(crate) trait Owner: Object + Resource<Scope = NamespaceResourceScope> + serde::Serialize {
    const KIND: &'static str;
    const API_VERSION: &'static str;

    fn selector(&self) -> Result<Selector, String>;
    /// How long a pod must be ready to count as available.
    fn min_ready_seconds(&self) -> i32 {
        0
    }
    /// The reference that a dependant bears.
    fn reference(&self) -> OwnerReference {
        controller_ref(self, Self::API_VERSION, Self::KIND)
    }
}

/// The owners of one kind, their queue, and what they wait to see.
pub(crate) struct Owners<K> {
    pub(crate) cache: Arc<Informer<K>>,
    pub(crate) queue: Arc<WorkQueue<String>>,
    pub(crate) expectations: Expectations,
}

impl<K: Owner> Owners<K> {
    pub(crate) fn new(cache: Arc<Informer<K>>, queue: &str) -> Self {
        Self { cache, queue: WorkQueue::new(queue), expectations: Expectations::default() }
    }

    /// What is the owner's, and the orphans of its namespace.
    pub(crate) fn candidates<D: Object>(owner: &K, dependants: &Informer<D>) -> Vec<Arc<D>> {
        let mut all = dependants.by_index(BY_CONTROLLER, owner.uid_str());
        all.extend(dependants.by_index(BY_CONTROLLER, &orphan_key(owner.ns_str())));
        all
    }

    /// The owner that a reference points at, if it is of this kind and still the same object.
    pub(crate) fn resolve(&self, namespace: &str, reference: &OwnerReference) -> Option<Arc<K>> {
        if reference.kind != K::KIND {
            return None;
        }
        self.cache.get(namespace, &reference.name).filter(|owner| owner.uid_str() == reference.uid)
    }

    /// The owner of an object.
    pub(crate) fn owner_of(&self, meta: &ObjectMeta) -> Option<Arc<K>> {
        self.resolve(meta.namespace.as_deref().unwrap_or(""), controller_of(meta)?)
    }

    /// Puts the owner of an object on the queue.
    pub(crate) fn enqueue_owner(&self, meta: &ObjectMeta) {
        if let Some(owner) = self.owner_of(meta) {
            self.queue.add(object_key(&*owner));
        }
    }

    /// Puts those on the queue that might adopt this orphan.
    pub(crate) fn enqueue_selecting(&self, meta: &ObjectMeta) {
        for owner in self.cache.list_namespace(meta.namespace.as_deref().unwrap_or("")) {
            if owner.selector().is_ok_and(|s| !s.selects_all() && selector::selects(&s, meta)) {
                self.queue.add(object_key(&*owner));
            }
        }
    }

    /// Every change of an owner is a reason to look at it.
    pub(crate) fn on_owner(&self, event: &Event<K>) {
        match event {
            Event::Updated { old, new } if old.uid_str() != new.uid_str() => {
                self.expectations.forget(&object_key(&**new));
            }
            Event::Deleted(owner) => self.expectations.forget(&object_key(&**owner)),
            _ => {}
        }
        self.queue.add(object_key(&**event.object()));
    }

    /// Changes of dependants that are only looked up, such as revisions.
    pub(crate) fn on_dependant<D: Object>(&self, event: &Event<D>) {
        let new = event.object().meta();
        let (mut relabelled, mut released) = (true, false);
        if let Event::Updated { old, .. } = event {
            let old = old.meta();
            relabelled = old.labels != new.labels;
            released = controller_of(old) != controller_of(new);
            if released {
                self.enqueue_owner(old);
            }
        }
        match (controller_of(new), event) {
            // As upstream: who finds a new one of its own made it, or need not know yet.
            (Some(_), Event::Added(_)) => {}
            (Some(_), _) => self.enqueue_owner(new),
            (None, Event::Deleted(_)) => {}
            (None, _) if relabelled || released => self.enqueue_selecting(new),
            _ => {}
        }
    }

    /// Changes of pods, which also answer expectations.
    pub(crate) fn on_pod(&self, event: &Event<Pod>) {
        match event {
            Event::Added(pod) if pod.is_deleting() => self.pod_gone(pod),
            Event::Added(pod) => match controller_of(&pod.metadata) {
                Some(reference) => {
                    if let Some(owner) = self.resolve(pod.ns_str(), reference) {
                        let key = object_key(&*owner);
                        self.expectations.creation_observed(&key);
                        self.queue.add(key);
                    }
                }
                None => self.enqueue_selecting(&pod.metadata),
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
        if was.is_some() && was != is {
            self.enqueue_owner(&old.metadata);
        }
        match is {
            Some(reference) => {
                let Some(owner) = self.resolve(new.ns_str(), reference) else { return };
                let key = object_key(&*owner);
                self.queue.add(key.clone());
                let min_ready = u64::try_from(owner.min_ready_seconds()).unwrap_or(0);
                if !pods::is_ready(old) && pods::is_ready(new) && min_ready > 0 {
                    // One second more, because the condition's time is rounded down.
                    self.queue.add_after(key, Duration::from_secs(min_ready + 1));
                }
            }
            None if labels_changed || was.is_some() => self.enqueue_selecting(&new.metadata),
            None => {}
        }
    }

    /// Deletes pods whose deletion is expected already.
    pub(crate) async fn delete_pods(
        &self,
        control: &PodControl,
        key: &str,
        owner: &ObjectReference,
        victims: Vec<Arc<Pod>>,
    ) -> Result<(), Error> {
        let calls = victims.into_iter().map(|pod| async move {
            let result = control.delete(&pod, owner).await;
            if result.is_err() {
                self.expectations.deletion_observed(key, &pods::uid_key(&pod));
            }
            apierr::ignore_not_found(result)
        });
        let results: Vec<_> = stream::iter(calls).buffer_unordered(CONCURRENT_CALLS).collect().await;
        results.into_iter().collect()
    }

    fn pod_gone(&self, pod: &Pod) {
        let Some(owner) = self.owner_of(&pod.metadata) else { return };
        let key = object_key(&*owner);
        self.expectations.deletion_observed(&key, &pods::uid_key(pod));
        self.queue.add(key);
    }
}

/// Of the candidates those that are the owner's after adopting and releasing; what was adopted is as the server answered.
/// `finalizer` is put on what is adopted and taken from what is released.
pub(crate) async fn claim<K: Owner, D>(
    client: &Client,
    owner: &K,
    candidates: Vec<Arc<D>>,
    matches: impl Fn(&D) -> bool,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<D>>, Error>
where
    D: Object + Resource<Scope = NamespaceResourceScope>,
{
    let api: Api<D> = Api::namespaced(client.clone(), owner.ns_str());
    let (mut mine, mut may_adopt) = (Vec::new(), None);
    for object in candidates {
        let (adopting, mut patch) = match owner::claim(owner.meta(), object.meta(), matches(&object)) {
            Claim::Keep => {
                mine.push(object);
                continue;
            }
            Claim::Ignore => continue,
            Claim::Release => (false, owner::release_patch(object.meta(), owner.uid_str())),
            Claim::Adopt => {
                if may_adopt.is_none() {
                    may_adopt = Some(lives(client, owner).await?);
                }
                if may_adopt == Some(false) {
                    continue;
                }
                (true, owner::adopt_patch(object.meta(), &owner.reference()))
            }
        };
        if let Some(finalizer) = finalizer {
            let list = if adopting { "finalizers" } else { "$deleteFromPrimitiveList/finalizers" };
            patch["metadata"][list] = serde_json::json!([finalizer]);
        }
        match api.patch(object.name_str(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(adopted) if adopting => mine.push(Arc::new(adopted)),
            Ok(_) => {}
            // It is gone, or another object by now.
            Err(error) if apierr::is_not_found(&error) || apierr::is_invalid(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(mine)
}

/// Asks the server, not the cache: is this owner still there and not being deleted?
async fn lives<K: Owner>(client: &Client, owner: &K) -> Result<bool, Error> {
    let api: Api<K> = Api::namespaced(client.clone(), owner.ns_str());
    let fresh = api.get_opt(owner.name_str()).await?;
    Ok(fresh.is_some_and(|f| f.uid_str() == owner.uid_str() && !f.is_deleting()))
}
