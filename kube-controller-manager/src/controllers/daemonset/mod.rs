//! `daemonset-controller`: one pod on every node that fits, replaced node by node when the template changes.

mod placement;
mod plan;
#[cfg(test)]
mod plan_tests;
mod revisions;
mod rolling;
mod status;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, PostParams};
use kube::core::Selector;

use self::placement::Placement;
use self::plan::{Changes, PodsByNode, View};
use self::revisions::Revisions;
use crate::context::{Context, Task};
use crate::controllers::node_lifecycle::{BY_NODE, index_pods};
use crate::events::reference;
use crate::shared::backoff::Backoff;
use crate::shared::batch::slow_start_over;
use crate::shared::consistency::{Consistency, LOOK_AGAIN};
use crate::shared::history::REVISION_LABEL;
use crate::shared::meta::{MetaExt, now};
use crate::shared::owned::{self, Owner, Owners, index_by_controller};
use crate::shared::owner::controller_of;
use crate::shared::pod_control::{PodControl, pod_from_template};
use crate::shared::{apierr, pods, selector};

/// More than this many pods are not created or deleted in one run.
const BURST: usize = 250;
/// Failed pods of a node are replaced after 1 s, 2 s, ... 15 min: their kubelet may refuse every one.
const FAILED_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15 * 60));

impl Owner for DaemonSet {
    const KIND: &'static str = "DaemonSet";
    const API_VERSION: &'static str = "apps/v1";

    fn selector(&self) -> Result<Selector, String> {
        selector::compile(&self.spec.as_ref().ok_or("no spec")?.selector)
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("daemon-set-controller");
    let pods = ctx.factory.informer::<Pod>();
    index_by_controller(&pods);
    index_pods(&pods);
    let revisions = ctx.factory.informer::<ControllerRevision>();
    index_by_controller(&revisions);
    let controller = Arc::new(Controller {
        control: PodControl { client: client.clone(), events: ctx.events(&client, "daemonset-controller") },
        owners: Owners::new(ctx.factory.informer(), "daemonset"),
        nodes: ctx.factory.informer(),
        pods: pods.clone(),
        revisions: revisions.clone(),
        node_queue: WorkQueue::new("daemonset-node-updates"),
        consistency: Consistency::new("daemonset_controller"),
        failed: Backoff::new(FAILED_BACKOFF.0, FAILED_BACKOFF.1),
    });
    let c = controller.clone();
    controller.owners.cache.on_event(move |event| c.owners.on_owner(event));
    let c = controller.clone();
    pods.on_event(move |event| c.owners.on_pod(event));
    let c = controller.clone();
    revisions.on_event(move |event| c.owners.on_dependant(event));
    let c = controller.clone();
    controller.nodes.on_event(move |event| c.on_node(event));
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.concurrent_daemonset_syncs);
    Ok(Box::pin(async move {
        let (queue, node_queue) = (controller.owners.queue.clone(), controller.node_queue.clone());
        let for_nodes = controller.clone();
        let syncs = run_workers("daemonset", queue, workers, shutdown.clone(), move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        });
        let nodes = run_workers("daemonset-node-updates", node_queue, workers, shutdown, move |node: String| {
            for_nodes.sync_node(&node);
            async { Ok::<(), std::convert::Infallible>(()) }
        });
        futures::join!(syncs, nodes);
    }))
}

struct Controller {
    control: PodControl,
    owners: Owners<DaemonSet>,
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    revisions: Arc<Informer<ControllerRevision>>,
    node_queue: Arc<WorkQueue<String>>,
    consistency: Consistency,
    failed: Backoff,
}

