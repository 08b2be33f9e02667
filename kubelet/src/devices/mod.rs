//! Device plugins: they register on our socket, list their devices, and are asked when a container shall have some.
//!
//! ```text
//!  plugin ── Register ──> kubelet.sock          Resource: devices with health and NUMA nodes
//!  kubelet ── ListAndWatch ──> plugin's socket ──┘     │
//!  admission: hints, choice ── GetPreferredAllocation, Allocate ──> Given, kept in the checkpoint
//!  container start ── PreStartContainer ──> devices, mounts, environment of what was given
//! ```

mod checkpoint;
mod plugin;
mod registration;
mod state;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceHealth, ResourceStatus};
use parking_lot::Mutex;

use crate::placement::hints::{Hint, Hints};
use crate::placement::{Provider, Refusal};
use crate::pods::spec;
use crate::quantity;
pub(crate) use registration::{Listener, run};
use state::{Device, Gifts, Registered, Resource, State};

const CHECKPOINT: &str = "kubelet_internal_checkpoint";

/// The devices of this node.
pub(crate) struct Devices {
    /// `<root>/device-plugins`.
    directory: PathBuf,
    nodes: BTreeSet<usize>,
    state: Mutex<State>,
}

/// Devices that a container needs, by resource.
fn wanted(container: &Container) -> BTreeMap<String, usize> {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let extended = limits.into_iter().flatten().filter(|(name, _)| name.contains('/'));
    extended.map(|(name, amount)| (name.clone(), usize::try_from(quantity::value(amount)).unwrap_or(0))).collect()
}

/// The scheduler turned the resource into a claim, whose driver gives it.
fn is_claimed(pod: &Pod, container: &Container, resource: &str) -> bool {
    let status = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    status.is_some_and(|claim| {
        claim.request_mappings.iter().any(|m| m.container_name == container.name && m.resource_name == resource)
    })
}

impl Devices {
    /// With what the last kubelet had given.
    pub(crate) fn new(root: &std::path::Path, nodes: impl IntoIterator<Item = usize>) -> Self {
        let directory = root.join("device-plugins");
        let (gifts, registered) = checkpoint::load(&directory.join(CHECKPOINT));
        // Till the plugins come back their resources are known, and have no device.
        let waiting = |name| (name, Resource { gone_since: Some(Instant::now()), ..Resource::default() });
        let resources = registered.into_iter().map(waiting).collect();
        let state = State { resources, gifts, ..State::default() };
        Self { directory, nodes: nodes.into_iter().collect(), state: Mutex::new(state) }
    }

    fn save(&self, state: &State) -> Result<(), Refusal> {
        let registered =
            state.resources.iter().map(|(name, resource)| (name.clone(), resource.healthy().into_iter().collect()));
        checkpoint::save(&self.directory.join(CHECKPOINT), &state.gifts, registered.collect())
            .map_err(|error| Refusal::unexpected(format!("{error:#}")))
    }

    /// A plugin has told its devices; answers the pods that have one whose health is another now.
    fn update(&self, resource: &str, number: u64, devices: Vec<wire::Device>) -> Vec<String> {
        let mut state = self.state.lock();
        let Some(known) = state.resources.get_mut(resource) else { return Vec::new() };
        if known.plugin.as_ref().is_none_or(|plugin| plugin.number != number) {
            return Vec::new();
        }
        let fresh: BTreeMap<String, Device> = devices
            .into_iter()
            .map(|device| {
                let nodes = device.topology.unwrap_or_default().nodes;
                let nodes = nodes.into_iter().filter_map(|node| usize::try_from(node.id).ok()).collect();
                (device.id, Device { healthy: device.health == wire::HEALTHY, nodes })
            })
            .collect();
        let health = |list: &BTreeMap<String, Device>, id: &String| list.get(id).map(|device| device.healthy);
        let ids = known.devices.keys().chain(fresh.keys());
        let changed: BTreeSet<String> =
            ids.filter(|id| health(&known.devices, id) != health(&fresh, id)).cloned().collect();
        known.devices = fresh;
        known.gone_since = None;
        let concerned = |((_, _, of), given): &(&(String, String, String), &state::Given)| {
            of == resource && !given.ids().is_disjoint(&changed)
        };
        let pods = state.gifts.iter().filter(concerned).map(|((pod, _, _), _)| pod.clone()).collect();
        if let Err(refusal) = self.save(&state) {
            tracing::error!(error = refusal.message, "cannot keep the devices");
        }
        pods
    }

