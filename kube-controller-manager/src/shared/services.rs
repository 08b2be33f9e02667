//! What endpoints and endpointslice controllers share: which pods a Service has and at which ports.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use parking_lot::Mutex;

use super::meta::MetaExt;
use super::{pods, selector};

/// The label of endpoints and slices of headless Services.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
/// The label of nodes that says their zone.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
/// When the change that led to this state happened.
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Puts Services on the queue that changed, or whose pods did; the latter after `batch`, so that many changes are one.
pub(crate) fn enqueue_changed(
    services: &Arc<Informer<Service>>,
    pods: &Informer<Pod>,
    queue: &Arc<WorkQueue<String>>,
    batch: Duration,
) {
    let changed = queue.clone();
    services.on_event(move |event: &Event<Service>| changed.add(object_key(&**event.object())));
    let (services, queue) = (services.clone(), queue.clone());
    pods.on_event(move |event| {
        for key in services_of_event(&services, event) {
            queue.add_after(key, batch);
        }
    });
}

/// The Service's selector; None when somebody else manages its endpoints.
pub(crate) fn selector_of(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|s| !s.is_empty())
}

/// Has a virtual IP.
pub(crate) fn has_cluster_ip(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).is_some_and(|ip| !ip.is_empty() && ip != "None")
}

/// Wants addresses also before pods are ready.
pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false)
}

/// The pods that the Service selects.
pub(crate) fn pods_of(service: &Service, pods: &Informer<Pod>) -> Vec<Arc<Pod>> {
    let Some(wanted) = selector_of(service) else { return Vec::new() };
    let mut list = pods.list_namespace(service.ns_str());
    list.retain(|p| selector::map_selects(wanted, p.metadata.labels.as_ref()));
    list
}

/// A pod that has an address and runs.
pub(crate) fn has_endpoint(pod: &Pod, include_terminating: bool) -> bool {
    !pods::is_terminal(pod) && !ips(pod).is_empty() && (include_terminating || !pod.is_deleting())
}

/// The pod's addresses, first the primary one.
pub(crate) fn ips(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let list: Vec<IpAddr> = status.pod_ips.iter().flatten().filter_map(|p| p.ip.parse().ok()).collect();
    match (&status.pod_ip, list.is_empty()) {
        (Some(ip), true) => ip.parse().into_iter().collect(),
        _ => list,
    }
}

/// The host name that DNS gives the endpoint, when the pod asks for one under this Service.
pub(crate) fn hostname<'a>(pod: &'a Pod, service: &Service) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let fits = spec.subdomain.as_deref() == Some(service.name_str());
    spec.hostname.as_deref().filter(|h| fits && !h.is_empty())
}

/// The protocol of a Service port.
pub(crate) fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// Where this pod serves the Service's port. Named ports are looked up in containers, then in sidecars.
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|c| c.ports.iter().flatten())
                .find(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol(port))
                .map(|p| p.container_port)
        }
    }
}

/// The keys of the Services that a change of a pod concerns.
fn services_of_event(services: &Informer<Service>, event: &Event<Pod>) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    match event {
        Event::Added(pod) | Event::Deleted(pod) => add_services(services, pod, &mut keys),
        Event::Updated { old, new } => {
            let labels = old.metadata.labels != new.metadata.labels || names(old) != names(new);
            let endpoint = old.is_deleting() != new.is_deleting()
                || pods::is_ready(old) != pods::is_ready(new)
                || pods::is_terminal(old) != pods::is_terminal(new)
                || ips(old) != ips(new);
            if !labels && !endpoint {
                return keys;
            }
            add_services(services, new, &mut keys);
            if labels {
                add_services(services, old, &mut keys);
            }
        }
    }
    keys
}

fn names(pod: &Pod) -> (Option<&String>, Option<&String>) {
    pod.spec.as_ref().map_or((None, None), |s| (s.hostname.as_ref(), s.subdomain.as_ref()))
}

