//! Metadata-only watches over every deletable resource; what they see goes into the graph.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Collector;
use super::graph::{Identity, Observed, Owner, Uid};
use crate::shared::discovery::Served;
use crate::shared::meta::MetaExt;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

const FIRST_DELAY: Duration = Duration::from_millis(200);

/// One running watch.
struct Monitor {
    stop: CancellationToken,
    synced: Arc<AtomicBool>,
}

/// All running watches by resource.
#[derive(Default)]
pub(super) struct Monitors {
    running: Mutex<HashMap<Served, Monitor>>,
    progress: Notify,
}

impl Monitors {
    /// Starts what is new and stops what is no longer served. Resources of failed groups keep their watch.
    pub(super) fn sync(&self, collector: &Arc<Collector>, wanted: HashSet<Served>, complete: bool) {
        let mut running = self.running.lock();
        if complete {
            running.retain(|resource, monitor| {
                let keep = wanted.contains(resource);
                if !keep {
                    monitor.stop.cancel();
                }
                keep
            });
        }
        for resource in wanted {
            running.entry(resource.clone()).or_insert_with(|| {
                let monitor = Monitor { stop: collector.shutdown.child_token(), synced: Arc::default() };
                let (stop, synced) = (monitor.stop.clone(), monitor.synced.clone());
                tokio::spawn(watch(collector.clone(), resource, stop, synced));
                monitor
            });
        }
    }

    /// Waits until every watch has delivered its first list, or the time is over.
    pub(super) async fn wait(&self, limit: Duration) -> bool {
        let all = async {
            loop {
                let changed = self.progress.notified();
                if self.running.lock().values().all(|m| m.synced.load(Ordering::Acquire)) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, all).await.is_ok()
    }
}

async fn watch(collector: Arc<Collector>, resource: Served, stop: CancellationToken, synced: Arc<AtomicBool>) {
    let client: Client = collector.client.clone();
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &resource.api_resource());
    let config = watcher::Config::default().any_semantic().page_size(500);
    let mut stream = watcher::watcher(api, config).boxed();
    let names = Names { api_version: resource.api_version().into(), kind: resource.kind.clone().into() };
    let mut seen: HashSet<Uid> = HashSet::new();
    let mut delay = FIRST_DELAY;
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = stream.next() => event,
        };
        match event {
            None => return,
            Some(Ok(event)) => {
                // A list that begins has not succeeded yet.
                if !matches!(event, Event::Init) {
                    delay = FIRST_DELAY;
                }
                if step(&collector, &names, &mut seen, event) {
                    synced.store(true, Ordering::Release);
                    collector.monitors.progress.notify_waiters();
                }
            }
            Some(Err(error)) => {
                tracing::warn!(
                    resource = resource.plural,
                    group = resource.group,
                    error = common::client::brief(&error),
                    "watch failed; retrying"
                );
                if is_absent(&error) {
                    // Discovered but not served: nobody need wait for it.
                    synced.store(true, Ordering::Release);
                    collector.monitors.progress.notify_waiters();
                }
                tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(delay) => {} }
                delay = (delay * 2).min(Duration::from_secs(30));
            }
        }
    }
}

fn is_absent(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if matches!(status.code, 404 | 405))
}

struct Names {
    api_version: Arc<str>,
    kind: Arc<str>,
}

/// Applies one event; true at the end of a list.
fn step(
    collector: &Collector,
    names: &Names,
    seen: &mut HashSet<Uid>,
    event: Event<PartialObjectMeta<DynamicObject>>,
) -> bool {
    match event {
        Event::Init => seen.clear(),
        Event::InitApply(object) => {
            let observed = observed(names, &object);
            seen.insert(observed.identity.uid.clone());
            collector.observe(observed);
        }
        Event::InitDone => {
            let known = collector.graph.lock().observed_of(&names.api_version, &names.kind);
            for gone in known.into_iter().filter(|uid| !seen.contains(uid)) {
                collector.remove(&gone);
            }
            *seen = HashSet::new();
            return true;
        }
        Event::Apply(object) => collector.observe(observed(names, &object)),
        Event::Delete(object) => collector.remove(object.uid_str()),
    }
    false
}

fn observed(names: &Names, object: &PartialObjectMeta<DynamicObject>) -> Observed {
    let meta = &object.metadata;
    let owners = meta.owner_references.as_deref().unwrap_or(&[]);
    let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
    Observed {
        identity: Identity {
            kind: names.kind.clone(),
            api_version: names.api_version.clone(),
            namespace: object.ns_str().into(),
            name: object.name_str().into(),
            uid: object.uid_str().into(),
        },
        owners: owners.iter().map(owner).collect(),
        deleting: object.is_deleting(),
        foreground: has(FOREGROUND),
        orphan: has(ORPHAN),
    }
}

pub(super) fn owner(reference: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference) -> Owner {
    Owner {
        api_version: reference.api_version.as_str().into(),
        kind: reference.kind.as_str().into(),
        name: reference.name.as_str().into(),
        uid: reference.uid.as_str().into(),
        blocks: reference.block_owner_deletion.unwrap_or(false),
    }
}
