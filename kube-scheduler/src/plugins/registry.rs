//! From a profile's configuration to its plugins: instances by name, then each extension point's list in upstream's order
//! (overridden defaults first, then MultiPoint's, then the point's own).

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use common::events::EventsV1Recorder;
use common::informer::Informer;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::dynamic_resources::cluster::Devices;
use super::{
    balanced_allocation, default_binder, default_preemption, dynamic_resources, fit, gang_scheduling, image_locality,
    inter_pod_affinity, node_affinity, node_declared_features, node_name, node_ports, node_unschedulable,
    node_volume_limits, priority_sort, scheduling_gates, taint_toleration, topology_spread, volume_binding,
    volume_restrictions, volume_zone,
};
use crate::config::args::{
    BalancedAllocationArgs, DefaultPreemptionArgs, DynamicResourcesArgs, FitArgs, InterPodAffinityArgs,
    NodeAffinityArgs, PodTopologySpreadArgs, VolumeBindingArgs,
};
use crate::config::types::{KubeSchedulerProfile, PluginConfig, PluginSet};
use crate::config::validation::decode_args;
use crate::extender::Extenders;
use crate::framework::groups::Groups;
use crate::framework::listers::{Listers, NoListers};
use crate::framework::plugin::Plugin;
use crate::framework::profile::{PluginRef, Points, Profile};
use crate::preemption::executor::Executor;
use crate::storage::Storage;

/// Upstream plugins that this build knows by name but does not have yet: accepted in profiles, and do nothing.
pub const NOT_YET: &[&str] = &["TopologyPlacementGenerator", "PodGroupPodsCount"];

/// What plugins are built from.
#[derive(Clone)]
pub struct Services {
    /// The API server; `None` in tests of the decision alone.
    pub client: Option<kube::Client>,
    /// Objects other than nodes and pods.
    pub listers: Arc<dyn Listers>,
    /// Volumes, claims and classes; one for all profiles, so that none promises what another has.
    pub storage: Arc<Storage>,
    /// Claims, slices and device classes; one for all profiles, too.
    pub devices: Arc<Devices>,
    /// Pods by their pod group.
    pub groups: Arc<Groups>,
    /// HTTP extenders.
    pub extenders: Arc<Extenders>,
    /// Whether the gate NodeDeclaredFeatures is on.
    pub declared_features: bool,
    /// Nodes and pods as the API server shows them.
    pub nodes: Option<Arc<Informer<Node>>>,
    /// Pods.
    pub pods: Option<Arc<Informer<Pod>>>,
    /// Events about pods other than the one being scheduled.
    pub recorder: Option<EventsV1Recorder>,
    /// Makes pods active at once; set when the queue exists.
    pub activate: Arc<OnceLock<Activate>>,
}

/// Makes pods (by uid) active at once.
pub type Activate = Box<dyn Fn(&[Arc<str>]) + Send + Sync>;

impl Default for Services {
    fn default() -> Self {
        Self {
            client: None,
            listers: Arc::new(NoListers),
            storage: Arc::new(Storage::detached()),
            devices: Arc::new(Devices::detached()),
            groups: Arc::default(),
            extenders: Arc::default(),
            declared_features: true,
            nodes: None,
            pods: None,
            recorder: None,
            activate: Arc::default(),
        }
    }
}

type Build = Result<Option<PluginRef>, String>;

fn args<T: serde::de::DeserializeOwned + Default>(name: &str, configs: &[PluginConfig]) -> Result<T, String> {
    match configs.iter().find(|config| config.name == name) {
        Some(config) => decode_args(config),
        None => Ok(T::default()),
    }
}

