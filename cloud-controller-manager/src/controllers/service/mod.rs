//! `service-lb-controller`: gives every Service of type LoadBalancer what the cloud has for it, and takes it back.
//!
//! The finalizer is written before anything is created, so that a Service outlives its load balancer.

mod decide;
mod hosts;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::events::{EventType, Recorder, object_reference};
use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::Client;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use self::decide::{NodeSet, is_relevant, needs_cleanup, needs_update, node_matters};
use crate::context::{Context, Task};
use crate::provider::LoadBalancer;

const MIN_RETRY: Duration = Duration::from_secs(5);
const MAX_RETRY: Duration = Duration::from_secs(300);
/// The only key of the queue of nodes: any change concerns all load balancers.
const ALL_NODES: &str = "nodes";

/// What we did for a Service; needed when it vanishes without our finalizer.
struct Known {
    service: Arc<Service>,
    /// The nodes that its load balancer was last told.
    nodes: NodeSet,
}

struct Controller {
    client: Client,
    balancer: Arc<dyn LoadBalancer>,
    services: Arc<Informer<Service>>,
    nodes: Arc<Informer<Node>>,
    queue: Arc<WorkQueue<String>>,
    node_queue: Arc<WorkQueue<&'static str>>,
    events: Recorder,
    known: Mutex<BTreeMap<String, Known>>,
    workers: usize,
}

/// Sets up the controller; nothing without load balancers.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Option<Task>> {
    let Some(balancer) = ctx.provider.load_balancer() else {
        tracing::warn!(
            provider = ctx.provider.name(),
            "service-lb-controller is not started: the cloud provider has no load balancers (local: configure loadBalancerPools)"
        );
        return Ok(None);
    };
    let controller = Arc::new(Controller {
        client: ctx.client.clone(),
        balancer,
        services: ctx.factory.informer(),
        nodes: ctx.factory.informer(),
        queue: WorkQueue::with_backoff("service", MIN_RETRY, MAX_RETRY),
        node_queue: WorkQueue::with_backoff("node", MIN_RETRY, MAX_RETRY),
        events: ctx.recorder.for_component("service-controller"),
        known: Mutex::default(),
        workers: ctx.options.concurrent_service_syncs,
    });
    controller.watch();
    Ok(Some(Box::pin(controller.run(ctx.shutdown.clone()))))
}

impl Controller {
    fn watch(self: &Arc<Self>) {
        let c = self.clone();
        self.services.on_event(move |event| {
            let relevant = match event {
                Event::Added(service) => is_relevant(service),
                Event::Updated { old, new } => needs_update(old, new) || needs_cleanup(new),
                // Whoever removed our finalizer by hand left the load balancer to us.
                Event::Deleted(_) => true,
            };
            if relevant {
                c.queue.add(object_key(&**event.object()));
            }
        });
        let c = self.clone();
        self.nodes.on_event(move |event| {
            let relevant = match event {
                Event::Updated { old, new } => node_matters(old, new),
                Event::Added(_) | Event::Deleted(_) => true,
            };
            if relevant {
                c.node_queue.add(ALL_NODES);
            }
        });
    }

    /// Runs after the caches are in sync: only then is it known which addresses are taken.
    async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mine: Vec<Arc<Service>> = self.services.list().into_iter().filter(|s| is_relevant(s)).collect();
        self.balancer.adopt(&mine);
        let c = self.clone();
        let services = run_workers("service-lb", self.queue.clone(), self.workers, shutdown.clone(), move |key| {
            let c = c.clone();
            async move { c.sync(&key).await }
        });
        let c = self.clone();
        let nodes = run_workers("service-lb-nodes", self.node_queue.clone(), 1, shutdown, move |_| {
            let c = c.clone();
            async move {
                c.sync_hosts().await;
                Ok::<(), std::convert::Infallible>(())
            }
        });
        tokio::join!(services, nodes);
    }

    fn normal(&self, service: &Service, reason: &str, message: &str) {
        self.events.event(&object_reference(service), EventType::Normal, reason, message);
    }

    fn warning(&self, service: &Service, reason: &str, message: String) {
        self.events.event(&object_reference(service), EventType::Warning, reason, message);
    }
}
