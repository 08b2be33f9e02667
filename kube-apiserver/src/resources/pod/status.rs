//! Rules of pod status updates.

use serde_json::Value;

use common::meta::ip::sloppy_ip;

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    value::{at, each, int_at, is_set, list_at, member, same_at, set, str_at, strings_at},
};

/// Keeps what a status update may not lose: the QoS class and observed generations.
pub(crate) fn prepare(new: &mut Value, old: &Value) {
    let Some(status) = member(new, "status") else { return };
    if str_at(status, "qosClass").is_empty() && is_set(old, "status.qosClass") {
        set(status, "qosClass", str_at(old, "status.qosClass"));
    }
    if int_at(status, "observedGeneration").unwrap_or_default() == 0
        && let Some(generation) = int_at(old, "status.observedGeneration")
    {
        set(status, "observedGeneration", generation);
    }
    for condition in each(status, "conditions") {
        if int_at(condition, "observedGeneration").unwrap_or_default() != 0 {
            continue;
        }
        let kind = str_at(condition, "type").to_string();
        let previous = list_at(old, "status.conditions").iter().find(|c| str_at(c, "type") == kind);
        if let Some(generation) = previous.and_then(|c| int_at(c, "observedGeneration")) {
            set(condition, "observedGeneration", generation);
        }
    }
}

/// Rules of a change through `/status`.
pub(crate) fn validate(new: &Value, old: &Value, errs: &mut ErrorList) {
    let path = Path::root("status");
    let root = path.child("conditions");
    for (i, condition) in list_at(new, "status.conditions").iter().enumerate() {
        let (path, kind) = (root.index(i), str_at(condition, "type"));
        generation(condition, &path, errs);
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            checks::qualified(kind, &path.child("Type"), errs);
        }
    }
    nomination(new, old, &path, errs);
    generation(new.get("status").unwrap_or(&Value::Null), &path, errs);
    if !same_at(new, old, "status.qosClass") {
        errs.invalid(&path.child("qosClass"), str_at(new, "status.qosClass"), "field is immutable");
    }
    for (list, containers) in [
        ("containerStatuses", "spec.containers"),
        ("initContainerStatuses", "spec.initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        no_restart_of_terminated(new, old, (list, containers), &path.child(list), errs);
    }
    claims(new, &path.child("resourceClaimStatuses"), errs);
    addresses(new, old, "podIPs", &path, errs);
    let hosts = list_at(new, "status.hostIPs");
    if let Some(first) = hosts.first().map(|entry| str_at(entry, "ip")).filter(|ip| *ip != str_at(new, "status.hostIP"))
    {
        errs.invalid(&path.child("hostIPs").index(0).child("ip"), first, "must be equal to `hostIP`");
    }
    addresses(new, old, "hostIPs", &path, errs);
    container_resources(new, &path, errs);
}

fn generation(holder: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    if let Some(generation) = int_at(holder, "observedGeneration").filter(|g| *g < 0) {
        errs.invalid(&path.child("observedGeneration"), generation, "must be a non-negative integer");
    }
}

/// The node that the scheduler has in mind, which no longer matters once the pod has one.
fn nomination(new: &Value, old: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let nominated = str_at(new, "status.nominatedNodeName");
    if nominated.is_empty() || nominated == str_at(old, "status.nominatedNodeName") {
        return;
    }
    let path = path.child("nominatedNodeName");
    checks::subdomain(nominated, &path, errs);
    if is_set(old, "spec.nodeName") {
        errs.forbidden(&path, "may not be set on pods that are already bound to a node");
    }
}