/// One plugin by name; `None` for those known but not there yet.
fn build(name: &str, profile: &str, configs: &[PluginConfig], services: &Services) -> Build {
    let plugin: PluginRef = match name {
        priority_sort::NAME => Arc::new(priority_sort::PrioritySort),
        scheduling_gates::NAME => Arc::new(scheduling_gates::SchedulingGates),
        node_name::NAME => Arc::new(node_name::NodeName),
        node_unschedulable::NAME => Arc::new(node_unschedulable::NodeUnschedulable),
        taint_toleration::NAME => Arc::new(taint_toleration::TaintToleration),
        node_affinity::NAME => Arc::new(node_affinity::NodeAffinity::new(&args::<NodeAffinityArgs>(name, configs)?)),
        node_declared_features::NAME if !services.declared_features => return Ok(None),
        node_declared_features::NAME => Arc::new(node_declared_features::NodeDeclaredFeatures),
        node_ports::NAME => Arc::new(node_ports::NodePorts),
        fit::NAME => {
            let mut args: FitArgs = args(name, configs)?;
            args.set_defaults();
            Arc::new(fit::Fit::new(&args).beside(services.devices.clone()))
        }
        balanced_allocation::NAME => {
            let mut args: BalancedAllocationArgs = args(name, configs)?;
            args.set_defaults();
            Arc::new(balanced_allocation::BalancedAllocation::new(&args))
        }
        topology_spread::NAME => {
            let args = args::<PodTopologySpreadArgs>(name, configs)?;
            Arc::new(topology_spread::TopologySpread::new(&args, services.listers.clone()))
        }
        inter_pod_affinity::NAME => {
            let args = args::<InterPodAffinityArgs>(name, configs)?;
            Arc::new(inter_pod_affinity::InterPodAffinity::new(&args, services.listers.clone()))
        }
        volume_restrictions::NAME => {
            Arc::new(volume_restrictions::VolumeRestrictions { storage: services.storage.clone() })
        }
        node_volume_limits::NAME => {
            Arc::new(node_volume_limits::NodeVolumeLimits { storage: services.storage.clone() })
        }
        volume_binding::NAME => {
            let args = args::<VolumeBindingArgs>(name, configs)?;
            Arc::new(volume_binding::VolumeBinding::new(&args, services))
        }
        volume_zone::NAME => Arc::new(volume_zone::VolumeZone { storage: services.storage.clone() }),
        dynamic_resources::NAME => {
            let args = args::<DynamicResourcesArgs>(name, configs)?;
            Arc::new(dynamic_resources::DynamicResources::new(&args, profile, services))
        }
        default_preemption::NAME => {
            let args = args::<DefaultPreemptionArgs>(name, configs)?;
            let executor = Arc::new(Executor::new(services));
            Arc::new(default_preemption::DefaultPreemption::new(&args, services, executor))
        }
        gang_scheduling::NAME if services.groups.informer.is_none() => return Ok(None),
        gang_scheduling::NAME => Arc::new(gang_scheduling::GangScheduling { groups: services.groups.clone() }),
        image_locality::NAME => Arc::new(image_locality::ImageLocality),
        default_binder::NAME => Arc::new(default_binder::DefaultBinder { client: services.client.clone() }),
        other if NOT_YET.contains(&other) => return Ok(None),
        other => return Err(format!("plugin {other:?} does not exist")),
    };
    Ok(Some(plugin))
}

/// Builds a profile from its defaulted configuration.
pub fn profile(config: &KubeSchedulerProfile, services: &Services) -> Result<Profile, String> {
    let name = config.scheduler_name.clone().unwrap_or_default();
    let wrap = |error: String| format!("initializing profiles: creating profile for scheduler name {name}: {error}");
    let sets = point_sets(config);
    let mut built: BTreeMap<String, PluginRef> = BTreeMap::new();
    let mut order = Vec::new();
    let multi_point = &config.plugins.multi_point;
    for entry in multi_point.enabled.iter().chain(sets.iter().flat_map(|(_, set)| &set.enabled)) {
        if built.contains_key(&entry.name) {
            continue;
        }
        let plugin = build(&entry.name, &name, &config.plugin_config, services)
            .map_err(|error| wrap(format!("initializing plugin {:?}: {error}", entry.name)))?;
        if let Some(plugin) = plugin {
            order.push(plugin.clone());
            built.insert(entry.name.clone(), plugin);
        }
    }
    let mut points = Points::default();
    for (point, set) in sets {
        let list = expand(point, set, multi_point, &built).map_err(wrap)?;
        assign(&mut points, point, list, config, &built).map_err(wrap)?;
    }
    if points.queue_sort.len() != 1 {
        let names: Vec<_> = points.queue_sort.iter().map(|plugin| plugin.name()).collect();
        let problem =
            if names.is_empty() { "no queue sort plugin is enabled" } else { "only one queue sort plugin required" };
        return Err(wrap(format!("{problem} for profile with scheduler name {name:?}, but got {names:?}")));
    }
    if points.bind.is_empty() {
        return Err(wrap(
            "at least one bind plugin is needed for profile with scheduler name ".to_owned() + &format!("{name:?}"),
        ));
    }
    let mut profile = Profile::new(Arc::from(name.as_str()), config.percentage_of_nodes_to_score, points, &order);
    profile.extended = !services.extenders.is_empty();
    Ok(profile)
}

