//! What the loop watches. Objects are turned into the model's compact form as they come and not kept: a cache of
//! EndpointSlices would be by far the largest thing in memory.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc, time::Duration};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use kube::{
    Api, Client, Resource,
    runtime::watcher::{self, Event, watcher},
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{health::HealthState, metrics::Metrics, model::Model};

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Objects of another proxy have this label, endpoints of headless Services the other: neither is ours.
const NO_PROXY_NAME: &str = "!service.kubernetes.io/service-proxy-name";
const NOT_HEADLESS: &str = "!service.kubernetes.io/headless";

/// Everything watched, behind one lock that is held only to look or to change.
pub(crate) struct World {
    pub model: Model,
    pub node: Option<Node>,
    pub service_cidrs: Vec<ipnet::IpNet>,
    /// Routing of everything changed: the node's zone, the range of cluster IPs.
    pub all_changed: bool,
    listed: Listed,
}

/// Which first lists have arrived.
#[derive(Default)]
struct Listed {
    services: bool,
    slices: bool,
    node: bool,
}

/// The watched world, and who is told about its changes.
#[derive(Clone)]
pub(crate) struct Sources {
    pub world: Arc<Mutex<World>>,
    pub changed: Arc<Notify>,
    pub node_changed: Arc<Notify>,
    metrics: Metrics,
    health: Arc<HealthState>,
}

impl Sources {
    /// Nothing is watched yet.
    pub(crate) fn new(node: &str, metrics: Metrics, health: Arc<HealthState>) -> Self {
        let world = World {
            model: Model::new(node, Timestamp::now()),
            node: None,
            service_cidrs: Vec::new(),
            all_changed: false,
            listed: Listed::default(),
        };
        let (changed, node_changed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        Self { world: Arc::new(Mutex::new(world)), changed, node_changed, metrics, health }
    }

    /// Watches this node.
    pub(crate) fn watch_node(&self, client: &Client, node: &str, shutdown: &CancellationToken) {
        let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
        let seen = self.node_changed.clone();
        self.spawn(client, config, shutdown, move |world, step: Step<Node>| match step {
            Step::Set(node) => {
                seen.notify_one();
                let zone = node.metadata.labels.as_ref().and_then(|l| l.get("topology.kubernetes.io/zone").cloned());
                let zone_changed = world.model.set_zone(zone);
                world.all_changed |= zone_changed;
                world.node = Some(node);
                zone_changed
            }
            Step::Remove(_) => {
                world.node = None;
                false
            }
            Step::Listed(named) => {
                world.listed.node = true;
                if named.is_empty() {
                    world.node = None;
                }
                true
            }
        });
    }

    /// Watches Services, EndpointSlices and the ranges of cluster IPs.
    pub(crate) fn watch_services(&self, client: &Client, shutdown: &CancellationToken) {
        let config = watcher::Config::default().labels(NO_PROXY_NAME).fields("spec.clusterIP!=None");
        let metrics = self.metrics.clone();
        self.spawn(client, config, shutdown, move |world, step: Step<Service>| {
            let changed = match step {
                Step::Set(service) => world.model.set_service(&service),
                Step::Remove(service) => world.model.remove_service(
                    service.metadata.namespace.as_deref().unwrap_or_default(),
                    service.metadata.name.as_deref().unwrap_or_default(),
                ),
                Step::Listed(named) => {
                    world.listed.services = true;
                    return world.model.keep_services(&named) | true;
                }
            };
            metrics.service_changed(changed);
            changed
        });
        let config = watcher::Config::default().labels(NOT_HEADLESS);
        let metrics = self.metrics.clone();
        self.spawn(client, config, shutdown, move |world, step: Step<EndpointSlice>| {
            let changed = match step {
                Step::Set(slice) => world.model.set_slice(&slice),
                Step::Remove(slice) => world.model.remove_slice(&slice),
                Step::Listed(named) => {
                    world.listed.slices = true;
                    return world.model.keep_slices(&named) | true;
                }
            };
            metrics.endpoints_changed(changed);
            changed
        });
        let mut cidrs = std::collections::BTreeMap::new();
        self.spawn(client, watcher::Config::default(), shutdown, move |world, step: Step<ServiceCIDR>| {
            let listed = matches!(step, Step::Listed(_));
            match step {
                Step::Set(cidr) => {
                    let nets = cidr.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
                    cidrs.insert(cidr.metadata.name.unwrap_or_default(), nets);
                }
                Step::Remove(cidr) => drop(cidrs.remove(&cidr.metadata.name.unwrap_or_default())),
                Step::Listed(named) => cidrs.retain(|name, _| named.contains(&format!("/{name}"))),
            }
            let mut nets: Vec<ipnet::IpNet> = cidrs.values().flatten().filter_map(|text| text.parse().ok()).collect();
            nets.sort_unstable();
            nets.dedup();
            let changed = nets != world.service_cidrs && (listed || !world.service_cidrs.is_empty());
            if changed {
                world.service_cidrs = nets;
                world.all_changed = true;
            }
            changed
        });
    }

    /// Whether the node's list has arrived.
    pub(crate) fn knows_node(&self) -> bool {
        self.world.lock().listed.node
    }

    /// Whether all lists that rules depend on have arrived.
    pub(crate) fn is_complete(&self) -> bool {
        let listed = &self.world.lock().listed;
        listed.services && listed.slices
    }

    fn spawn<K>(
        &self,
        client: &Client,
        config: watcher::Config,
        shutdown: &CancellationToken,
        apply: impl FnMut(&mut World, Step<K>) -> bool + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let api = Api::<K>::all(client.clone());
        tokio::spawn(follow(api, config.page_size(500), self.clone(), shutdown.clone(), apply));
    }
}

/// A change of what is watched.
enum Step<K> {
    Set(K),
    Remove(K),
    /// A list is complete: nothing but these `namespace/name`s exists.
    Listed(BTreeSet<String>),
}

/// Follows one kind until cancelled. Failures are logged and retried with a bounded, jittered back-off.
async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    sources: Sources,
    shutdown: CancellationToken,
    mut apply: impl FnMut(&mut World, Step<K>) -> bool,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let kind = K::kind(&()).into_owned();
    let mut stream = watcher(api, config).boxed();
    let mut named = BTreeSet::new();
    let mut delay = BACKOFF_MIN;
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => return,
            next = stream.next() => next,
        };
        let step = match next {
            None => return,
            Some(Ok(Event::Init)) => {
                named.clear();
                continue;
            }
            Some(Ok(Event::InitApply(object))) => {
                named.insert(key(&object));
                Step::Set(object)
            }
            Some(Ok(Event::Apply(object))) => Step::Set(object),
            Some(Ok(Event::Delete(object))) => Step::Remove(object),
            Some(Ok(Event::InitDone)) => Step::Listed(std::mem::take(&mut named)),
            Some(Err(error)) => {
                tracing::warn!(%kind, error = common::client::brief(&error), "watch failed; retrying");
                let jittered = delay.mul_f64(rand::random_range(0.8..1.2));
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(jittered) => {}
                }
                delay = (delay * 2).min(BACKOFF_MAX);
                continue;
            }
        };
        delay = BACKOFF_MIN;
        if apply(&mut sources.world.lock(), step) {
            sources.metrics.queued();
            sources.health.queued();
            sources.changed.notify_one();
        }
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let meta = object.meta();
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}
