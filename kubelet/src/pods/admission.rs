//! Whether the node takes a pod at all. Pure over the node's facts; a refused pod fails with the reason.

use std::collections::HashSet;

use common::meta::{nodeselector::Term, sysctls, tolerations};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint};

use super::status::{PREEMPTING, Verdict};
use super::{PodRecord, preemption, spec};
use crate::eviction::Pressures;
use crate::metrics::METRICS;
use crate::runtime::resources::{Qos, is_critical, pod_total, qos};
use crate::shared::Kubelet;

/// What the pod is checked against.
#[derive(Default)]
pub(crate) struct Capacity<'a> {
    /// (resource, allocatable, in use): `cpu` in thousandths, others in units.
    pub(crate) resources: Vec<(&'a str, i64, i64)>,
    pub(crate) pods: (i64, i64),
    pub(crate) node: Option<&'a Node>,
    pub(crate) allowed_sysctls: &'a [String],
    /// Ports of the machine that other pods have.
    pub(crate) host_ports: HashSet<HostPort<'a>>,
}

/// Protocol, address and number of a port of the machine; every address is `0.0.0.0`.
type HostPort<'a> = (&'a str, &'a str, i32);

fn host_ports(spec: &PodSpec) -> impl Iterator<Item = HostPort<'_>> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or("0.0.0.0");
        Some((port.protocol.as_deref().unwrap_or("TCP"), address, number))
    })
}

fn port_taken((protocol, address, number): HostPort<'_>, taken: &HashSet<HostPort<'_>>) -> bool {
    taken.iter().any(|(other_protocol, other_address, other_number)| {
        (protocol, number) == (*other_protocol, *other_number)
            && (address == *other_address || address == "0.0.0.0" || *other_address == "0.0.0.0")
    })
}

/// Whether the other pod was here first: it runs, or it is the older one of two that begin at the same time.
fn goes_before(other: &PodRecord, pod: &Pod) -> bool {
    let age = |pod: &Pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.metadata.uid.clone());
    other.status.phase.as_deref() == Some("Running") || age(&other.pod) < age(pod)
}

/// A sysctl of a namespace that the pod has for itself, safe or allowed by the configuration.
fn sysctl_allowed(spec: &PodSpec, name: &str, allowed: &[String]) -> bool {
    let name = name.replace('/', ".");
    let shares_host = (name.starts_with("net.") && spec.host_network == Some(true))
        || (name.starts_with("kernel.") && spec.host_ipc == Some(true));
    let listed = allowed.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => *pattern == name,
    });
    !shares_host && (sysctls::SAFE.contains(&name.as_str()) || listed)
}

/// (resource, allocatable, promised to other pods): `cpu` in thousandths, others in units.
fn resources(kubelet: &Kubelet, others: &[PodRecord]) -> Vec<(&'static str, i64, i64)> {
    let promised = |name: &str| -> i64 {
        let specs = others.iter().filter_map(|record| record.allocated.spec.as_ref());
        specs.map(|spec| pod_total(spec, name, false)).sum()
    };
    let allocatable = kubelet.node.allocatable();
    let of = |name| match name {
        "cpu" => crate::quantity::milli_of(Some(&allocatable), name),
        _ => crate::quantity::of(Some(&allocatable), name),
    };
    ["cpu", "memory", "ephemeral-storage"].map(|name| (name, of(name), promised(name))).to_vec()
}

fn others(kubelet: &Kubelet, pod: &Pod) -> Vec<PodRecord> {
    let mut records = kubelet.pods.list();
    records.retain(|record| spec::uid(&record.pod) != spec::uid(pod) && !super::worker::is_over(&record.status));
    records
}

/// Checks a pod that is new on this node.
pub(crate) fn admit(kubelet: &Kubelet, pod: &Pod) -> Result<(), (String, String)> {
    if kubelet.node.is_shutting_down() {
        return Err(("NodeShutdown".into(), "Pod was rejected as the node is shutting down.".into()));
    }
    under_pressure(pod, kubelet.node.pressure.read())?;
    let groups = kubelet.node.handlers().1.supplemental_groups_policy;
    let asked =
        pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.supplemental_groups_policy.as_deref());
    // Before the runtime has told what it can do, nothing is refused for it.
    if asked == Some("Strict") && !groups && kubelet.node.runtime_problem().is_none() {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node".to_owned();
        return Err(("SupplementalGroupsPolicyNotSupported".into(), message));
    }
    let others = others(kubelet, pod);
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let node = kubelet.node.object();
    let capacity = Capacity {
        resources: resources(kubelet, &others),
        pods: (kubelet.config.file.max_pods, count),
        node: node.as_deref(),
        allowed_sysctls: &kubelet.config.file.allowed_unsafe_sysctls,
        host_ports: others
            .iter()
            .filter(|other| goes_before(other, pod))
            .filter_map(|other| other.pod.spec.as_ref())
            .flat_map(host_ports)
            .collect(),
    };
    match check(pod, &capacity) {
        Err((reason, _)) if reason.starts_with("OutOf") && is_critical(pod) => {
            preempt(kubelet, pod, &capacity, &others)
        }
        other => other,
    }
}