fn point_sets(config: &KubeSchedulerProfile) -> [(&'static str, &PluginSet); 12] {
    let plugins = &config.plugins;
    [
        ("PreEnqueuePlugin", &plugins.pre_enqueue),
        ("QueueSortPlugin", &plugins.queue_sort),
        ("PreFilterPlugin", &plugins.pre_filter),
        ("FilterPlugin", &plugins.filter),
        ("PostFilterPlugin", &plugins.post_filter),
        ("PreScorePlugin", &plugins.pre_score),
        ("ScorePlugin", &plugins.score),
        ("ReservePlugin", &plugins.reserve),
        ("PermitPlugin", &plugins.permit),
        ("PreBindPlugin", &plugins.pre_bind),
        ("BindPlugin", &plugins.bind),
        ("PostBindPlugin", &plugins.post_bind),
    ]
}

fn implements(plugin: &dyn Plugin, point: &str) -> bool {
    match point {
        "PreEnqueuePlugin" => plugin.as_pre_enqueue().is_some(),
        "QueueSortPlugin" => plugin.as_queue_sort().is_some(),
        "PreFilterPlugin" => plugin.as_pre_filter().is_some(),
        "FilterPlugin" => plugin.as_filter().is_some(),
        "PostFilterPlugin" => plugin.as_post_filter().is_some(),
        "PreScorePlugin" => plugin.as_pre_score().is_some(),
        "ScorePlugin" => plugin.as_score().is_some(),
        "ReservePlugin" => plugin.as_reserve().is_some(),
        "PermitPlugin" => plugin.as_permit().is_some(),
        "PreBindPlugin" => plugin.as_pre_bind().is_some(),
        "BindPlugin" => plugin.as_bind().is_some(),
        _ => plugin.as_post_bind().is_some(),
    }
}

/// The plugins of one point, in order.
fn expand(
    point: &str,
    set: &PluginSet,
    multi_point: &PluginSet,
    built: &BTreeMap<String, PluginRef>,
) -> Result<Vec<PluginRef>, String> {
    let mut own: Vec<PluginRef> = Vec::new();
    for entry in &set.enabled {
        let Some(plugin) = built.get(&entry.name) else { continue };
        if !implements(&**plugin, point) {
            return Err(format!("plugin {:?} does not extend {point} plugin", entry.name));
        }
        if own.iter().any(|other| other.name() == entry.name) {
            return Err(format!("plugin {:?} already registered as {point:?}", entry.name));
        }
        own.push(plugin.clone());
    }
    if set.disabled.iter().any(|entry| entry.name == "*") {
        return Ok(own);
    }
    let mut overridden: Vec<&str> = Vec::new();
    let mut shared: Vec<PluginRef> = Vec::new();
    for entry in &multi_point.enabled {
        let Some(plugin) = built.get(&entry.name).filter(|plugin| implements(&***plugin, point)) else { continue };
        if set.disabled.iter().any(|disabled| disabled.name == entry.name) {
            continue;
        }
        if own.iter().any(|other| other.name() == entry.name) {
            overridden.push(&entry.name);
        } else if shared.iter().any(|other| other.name() == entry.name) {
            return Err(format!("plugin {:?} already registered as {point:?}", entry.name));
        } else {
            shared.push(plugin.clone());
        }
    }
    let (first, last): (Vec<_>, Vec<_>) = own.into_iter().partition(|plugin| overridden.contains(&plugin.name()));
    Ok(first.into_iter().chain(shared).chain(last).collect())
}

fn assign(
    points: &mut Points,
    point: &str,
    list: Vec<PluginRef>,
    config: &KubeSchedulerProfile,
    _built: &BTreeMap<String, PluginRef>,
) -> Result<(), String> {
    let weight = |name: &str| {
        let sets = [&config.plugins.score, &config.plugins.multi_point];
        let entry = sets.into_iter().find_map(|set| set.enabled.iter().find(|entry| entry.name == name));
        entry.and_then(|entry| entry.weight).filter(|weight| *weight != 0).unwrap_or(1)
    };
    match point {
        "PreEnqueuePlugin" => points.pre_enqueue = list,
        "QueueSortPlugin" => points.queue_sort = list,
        "PreFilterPlugin" => points.pre_filter = list,
        "FilterPlugin" => points.filter = list,
        "PostFilterPlugin" => points.post_filter = list,
        "PreScorePlugin" => points.pre_score = list,
        "ScorePlugin" => {
            for plugin in list {
                let weight = i64::from(weight(plugin.name()));
                if weight < 0 {
                    return Err(format!("score plugin {:?} is not configured with weight", plugin.name()));
                }
                points.score.push((plugin, weight));
            }
        }
        "ReservePlugin" => points.reserve = list,
        "PermitPlugin" => points.permit = list,
        "PreBindPlugin" => points.pre_bind = list,
        "BindPlugin" => points.bind = list,
        _ => points.post_bind = list,
    }
    Ok(())
}
