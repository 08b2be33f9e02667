//! Deletion waits until nothing uses the object: the loop behind the `*-protection` controllers.
//!
//! An index holds the objects that have something to do: those without the finalizer, and those being deleted
//! that still have it. The queue has their namespaces, so that one look at the server serves all claims that
//! are deleted together.

use std::future::{Future, ready};
use std::sync::Arc;

use common::informer::{Event, Informer, Object, WorkQueue, run_workers};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::apierr;
use super::meta::MetaExt;
use crate::context::{Context, Task};

/// Index of the protected objects that have something to do, by namespace.
const PENDING: &str = "protection";

/// Namespaces with work; cluster-scoped kinds have one, the empty one.
pub(crate) type Queue = Arc<WorkQueue<String>>;

/// What one controller knows of its kind.
pub(crate) trait Guard: Send + Sync + 'static {
    /// The protected kind.
    type Kind: Object + Serialize;
    /// Held while the object is in use.
    const FINALIZER: &'static str;
    /// The service account.
    const IDENTITY: &'static str;
    /// The queue's name in metrics.
    const QUEUE: &'static str;
    /// Living objects get the finalizer here; else admission gives it, and it is only taken away here.
    const ADDS: bool = true;

    /// Where the objects of a namespace are written.
    fn api(client: Client, namespace: &str) -> Api<Self::Kind>;

    /// Does anything in the caches use it?
    fn in_use(&self, object: &Self::Kind) -> bool;

    /// The caches show no user of these objects of a namespace: which are unused indeed? By default, all.
    fn confirm(
        &self,
        _client: &Client,
        _namespace: &str,
        unused: Vec<Arc<Self::Kind>>,
    ) -> impl Future<Output = Result<Vec<Arc<Self::Kind>>, kube::Error>> + Send {
        ready(Ok(unused))
    }
}

/// Sets up the loop. The guard's handlers put namespaces on the queue when a user goes away.
pub(crate) fn start<G: Guard>(ctx: &Context, queue: Queue, guard: G) -> Task {
    let objects = ctx.factory.informer::<G::Kind>();
    let pending = |object: &G::Kind| is_pending(object, G::FINALIZER) && (G::ADDS || object.is_deleting());
    objects.add_index(PENDING, move |object| match pending(object) {
        true => vec![object.ns_str().to_owned()],
        false => Vec::new(),
    });
    let q = queue.clone();
    objects.on_event(move |event| {
        let object = event.object();
        if !matches!(event, Event::Deleted(_)) && pending(object) {
            q.add(object.ns_str().to_owned());
        }
    });
    let shutdown = ctx.shutdown.clone();
    let client = ctx.client(G::IDENTITY);
    let protection = Arc::new(Protection { client, objects, guard, shutdown: shutdown.clone() });
    Box::pin(async move {
        run_workers(G::QUEUE, queue, 1, shutdown, move |namespace: String| {
            let protection = protection.clone();
            async move { protection.sync(&namespace).await }
        })
        .await;
    })
}

struct Protection<G: Guard> {
    client: Client,
    objects: Arc<Informer<G::Kind>>,
    guard: G,
    shutdown: CancellationToken,
}

impl<G: Guard> Protection<G> {
    async fn sync(&self, namespace: &str) -> Result<(), kube::Error> {
        let pending = self.objects.by_index(PENDING, namespace);
        let (mut unused, mut due): (Vec<_>, Vec<_>) = pending.into_iter().partition(|o| o.is_deleting());
        unused.retain(|object| !self.guard.in_use(object));
        if !unused.is_empty() {
            due.extend(self.guard.confirm(&self.client, namespace, unused).await?);
        }
        let api = G::api(self.client.clone(), namespace);
        let mut result = Ok(());
        for object in due {
            if self.shutdown.is_cancelled() {
                break;
            }
            // One that fails holds up no other.
            result = result.and(write(&api, &object, G::FINALIZER).await);
        }
        result
    }
}

async fn write<K: Object + Serialize>(api: &Api<K>, object: &K, finalizer: &str) -> Result<(), kube::Error> {
    let (name, namespace) = (object.name_str(), object.ns_str());
    match api.replace(name, &PostParams::default(), &toggled(object, finalizer)).await {
        Ok(_) => {
            let deleting = object.is_deleting();
            tracing::debug!(namespace, name, finalizer, deleting, "changed the protection finalizer");
            Ok(())
        }
        // The cache is behind; its next event brings the object back here if there is still something to do.
        Err(error) if apierr::is_conflict(&error) || apierr::is_not_found(&error) => Ok(()),
        Err(error) => {
            let reason = apierr::message(&error);
            tracing::warn!(namespace, name, finalizer, reason, "could not change the protection finalizer");
            Err(error)
        }
    }
}

fn has<K: MetaExt>(object: &K, finalizer: &str) -> bool {
    object.meta_ref().finalizers.iter().flatten().any(|f| f == finalizer)
}

/// Living without the finalizer, or being deleted with it.
fn is_pending<K: MetaExt>(object: &K, finalizer: &str) -> bool {
    object.is_deleting() == has(object, finalizer)
}

/// The object without the finalizer if it is being deleted, else with it.
fn toggled<K: Object>(object: &K, finalizer: &str) -> K {
    let mut object = object.clone();
    let deleting = object.is_deleting();
    let finalizers = object.meta_mut().finalizers.get_or_insert_default();
    match deleting {
        true => finalizers.retain(|f| f != finalizer),
        false => finalizers.push(finalizer.to_owned()),
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PersistentVolume;
    use serde_json::json;

    const OURS: &str = "kubernetes.io/pv-protection";

    fn volume(deleting: bool, finalizers: &[&str]) -> PersistentVolume {
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        let metadata = json!({"name": "v", "deletionTimestamp": deleted, "finalizers": finalizers});
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    #[test]
    fn adds_while_living_and_removes_while_dying() {
        let table = [
            (false, &[][..], Some(&[OURS][..])),
            (false, &["other"], Some(&["other", OURS])),
            (false, &[OURS], None),
            (true, &[OURS], Some(&[])),
            (true, &[OURS, "other"], Some(&["other"])),
            (true, &["other"], None),
        ];
        for (deleting, before, after) in table {
            let before = volume(deleting, before);
            let written = is_pending(&before, OURS).then(|| toggled(&before, OURS));
            assert_eq!(written, after.map(|after| volume(deleting, after)), "{before:?}");
        }
    }
}