/// A node under pressure takes critical pods only, and when it is short of memory alone also those that asked for some, or that tolerate it.
fn under_pressure(pod: &Pod, pressure: Pressures) -> Result<(), (String, String)> {
    let named = [(pressure.memory, "MemoryPressure"), (pressure.disk, "DiskPressure"), (pressure.pids, "PIDPressure")];
    let conditions: Vec<&str> = named.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
    let Some(spec) = pod.spec.as_ref().filter(|_| !conditions.is_empty() && !is_critical(pod)) else { return Ok(()) };
    if conditions == ["MemoryPressure"] {
        let taint =
            Taint { key: "node.kubernetes.io/memory-pressure".into(), effect: "NoSchedule".into(), ..Taint::default() };
        let tolerated = tolerations::any_tolerates(spec.tolerations.iter().flatten(), &taint);
        if qos(spec) != Qos::BestEffort || tolerated {
            return Ok(());
        }
    }
    Err(("Evicted".into(), format!("The node had condition: [{}]. ", conditions.join(" "))))
}

/// Ends lesser pods so that a critical one has room; nothing else may be in its way.
fn preempt(
    kubelet: &Kubelet,
    pod: &Pod,
    capacity: &Capacity<'_>,
    others: &[PodRecord],
) -> Result<(), (String, String)> {
    let spec = pod.spec.clone().unwrap_or_default();
    let all = capacity.resources.iter().map(|(name, have, used)| (*name, pod_total(&spec, name, false), *have, *used));
    let (allowed, running) = capacity.pods;
    let all = all.chain([("pods", 1, allowed, running)]);
    let missing = all.filter(|(_, asked, have, used)| *asked > 0 && used + asked > *have);
    let missing: preemption::Missing<'_> =
        missing.map(|(name, asked, have, used)| (name, used + asked - have)).collect();
    let roomy = Capacity {
        resources: Vec::new(),
        pods: (i64::MAX, 0),
        node: capacity.node,
        allowed_sysctls: capacity.allowed_sysctls,
        host_ports: capacity.host_ports.clone(),
    };
    check(pod, &roomy)?;
    let pods: Vec<_> = others.iter().map(|other| other.pod.clone()).collect();
    let victims = preemption::victims(pod, &pods, &missing).map_err(|error| {
        let what = "Unexpected error while attempting to recover from admission failure";
        let message = format!("{what}: preemption: error finding a set of pods to preempt: {error}");
        ("UnexpectedAdmissionError".to_owned(), message)
    })?;
    let signal = missing.first().map_or("", |(name, _)| *name);
    for victim in victims {
        METRICS.preemptions.with_label_values(&[signal]).inc();
        let message = "Preempted in order to admit critical pod";
        kubelet.events.pod(&victim, true, PREEMPTING, message);
        let verdict = Verdict { phase: "Failed", reason: PREEMPTING.into(), message: message.into() };
        kubelet.pods.evict(spec::uid(&victim), spec::grace(&victim), verdict);
    }
    Ok(())
}

/// Whether a pod that is here already fits with the resources that it wishes for; else the reason, and a message.
pub(crate) fn fits(kubelet: &Kubelet, pod: &Pod) -> Result<(), (&'static str, String)> {
    room(pod, &resources(kubelet, &others(kubelet, pod)))
}

fn room(pod: &Pod, resources: &[(&str, i64, i64)]) -> Result<(), (&'static str, String)> {
    let empty = PodSpec::default();
    for (name, have, used) in resources {
        let asked = pod_total(pod.spec.as_ref().unwrap_or(&empty), name, false);
        if asked > *have {
            let message = format!("Node didn't have enough capacity: {name}, requested: {asked}, capacity: {have}");
            return Err(("Infeasible", message));
        }
        if asked > 0 && used + asked > *have {
            let message =
                format!("Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {have}");
            return Err(("Deferred", message));
        }
    }
    Ok(())
}

fn check(pod: &Pod, capacity: &Capacity<'_>) -> Result<(), (String, String)> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS".to_owned();
        return Err(("PodOSNotSupported".into(), message));
    }
    for sysctl in spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten()) {
        if !sysctl_allowed(spec, &sysctl.name, capacity.allowed_sysctls) {
            let message = format!("forbidden sysctl: {:?} not allowlisted", sysctl.name);
            return Err(("SysctlForbidden".into(), message));
        }
    }
    let (allowed, running) = capacity.pods;
    if running + 1 > allowed {
        let message =
            format!("Node didn't have enough resource: pods, requested: 1, used: {running}, capacity: {allowed}");
        return Err(("OutOfpods".into(), message));
    }
    for (name, have, used) in &capacity.resources {
        let asked = pod_total(spec, name, false);
        if asked > 0 && used + asked > *have {
            let message =
                format!("Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {have}");
            return Err((format!("OutOf{name}"), message));
        }
    }
    if capacity.node.is_some_and(|node| !spec::is_static(pod) && !affine(spec, node)) {
        return Err((
            "NodeAffinity".into(),
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
        ));
    }
    if host_ports(spec).any(|port| port_taken(port, &capacity.host_ports)) {
        return Err((
            "NodePorts".into(),
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into(),
        ));
    }
    if let Some(node) = capacity.node.filter(|_| !spec::is_static(pod)) {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let tolerated = |taint| tolerations::any_tolerates(spec.tolerations.iter().flatten(), taint);
        if taints.filter(|taint| taint.effect == "NoExecute").any(|taint| !tolerated(taint)) {
            return Err((
                "TaintToleration".into(),
                "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate".into(),
            ));
        }
    }
    Ok(())
}

