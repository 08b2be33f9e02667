//! What pods cost, in which scopes they are, and what a quota on CPU or memory demands of their containers.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    amounts::{self, Amounts, Count},
    evaluate::{selects, whole},
    qos,
};
use crate::meta::value::{at, int_at, list_at, str_at};

const COMPUTE: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// With a quota on one of these every container must say what it wants.
const DEMANDED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const DEVICE_CLASS: &str = "requests.deviceclass.resource.kubernetes.io/";

pub(super) fn counts(resource: &str) -> bool {
    COMPUTE.contains(&resource)
        || resource.starts_with("hugepages-")
        || resource.starts_with("requests.hugepages-")
        || resource
            .strip_prefix("requests.")
            .is_some_and(|name| is_extended(name) || resource.starts_with(DEVICE_CLASS))
}

/// A resource with a domain of its own.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.split('/').next().is_some_and(|domain| domain.ends_with("kubernetes.io"))
}

/// Whether a pod is in scope `Terminating`: it has a deadline.
pub fn terminating(pod: &Value) -> bool {
    int_at(pod, "spec.activeDeadlineSeconds").is_some_and(|seconds| seconds >= 0)
}

pub(super) fn usage(pod: &Value, now: Timestamp) -> Amounts {
    let mut usage = Amounts::from([("count/pods".to_owned(), whole(1))]);
    if !over(pod, now) {
        let requests = amounts::pod_requests(pod, Count::Charged);
        usage.extend(compute(&requests, &amounts::pod_limits(pod, Count::Charged)));
    }
    usage
}

/// Pods that ended, or that should have ended long ago, hold nothing.
fn over(pod: &Value, now: Timestamp) -> bool {
    if matches!(str_at(pod, "status.phase"), "Failed" | "Succeeded") {
        return true;
    }
    let deadline = str_at(pod, "metadata.deletionTimestamp").parse::<Timestamp>().ok();
    let grace = int_at(pod, "metadata.deletionGracePeriodSeconds");
    deadline.zip(grace).is_some_and(|(at, grace)| now > at + jiff::SignedDuration::from_secs(grace))
}

fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut out = Amounts::from([("pods".to_owned(), whole(1))]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(name) {
            out.insert(name.to_owned(), *request);
            out.insert(format!("requests.{name}"), *request);
        }
        if let Some(limit) = limits.get(name) {
            out.insert(format!("limits.{name}"), *limit);
        }
    }
    for (name, request) in requests {
        if name.starts_with("hugepages-") {
            out.insert(name.clone(), *request);
        }
        if name.starts_with("hugepages-") || is_extended(name) {
            out.insert(format!("requests.{name}"), *request);
        }
    }
    out
}

pub(super) fn constraints(restricted: &BTreeSet<&str>, pod: &Value) -> Result<(), String> {
    let whole_pod = ["spec.resources.requests", "spec.resources.limits"];
    if whole_pod.iter().any(|list| amounts::amounts(pod, list).keys().any(|name| amounts::is_pod_level(name))) {
        return Ok(());
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in list_at(pod, "spec.containers").iter().chain(list_at(pod, "spec.initContainers")) {
        let list = |path| amounts::amounts(container, path);
        let given = compute(&list("resources.requests"), &list("resources.limits"));
        for resource in restricted.iter().filter(|r| DEMANDED.contains(r) && !given.contains_key(**r)) {
            missing.entry(resource).or_default().insert(str_at(container, "name"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let parts = missing.into_iter().map(|(resource, containers)| {
        format!("{resource} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    });
    Err(format!("must specify {}", parts.collect::<Vec<_>>().join("; ")))
}

pub(super) fn in_scope(scope: &str, operator: &str, values: &[Value], pod: &Value) -> bool {
    match scope {
        "Terminating" => terminating(pod),
        "NotTerminating" => !terminating(pod),
        "BestEffort" => qos::class(pod) == "BestEffort",
        "NotBestEffort" => qos::class(pod) != "BestEffort",
        "PriorityClass" => selects(operator, values, str_at(pod, "spec.priorityClassName")),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| !list_at(term, "namespaces").is_empty() || at(term, "namespaceSelector").is_some();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let list = |when: &str| {
            list_at(pod, &format!("spec.affinity.{kind}.{when}DuringSchedulingIgnoredDuringExecution")).to_vec()
        };
        list("required").iter().any(crosses) || list("preferred").iter().any(|w| crosses(&w["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_charged_while_they_live() {
        let mut pod = json!({"spec": {"containers": [{"name": "a", "resources": {
            "requests": {"cpu": "1", "example.com/gpu": "2"}, "limits": {"memory": "1Gi", "example.com/gpu": "2"}}}]}});
        let now = Timestamp::now();
        assert_eq!(
            amounts::text(&usage(&pod, now)),
            "count/pods=1,cpu=1,limits.memory=1Gi,pods=1,requests.cpu=1,requests.example.com/gpu=2"
        );
        assert!(counts("requests.example.com/gpu") && !counts("requests.storage") && !counts("services"));
        pod["status"]["phase"] = "Succeeded".into();
        assert_eq!(amounts::text(&usage(&pod, now)), "count/pods=1");
    }

    #[test]
    fn quotas_on_cpu_and_memory_demand_them_of_containers() {
        let pod =
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "resources": {"limits": {"memory": "1"}}}]}});
        let restricted = BTreeSet::from(["limits.memory", "requests.cpu", "pods"]);
        let why = constraints(&restricted, &pod).unwrap_err();
        assert_eq!(why, "must specify limits.memory for: a; requests.cpu for: a,b");
    }

    #[test]
    fn scopes() {
        let pod =
            json!({"spec": {"priorityClassName": "high", "activeDeadlineSeconds": 1, "containers": [{"name": "a"}]}});
        let high = [json!("high")];
        assert!(in_scope("PriorityClass", "In", &high, &pod) && !in_scope("PriorityClass", "NotIn", &high, &pod));
        assert!(in_scope("Terminating", "Exists", &[], &pod) && in_scope("BestEffort", "Exists", &[], &pod));
    }
}
