//! Whether the node takes a pod at all. Pure over the node's facts; a refused pod fails with the reason.

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

use super::{PodRecord, spec};
use crate::runtime::resources::pod_total;
use crate::shared::Kubelet;

/// What the pod is checked against.
pub(crate) struct Capacity<'a> {
    /// (resource, allocatable, in use): `cpu` in thousandths, others in units.
    pub(crate) resources: Vec<(&'a str, i64, i64)>,
    pub(crate) pods: (i64, i64),
    pub(crate) node: Option<&'a Node>,
    pub(crate) allowed_sysctls: &'a [String],
}

/// Namespaced and without effect on other pods.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// A sysctl of a namespace that the pod has for itself, safe or allowed by the configuration.
fn sysctl_allowed(spec: &PodSpec, name: &str, allowed: &[String]) -> bool {
    let name = name.replace('/', ".");
    let shares_host = (name.starts_with("net.") && spec.host_network == Some(true))
        || (name.starts_with("kernel.") && spec.host_ipc == Some(true));
    let listed = allowed.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => *pattern == name,
    });
    !shares_host && (SAFE_SYSCTLS.contains(&name.as_str()) || listed)
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
    let others = others(kubelet, pod);
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let node = kubelet.node.object();
    let capacity = Capacity {
        resources: resources(kubelet, &others),
        pods: (kubelet.config.file.max_pods, count),
        node: node.as_deref(),
        allowed_sysctls: &kubelet.config.file.allowed_unsafe_sysctls,
    };
    check(pod, &capacity)
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
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        let message = format!("Failed to admit pod as the OS field doesn't match node OS: {}", os.name);
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
        if asked > 0 && used + asked > *have && !spec::is_static(pod) {
            let message =
                format!("Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {have}");
            return Err((format!("OutOf{name}"), message));
        }
    }
    if let Some(node) = capacity.node.filter(|_| !spec::is_static(pod)) {
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
        if !selected {
            return Err((
                "NodeAffinity".into(),
                "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
            ));
        }
        for taint in node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()) {
            if taint.effect == "NoExecute" && !tolerates(spec, taint) {
                return Err(("TaintToleration".into(), "Predicate TaintToleration failed".into()));
            }
        }
    }
    Ok(())
}

fn tolerates(spec: &PodSpec, taint: &k8s_openapi::api::core::v1::Taint) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && match toleration.operator.as_deref() {
                Some("Exists") => true,
                _ => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
            }
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;

    #[test]
    fn pods_that_do_not_fit_are_refused() {
        let requests = [("cpu".to_owned(), Quantity("600m".into()))].into();
        let container = Container {
            resources: Some(ResourceRequirements { requests: Some(requests), ..Default::default() }),
            ..Default::default()
        };
        let spec = PodSpec { containers: vec![container], ..Default::default() };
        let pod = Pod { spec: Some(spec), ..Default::default() };
        let capacity =
            |used, pods| Capacity { resources: vec![("cpu", 1000, used)], pods, node: None, allowed_sysctls: &[] };
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