fn add_services(services: &Informer<Service>, pod: &Pod, keys: &mut BTreeSet<String>) {
    for service in services.list_namespace(pod.ns_str()) {
        if selector_of(&service).is_some_and(|s| selector::map_selects(s, pod.metadata.labels.as_ref())) {
            keys.insert(object_key(&*service));
        }
    }
}

/// Creation of the Service and readiness changes of its pods by name, as last published.
type Published = (Option<Timestamp>, HashMap<String, Timestamp>);

/// Since when the current state should have been published: the earliest change not published yet.
#[derive(Debug, Default)]
pub(crate) struct TriggerTimes {
    seen: Mutex<HashMap<String, Published>>,
}

impl TriggerTimes {
    /// The trigger of this publication, and remembers it as published.
    pub(crate) fn next(&self, key: &str, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let pod_times: HashMap<String, Timestamp> = pods
            .iter()
            .filter_map(|p| {
                Some((p.name_str().to_owned(), pods::condition(p, "Ready")?.last_transition_time.as_ref()?.0))
            })
            .collect();
        let created = service.created();
        let mut seen = self.seen.lock();
        let before = seen.insert(key.to_owned(), (created, pod_times.clone()));
        let Some((old_created, old_times)) = before else {
            return pod_times.into_values().chain(created).min();
        };
        let changed = pod_times.into_iter().filter(|(name, at)| old_times.get(name).is_none_or(|old| at > old));
        changed.map(|(_, at)| at).chain(created.filter(|_| created > old_created)).min()
    }

    /// The Service is gone.
    pub(crate) fn forget(&self, key: &str) {
        self.seen.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(v: serde_json::Value) -> Pod {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn ports() {
        let p = pod(
            json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"},
            {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
            "initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 9}]},
                {"name": "i", "ports": [{"name": "init", "containerPort": 7}]}]}}),
        );
        let port = |target, proto: &str| {
            serde_json::from_value::<ServicePort>(json!({"port": 1, "targetPort": target, "protocol": proto})).unwrap()
        };
        for (target, proto, want) in [
            (json!(8080), "TCP", Some(8080)),
            (json!("web"), "TCP", Some(80)),
            (json!("web"), "UDP", None),
            (json!("dns"), "UDP", Some(53)),
            (json!("side"), "TCP", Some(9)),
            (json!("init"), "TCP", None),
        ] {
            assert_eq!(target_port(&p, &port(target.clone(), proto)), want, "{target} {proto}");
        }
    }

    #[test]
    fn endpoints_need_an_address_and_a_running_pod() {
        let with = |phase: &str, ip: &str, deleting: bool| {
            let mut v = json!({"metadata": {}, "status": {"phase": phase, "podIP": ip}});
            if deleting {
                v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            pod(v)
        };
        assert!(has_endpoint(&with("Running", "10.0.0.1", false), false));
        assert!(!has_endpoint(&with("Running", "", false), true));
        assert!(!has_endpoint(&with("Failed", "10.0.0.1", false), true));
        assert!(has_endpoint(&with("Running", "10.0.0.1", true), true));
        assert!(!has_endpoint(&with("Running", "10.0.0.1", true), false));
    }

    #[test]
    fn trigger_is_the_earliest_unpublished_change() {
        let t = TriggerTimes::default();
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:05Z"}}))
                .unwrap();
        let ready = |name: &str, at: &str| {
            Arc::new(pod(json!({"metadata": {"name": name}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": at}]}})))
        };
        let at = |s: &str| Some(s.parse::<Timestamp>().unwrap());
        let a = ready("a", "2026-01-01T00:00:07Z");
        assert_eq!(t.next("k", &service, std::slice::from_ref(&a)), at("2026-01-01T00:00:05Z"));
        assert_eq!(t.next("k", &service, std::slice::from_ref(&a)), None);
        let (b, c) = (ready("b", "2026-01-01T00:00:09Z"), ready("c", "2026-01-01T00:00:08Z"));
        assert_eq!(t.next("k", &service, &[a, b, c]), at("2026-01-01T00:00:08Z"));
    }
}
