//! Limits of local storage: of an emptyDir, of a pod, of a container. Who exceeds one is evicted, however much room the
//! node has. Pure but for reading usage.

use std::collections::HashMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pods::status::Verdict;
use crate::pods::{PodRecord, spec};
use crate::quantity;
use crate::runtime::resources::{is_critical, pod_total};
use crate::shared::Kubelet;

const RESOURCE: &str = "ephemeral-storage";
/// Seconds.
const GRACE: i64 = 1;

/// What a pod uses.
#[derive(Clone, Debug, Default)]
struct Usage {
    /// By volume.
    volumes: HashMap<String, i64>,
    /// Those of them that count as local storage.
    ephemeral: i64,
    /// (writable layer, logs) by container.
    containers: HashMap<String, (i64, i64)>,
}

fn limit(container: &Container) -> Option<(i64, String)> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    let limit = limits.get(RESOURCE)?;
    let value = quantity::value(limit);
    (value != 0).then(|| (value, limit.0.clone()))
}

/// Whether there is anything to exceed.
fn is_limited(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let volumes = spec.volumes.iter().flatten();
    let sized = volumes.filter_map(|volume| volume.empty_dir.as_ref()).any(|empty| empty.size_limit.is_some());
    let of_pod = spec.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    sized || of_pod.is_some_and(|limits| limits.contains_key(RESOURCE)) || containers.any(|c| limit(c).is_some())
}

/// Why the pod has to go.
fn verdict(pod: &Pod, usage: &Usage) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|empty| empty.size_limit.as_ref()) else { continue };
        let (most, used) = (quantity::value(limit), usage.volumes.get(&volume.name));
        if most > 0 && used.is_some_and(|used| *used > most) {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0));
        }
    }
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let most = pod_total(spec, RESOURCE, true);
    let used = usage.ephemeral + usage.containers.values().map(|(layer, logs)| layer + logs).sum::<i64>();
    if containers.any(|container| limit(container).is_some()) && used > most {
        let most = bytes(most);
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {most}. "));
    }
    spec.containers.iter().find_map(|container| {
        let (most, text) = limit(container)?;
        let (layer, logs) = usage.containers.get(&container.name)?;
        let name = &container.name;
        (layer + logs > most).then(|| format!("Container {name} exceeded its local ephemeral storage limit {text:?}. "))
    })
}

/// A sum in the largest unit that leaves no rest, as quantities are printed.
fn bytes(value: i64) -> String {
    let units = [(1_i64 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let unit = units.into_iter().find(|(size, _)| value > 0 && value % size == 0);
    unit.map_or_else(|| value.to_string(), |(size, unit)| format!("{}{unit}", value / size))
}

/// Evicts pods that use more than they may.
pub(super) async fn enforce(kubelet: &Kubelet) {
    let over = |record: &PodRecord| matches!(record.status.phase.as_deref(), Some("Failed" | "Succeeded"));
    let limited = kubelet.pods.list().into_iter();
    let limited: Vec<PodRecord> =
        limited.filter(|record| !over(record) && !is_critical(&record.pod) && is_limited(&record.pod)).collect();
    if limited.is_empty() {
        return;
    }
    let layers = kubelet.stats.containers(kubelet).await.unwrap_or_default();
    for record in limited {
        let uid = spec::uid(&record.pod);
        let mut usage = Usage::default();
        for volume in kubelet.usages.get(uid).iter() {
            usage.volumes.insert(volume.name.clone(), volume.used);
            usage.ephemeral += if volume.ephemeral { volume.used } else { 0 };
        }
        let logs = kubelet.config.pod_log_dir(spec::namespace(&record.pod), spec::name(&record.pod), uid);
        for layer in layers.iter().filter(|layer| layer.pod_uid == uid) {
            let entry = usage.containers.entry(layer.name.clone()).or_default();
            entry.0 += i64::try_from(layer.disk_used.unwrap_or(0)).unwrap_or(i64::MAX);
            entry.1 = log_bytes(&logs.join(&layer.name));
        }
        let Some(message) = verdict(&record.pod, &usage) else { continue };
        kubelet.events.pod(&record.pod, true, "Evicted", &message);
        kubelet.pods.evict(uid, GRACE, Verdict { phase: "Failed", reason: "Evicted".into(), message });
    }
}

fn log_bytes(directory: &Path) -> i64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| entry.metadata().ok()).filter(|data| data.is_file()).map(|data| data.len());
    i64::try_from(sizes.sum::<u64>()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: serde_json::Value, volumes: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers, "volumes": volumes}})).unwrap()
    }

    fn usage(volumes: &[(&str, i64)], containers: &[(&str, i64, i64)]) -> Usage {
        Usage {
            volumes: volumes.iter().map(|(name, used)| ((*name).to_owned(), *used)).collect(),
            ephemeral: volumes.iter().map(|(_, used)| used).sum(),
            containers: containers.iter().map(|(name, layer, logs)| ((*name).to_owned(), (*layer, *logs))).collect(),
        }
    }

    #[test]
    fn limits_in_upstreams_order_and_words() {
        let limited = |name: &str, limit: &str| json!({"name": name, "resources": {"limits": {RESOURCE: limit}}});
        let small = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Ki"}}]);
        let pod_a = pod(json!([limited("a", "4Ki"), limited("b", "4Ki")]), small);
        assert!(is_limited(&pod_a));
        assert_eq!(verdict(&pod_a, &usage(&[("v", 1024)], &[("a", 4096, 0)])), None);
        assert_eq!(
            verdict(&pod_a, &usage(&[("v", 1025)], &[])).as_deref(),
            Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ")
        );
        assert_eq!(
            verdict(&pod_a, &usage(&[("v", 1000)], &[("a", 4000, 96), ("b", 4000, 0)])).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 8Ki. ")
        );
        assert_eq!(
            verdict(&pod_a, &usage(&[], &[("a", 4000, 97)])).as_deref(),
            Some("Container a exceeded its local ephemeral storage limit \"4Ki\". ")
        );
        let free = pod(json!([{"name": "a"}]), json!([{"name": "v", "emptyDir": {}}]));
        assert!(!is_limited(&free));
        assert_eq!(verdict(&free, &usage(&[("v", 1 << 40)], &[("a", 1 << 40, 0)])), None);
    }
}
