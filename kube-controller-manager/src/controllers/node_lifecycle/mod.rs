//! `node-lifecycle-controller`: notices nodes that fall silent, says so in their conditions and taints, and
//! takes their pods out of service.
//!
//! Every heartbeat moves a node's deadline; the queue wakes at the deadline. Nothing is polled.

mod health;
mod zones;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;

pub(crate) use self::health::ready_status;
use self::health::{Health, ZoneState, desired_taints, eviction_taint, has_eviction_taint, zone_of, zone_state};
use self::zones::Zones;
use crate::context::{Context, Task};
use crate::events::Events;
use crate::options::Options;
use crate::shared::meta::{MetaExt, now};
use crate::shared::{apierr, pods};

/// Index of pods by the name of their node.
pub(crate) const BY_NODE: &str = "node";
const LEASES: &str = "kube-node-lease";

/// Makes the pod informer answer what runs where.
pub(crate) fn index_pods(informer: &Informer<Pod>) {
    informer.add_index(BY_NODE, |pod| {
        let node = pods::node_name(pod);
        if node.is_empty() { Vec::new() } else { vec![node.to_owned()] }
    });
}

/// How events name a node: by name also as UID, so that they survive its re-registration.
pub(crate) fn node_reference(node: &Node) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        api_version: Some("v1".into()),
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// `Node x status is now: y`.
pub(crate) fn status_event(events: &Events, node: &Node, status: &str) {
    events.normal(&node_reference(node), status, format!("Node {} status is now: {status}", node.name_str()));
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("node-controller");
    let pods = ctx.factory.informer::<Pod>();
    index_pods(&pods);
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "node-controller"),
        client,
        nodes: ctx.factory.informer(),
        leases: ctx.factory.informer(),
        pods,
        queue: WorkQueue::with_backoff("node_lifecycle_controller", Duration::from_millis(20), Duration::from_secs(30)),
        health: Mutex::default(),
        zones: Zones::default(),
        paces: Mutex::default(),
        options: ctx.options.clone(),
    });
    let c = controller.clone();
    controller.nodes.on_event(move |event| c.on_node(event));
    let c = controller.clone();
    controller.leases.on_event(move |event: &Event<Lease>| {
        let lease = event.object();
        if lease.ns_str() == LEASES {
            c.note(lease.name_str());
        }
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        // What was seen while the caches filled does not count against anyone.
        controller.health.lock().values_mut().for_each(|h| h.seen = Instant::now());
        let queue = controller.queue.clone();
        run_workers("node_lifecycle_controller", queue, 8, shutdown, move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        })
        .await;
    }))
}

/// The pace of evictions in one zone.
struct Pace {
    next: Instant,
}

struct Controller {
    client: Client,
    events: Events,
    nodes: Arc<Informer<Node>>,
    leases: Arc<Informer<Lease>>,
    pods: Arc<Informer<Pod>>,
    queue: Arc<WorkQueue<String>>,
    health: Mutex<HashMap<String, Health>>,
    zones: Zones,
    paces: Mutex<HashMap<String, Pace>>,
    options: Arc<Options>,
}

impl Controller {
    fn on_node(&self, event: &Event<Node>) {
        let node = event.object();
        let (name, reference) = (node.name_str(), node_reference(node));
        match event {
            Event::Deleted(_) => self.zones.forget(name),
            _ => self.zones.note(node),
        }
        match event {
            Event::Added(_) => {
                let message = format!("Node {name} event: Registered Node {name} in Controller");
                self.events.normal(&reference, "RegisteredNode", message);
                self.note(name);
            }
            Event::Updated { old, new } => {
                self.note(name);
                if ready_status(old) != ready_status(new) {
                    // The state of the zone may have changed: others may go on, or must stop.
                    self.nodes.list().iter().for_each(|n| self.queue.add(object_key(&**n)));
                }
            }
            Event::Deleted(_) => {
                let message = format!("Node {name} event: Removing Node {name} from Controller");
                self.events.normal(&reference, "RemovingNode", message);
                self.health.lock().remove(name);
            }
        }
    }

    fn renewed(&self, name: &str) -> Option<MicroTime> {
        self.leases.get(LEASES, name)?.spec.as_ref()?.renew_time.clone()
    }

    /// A node or its lease changed: move the deadline. Only changes of the node need a run.
    fn note(&self, name: &str) {
        let Some(node) = self.nodes.get("", name) else { return };
        let (renewed, now) = (self.renewed(name), Instant::now());
        let mut health = self.health.lock();
        let entry = health.entry(name.to_owned()).or_insert_with(|| Health::new(&node, renewed.as_ref(), now));
        entry.note(&node, renewed.as_ref(), now);
        self.queue.add(name.to_owned());
    }

    async fn sync(&self, name: &str) -> Result<(), kube::Error> {
        let Some(cached) = self.nodes.get("", name) else { return Ok(()) };
        let mut node = (*cached).clone();
        let reported = health::condition(&node, "Ready").is_some();
        let grace = match reported {
            true => self.options.node_monitor_grace_period,
            false => self.options.node_startup_grace_period,
        };
        let left = self.health.lock().get(name).and_then(|h| h.remaining(grace, Instant::now()));
        match left {
            Some(left) => self.queue.add_after(name.to_owned(), left + Duration::from_millis(10)),
            None => self.fall_silent(&mut node).await?,
        }
        self.mark_pods(&node).await?;
        self.taint(&node).await
    }

