//! `cloud-node-controller`: tells new nodes what the cloud knows of their machine and takes away the taint that keeps
//! pods off until then; later keeps their addresses.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use common::events::{EventType, Recorder, object_reference};
use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::nodes::{self, UNINITIALIZED};
use crate::context::{Context, Task};
use crate::provider::{InstanceMetadata, Instances, ProviderError};
use crate::{apierr, metrics};

/// Why a node is not in line yet.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("failed to get instance metadata for node {0}: {1}")]
    Metadata(String, ProviderError),
    #[error("failed to get node modifiers from cloud provider: {0}")]
    Machine(String),
    #[error("failed to write the node: {}", apierr::message(.0))]
    Write(kube::Error),
}

impl From<kube::Error> for SyncError {
    fn from(error: kube::Error) -> Self {
        Self::Write(error)
    }
}

struct Controller {
    client: Client,
    instances: Arc<dyn Instances>,
    nodes: Arc<Informer<Node>>,
    queue: Arc<WorkQueue<String>>,
    events: Recorder,
}

/// Sets up the controller; nothing without instances.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Option<Task>> {
    let Some(instances) = ctx.provider.instances() else {
        tracing::warn!("cloud-node-controller is not started: the cloud provider does not support instances");
        return Ok(None);
    };
    let controller = Arc::new(Controller {
        client: ctx.client.clone(),
        instances,
        nodes: ctx.factory.informer(),
        queue: WorkQueue::new("Nodes"),
        events: ctx.recorder.for_component("cloud-node-controller"),
    });
    let c = controller.clone();
    controller.nodes.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            c.queue.add(object_key(&**event.object()));
        }
    });
    let (options, shutdown) = (ctx.options.clone(), ctx.shutdown.clone());
    Ok(Some(Box::pin(async move {
        let c = controller.clone();
        let workers = options.concurrent_node_syncs;
        let syncs = run_workers("cloud-node", controller.queue.clone(), workers, shutdown.clone(), move |name| {
            let c = c.clone();
            async move { c.sync(&name).await }
        });
        let statuses =
            controller.update_statuses(options.node_status_update_frequency, options.status_workers(), &shutdown);
        tokio::join!(syncs, statuses);
    })))
}

impl Controller {
    async fn sync(&self, name: &str) -> Result<(), SyncError> {
        let Some(node) = self.nodes.get_by_key(name) else { return Ok(()) };
        if nodes::has_taint(&node, UNINITIALIZED) {
            return self.initialize(&node).await;
        }
        let labels = plan::labels_to_reconcile(&node);
        if !labels.is_empty() {
            let patch = Patch::Merge(json!({"metadata": {"uid": node.metadata.uid, "labels": labels}}));
            Api::<Node>::all(self.client.clone()).patch(name, &PatchParams::default(), &patch).await?;
        }
        Ok(())
    }

    async fn initialize(&self, node: &Node) -> Result<(), SyncError> {
        let name = nodes::name(node);
        tracing::info!(node = name, "initializing with the cloud provider");
        let machine = self.instances.metadata(node).await;
        let machine = machine.map_err(|error| SyncError::Metadata(name.to_owned(), error))?;
        let change = |node: &Node| plan::initialize(node, &machine).map_err(SyncError::Machine);
        if !nodes::modify(&self.client, node, change).await? {
            return Ok(());
        }
        metrics::observe(&metrics::TAINT_REMOVAL_SECONDS, age(node));
        // At once, so that users don't wait for the next round.
        self.write_addresses(node, &machine).await;
        self.events.event(&object_reference(node), EventType::Normal, "Synced", "Node synced successfully");
        metrics::observe(&metrics::INITIAL_SYNC_SECONDS, age(node));
        Ok(())
    }

    /// The cloud can't be watched: its addresses are asked for every `period`.
    async fn update_statuses(&self, period: Duration, workers: usize, shutdown: &CancellationToken) {
        let mut every = tokio::time::interval(period);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! { _ = every.tick() => {}, () = shutdown.cancelled() => return }
            // A tainted node is for `initialize`.
            let initialized = self.nodes.list().into_iter().filter(|node| !nodes::has_taint(node, UNINITIALIZED));
            let update = |node: Arc<Node>| async move {
                match self.instances.metadata(&node).await {
                    Ok(machine) => self.write_addresses(&node, &machine).await,
                    Err(error) => tracing::error!(node = nodes::name(&node), %error, "no metadata of the instance"),
                }
            };
            futures::stream::iter(initialized).for_each_concurrent(workers, update).await;
        }
    }

    /// A failure is logged; the next round tries again.
    async fn write_addresses(&self, node: &Node, machine: &InstanceMetadata) {
        let name = nodes::name(node);
        let addresses = match plan::addresses(node, machine) {
            Ok(None) => return,
            Ok(Some(addresses)) => addresses,
            Err(error) => {
                tracing::error!(node = name, error, "failed to update the node's addresses");
                return;
            }
        };
        let patch = Patch::Merge(json!({"metadata": {"uid": node.metadata.uid}, "status": {"addresses": addresses}}));
        let api: Api<Node> = Api::all(self.client.clone());
        if let Err(error) = api.patch_status(name, &PatchParams::default(), &patch).await {
            let error = apierr::message(&error);
            tracing::error!(node = name, error, "failed to write the cloud's addresses");
        }
    }
}

/// Seconds since the node was created.
fn age(node: &Node) -> f64 {
    let created = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
    created.map_or(0.0, |created| Timestamp::now().duration_since(created).as_secs_f64().max(0.0))
}
