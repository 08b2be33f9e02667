//! What a pod asks of a node: the sum rules over containers, sidecars, init containers, pod-level resources and overhead.
//!
//! Upstream's rule: sidecars (restartable init containers) count together with the main containers; every ordinary init
//! container counts together with the sidecars started before it; the pod needs the larger of both, then pod-level
//! requests replace the sum, then the overhead is added.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// CPU assumed by scoring for a container that requests none (millicores).
pub const DEFAULT_CPU: i64 = 100;
/// Memory assumed by scoring for a container that requests none (bytes).
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// What a pod requests, in the units of the node columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Millicores.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local storage.
    pub ephemeral: i64,
    /// Everything else that is a scalar resource: extended resources, huge pages, attachable volumes.
    pub scalars: Vec<(Arc<str>, i64)>,
    /// Millicores, with the default for containers that request none.
    pub nonzero_cpu: i64,
    /// Bytes, with the default for containers that request none.
    pub nonzero_memory: i64,
}

impl Requests {
    /// Whether nothing at all is requested.
    pub fn is_empty(&self) -> bool {
        self.cpu == 0 && self.memory == 0 && self.ephemeral == 0 && self.scalars.is_empty()
    }

    /// The request for a resource by name (millicores for cpu).
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral,
            _ => self.scalars.iter().find(|(key, _)| &**key == name).map_or(0, |(_, value)| *value),
        }
    }

    /// Computes the requests of a pod. Status resources (in-place resize) are taken into account.
    pub fn of(pod: &Pod) -> Self {
        let plain = pod_requests(pod, false);
        let nonzero = pod_requests(pod, true);
        let take = |name: &str| plain.get(name).copied().unwrap_or(0);
        Self {
            cpu: take("cpu"),
            memory: take("memory"),
            ephemeral: take("ephemeral-storage"),
            scalars: plain
                .iter()
                .filter(|(name, _)| is_scalar_resource(name))
                .map(|(name, value)| (Arc::from(name.as_str()), *value))
                .collect(),
            nonzero_cpu: nonzero.get("cpu").copied().unwrap_or(0),
            nonzero_memory: nonzero.get("memory").copied().unwrap_or(0),
        }
    }
}

/// The value of a quantity in the unit of its column: millicores for cpu, whole units (rounded up) otherwise.
pub fn column_value(name: &str, quantity: &Quantity) -> i64 {
    match quantity.0.parse::<common::meta::quantity::Quantity>() {
        Ok(parsed) if name == "cpu" => parsed.milli_value(),
        Ok(parsed) => parsed.value(),
        Err(_) => 0,
    }
}

/// Whether the resource is kept as a scalar column: extended resources, huge pages, attachable volumes, and any
/// native prefixed name.
pub fn is_scalar_resource(name: &str) -> bool {
    is_extended_resource(name)
        || name.starts_with("hugepages-")
        || name.starts_with("attachable-volumes-")
        || name.contains("kubernetes.io/")
}