/// A container that ended may run again only where the pod's or its own policy has it so.
fn no_restart_of_terminated(new: &Value, old: &Value, lists: (&str, &str), path: &Path<'_>, errs: &mut ErrorList) {
    let (statuses, containers) = (format!("status.{}", lists.0), list_at(old, lists.1));
    if !lists.1.is_empty() && restarts_all(old) {
        return;
    }
    for (i, previous) in list_at(old, &statuses).iter().enumerate() {
        let Some(ended) = at(previous, "state.terminated") else { continue };
        let same_name = |other: &&Value| str_at(other, "name") == str_at(previous, "name");
        let runs = list_at(new, &statuses).iter().any(|c| same_name(&c) && at(c, "state.terminated").is_none());
        let code = int_at(ended, "exitCode").unwrap_or_default();
        let container = containers.iter().find(same_name);
        if runs && !container.is_some_and(|container| should_restart(container, old, code)) {
            errs.forbidden(&path.index(i).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

/// Whether a container's rules may restart the whole pod.
fn restarts_all(pod: &Value) -> bool {
    let containers = list_at(pod, "spec.containers").iter().chain(list_at(pod, "spec.initContainers"));
    let mut rules = containers.flat_map(|container| list_at(container, "restartPolicyRules"));
    rules.any(|rule| str_at(rule, "action") == "RestartAllContainers")
}

fn should_restart(container: &Value, pod: &Value, code: i64) -> bool {
    let matches = |rule: &&Value| {
        let listed = list_at(rule, "exitCodes.values").iter().any(|value| value.as_i64() == Some(code));
        match str_at(rule, "exitCodes.operator") {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    };
    let own = at(container, "restartPolicy").and_then(Value::as_str);
    let rule = list_at(container, "restartPolicyRules").iter().find(matches);
    if own.is_some() && rule.is_some_and(|rule| matches!(str_at(rule, "action"), "Restart" | "RestartAllContainers")) {
        return true;
    }
    match own.unwrap_or_else(|| str_at(pod, "spec.restartPolicy")) {
        "OnFailure" => code != 0,
        "Never" => false,
        _ => true,
    }
}

/// The claims that were made for the pod.
fn claims(pod: &Value, root: &Path<'_>, errs: &mut ErrorList) {
    let statuses = list_at(pod, "status.resourceClaimStatuses");
    let repeated = checks::repeats(statuses, |item| str_at(item, "name"));
    for (i, status) in statuses.iter().enumerate() {
        let (path, name) = (root.index(i), str_at(status, "name"));
        if !list_at(pod, "spec.resourceClaims").iter().any(|claim| str_at(claim, "name") == name) {
            errs.invalid(&path.child("name"), name, "must match the name of an entry in `spec.resourceClaims`");
        }
        if repeated[i] {
            errs.duplicate(&path.child("name"), name);
        }
        if let Some(claim) = at(status, "resourceClaimName").and_then(Value::as_str) {
            checks::subdomain(claim, &path.child("resourceClaimName"), errs);
        }
    }
}

/// The health of what containers were given: only of what they ask for.
fn container_resources(pod: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    for (list, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        let root = path.child(list);
        for (i, status) in list_at(pod, &format!("status.{list}")).iter().enumerate() {
            let container = list_at(pod, &format!("spec.{containers}"));
            let container = container.iter().find(|c| str_at(c, "name") == str_at(status, "name"));
            let (path, given) = (root.index(i), list_at(status, "allocatedResourcesStatus"));
            for (j, resource) in given.iter().enumerate() {
                allocated(resource, container, &path.child("allocatedResourcesStatus").index(j), errs);
            }
        }
    }
    let root = path.child("ephemeralContainerStatuses");
    for (i, status) in list_at(pod, "status.ephemeralContainerStatuses").iter().enumerate() {
        if is_set(status, "allocatedResourcesStatus") {
            let path = root.index(i);
            errs.forbidden(&path.child("allocatedResourcesStatus"), "must not be specified in container status");
        }
    }
}

fn allocated(resource: &Value, container: Option<&Value>, path: &Path<'_>, errs: &mut ErrorList) {
    const LONGEST: usize = 1024;
    let name = str_at(resource, "name");
    let (known, told) = match name.strip_prefix("claim:") {
        Some(claim) => (
            container.is_none_or(|c| list_at(c, "resources.claims").iter().any(|own| claim_name(own) == claim)),
            "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
        ),
        None => (
            container.is_none_or(|c| strings_at(c, "resources.requests").any(|(own, _)| own == name)),
            "must match one of the container's resource requests",
        ),
    };
    if !known {
        errs.invalid(&path.child("name"), name, told);
    }
    let root = path.child("resources");
    let resources = list_at(resource, "resources");
    for (k, one) in resources.iter().enumerate() {
        let (path, health, id) = (root.index(k), str_at(one, "health"), str_at(one, "resourceID"));
        if !matches!(health, "Healthy" | "Unhealthy" | "Unknown") {
            errs.not_supported(&path.child("health"), health, &["Healthy", "Unhealthy", "Unknown"]);
        }
        match at(one, "message").and_then(Value::as_str) {
            Some("") => errs.required(&path.child("message"), "must be non-empty if specified"),
            Some(text) if text.len() > LONGEST => errs.too_long(&path.child("message"), LONGEST),
            _ => {}
        }
        if resources[..k].iter().any(|other| str_at(other, "resourceID") == id) {
            errs.duplicate(&path.child("resourceID"), id);
        }
    }
}

/// `name/request`, or the name alone.
fn claim_name(claim: &Value) -> String {
    match (str_at(claim, "name"), str_at(claim, "request")) {
        (name, "") => name.to_owned(),
        (name, request) => format!("{name}/{request}"),
    }
}

/// At most one address of each family; what was stored before stays valid.
fn addresses(new: &Value, old: &Value, list: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let field = format!("status.{list}");
    let known: Vec<Value> = list_at(old, &field).iter().filter_map(|entry| entry.get("ip").cloned()).collect();
    let entries = list_at(new, &field);
    let root = path.child(list);
    for (i, entry) in entries.iter().enumerate() {
        checks::legacy_ip(str_at(entry, "ip"), &known, &root.index(i), errs);
    }
    let families: Vec<bool> =
        entries.iter().filter_map(|entry| sloppy_ip(str_at(entry, "ip"))).map(|ip| ip.is_ipv4()).collect();
    if entries.len() > 2 || (entries.len() == 2 && (families.len() < 2 || families[0] == families[1])) {
        let shown: Vec<Value> = entries.iter().map(|e| serde_json::json!({"IP": str_at(e, "ip")})).collect();
        errs.invalid(&root, shown, "may specify no more than one IP for each IP family");
    }
}