    fn connected(&self, resource: &str, plugin: Registered) {
        let mut state = self.state.lock();
        let known = state.resources.entry(resource.to_owned()).or_default();
        (known.plugin, known.gone_since) = (Some(plugin), None);
    }

    /// The plugin is away: its devices are out of order.
    fn disconnected(&self, resource: &str, number: u64) -> Vec<String> {
        let mut state = self.state.lock();
        let Some(known) = state.resources.get_mut(resource) else { return Vec::new() };
        if known.plugin.as_ref().is_some_and(|plugin| plugin.number != number) {
            return Vec::new();
        }
        known.gone_since = Some(Instant::now());
        known.devices.values_mut().for_each(|device| device.healthy = false);
        state.gifts.keys().filter(|(_, _, of)| of == resource).map(|(pod, _, _)| pod.clone()).collect()
    }

    /// Resources with (all, healthy) devices, and resources that are no more.
    pub(crate) fn capacity(&self) -> (BTreeMap<String, (usize, usize)>, Vec<String>) {
        self.state.lock().capacity()
    }

    /// What a container gets of its devices, for the runtime. Plugins that want it are told that the container starts.
    pub(crate) async fn prepare(
        &self,
        pod: &Pod,
        container: &Container,
    ) -> Result<Vec<wire::ContainerAllocateResponse>, String> {
        let mut answers = Vec::new();
        for (resource, needed) in wanted(container).into_iter().filter(|(name, _)| !is_claimed(pod, container, name)) {
            let (given, plugin) = {
                let state = self.state.lock();
                if needed == 0 || !state.knows(&resource) {
                    continue;
                }
                let key = (spec::uid(pod).to_owned(), container.name.clone(), resource.clone());
                let plugin = state.resources.get(&resource).and_then(|known| known.plugin.clone());
                (state.gifts.get(&key).cloned(), plugin)
            };
            let Some(given) = given else {
                return Err(format!(
                    "no devices found allocated in local cache for pod {}, container {}, resource {resource}",
                    spec::uid(pod),
                    container.name
                ));
            };
            if let Some(plugin) = plugin.filter(|plugin| plugin.options.pre_start_required) {
                plugin.plugin.pre_start(given.ids().into_iter().collect()).await?;
            }
            answers.push(given.answer);
        }
        Ok(answers)
    }

    /// Devices of a container with their NUMA nodes, by resource.
    pub(crate) fn of(&self, uid: &str, container: &str) -> BTreeMap<String, BTreeMap<String, Vec<usize>>> {
        let state = self.state.lock();
        let mine = state.gifts.iter().filter(|((pod, name, _), _)| pod == uid && name == container);
        mine.map(|((_, _, resource), given)| {
            let mut devices: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (node, ids) in &given.devices {
                for id in ids {
                    devices.entry(id.clone()).or_default().extend(usize::try_from(*node).ok());
                }
            }
            (resource.clone(), devices)
        })
        .collect()
    }

    /// All healthy devices with their NUMA nodes, by resource.
    pub(crate) fn allocatable(&self) -> BTreeMap<String, BTreeMap<String, Vec<usize>>> {
        let state = self.state.lock();
        let healthy = |resource: &Resource| {
            let healthy = resource.devices.iter().filter(|(_, device)| device.healthy);
            healthy.map(|(id, device)| (id.clone(), device.nodes.clone())).collect()
        };
        state.resources.iter().map(|(name, resource)| (name.clone(), healthy(resource))).collect()
    }

    /// Writes the health of containers' devices into a pod's status.
    pub(crate) fn describe(&self, uid: &str, status: &mut PodStatus) {
        let state = self.state.lock();
        if state.gifts.is_empty() {
            return;
        }
        for container in status.container_statuses.iter_mut().flatten() {
            let mine = state.gifts.iter().filter(|((pod, name, _), _)| pod == uid && *name == container.name);
            for ((_, _, resource), given) in mine {
                let known = state.resources.get(resource);
                let health = |id: &String| match known.and_then(|known| known.devices.get(id)) {
                    Some(device) if !device.healthy => "Unhealthy",
                    _ => "Healthy",
                };
                let resources = given.ids().into_iter().map(|id| ResourceHealth {
                    health: Some(health(&id).to_owned()),
                    resource_id: id,
                    ..ResourceHealth::default()
                });
                let of_resource = ResourceStatus { name: resource.clone(), resources: Some(resources.collect()) };
                container.allocated_resources_status.get_or_insert_default().push(of_resource);
            }
        }
    }

