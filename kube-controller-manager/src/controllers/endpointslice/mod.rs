//! `endpointslice-controller`: publishes where the pods of each Service are.

mod hints;
mod metrics;
mod plan;
mod topology;
mod zones;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, run_workers, split_key};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;

use self::hints::Hints;
use self::metrics::Totals;
use self::plan::{CONTROLLER, Changes, Input, NodeInfo, Plan};
pub(crate) use self::plan::{MANAGED_BY, SERVICE_NAME, ports_key};
use self::zones::Zones;
use crate::context::{Context, Task};
use crate::events::{Events, reference};
use crate::shared::freshness::Freshness;
use crate::shared::meta::MetaExt;
use crate::shared::services::{self, TriggerTimes};
use crate::shared::{apierr, pod_control};

const BY_SERVICE: &str = "service";

/// Why a run has to be repeated.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("the cache does not show our last writes yet")]
    Stale,
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("endpointslice-controller");
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "endpoint-slice-controller"),
        client,
        services: ctx.factory.informer(),
        pods: ctx.factory.informer(),
        nodes: ctx.factory.informer(),
        slices: ctx.factory.informer(),
        queue: WorkQueue::new("endpoint_slice"),
        freshness: Freshness::default(),
        triggers: TriggerTimes::default(),
        waiting: Mutex::default(),
        zones: Zones::default(),
        totals: Totals::default(),
        max_endpoints: ctx.options.max_endpoints_per_slice,
        batch: ctx.options.endpointslice_updates_batch_period,
    });
    controller.register();
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.concurrent_service_endpoint_syncs);
    Ok(Box::pin(async move {
        let queue = controller.queue.clone();
        run_workers("endpoint_slice", queue, workers, shutdown, move |key: String| {
            let controller = controller.clone();
            async move {
                let result = controller.sync(&key).await;
                let label = match &result {
                    Ok(()) => "success",
                    Err(SyncError::Stale) => "stale",
                    Err(SyncError::Api(_)) => "error",
                };
                metrics::SYNCS.inc(&[label]);
                result
            }
        })
        .await;
    }))
}

struct Controller {
    client: Client,
    events: Events,
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    slices: Arc<Informer<EndpointSlice>>,
    queue: Arc<WorkQueue<String>>,
    freshness: Freshness,
    triggers: TriggerTimes,
    /// Services some of whose pods are on nodes that are not known yet.
    waiting: Mutex<HashSet<String>>,
    zones: Zones,
    totals: Totals,
    max_endpoints: usize,
    batch: Duration,
}

/// The key of the Service whose slice this is, if this controller manages it.
fn service_key(slice: &EndpointSlice) -> Option<String> {
    let ours = slice.label(MANAGED_BY) == Some(CONTROLLER);
    let name = slice.label(SERVICE_NAME).filter(|n| ours && !n.is_empty())?;
    Some(format!("{}/{name}", slice.ns_str()))
}

impl Controller {
    fn register(self: &Arc<Self>) {
        self.slices.add_index(BY_SERVICE, |slice| service_key(slice).into_iter().collect());
        services::enqueue_changed(&self.services, &self.pods, &self.queue, self.batch);
        let c = self.clone();
        self.slices.on_event(move |event| c.on_slice(event));
        let c = self.clone();
        self.nodes.on_event(move |event| c.on_node(event));
    }

    fn on_node(&self, event: &Event<Node>) {
        if let Event::Added(_) = event {
            let waiting = std::mem::take(&mut *self.waiting.lock());
            waiting.into_iter().for_each(|key| self.queue.add(key));
        }
        let place = |node: &Node| (topology::is_ready(node), node.label(services::ZONE).map(str::to_owned));
        let same = matches!(event, Event::Updated { old, new } if place(old) == place(new));
        if !same && self.zones.outdated() {
            let shares = self.shares();
            self.zones.overloaded(shares.as_deref()).into_iter().for_each(|key| self.queue.add(key));
        }
    }

    fn shares(&self) -> Option<Arc<topology::Shares>> {
        self.zones.shares(|| topology::shares(self.nodes.list().iter().map(|node| &**node)))
    }

    fn knows_node_of(&self, pod: &Pod) -> bool {
        self.nodes.get("", crate::shared::pods::node_name(pod)).is_some()
    }

    /// Somebody else changed or deleted a slice of ours.
    fn on_slice(&self, event: &Event<EndpointSlice>) {
        let enqueue = |slice: &EndpointSlice, news: &dyn Fn(&str) -> bool| {
            if let Some(key) = service_key(slice).filter(|k| news(k)) {
                self.queue.add(key);
            }
        };
        match event {
            Event::Added(slice) => enqueue(slice, &|key| self.freshness.is_news(key, &slice.metadata)),
            Event::Updated { old, new } => {
                if service_key(old) != service_key(new) {
                    enqueue(old, &|_| true);
                    enqueue(new, &|_| true);
                } else {
                    enqueue(new, &|key| self.freshness.is_news(key, &new.metadata));
                }
            }
            Event::Deleted(slice) => enqueue(slice, &|key| self.freshness.gone(key, &slice.metadata)),
        }
    }