/// Whether the resource is an extended one: a qualified name outside of kubernetes.io that is not a quota name.
pub fn is_extended_resource(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

type List = BTreeMap<String, i64>;

fn list_of(quantities: Option<&BTreeMap<String, Quantity>>) -> List {
    quantities.into_iter().flatten().map(|(name, quantity)| (name.clone(), column_value(name, quantity))).collect()
}

fn add(into: &mut List, from: &List) {
    for (name, value) in from {
        let entry = into.entry(name.clone()).or_default();
        *entry = entry.saturating_add(*value);
    }
}

fn raise(into: &mut List, from: &List) {
    for (name, value) in from {
        let entry = into.entry(name.clone()).or_default();
        *entry = (*entry).max(*value);
    }
}

fn container_requests(pod: &Pod, container: &Container, statuses: &[ContainerStatus], nonzero: bool) -> List {
    let mut list = list_of(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
    if let Some(status) = statuses.iter().find(|status| status.name == container.name) {
        let actual = list_of(status.resources.as_ref().and_then(|r| r.requests.as_ref()));
        let allocated = list_of(status.allocated_resources.as_ref());
        if resize_infeasible(pod) && !allocated.is_empty() {
            list = allocated;
        } else {
            raise(&mut list, &allocated);
        }
        raise(&mut list, &actual);
    }
    if nonzero {
        list.entry("cpu".into()).or_insert(DEFAULT_CPU);
        list.entry("memory".into()).or_insert(DEFAULT_MEMORY);
    }
    list
}

fn resize_infeasible(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten().any(|condition| {
        condition.type_ == "PodResizePending"
            && condition.status == "True"
            && condition.reason.as_deref() == Some("Infeasible")
    })
}

fn pod_requests(pod: &Pod, nonzero: bool) -> List {
    let mut sum = List::new();
    let Some(spec) = &pod.spec else { return sum };
    let status = pod.status.as_ref();
    let main = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let init = status.and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default();
    for container in &spec.containers {
        add(&mut sum, &container_requests(pod, container, main, nonzero));
    }
    let mut sidecars = List::new();
    let mut peak = List::new();
    for container in spec.init_containers.iter().flatten() {
        let own = container_requests(pod, container, init, nonzero);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut together = own;
            add(&mut together, &sidecars);
            raise(&mut peak, &together);
        }
    }
    raise(&mut sum, &peak);
    for (name, value) in list_of(spec.resources.as_ref().and_then(|r| r.requests.as_ref())) {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            sum.insert(name, value);
        }
    }
    add(&mut sum, &list_of(spec.overhead.as_ref()));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn container(name: &str, cpu: &str, memory: &str) -> serde_json::Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn sums_and_peaks() {
        let mut sidecar = container("side", "1", "1Gi");
        sidecar["restartPolicy"] = json!("Always");
        let spec = json!({
            "containers": [container("a", "500m", "1Gi"), container("b", "250m", "1Gi")],
            "initContainers": [sidecar, container("init", "3", "512Mi")],
            "overhead": {"cpu": "100m"},
        });
        let requests = Requests::of(&pod(spec));
        // main + sidecar = 1750m, init + sidecar = 4000m; overhead on top.
        assert_eq!(requests.cpu, 4100);
        assert_eq!(requests.memory, 3 << 30);
    }

    #[test]
    fn an_init_container_before_the_sidecar_stands_alone() {
        let mut sidecar = container("side", "1", "0");
        sidecar["restartPolicy"] = json!("Always");
        let spec = json!({
            "containers": [container("a", "1", "0")],
            "initContainers": [container("init", "1500m", "0"), sidecar],
        });
        assert_eq!(Requests::of(&pod(spec)).cpu, 2000);
    }

    #[test]
    fn defaults_count_only_for_scoring() {
        let spec = json!({"containers": [{"name": "a"}, container("b", "50m", "10Mi")]});
        let requests = Requests::of(&pod(spec));
        assert_eq!((requests.cpu, requests.memory), (50, 10 << 20));
        assert_eq!(requests.nonzero_cpu, 150);
        assert_eq!(requests.nonzero_memory, DEFAULT_MEMORY + (10 << 20));
    }

    #[test]
    fn pod_level_requests_replace_the_sum() {
        let spec = json!({
            "containers": [container("a", "1", "1Gi")],
            "resources": {"requests": {"cpu": "3"}},
        });
        let requests = Requests::of(&pod(spec));
        assert_eq!((requests.cpu, requests.memory), (3000, 1 << 30));
    }

    #[test]
    fn extended_and_huge_pages_are_scalars() {
        let spec = json!({"containers": [{"name": "a", "resources": {"requests": {
            "example.com/gpu": "2", "hugepages-2Mi": "4Mi", "ephemeral-storage": "1Gi"}}}]});
        let requests = Requests::of(&pod(spec));
        assert_eq!(requests.get("example.com/gpu"), 2);
        assert_eq!(requests.get("hugepages-2Mi"), 4 << 20);
        assert_eq!(requests.ephemeral, 1 << 30);
        assert!(is_extended_resource("example.com/gpu") && !is_extended_resource("cpu"));
    }

    #[test]
    fn a_resize_in_flight_counts_the_larger_side() {
        let mut shrinking = pod(json!({"containers": [container("a", "1", "0")]}));
        shrinking.status = serde_json::from_value(json!({"containerStatuses": [{
            "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "2"}}}]}))
        .unwrap();
        assert_eq!(Requests::of(&shrinking).cpu, 2000);
    }
}