    async fn give(
        &self,
        pod: &Pod,
        container: &Container,
        resource: &str,
        needed: usize,
        affinity: Hint,
    ) -> Result<(), Refusal> {
        let uid = spec::uid(pod);
        let (choice, plugin) = {
            let state = self.state.lock();
            if !state.knows(resource) {
                return Ok(());
            }
            let choice =
                state.choose((uid, &container.name), resource, needed, affinity).map_err(Refusal::unexpected)?;
            let Some(choice) = choice else { return Ok(()) };
            (choice, state.resources.get(resource).and_then(|known| known.plugin.clone()))
        };
        let plugin = plugin.ok_or_else(|| Refusal::unexpected(format!("unknown Device Plugin {resource}")))?;
        let mut preferred = Vec::new();
        if let Some(open) = choice.open().filter(|_| plugin.options.get_preferred_allocation_available) {
            let must: Vec<String> = choice.reused.iter().cloned().collect();
            let available = open.into_iter().chain(must.iter().cloned()).collect();
            preferred = plugin.plugin.preferred(available, must, needed).await.map_err(Refusal::unexpected)?;
        }
        let chosen = choice.settle(&preferred);
        let answer = plugin.plugin.allocate(chosen.iter().cloned().collect()).await.map_err(Refusal::unexpected)?;
        let mut state = self.state.lock();
        state.give((uid.to_owned(), container.name.clone(), resource.to_owned()), &chosen, answer);
        self.save(&state)
    }

    /// What an init container had may be had again; what others have may not.
    fn note_reuse(&self, pod: &Pod, container: &Container) {
        let uid = spec::uid(pod);
        let mut state = self.state.lock();
        let own: Vec<(String, BTreeSet<String>)> = state
            .gifts
            .iter()
            .filter(|((of, name, _), _)| of == uid && *name == container.name)
            .map(|((_, _, resource), given)| (resource.clone(), given.ids()))
            .collect();
        state.reusable.retain(|of, _| of == uid);
        let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let ends = inits.into_iter().any(|init| init.name == container.name && !spec::is_sidecar(init));
        let reusable = state.reusable.entry(uid.to_owned()).or_default();
        for (resource, ids) in own {
            let of_resource = reusable.entry(resource).or_default();
            *of_resource = if ends { &*of_resource | &ids } else { &*of_resource - &ids };
        }
    }
}

#[async_trait]
impl Provider for Devices {
    fn hints(&self, pod: &Pod, container: &Container) -> Hints {
        let state = self.state.lock();
        let known = wanted(container).into_iter().filter(|(name, needed)| *needed > 0 && state.knows(name));
        known
            .map(|(name, needed)| {
                let hints = state.hints(spec::uid(pod), &name, needed, &self.nodes);
                (name, hints)
            })
            .collect()
    }

    fn pod_hints(&self, pod: &Pod) -> Hints {
        let amounts = |container: &Container| wanted(container).into_iter().map(|(name, n)| (name, n as u64)).collect();
        let state = self.state.lock();
        let totals = crate::placement::peak(pod, amounts).into_iter();
        let known = totals.filter(|(name, needed)| *needed > 0 && state.knows(name));
        known
            .map(|(name, needed)| {
                let needed = usize::try_from(needed).unwrap_or(usize::MAX);
                let hints = state.hints(spec::uid(pod), &name, needed, &self.nodes);
                (name, hints)
            })
            .collect()
    }

    async fn allocate(&self, pod: &Pod, container: &Container, affinity: Hint) -> Result<(), Refusal> {
        for (resource, needed) in wanted(container) {
            if is_claimed(pod, container, &resource) {
                continue;
            }
            self.give(pod, container, &resource, needed, affinity).await?;
        }
        self.note_reuse(pod, container);
        Ok(())
    }

    fn retain(&self, alive: &(dyn Fn(&str) -> bool + Sync)) {
        let mut state = self.state.lock();
        let before: Gifts = std::mem::take(&mut state.gifts);
        let count = before.len();
        state.gifts = before.into_iter().filter(|((pod, _, _), _)| alive(pod)).collect();
        state.reusable.retain(|pod, _| alive(pod));
        if state.gifts.len() != count
            && let Err(refusal) = self.save(&state)
        {
            tracing::error!(error = refusal.message, "cannot keep the devices");
        }
    }
}