impl Controller {
    /// Only labels and taints of a node decide; its heartbeats cost nothing.
    fn on_node(&self, event: &Event<Node>) {
        let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone());
        match event {
            Event::Added(node) => self.node_queue.add(node.name_str().to_owned()),
            Event::Updated { old, new } if old.metadata.labels != new.metadata.labels || taints(old) != taints(new) => {
                self.node_queue.add(new.name_str().to_owned());
            }
            _ => {}
        }
    }

    /// Wakes the DaemonSets for which the node has come to mean something else.
    fn sync_node(&self, name: &str) {
        let Some(node) = self.nodes.get("", name) else { return };
        let on_node = self.pods.by_index(BY_NODE, name);
        for ds in self.owners.cache.list() {
            let fit = Placement::new(&ds).fit(&node);
            let is_ours = |p: &&Arc<Pod>| {
                p.ns_str() == ds.ns_str()
                    && controller_of(&p.metadata).is_some_and(|r| r.kind == DaemonSet::KIND && r.name == ds.name_str())
            };
            let scheduled = on_node.iter().any(|p| is_ours(&p));
            let misscheduled = ds.status.as_ref().is_some_and(|s| s.number_misscheduled > 0);
            if (fit.should_run && !scheduled) || (scheduled && (!fit.may_stay || misscheduled)) {
                self.owners.queue.add(object_key(&*ds));
            }
        }
    }

    async fn sync(&self, key: &str) -> Result<(), kube::Error> {
        let caught_up = self.consistency.seen(key, &self.owners.cache)
            && self.consistency.seen(key, &self.pods)
            && self.consistency.seen(key, &self.revisions);
        if !caught_up {
            self.owners.queue.add_after(key.to_owned(), LOOK_AGAIN);
            return Ok(());
        }
        let (namespace, name) = split_key(key);
        let Some(ds) = self.owners.cache.get(namespace, name) else {
            self.owners.expectations.forget(key);
            self.consistency.forget(key);
            return Ok(());
        };
        let selector = match ds.selector() {
            Ok(selector) if selector.selects_all() => {
                let message = "This daemon set is selecting all pods. A non-empty selector is required.";
                self.control.events.warning(&reference(&*ds), "SelectingAll", message.into());
                return Ok(());
            }
            Ok(selector) => selector,
            Err(error) => {
                tracing::error!(key, %error, "invalid selector");
                return Ok(());
            }
        };
        if ds.is_deleting() {
            return Ok(());
        }
        let matches = |pod: &Pod| selector::selects(&selector, &pod.metadata);
        let candidates = Owners::candidates(&*ds, &self.pods);
        let pods = owned::claim(&self.control.client, &*ds, candidates, matches, None).await?;
        let revisions = self.revisions(key, &ds, &selector, &pods).await?;
        let nodes = self.nodes.list();
        let placement = Placement::new(&ds);
        let view = View { ds: &ds, hash: revisions.hash(), placement, nodes: &nodes, now: now() };
        let by_node = plan::by_node(&pods, false);
        let may_act = self.owners.expectations.satisfied(key);
        let result = match may_act {
            true => self.update(key, &view, &by_node, &revisions, &pods).await,
            false => Ok(()),
        };
        let written = self.write_status(key, &view, &by_node, may_act).await;
        result.and(written)
    }

    async fn update(
        &self,
        key: &str,
        view: &View<'_>,
        by_node: &PodsByNode,
        revisions: &Revisions,
        pods: &[Arc<Pod>],
    ) -> Result<(), kube::Error> {
        let ds = view.ds;
        let observed = ds.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        let failed = |node: &str| self.failed.attempt(&format!("{}/{observed}/{node}", ds.uid_str()), Instant::now());
        let changes = view.manage(by_node, failed);
        for (pod, node) in &changes.finished {
            self.tell_finished(ds, pod, node);
        }
        if let Some(delay) = changes.retry_after {
            self.owners.queue.add_after(key.to_owned(), delay);
        }
        self.apply(key, view, changes).await?;
        let strategy = ds.spec.as_ref().and_then(|s| s.update_strategy.as_ref()?.type_.as_deref());
        if strategy == Some("RollingUpdate") && self.owners.expectations.satisfied(key) {
            match view.roll(by_node) {
                Ok(changes) => self.apply(key, view, changes).await?,
                Err(error) => tracing::error!(key, %error, "invalid update strategy"),
            }
        }
        self.clean_up(ds, revisions, pods).await
    }

    fn tell_finished(&self, ds: &DaemonSet, pod: &Pod, node: &str) {
        let name = format!("{}/{}", pod.ns_str(), pod.name_str());
        let (about, events) = (reference(ds), &self.control.events);
        if pods::phase(pod) == "Failed" {
            let message = format!("Found failed daemon pod {name} on node {node}, will try to kill it");
            events.warning(&about, "FailedDaemonPod", message);
        } else {
            let message = format!("Found succeeded daemon pod {name} on node {node}, will try to delete it");
            events.normal(&about, "SucceededDaemonPod", message);
        }
    }

    /// Creates and deletes, expecting to see it in the cache.
    async fn apply(&self, key: &str, view: &View<'_>, mut changes: Changes) -> Result<(), kube::Error> {
        if changes.create.is_empty() && changes.delete.is_empty() {
            return Ok(());
        }
        changes.create.truncate(BURST);
        changes.delete.truncate(BURST);
        let expectations = &self.owners.expectations;
        expectations.expect(key, changes.create.len(), changes.delete.iter().map(|p| pods::uid_key(p)));
        let owner = reference(view.ds);
        let template = daemon_pod(view);
        let (created, result) = slow_start_over(&changes.create, |node| {
            let mut pod = template.clone();
            if let Some(spec) = &mut pod.spec {
                placement::pin(spec, node);
            }
            let owner = &owner;
            async move {
                match self.control.create(view.ds.ns_str(), &pod, owner).await {
                    Ok(pod) => {
                        self.consistency.wrote(key, &pod);
                        Ok(())
                    }
                    // Nothing more can be created here; the set goes with its namespace.
                    Err(error) if apierr::is_namespace_terminating(&error) => Ok(()),
                    Err(error) => Err(error),
                }
            }
        })
        .await;
        for _ in created..changes.create.len() {
            expectations.creation_observed(key);
        }
        let deleted = self.owners.delete_pods(&self.control, key, &owner, changes.delete).await;
        result.and(deleted)
    }

    async fn write_status(
        &self,
        key: &str,
        view: &View<'_>,
        by_node: &PodsByNode,
        observed: bool,
    ) -> Result<(), kube::Error> {
        let ds = view.ds;
        let new = status::calculate(view, by_node, observed);
        let waiting = new.number_available.unwrap_or(0) != new.number_ready;
        if !status::is_current(&ds.status.clone().unwrap_or_default(), &new, ds.generation()) {
            let api: Api<DaemonSet> = Api::namespaced(self.control.client.clone(), ds.ns_str());
            let mut object = ds.clone();
            object.status = Some(new.clone());
            let mut written = api.replace_status(ds.name_str(), &PostParams::default(), &object).await;
            if let Err(error) = &written
                && apierr::is_conflict(error)
            {
                object = api.get(ds.name_str()).await?;
                let collisions = object.status.as_ref().and_then(|s| s.collision_count);
                object.status = Some(new);
                if let Some(status) = &mut object.status {
                    status.collision_count = collisions;
                }
                written = api.replace_status(ds.name_str(), &PostParams::default(), &object).await;
            }
            self.consistency.wrote(key, &written?);
        }
        let min_ready = u64::try_from(ds.min_ready_seconds()).unwrap_or(0);
        if min_ready > 0 && waiting {
            // Guards against clocks that differ; the event of the pod came back on time otherwise.
            self.owners.queue.add_after(key.to_owned(), Duration::from_secs(min_ready));
        }
        Ok(())
    }
}

/// The pod of the current template, for any node.
fn daemon_pod(view: &View<'_>) -> Pod {
    let ds = view.ds;
    let template = ds.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = pod_from_template(&template, ds.ns_str(), ds.name_str(), ds.reference());
    let labels = pod.metadata.labels.get_or_insert_default();
    if let Some(generation) = plan::template_generation(ds) {
        labels.insert(plan::GENERATION_LABEL.to_owned(), generation.to_string());
    }
    if !view.hash.is_empty() {
        labels.insert(REVISION_LABEL.to_owned(), view.hash.to_owned());
    }
    if let Some(spec) = &mut pod.spec {
        placement::add_tolerations(spec.tolerations.get_or_insert_default(), spec.host_network.unwrap_or(false));
    }
    pod
}