/// Whether node selector and required node affinity choose the node.
fn affine(spec: &PodSpec, node: &Node) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let required = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = required.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value))
        && required.is_none_or(|terms| Term::parse_all(terms).iter().any(|term| term.matches(name, label)))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_port_of_the_machine_has_one_owner() {
        let pod = |address: &str| -> Pod {
            let port = json!({"containerPort": 80, "hostPort": 8080, "hostIP": address, "protocol": "TCP"});
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "ports": [port]}]}})).unwrap()
        };
        let taken = |ports: &[HostPort<'static>]| {
            let capacity = Capacity {
                resources: Vec::new(),
                pods: (110, 0),
                host_ports: ports.iter().copied().collect(),
                ..Capacity::default()
            };
            check(&pod("10.0.0.1"), &capacity).err().map(|(reason, _)| reason)
        };
        assert_eq!(taken(&[("UDP", "0.0.0.0", 8080), ("TCP", "10.0.0.2", 8080), ("TCP", "0.0.0.0", 80)]), None);
        for address in ["0.0.0.0", "10.0.0.1"] {
            assert_eq!(taken(&[("TCP", address, 8080)]).as_deref(), Some("NodePorts"));
        }
        assert_eq!(host_ports(pod("").spec.as_ref().unwrap()).next(), Some(("TCP", "0.0.0.0", 8080)));
    }

    #[test]
    fn node_affinity_is_asked_too() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a"}}})).unwrap();
        let spec = |operator: &str, values: Value| -> PodSpec {
            let term = json!({"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]});
            let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
            serde_json::from_value(json!({"containers": [], "affinity": {"nodeAffinity": required}})).unwrap()
        };
        assert!(affine(&spec("In", json!(["a", "b"])), &node));
        assert!(!affine(&spec("NotIn", json!(["a"])), &node));
    }

    #[test]
    fn pressure_keeps_pods_away() {
        let pod = |priority: i32, requests: Value, tolerations: Value| -> Pod {
            let container = json!({"name": "c", "resources": {"requests": requests}});
            let spec = json!({"priority": priority, "tolerations": tolerations, "containers": [container]});
            serde_json::from_value(json!({ "spec": spec })).unwrap()
        };
        let memory = Pressures { memory: true, ..Pressures::default() };
        let both = Pressures { memory: true, disk: true, ..Pressures::default() };
        let tolerant = json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]);
        for (pod, pressure, want) in [
            (pod(0, json!({}), json!([])), Pressures::default(), None),
            (pod(0, json!({}), json!([])), memory, Some("The node had condition: [MemoryPressure]. ")),
            (pod(0, json!({}), tolerant.clone()), memory, None),
            (pod(0, json!({"cpu": "1"}), json!([])), memory, None),
            (
                pod(0, json!({"cpu": "1"}), tolerant),
                both,
                Some("The node had condition: [MemoryPressure DiskPressure]. "),
            ),
            (pod(2_000_000_000, json!({}), json!([])), both, None),
        ] {
            let refused = under_pressure(&pod, pressure).err().map(|(_, message)| message);
            assert_eq!(refused.as_deref(), want);
        }
    }

    #[test]
    fn pods_that_do_not_fit_are_refused() {
        let requests = [("cpu".to_owned(), Quantity("600m".into()))].into();
        let container = Container {
            resources: Some(ResourceRequirements { requests: Some(requests), ..Default::default() }),
            ..Default::default()
        };
        let spec = PodSpec { containers: vec![container], ..Default::default() };
        let pod = Pod { spec: Some(spec), ..Default::default() };
        let capacity = |used, pods| Capacity { resources: vec![("cpu", 1000, used)], pods, ..Capacity::default() };
        assert!(check(&pod, &capacity(400, (110, 0))).is_ok());
        let (reason, message) = check(&pod, &capacity(500, (110, 0))).expect_err("full");
        assert_eq!(reason, "OutOfcpu");
        assert_eq!(message, "Node didn't have enough resource: cpu, requested: 600, used: 500, capacity: 1000");
        assert_eq!(check(&pod, &capacity(0, (1, 1))).expect_err("full").0, "OutOfpods");
        assert_eq!(room(&pod, &[("cpu", 1000, 400)]), Ok(()));
        assert_eq!(room(&pod, &[("cpu", 1000, 500)]).expect_err("later").0, "Deferred");
        assert_eq!(room(&pod, &[("cpu", 500, 0)]).expect_err("never").0, "Infeasible");
    }
}