    async fn fall_silent(&self, node: &mut Node) -> Result<(), kube::Error> {
        let was_ready = ready_status(node) == "True";
        if !health::mark_unknown(node, now()) {
            return Ok(());
        }
        tracing::info!(node = node.name_str(), "no sign of life within the grace period");
        let api: Api<Node> = Api::all(self.client.clone());
        let name = node.name_str().to_owned();
        let written = api.replace_status(&name, &PostParams::default(), node).await?;
        node.metadata.resource_version = written.metadata.resource_version;
        if was_ready {
            status_event(&self.events, node, "NodeNotReady");
        }
        Ok(())
    }

    /// Pods of a node that became not ready are not ready either.
    async fn mark_pods(&self, node: &Node) -> Result<(), kube::Error> {
        let silent = ready_status(node) != "True" && health::condition(node, "Ready").is_some();
        if !silent || self.are_pods_marked(node.name_str()) {
            self.set_pods_marked(node.name_str(), silent);
            return Ok(());
        }
        let on_node = self.pods.by_index(BY_NODE, node.name_str());
        for pod in on_node.iter().filter(|p| pods::is_ready(p)) {
            let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.ns_str());
            let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": now().to_string()});
            let patch = json!({"metadata": {"uid": pod.uid_str()}, "status": {"conditions": [condition]}});
            let result = api.patch_status(pod.name_str(), &PatchParams::default(), &Patch::Strategic(patch)).await;
            apierr::ignore_not_found(result)?;
            self.events.warning(&crate::events::reference(&**pod), "NodeNotReady", "Node is not ready".into());
        }
        self.set_pods_marked(node.name_str(), true);
        Ok(())
    }

    fn are_pods_marked(&self, node: &str) -> bool {
        self.health.lock().get(node).is_some_and(|h| h.pods_marked)
    }

    fn set_pods_marked(&self, node: &str, marked: bool) {
        if let Some(health) = self.health.lock().get_mut(node) {
            health.pods_marked = marked;
        }
    }

    async fn taint(&self, node: &Node) -> Result<(), kube::Error> {
        let wants = eviction_taint(node).is_some() && !has_eviction_taint(node);
        let evict = match wants.then(|| self.may_evict(node)) {
            None => false,
            Some(Ok(())) => true,
            Some(Err(wait)) => {
                if let Some(wait) = wait {
                    self.queue.add_after(node.name_str().to_owned(), wait);
                }
                false
            }
        };
        let mut basis = node.clone();
        if self.all_fully_disrupted() && has_eviction_taint(&basis) {
            // With every zone dark the fault is likely ours: evict nobody.
            let taints = basis.spec.as_mut().and_then(|s| s.taints.as_mut());
            taints.into_iter().for_each(|l| l.retain(|t| t.effect != "NoExecute" || !is_eviction_key(&t.key)));
        }
        let desired = desired_taints(&basis, evict, Timestamp::now());
        let current = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let taints = match desired {
            Some(taints) => taints,
            None => basis.spec.and_then(|s| s.taints).unwrap_or_default(),
        };
        if taints == current {
            return Ok(());
        }
        let patch = json!({"metadata": {"resourceVersion": node.version_str()}, "spec": {"taints": taints}});
        let api: Api<Node> = Api::all(self.client.clone());
        let result = api.patch(node.name_str(), &PatchParams::default(), &Patch::Merge(patch)).await;
        if evict && result.is_ok() {
            zones::EVICTIONS.inc(&[&zone_of(node)]);
        }
        apierr::ignore_not_found(result)
    }

    fn all_fully_disrupted(&self) -> bool {
        self.zones.all_fully_disrupted(self.options.unhealthy_zone_threshold)
    }

    /// May this node's pods be evicted now? Else after how long, or not in the zone's present state.
    fn may_evict(&self, node: &Node) -> Result<(), Option<Duration>> {
        if self.all_fully_disrupted() {
            return Err(None);
        }
        let zone = zone_of(node);
        let (ready, not_ready) = self.zones.counts(&zone);
        let options = &self.options;
        let rate = match zone_state(ready, not_ready, options.unhealthy_zone_threshold) {
            ZoneState::Partial if ready + not_ready <= options.large_cluster_size_threshold => 0.0,
            ZoneState::Partial => options.secondary_node_eviction_rate,
            ZoneState::Normal | ZoneState::Full => options.node_eviction_rate,
        };
        if rate <= 0.0 {
            return Err(None);
        }
        let now = Instant::now();
        let mut paces = self.paces.lock();
        let pace = paces.entry(zone).or_insert(Pace { next: now });
        if pace.next > now {
            return Err(Some(pace.next - now));
        }
        pace.next = now + Duration::from_secs_f32(1.0 / rate);
        Ok(())
    }
}

fn is_eviction_key(key: &str) -> bool {
    key == health::NOT_READY || key == health::UNREACHABLE
}
