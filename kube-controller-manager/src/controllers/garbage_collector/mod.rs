//! `garbage-collector-controller`: deletes what has lost its owners, in the background, in the foreground
//! or not at all, as the deletion of the owner asked for.
//!
//! [`graph`] holds identities and references only; every decision to delete is checked against the server.

mod absent;
mod api;
mod graph;
mod monitors;
mod worker;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::informer::{WorkQueue, run_workers};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use self::graph::{Effects, Graph, Identity, Observed, Uid};
use self::monitors::Monitors;
use crate::context::{Context, Task};
use crate::events::Events;
use crate::shared::discovery::{self, Served};

/// New kinds (custom resources) are found within this time.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("generic-garbage-collector");
    let collector = Arc::new(Collector {
        events: ctx.events(&client, "garbage-collector-controller"),
        client,
        graph: Mutex::default(),
        kinds: RwLock::default(),
        monitors: Monitors::default(),
        delete: WorkQueue::new("garbage_collector_attempt_to_delete"),
        orphan: WorkQueue::new("garbage_collector_attempt_to_orphan"),
        shutdown: ctx.shutdown.clone(),
    });
    let (enabled, workers) = (ctx.options.enable_garbage_collector, ctx.options.concurrent_gc_syncs);
    Ok(Box::pin(async move {
        if enabled {
            collector.run(workers).await;
        }
    }))
}

pub(super) struct Collector {
    client: Client,
    events: Events,
    graph: Mutex<Graph>,
    /// Served resources by group and kind.
    kinds: RwLock<HashMap<(String, String), Served>>,
    monitors: Monitors,
    delete: Arc<WorkQueue<Uid>>,
    orphan: Arc<WorkQueue<Uid>>,
    shutdown: CancellationToken,
}

impl Collector {
    async fn run(self: Arc<Self>, workers: usize) {
        let this = self.clone();
        let refresh = tokio::spawn(async move { this.keep_monitors().await });
        let this = self.clone();
        let start = async move {
            // The first discovery must be through, or "no monitors" would count as "all in sync".
            while this.kinds.read().is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if !this.monitors.wait(DISCOVERY_PERIOD).await {
                tracing::warn!("not every resource could be listed; collecting with what is known");
            }
        };
        tokio::select! { () = self.shutdown.cancelled() => return, () = start => {} }
        let (this, queue) = (self.clone(), self.delete.clone());
        let deleting = run_workers("garbage_collector_attempt_to_delete", queue, workers, self.shutdown.clone(), {
            move |uid: Uid| {
                let this = this.clone();
                async move { this.attempt_to_delete(&uid).await }
            }
        });
        let (this, queue) = (self.clone(), self.orphan.clone());
        let orphaning = run_workers("garbage_collector_attempt_to_orphan", queue, workers, self.shutdown.clone(), {
            move |uid: Uid| {
                let this = this.clone();
                async move { this.attempt_to_orphan(&uid).await }
            }
        });
        tokio::join!(deleting, orphaning);
        refresh.abort();
    }

    /// Follows what the server serves.
    async fn keep_monitors(self: Arc<Self>) {
        let mut wait = Duration::from_secs(1);
        while !self.shutdown.is_cancelled() {
            match discovery::discover(&self.client).await {
                Ok(found) => {
                    let complete = found.failed.is_empty() && !found.resources.is_empty();
                    let key = |r: &Served| (r.group.clone(), r.kind.clone());
                    *self.kinds.write() = found.resources.iter().map(|r| (key(r), r.clone())).collect();
                    let wanted: HashSet<Served> = found.resources.into_iter().filter(is_collectable).collect();
                    self.monitors.sync(&self, wanted, complete);
                    wait = DISCOVERY_PERIOD;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot discover what the server serves");
                    wait = (wait * 2).min(DISCOVERY_PERIOD);
                }
            }
            tokio::select! { () = self.shutdown.cancelled() => {}, () = tokio::time::sleep(wait) => {} }
        }
    }

    fn observe(&self, observed: Observed) {
        let effects = self.graph.lock().observe(observed);
        self.follow(effects);
    }

    fn remove(&self, uid: &str) {
        let effects = self.graph.lock().remove(uid);
        self.follow(effects);
    }

    fn verified_absent(&self, identity: &Identity) {
        let effects = self.graph.lock().verified_absent(identity);
        self.follow(effects);
    }

    fn follow(&self, effects: Effects) {
        effects.delete.into_iter().for_each(|uid| self.delete.add(uid));
        effects.delete_later.into_iter().for_each(|uid| self.delete.add_rate_limited(uid));
        effects.orphan.into_iter().for_each(|uid| self.orphan.add(uid));
        for (dependent, owner) in effects.wrong_namespace {
            let message = format!(
                "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace \"{}\"",
                owner.api_version, owner.kind, owner.namespace, owner.name, owner.uid, dependent.namespace
            );
            self.events.warning(&reference(&dependent), "OwnerRefInvalidNamespace", message);
        }
    }
}

/// Events expire by themselves and nobody owns through them.
fn is_collectable(resource: &Served) -> bool {
    let is_event = resource.plural == "events" && matches!(resource.group.as_str(), "" | "events.k8s.io");
    !is_event && ["delete", "list", "watch"].iter().all(|verb| resource.has(verb))
}

fn reference(identity: &Identity) -> ObjectReference {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    ObjectReference {
        api_version: text(&identity.api_version),
        kind: text(&identity.kind),
        namespace: text(&identity.namespace),
        name: text(&identity.name),
        uid: text(&identity.uid),
        ..ObjectReference::default()
    }
}
