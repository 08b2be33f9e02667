//! The node object: labels, capacity, addresses, system info. Pure over the facts it is given.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeDaemonEndpoints, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeSpec, NodeSwapStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::machine::{self, Disk, Machine};
use crate::cgroups::Limits;
use crate::config::Config;
use crate::quantity::{self, Resources};
use crate::runtime::{RuntimeInfo, resources};

const MAX_NAMES_PER_IMAGE: usize = 5;

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What the machine has.
pub(crate) fn capacity(config: &Config, machine: &Machine, disk: Disk) -> Resources {
    let pods = match config.file.pods_per_core {
        per_core if per_core > 0 => config.file.max_pods.min(per_core * machine.cpus),
        _ => config.file.max_pods,
    };
    let text = |value: String| Quantity(value);
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), text(machine.cpus.to_string())),
        ("memory".to_owned(), text(format!("{}Ki", machine.memory_bytes / 1024))),
        ("ephemeral-storage".to_owned(), text(format!("{}Ki", disk.capacity / 1024))),
        ("pods".to_owned(), text(pods.to_string())),
    ]);
    for (size, count) in &machine.huge_pages {
        let bytes = size.saturating_mul(*count);
        let value = if bytes % (1 << 20) == 0 && bytes > 0 { format!("{}Mi", bytes >> 20) } else { bytes.to_string() };
        capacity.insert(machine::huge_page_resource(*size), text(value));
    }
    capacity
}

/// What pods may use of it: without reservations, hard eviction thresholds and, of the memory, huge pages.
pub(crate) fn allocatable(config: &Config, capacity: &Resources) -> Resources {
    let mut left = unreserved(config, capacity);
    let huge: i64 =
        capacity.iter().filter(|(name, _)| name.starts_with("hugepages-")).map(|(_, q)| quantity::value(q)).sum();
    for (name, signal, taken) in [("memory", "memory.available", huge), ("ephemeral-storage", "nodefs.available", 0)] {
        let (Some(whole), Some(have)) = (capacity.get(name), left.get_mut(name)) else { continue };
        let threshold = config.file.eviction_hard.get(signal).map_or(0, |text| threshold(text, quantity::value(whole)));
        *have = bytes(quantity::value(have) - threshold - taken);
    }
    left
}

/// What all pods together are held to: the capacity without reservations. Eviction thresholds are no bound; evictions keep
/// them.
pub(crate) fn unreserved(config: &Config, capacity: &Resources) -> Resources {
    let mut left = capacity.clone();
    for (name, have) in &mut left {
        let reserved: Vec<Quantity> = [&config.file.system_reserved, &config.file.kube_reserved]
            .into_iter()
            .filter_map(|list| list.get(name))
            .map(|text| Quantity(text.clone()))
            .collect();
        if reserved.is_empty() {
            continue;
        }
        *have = match name.as_str() {
            "cpu" => {
                let milli = quantity::milli(have) - reserved.iter().map(quantity::milli).sum::<i64>();
                Quantity(format!("{}m", milli.max(0)))
            }
            _ => bytes(quantity::value(have) - reserved.iter().map(quantity::value).sum::<i64>()),
        };
    }
    left
}

/// Limits of a cgroup that reserved resources are for; of `compressible` ones only the CPU.
pub(crate) fn reservation(reserved: &BTreeMap<String, String>, compressible: bool) -> Limits {
    let amount = |name: &str| reserved.get(name).map(|text| Quantity(text.clone()));
    let all = |name: &str| amount(name).filter(|_| !compressible);
    Limits {
        cpu_shares: amount("cpu").map(|cpu| resources::shares(quantity::milli(&cpu))),
        memory: all("memory").map(|memory| quantity::value(&memory)),
        pids: all("pid").map(|pids| quantity::value(&pids)),
        ..Limits::default()
    }
}

fn bytes(value: i64) -> Quantity {
    let value = value.max(0);
    Quantity(if value % 1024 == 0 { format!("{}Ki", value / 1024) } else { value.to_string() })
}

