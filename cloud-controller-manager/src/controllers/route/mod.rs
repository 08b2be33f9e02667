//! `node-route-controller`: a route in the cloud's network for every node's pods, and a condition that says so.
//!
//! Reconciles every `--route-reconciliation-period`, or with upstream's gate whenever a node changes.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::events::{EventType, Recorder};
use common::informer::{Event, Informer};
use futures::StreamExt;
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::plan::{condition_patch, node_matters, plan};
use super::nodes;
use crate::context::{Context, Task};
use crate::options::WATCH_BASED_ROUTES;
use crate::provider::{ProviderError, Route, Routes};
use crate::{apierr, metrics};

/// Upstream's bound for calls to the cloud at once.
const CONCURRENT: usize = 200;
/// Upstream's pause between reconciliations in a burst of changes; also that before a retry.
const PAUSE: Duration = Duration::from_secs(10);

struct Controller {
    client: Client,
    routes: Arc<dyn Routes>,
    cluster: String,
    networks: Vec<IpNet>,
    nodes: Arc<Informer<Node>>,
    events: Recorder,
}

/// Sets up the controller; nothing when it is switched off or the provider has no routes.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Option<Task>> {
    if !ctx.options.configure_cloud_routes {
        tracing::info!("node-route-controller is not started: --configure-cloud-routes=false");
        return Ok(None);
    }
    let Some(routes) = ctx.provider.routes() else {
        tracing::warn!(
            provider = ctx.provider.name(),
            "node-route-controller is not started: --configure-cloud-routes is set, but cloud provider does not support routes"
        );
        return Ok(None);
    };
    let networks = ctx.options.cluster_cidrs()?;
    anyhow::ensure!(!networks.is_empty(), "--cluster-cidr is needed to configure cloud routes");
    let controller = Controller {
        client: ctx.client.clone(),
        routes,
        cluster: ctx.options.generic.cluster_name.clone(),
        networks,
        nodes: ctx.factory.informer(),
        events: ctx.recorder.for_component("route_controller"),
    };
    let changed = Arc::new(Notify::new());
    let watching = ctx.options.feature_gates()?.enabled(WATCH_BASED_ROUTES);
    if watching {
        controller.watch(changed.clone());
    }
    let (options, shutdown) = (ctx.options.clone(), ctx.shutdown.clone());
    let period = if watching { options.min_resync_period } else { options.route_reconciliation_period };
    Ok(Some(Box::pin(async move { controller.run(period, &changed, &shutdown).await })))
}

/// Calls the cloud for all of them, not too many at once.
async fn limited<F: Future>(calls: Vec<F>) -> Vec<F::Output> {
    futures::stream::iter(calls).buffer_unordered(CONCURRENT).collect().await
}

impl Controller {
    fn watch(&self, changed: Arc<Notify>) {
        self.nodes.on_event(move |event| {
            if !matches!(event, Event::Updated { old, new } if !node_matters(old, new)) {
                changed.notify_one();
            }
        });
    }

    async fn run(&self, period: Duration, changed: &Notify, shutdown: &CancellationToken) {
        loop {
            let result = self.reconcile().await;
            let wait = match result {
                Ok(true) => period,
                Ok(false) => period.min(PAUSE),
                Err(error) => {
                    tracing::error!(%error, "couldn't reconcile node routes: error listing routes");
                    period.min(PAUSE)
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = changed.notified() => {
                    tokio::select! { () = shutdown.cancelled() => return, () = tokio::time::sleep(wait.min(PAUSE)) => {} }
                }
            }
        }
    }

    /// Answers whether everything is as it should be.
    async fn reconcile(&self) -> Result<bool, ProviderError> {
        metrics::count(&metrics::ROUTE_SYNCS);
        let routes = self.routes.list(&self.cluster).await?;
        let nodes = self.nodes.list();
        let plan = plan(&nodes, &routes, &self.networks);
        let by_name: BTreeMap<&str, &Arc<Node>> = nodes.iter().map(|node| (nodes::name(node), node)).collect();
        let deleted = limited(plan.delete.iter().map(|route| self.delete(route)).collect()).await;
        let created = limited(plan.create.iter().map(|route| self.create(route, &by_name)).collect()).await;
        let mut fine = deleted.iter().all(|(_, done)| *done) && created.iter().all(|(_, done)| *done);
        for (name, missing) in &plan.missing {
            let made = created.iter().filter(|(node, done)| *node == name && *done).count();
            let Some(node) = by_name.get(name.as_str()) else { continue };
            fine &= self.tell(node, *missing == Some(made)).await;
        }
        Ok(fine)
    }

    /// The node's name, and whether it worked.
    async fn delete<'a>(&self, route: &'a Route) -> (&'a str, bool) {
        let done = self.routes.delete(&self.cluster, route).await;
        match &done {
            Ok(()) => tracing::info!(route.name, destination = %route.destination, "deleted route"),
            Err(error) => {
                tracing::error!(route.name, destination = %route.destination, %error, "could not delete route");
            }
        }
        (&route.node, done.is_ok())
    }

    async fn create<'a>(&self, route: &'a Route, by_name: &BTreeMap<&str, &Arc<Node>>) -> (&'a str, bool) {
        let begin = Instant::now();
        let Err(error) = self.routes.create(&self.cluster, route).await else {
            tracing::info!(node = route.node, destination = %route.destination, "created route");
            return (&route.node, true);
        };
        let Route { name, node, destination, .. } = route;
        let took = begin.elapsed();
        let message = format!("Could not create route {name} {destination} for node {node} after {took:?}: {error}");
        tracing::error!(message);
        if let Some(node) = by_name.get(node.as_str()) {
            self.events.event(&nodes::reference(node), EventType::Warning, "FailedToCreateRoute", message);
        }
        (&route.node, false)
    }

    async fn tell(&self, node: &Node, created: bool) -> bool {
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string();
        let Some(patch) = condition_patch(node, created, &now) else { return true };
        let api: Api<Node> = Api::all(self.client.clone());
        match api.patch_status(nodes::name(node), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => true,
            Err(error) => {
                let error = apierr::message(&error);
                tracing::error!(node = nodes::name(node), error, "failed to update networking condition");
                false
            }
        }
    }
}