    async fn sync(&self, key: &str) -> Result<(), SyncError> {
        let (namespace, name) = split_key(key);
        let Some(service) = self.services.get(namespace, name) else {
            // Its slices go with it, through their owner reference.
            self.freshness.forget(key);
            self.triggers.forget(key);
            self.zones.forget(key);
            self.totals.forget(key);
            return Ok(());
        };
        if services::selector_of(&service).is_none() {
            return Ok(());
        }
        let mut slices = self.slices.by_index(BY_SERVICE, key);
        if self.freshness.is_stale(key, slices.iter().map(|s| &s.metadata)) {
            return Err(SyncError::Stale);
        }
        slices.retain(|s| !s.is_deleting());
        let pods = services::pods_of(&service, &self.pods);
        let hints = Hints::of(&service);
        let plan = self.plan(&service, hints, &pods, &slices);
        let trigger = self.triggers.next(key, &service, &pods);
        let unknown = plan.changes.unknown_nodes.clone();
        let distribution = hints.traffic_distribution(&service);
        self.totals.note(key, &plan.tally, distribution);
        let about = reference(&*service);
        for (warns, reason, message) in self.zones.note(key, plan.topology) {
            match warns {
                true => self.events.warning(&about, reason, message),
                false => self.events.normal(&about, reason, message),
            }
        }
        let written = plan.changes.len();
        if let Err(error) = self.write(key, &service, plan.changes, trigger).await {
            if apierr::is_namespace_terminating(&error) {
                return Ok(());
            }
            let message =
                format!("Error updating Endpoint Slices for Service {namespace}/{name}: {}", apierr::message(&error));
            self.events.warning(&about, "FailedToUpdateEndpointSlices", message);
            return Err(error.into());
        }
        let mode = if hints == Hints::Auto { "Auto" } else { "Disabled" };
        metrics::CHANGED_PER_SYNC.observe(&[mode, distribution], written as f64);
        if !unknown.is_empty() {
            tracing::debug!(service = key, pods = ?unknown, "left out until their nodes are known");
            self.waiting.lock().insert(key.to_owned());
            // The node may have come between the look and the note.
            if pods.iter().filter(|p| unknown.iter().any(|u| u == p.name_str())).any(|p| self.knows_node_of(p)) {
                self.queue.add(key.to_owned());
            }
        }
        Ok(())
    }

    fn plan(&self, service: &Service, hints: Hints, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Plan {
        let node = |name: &str| match self.nodes.get("", name) {
            Some(node) => NodeInfo::Known { zone: node.label(services::ZONE).map(str::to_owned) },
            None => NodeInfo::Unknown,
        };
        let shares = if hints == Hints::Auto { self.shares() } else { None };
        let input = Input { service, node: &node, max_endpoints: self.max_endpoints, hints, shares: shares.as_deref() };
        plan::reconcile(&input, pods, slices)
    }

    async fn write(
        &self,
        key: &str,
        service: &Service,
        changes: Changes,
        trigger: Option<jiff::Timestamp>,
    ) -> Result<(), kube::Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), service.ns_str());
        let creates = if service.is_deleting() { Vec::new() } else { changes.create };
        for mut slice in creates {
            stamp(&mut slice, trigger);
            let created = api.create(&PostParams::default(), &slice).await?;
            self.freshness.wrote(key, &created.metadata);
            metrics::CHANGES.inc(&["create"]);
        }
        for mut slice in changes.update {
            stamp(&mut slice, trigger);
            let updated = api.replace(slice.name_str(), &PostParams::default(), &slice).await?;
            self.freshness.wrote(key, &updated.metadata);
            metrics::CHANGES.inc(&["update"]);
        }
        for slice in changes.delete {
            let params = pod_control::uid_precondition(DeleteParams::default(), slice.uid_str());
            apierr::ignore_not_found(api.delete(slice.name_str(), &params).await)?;
            self.freshness.deleted(key, &slice.metadata);
            metrics::CHANGES.inc(&["delete"]);
        }
        Ok(())
    }
}

fn stamp(slice: &mut EndpointSlice, trigger: Option<jiff::Timestamp>) {
    let annotations = slice.metadata.annotations.get_or_insert_default();
    match trigger {
        Some(at) => annotations.insert(services::TRIGGER_TIME.into(), at.to_string()),
        None => annotations.remove(services::TRIGGER_TIME),
    };
}