/// A threshold is a quantity or a percentage of the whole.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a share of a byte does not matter")]
pub(crate) fn threshold(text: &str, whole: i64) -> i64 {
    match text.strip_suffix('%') {
        Some(percent) => (whole as f64 * percent.trim().parse::<f64>().unwrap_or(0.0) / 100.0) as i64,
        None => quantity::value(&Quantity(text.to_owned())),
    }
}

/// The object to register with.
pub(crate) fn initial(config: &Config) -> Node {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), config.hostname.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), arch().to_owned()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), arch().to_owned()),
    ]);
    labels.extend(config.node_labels.clone());
    let mut taints: Vec<Taint> = config.file.register_with_taints.clone();
    if config.external_cloud {
        taints.push(Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".into(),
            value: Some("true".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        });
    }
    let mut node = Node::default();
    node.metadata.name = Some(config.node_name.clone());
    node.metadata.labels = Some(labels);
    let mut annotations =
        BTreeMap::from([("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())]);
    if config.external_cloud && !config.node_ips.is_empty() {
        let ips: Vec<String> = config.node_ips.iter().map(ToString::to_string).collect();
        annotations.insert("alpha.kubernetes.io/provided-node-ip".into(), ips.join(","));
    }
    node.metadata.annotations = Some(annotations);
    let provider_id = Some(config.file.provider_id.clone()).filter(|id| !id.is_empty());
    node.spec = Some(NodeSpec { taints: (!taints.is_empty()).then_some(taints), provider_id, ..NodeSpec::default() });
    node
}

/// Addresses; with an external cloud provider the ones it set are kept.
pub(crate) fn addresses(config: &Config, host_ips: &[String], have: Option<&Vec<NodeAddress>>) -> Vec<NodeAddress> {
    let address = |type_: &str, address: &str| NodeAddress { type_: type_.into(), address: address.into() };
    if config.external_cloud {
        return match have {
            Some(have) if !have.is_empty() => have.clone(),
            _ => vec![address("Hostname", &config.hostname)],
        };
    }
    let mut list: Vec<_> = host_ips.iter().map(|ip| address("InternalIP", ip)).collect();
    list.push(address("Hostname", &config.hostname));
    list
}

/// System info.
pub(crate) fn info(machine: &Machine, runtime: &RuntimeInfo) -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: arch().into(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: format!("{}://{}", runtime.name, runtime.version),
        kernel_version: machine.kernel.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: common::config::version::GIT_VERSION.into(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: machine.os_image.clone(),
        system_uuid: machine.system_uuid.clone(),
        swap: (machine.swap_bytes > 0).then_some(NodeSwapStatus { capacity: Some(machine.swap_bytes) }),
    }
}

/// What the runtime's handlers can do.
pub(crate) fn handlers(handlers: Vec<k8s_cri::v1::RuntimeHandler>) -> Option<Vec<NodeRuntimeHandler>> {
    let of = |handler: k8s_cri::v1::RuntimeHandler| {
        let features = handler.features.unwrap_or_default();
        NodeRuntimeHandler {
            name: Some(handler.name),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
                user_namespaces: Some(features.user_namespaces),
            }),
        }
    };
    (!handlers.is_empty()).then(|| handlers.into_iter().map(of).collect())
}

/// Where the kubelet listens.
pub(crate) fn endpoints(config: &Config) -> NodeDaemonEndpoints {
    let port = i32::from(config.file.port);
    NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port }) }
}

/// Images, largest first.
pub(crate) fn images(mut images: Vec<k8s_cri::v1::Image>, limit: i32) -> Vec<ContainerImage> {
    images.sort_by_key(|image| std::cmp::Reverse(image.size));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let of = |image: k8s_cri::v1::Image| {
        let mut names: Vec<String> = image.repo_digests.into_iter().chain(image.repo_tags).collect();
        names.truncate(MAX_NAMES_PER_IMAGE);
        ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size).ok() }
    };
    images.into_iter().take(limit).map(of).collect()
}
