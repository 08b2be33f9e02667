//! Registers the node and keeps its status: at once when something changes, else every report period.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, NodeFeatures, NodeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::conditions::{self, Health};
use super::{address, object};
use crate::pods::status_manager::now;
use crate::quantity::Resources;
use crate::runtime::pleg;
use crate::shared::Kubelet;

const REGISTER_RETRY: Duration = Duration::from_secs(1);
const REGISTER_RETRY_MAX: Duration = Duration::from_secs(7);
/// How often the runtime and the network are asked.
const RUNTIME_CHECK: Duration = Duration::from_secs(5);
const FIRST_CHECKS: Duration = Duration::from_millis(200);

/// Watches the runtime's own conditions until shutdown.
pub(crate) async fn watch_runtime(
    kubelet: Arc<Kubelet>,
    changed: Arc<tokio::sync::Notify>,
    shutdown: CancellationToken,
) {
    let mut pod_cidr = String::new();
    loop {
        let before = (kubelet.node.runtime_problem(), kubelet.node.network_problem());
        let after = runtime_problems(&kubelet, &changed).await;
        kubelet.node.set_runtime(after.0.clone(), after.1.clone());
        if before != after {
            changed.notify_one();
        }
        push_pod_cidr(&kubelet, &mut pod_cidr).await;
        let healthy = after.0.is_none() && after.1.is_none();
        let pause = if healthy { RUNTIME_CHECK } else { FIRST_CHECKS * 5 };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn runtime_problems(kubelet: &Kubelet, changed: &tokio::sync::Notify) -> (Option<String>, Option<String>) {
    let answer = match kubelet.runtime.status().await {
        Ok(answer) => answer,
        Err(error) => return (Some(format!("container runtime is down: {error}")), None),
    };
    let handlers = answer.runtime_handlers.iter();
    let recursive = handlers.filter(|handler| handler.features.as_ref().is_some_and(|f| f.recursive_read_only_mounts));
    kubelet.volumes.set_recursive(recursive.map(|handler| handler.name.clone()));
    if kubelet.node.set_handlers(answer.runtime_handlers, answer.features.unwrap_or_default()) {
        changed.notify_one();
    }
    let conditions = answer.status.unwrap_or_default().conditions;
    let problem = |type_: &str| match conditions.iter().find(|condition| condition.r#type == type_) {
        Some(condition) if condition.status => None,
        Some(condition) => Some(format!("{type_}=false reason:{} message:{}", condition.reason, condition.message)),
        None => Some(format!("{type_} condition is unknown")),
    };
    let runtime = problem("RuntimeReady").map(|problem| format!("container runtime not ready: {problem}"));
    let network = problem("NetworkReady").map(|problem| format!("container runtime network not ready: {problem}"));
    (runtime, network)
}

async fn push_pod_cidr(kubelet: &Kubelet, known: &mut String) {
    let from_node = kubelet.node.object().and_then(|node| node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()));
    let cidr = from_node.unwrap_or_else(|| kubelet.config.file.pod_cidr.clone());
    if cidr.is_empty() || cidr == *known {
        return;
    }
    match kubelet.runtime.set_pod_cidr(&cidr).await {
        Ok(()) => {
            tracing::info!(cidr, "updated the runtime's pod CIDR");
            *known = cidr;
        }
        Err(error) => tracing::warn!(%error, cidr, "failed to tell the runtime the pod CIDR"),
    }
}

/// Registers and reports until shutdown.
pub(crate) async fn run(
    kubelet: Arc<Kubelet>,
    client: kube::Client,
    changed: Arc<tokio::sync::Notify>,
    shutdown: CancellationToken,
) {
    let api: kube::Api<Node> = kube::Api::all(client);
    tokio::select! {
        () = register(&kubelet, &api) => {}
        () = shutdown.cancelled() => return,
    }
    kubelet.pods.look_at_static();
    let mut reported = Instant::now() - kubelet.config.file.node_status_report_frequency.0;
    let mut failing = false;
    loop {
        match update(&kubelet, &api, &mut reported).await {
            Ok(()) => failing = false,
            Err(error) => {
                if !failing {
                    tracing::error!(%error, "unable to update node status, will retry");
                }
                failing = true;
            }
        }
        let ready = kubelet.node.runtime_problem().is_none() && kubelet.node.network_problem().is_none();
        let period = kubelet.config.file.node_status_update_frequency.0;
        let pause = if ready && !failing { period } else { period.min(Duration::from_secs(2)) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = changed.notified() => {}
            () = kubelet.volumes.in_use_changed.notified() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn register(kubelet: &Kubelet, api: &kube::Api<Node>) {
    let mut pause = REGISTER_RETRY / 5;
    loop {
        match try_register(kubelet, api).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(node = kubelet.config.node_name, %error, "unable to register node with API server")
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(REGISTER_RETRY_MAX);
    }
}

async fn try_register(kubelet: &Kubelet, api: &kube::Api<Node>) -> anyhow::Result<()> {
    let name = &kubelet.config.node_name;
    if let Some(existing) = api.get_opt(name).await? {
        return reconcile(kubelet, api, existing).await;
    }
    if !kubelet.config.file.register_node {
        anyhow::bail!("node {name:?} not found and --register-node=false: waiting for it");
    }
    let mut node = object::initial(&kubelet.config);
    let (status, changes) = status(kubelet, &node).await;
    node.status = Some(status);
    let node = match api.create(&PostParams::default(), &node).await {
        Ok(node) => node,
        Err(kube::Error::Api(status)) if status.code == 409 => api.get(name).await?,
        Err(error) => return Err(error.into()),
    };
    tracing::info!(node = name, "successfully registered node");
    kubelet.node.set_object(node);
    tell(kubelet, &changes);
    Ok(())
}

/// A node of before keeps what others put on it; our own labels follow the configuration.
async fn reconcile(kubelet: &Kubelet, api: &kube::Api<Node>, existing: Node) -> anyhow::Result<()> {
    let wanted = object::initial(&kubelet.config);
    let have = existing.metadata.labels.clone().unwrap_or_default();
    let labels: serde_json::Map<String, Value> = wanted
        .metadata
        .labels
        .unwrap_or_default()
        .into_iter()
        .filter(|(key, value)| have.get(key) != Some(value))
        .map(|(key, value)| (key, Value::String(value)))
        .collect();
    let mut node = existing;
    if !labels.is_empty() {
        let patch = json!({"metadata": {"labels": labels}});
        node = api.patch(&kubelet.config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    }
    tracing::info!(node = kubelet.config.node_name, "node was previously registered");
    kubelet.node.set_object(node);
    Ok(())
}

/// What keeps the node from being ready.
fn problems(kubelet: &Kubelet) -> Vec<String> {
    let mut problems = Vec::new();
    problems.extend(kubelet.node.runtime_problem());
    problems.extend(kubelet.node.network_problem());
    problems.extend(kubelet.volumes.node_problem());
    match kubelet.pleg.age() {
        None => problems.push("PLEG is not healthy: pleg has yet to be successful".into()),
        Some(age) if age > pleg::UNHEALTHY_AFTER => problems
            .push(format!("PLEG is not healthy: pleg was last seen active {}s ago; threshold is 3m0s", age.as_secs())),
        Some(_) => {}
    }
    if kubelet.node.is_shutting_down() {
        problems.push("node is shutting down".into());
    }
    problems
}

async fn status(kubelet: &Kubelet, node: &Node) -> (NodeStatus, Vec<conditions::Change>) {
    if kubelet.config.node_ips.is_empty() {
        kubelet.node.set_host_ips(address::host_ips(&kubelet.config));
    }
    let old = node.status.clone().unwrap_or_default();
    tell_reboot(kubelet, &old);
    let pressure = kubelet.node.pressure.read();
    let health = Health {
        memory_pressure: pressure.memory,
        disk_pressure: pressure.disk,
        pid_pressure: pressure.pids,
        problems: problems(kubelet),
    };
    let (conditions, changes) = conditions::generate(&health, old.conditions.as_deref().unwrap_or_default(), now());
    let images = kubelet.runtime.images().await.unwrap_or_default();
    let (capacity, allocatable) = with_devices(kubelet, &old);
    let (handlers, features) = kubelet.node.handlers();
    let status = NodeStatus {
        runtime_handlers: object::handlers(handlers),
        declared_features: Some(declared_features(kubelet)),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(features.supplemental_groups_policy) }),
        addresses: Some(object::addresses(&kubelet.config, &kubelet.node.host_ips(), old.addresses.as_ref())),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions),
        daemon_endpoints: Some(object::endpoints(&kubelet.config)),
        node_info: Some(object::info(&kubelet.node.machine, &kubelet.runtime_info)),
        images: Some(object::images(images, kubelet.config.file.node_status_max_images)),
        volumes_in_use: Some(kubelet.volumes.in_use()).filter(|names| !names.is_empty()),
        ..old
    };
    (status, changes)
}

/// The node's boot id is another than the one that it reported last.
fn tell_reboot(kubelet: &Kubelet, old: &NodeStatus) {
    let before = old.node_info.as_ref().map_or("", |info| info.boot_id.as_str());
    let now = &kubelet.node.machine.boot_id;
    if !before.is_empty() && before != now {
        let message = format!("Node {} has been rebooted, boot id: {now}", kubelet.config.node_name);
        kubelet.events.node(true, "Rebooted", &message);
    }
}

/// What pods may ask of this kubelet that others may not know yet, by name.
fn declared_features(kubelet: &Kubelet) -> Vec<String> {
    let gates = &kubelet.config.file.feature_gates;
    let known = ["RestartAllContainersOnContainerExits"].into_iter();
    known.filter(|name| crate::gates::is_on(gates, name)).map(str::to_owned).collect()
}

/// The node's own resources, those of device plugins, and extended resources that somebody else wrote there.
fn with_devices(kubelet: &Kubelet, old: &NodeStatus) -> (Resources, Resources) {
    let (devices, gone) = kubelet.devices.capacity();
    let foreign = |name: &&String| name.contains('/') && !devices.contains_key(*name);
    let before = old.capacity.iter().flatten().filter(|(name, _)| foreign(name));
    let mut capacity: Resources = before.map(|(name, amount)| (name.clone(), amount.clone())).collect();
    let zero = || Quantity("0".into());
    capacity.extend(gone.into_iter().map(|name| (name, zero())));
    let mut allocatable = capacity.clone();
    capacity.extend(kubelet.node.capacity());
    allocatable.extend(kubelet.node.allocatable());
    for (name, (all, healthy)) in devices {
        capacity.insert(name.clone(), Quantity(all.to_string()));
        allocatable.insert(name, Quantity(healthy.to_string()));
    }
    (capacity, allocatable)
}

/// The status without what changes all the time.
fn essence(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    status
}

/// What is sent. The list of attached volumes is the controller's: as it was read it may be old by now.
fn patch(wanted: &NodeStatus) -> Value {
    let mut patch = json!(NodeStatus { volumes_attached: None, ..wanted.clone() });
    // An empty list must be told, too.
    patch["volumesInUse"] = json!(wanted.volumes_in_use);
    patch
}

async fn update(kubelet: &Kubelet, api: &kube::Api<Node>, reported: &mut Instant) -> anyhow::Result<()> {
    let node = api.get(&kubelet.config.node_name).await?;
    kubelet.node.set_object(node.clone());
    let (wanted, changes) = status(kubelet, &node).await;
    let have = node.status.clone().unwrap_or_default();
    let due = reported.elapsed() >= kubelet.config.file.node_status_report_frequency.0;
    if essence(&wanted) == essence(&have) && !due {
        return Ok(());
    }
    let patch = json!({"status": patch(&wanted)});
    let params = PatchParams::default();
    let node = api.patch_status(&kubelet.config.node_name, &params, &Patch::Strategic(patch)).await?;
    *reported = Instant::now();
    kubelet.node.set_object(node);
    tell(kubelet, &changes);
    Ok(())
}

fn tell(kubelet: &Kubelet, changes: &[conditions::Change]) {
    for conditions::Change(reason) in changes {
        let name = &kubelet.config.node_name;
        kubelet.events.node(false, reason, &format!("Node {name} status is now: {reason}"));
    }
}
