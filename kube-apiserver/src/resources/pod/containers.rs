//! Validation of containers of all three sorts.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    env, probes, security,
    validate::{Scope, amount, descending_path, no_backsteps},
};
use crate::resources::{
    checks,
    field::{ErrorList, Path},
    names,
    quantity::Quantity,
    value::{at, bool_at, int_at, is_set, is_zero, list_at, str_at, strings_at},
};

/// The containers that do the work.
pub(crate) fn regular(scope: &Scope<'_>, path: &Path<'_>, errs: &mut ErrorList) {
    let containers = list_at(scope.spec, "containers");
    if containers.is_empty() {
        errs.required(path, "");
        return;
    }
    let repeated = checks::repeats(containers, |item| str_at(item, "name"));
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        common(scope, container, &path, errs);
        let name = str_at(container, "name");
        if repeated[i] {
            errs.duplicate(&path.child("name"), name);
        }
        probes::lifecycle_and_probes(scope.spec, container, &path, errs);
        restart_rules(container, &path, errs);
    }
    host_port_conflicts(containers, 0, path, errs);
}

/// The containers that run before, one by one; sidecars (`restartPolicy: Always`) keep running.
pub(crate) fn init(scope: &Scope<'_>, root: &Path<'_>, errs: &mut ErrorList) {
    let all = list_at(scope.spec, "initContainers");
    let regular = checks::texts_of(list_at(scope.spec, "containers"), "name");
    let repeated = checks::repeats(all, |item| str_at(item, "name"));
    for (i, container) in all.iter().enumerate() {
        let path = root.index(i);
        common(scope, container, &path, errs);
        let sidecar = str_at(container, "restartPolicy") == "Always";
        restart_rules(container, &path, errs);
        let name = str_at(container, "name");
        if !name.is_empty() && (regular.contains(name) || repeated[i]) {
            errs.duplicate(&path.child("name"), name);
        }
        host_port_conflicts(std::slice::from_ref(container), i, root, errs);
        if sidecar {
            probes::lifecycle_and_probes(scope.spec, container, &path, errs);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if at(container, field).is_some() {
                    errs.forbidden(
                        &path.child(field),
                        "may not be set for init containers without restartPolicy=Always",
                    );
                }
            }
            for (j, policy) in list_at(container, "resizePolicy").iter().enumerate() {
                if str_at(policy, "restartPolicy") == "RestartContainer" {
                    errs.invalid(
                        &path.child("resizePolicy").index(j).child("restartPolicy"),
                        "RestartContainer",
                        "must not be set to 'RestartContainer' for non-sidecar initContainers",
                    );
                }
            }
        }
    }
}

/// Containers that were added to a running pod for debugging.
pub(crate) fn ephemeral(scope: &Scope<'_>, root: &Path<'_>, errs: &mut ErrorList) {
    const NOT_ALLOWED: [&str; 9] = [
        "ports",
        "resources",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
    ];
    let all = list_at(scope.spec, "ephemeralContainers");
    let others = list_at(scope.spec, "containers").iter().chain(list_at(scope.spec, "initContainers"));
    let others = checks::texts_of(others, "name");
    let repeated = checks::repeats(all, |item| str_at(item, "name"));
    for (i, container) in all.iter().enumerate() {
        let path = root.index(i);
        common(scope, container, &path, errs);
        image_whitespace(container, &path, errs);
        let name = str_at(container, "name");
        if others.contains(name) || repeated[i] {
            errs.duplicate(&path.child("name"), name);
        }
        let target = str_at(container, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errs.not_found(&path.child("targetContainerName"), target);
        }
        let detail = "cannot be set for an Ephemeral Container";
        for field in NOT_ALLOWED {
            if container.get(field).is_some_and(|value| !is_zero(value)) {
                errs.forbidden(&path.child(field), detail);
            }
        }
        for (j, mount) in list_at(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if is_set(mount, field) {
                    errs.forbidden(&path.child("volumeMounts").index(j).child(field), detail);
                }
            }
        }
    }
}

/// Images of pods (not of templates) are taken literally.
pub(crate) fn image_whitespace(container: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let image = str_at(container, "image");
    if image.trim() != image {
        errs.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

fn common(scope: &Scope<'_>, container: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    match str_at(container, "name") {
        "" => errs.required(&path.child("name"), ""),
        name => checks::label(name, &path.child("name"), errs),
    }
    if str_at(container, "image").is_empty() {
        errs.required(&path.child("image"), "");
    }
    checks::one_of(
        str_at(container, "terminationMessagePolicy"),
        &["File", "FallbackToLogsOnError"],
        &path.child("terminationMessagePolicy"),
        errs,
    );
    ports(container, &path.child("ports"), errs);
    env::variables(container, &path.child("env"), errs);
    env::sources(container, &path.child("envFrom"), errs);
    mounts(scope, container, &path.child("volumeMounts"), errs);
    devices(scope, container, &path.child("volumeDevices"), errs);
    checks::one_of(
        str_at(container, "imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
        &path.child("imagePullPolicy"),
        errs,
    );
    if let Some(resources) = at(container, "resources") {
        requirements(resources, false, &path.child("resources"), errs);
        claims(scope, resources, &path.child("resources.claims"), errs);
    }
    resize_policy(scope, container, &path.child("resizePolicy"), errs);
    security::container(scope, container, &path.child("securityContext"), errs);
}

fn ports(container: &Value, root: &Path<'_>, errs: &mut ErrorList) {
    let ports = list_at(container, "ports");
    let repeated = checks::repeats(ports, |item| str_at(item, "name"));
    for (i, port) in ports.iter().enumerate() {
        let path = root.index(i);
        let name = str_at(port, "name");
        if !name.is_empty() {
            let texts = names::port_name(name);
            if texts.is_empty() && repeated[i] {
                errs.duplicate(&path.child("name"), name);
            }
            texts.into_iter().for_each(|text| errs.invalid(&path.child("name"), name, text));
        }
        match int_at(port, "containerPort").unwrap_or_default() {
            0 => errs.required(&path.child("containerPort"), ""),
            number => checks::port(number, &path.child("containerPort"), errs),
        }
        if let Some(number) = int_at(port, "hostPort").filter(|number| *number != 0) {
            checks::port(number, &path.child("hostPort"), errs);
        }
        checks::one_of(str_at(port, "protocol"), &["SCTP", "TCP", "UDP"], &path.child("protocol"), errs);
    }
}

/// Two containers that run together cannot have the same host port. `first` is the index of the first of `containers`.
fn host_port_conflicts(containers: &[Value], first: usize, root: &Path<'_>, errs: &mut ErrorList) {
    let mut seen: HashSet<String> = HashSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in list_at(container, "ports").iter().enumerate() {
            let Some(number) = int_at(port, "hostPort").filter(|number| *number != 0) else { continue };
            let key = format!("{}/{}/{number}", str_at(port, "protocol"), str_at(port, "hostIP"));
            if seen.contains(&key) {
                errs.duplicate(&root.index(first + i).child("ports").index(j).child("hostPort"), key);
            } else {
                seen.insert(key);
            }
        }
    }
}

fn mounts(scope: &Scope<'_>, container: &Value, root: &Path<'_>, errs: &mut ErrorList) {
    let mounts = list_at(container, "volumeMounts");
    let devices = list_at(container, "volumeDevices");
    let (names, paths) = (checks::texts_of(devices, "name"), checks::texts_of(devices, "devicePath"));
    let repeated = checks::repeats(mounts, |item| str_at(item, "mountPath"));
    for (i, mount) in mounts.iter().enumerate() {
        let path = root.index(i);
        let (name, target) = (str_at(mount, "name"), str_at(mount, "mountPath"));
        if name.is_empty() {
            errs.required(&path.child("name"), "");
        }
        if scope.volume(name).is_none() {
            errs.not_found(&path.child("name"), name);
        }
        if target.is_empty() {
            errs.required(&path.child("mountPath"), "");
        }
        if repeated[i] {
            errs.invalid(&path.child("mountPath"), target, "must be unique");
        }
        if names.contains(name) {
            errs.invalid(&path.child("name"), name, "must not already exist in volumeDevices");
        }
        if paths.contains(target) {
            errs.invalid(&path.child("mountPath"), target, "must not already exist as a path in volumeDevices");
        }
        let (sub, expr) = (str_at(mount, "subPath"), str_at(mount, "subPathExpr"));
        if !sub.is_empty() {
            descending_path(sub, &root.child("subPath"), errs);
        }
        if !expr.is_empty() {
            if !sub.is_empty() {
                errs.invalid(&path.child("subPathExpr"), expr, "subPathExpr and subPath are mutually exclusive");
            }
            descending_path(expr, &root.child("subPathExpr"), errs);
        }
        propagation(container, mount, root, errs);
    }
}

fn propagation(container: &Value, mount: &Value, root: &Path<'_>, errs: &mut ErrorList) {
    let path = root.child("mountPropagation");
    let propagation = str_at(mount, "mountPropagation");
    let supported = ["Bidirectional", "HostToContainer", "None"];
    if mount.get("mountPropagation").is_some_and(Value::is_string) && !supported.contains(&propagation) {
        errs.not_supported(&path, propagation, &supported);
    }
    if propagation == "Bidirectional" && !bool_at(container, "securityContext.privileged") {
        errs.forbidden(&path, "Bidirectional mount propagation is available only to privileged containers");
    }
    let path = root.child("recursiveReadOnly");
    match str_at(mount, "recursiveReadOnly") {
        "" | "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !bool_at(mount, "readOnly") {
                errs.forbidden(&path, "may only be specified when readOnly is true");
            }
            if !matches!(propagation, "" | "None") {
                errs.forbidden(&path, "may only be specified when mountPropagation is None or not specified");
            }
        }
        other => errs.not_supported(&path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn devices(scope: &Scope<'_>, container: &Value, root: &Path<'_>, errs: &mut ErrorList) {
    let devices = list_at(container, "volumeDevices");
    let mounts = list_at(container, "volumeMounts");
    let (names, paths) = (checks::texts_of(mounts, "name"), checks::texts_of(mounts, "mountPath"));
    let repeated_names = checks::repeats(devices, |item| str_at(item, "name"));
    let repeated_paths = checks::repeats(devices, |item| str_at(item, "devicePath"));
    for (i, device) in devices.iter().enumerate() {
        let path = root.index(i);
        let (name, target) = (str_at(device, "name"), str_at(device, "devicePath"));
        if name.is_empty() {
            errs.required(&path.child("name"), "");
        }
        if repeated_names[i] {
            errs.invalid(&path.child("name"), name, "must be unique");
        }
        match scope.volume(name) {
            None => errs.not_found(&path.child("name"), name),
            Some(volume) if at(volume, "persistentVolumeClaim").or(at(volume, "ephemeral")).is_none() => errs.invalid(
                &path.child("name"),
                name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            ),
            Some(_) => {}
        }
        if target.is_empty() {
            errs.required(&path.child("devicePath"), "");
        }
        if repeated_paths[i] {
            errs.invalid(&path.child("devicePath"), target, "must be unique");
        }
        no_backsteps(target, &path.child("devicePath"), errs);
        if names.contains(name) {
            errs.invalid(&path.child("name"), name, "must not already exist in volumeMounts");
        }
        if paths.contains(target) {
            errs.invalid(&path.child("devicePath"), target, "must not already exist as a path in volumeMounts");
        }
    }
}

/// `limits` and `requests` of a container, or of a whole pod.
pub(crate) fn requirements(resources: &Value, pod_level: bool, path: &Path<'_>, errs: &mut ErrorList) {
    if pod_level && at(resources, "claims").is_some() {
        errs.forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    let limits_path = path.child("limits");
    let requests_path = path.child("requests");
    let mut hugepages = false;
    for (name, text) in strings_at(resources, "limits") {
        resource_amount(name, text, pod_level, &limits_path.key(name), errs);
        hugepages |= name.starts_with("hugepages-");
    }
    for (name, text) in strings_at(resources, "requests") {
        resource_amount(name, text, pod_level, &requests_path.key(name), errs);
        hugepages |= name.starts_with("hugepages-");
        let overcommit = is_native(name) && !name.starts_with("hugepages-");
        let limit = at(resources, "limits").and_then(|limits| limits.get(name)).and_then(Value::as_str);
        match (Quantity::parse(text), limit.and_then(Quantity::parse), limit) {
            (Some(request), Some(limit), Some(shown)) if !overcommit && request.compare(limit).is_ne() => {
                errs.invalid(&requests_path, text, format!("must be equal to {name} limit of {shown}"));
            }
            (Some(request), Some(limit), Some(shown)) if request.compare(limit).is_gt() => {
                errs.invalid(&requests_path, text, format!("must be less than or equal to {name} limit of {shown}"));
            }
            (_, None, _) if !overcommit => {
                errs.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    let has_base = ["limits", "requests"]
        .iter()
        .any(|list| strings_at(resources, list).any(|(name, _)| matches!(name, "cpu" | "memory")));
    if hugepages && !has_base {
        errs.forbidden(path, "HugePages require cpu or memory");
    }
}

/// Resources without a domain, or of kubernetes.io.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// One entry of a resource list.
pub(crate) fn resource_amount(name: &str, text: &str, pod_level: bool, path: &Path<'_>, errs: &mut ErrorList) {
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let texts = names::label_key(name);
    if !texts.is_empty() {
        texts.into_iter().for_each(|complaint| errs.invalid(path, name, complaint));
    } else if pod_level && !(matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")) {
        errs.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    } else if !name.contains('/') && !standard {
        let known = matches!(
            name,
            "pods"
                | "services"
                | "secrets"
                | "configmaps"
                | "persistentvolumeclaims"
                | "resourcequotas"
                | "storage"
                | "replicationcontrollers"
                | "requests.cpu"
                | "requests.memory"
                | "limits.cpu"
                | "limits.memory"
        );
        if !known {
            errs.invalid(path, name, "must be a standard resource type or fully qualified");
        }
        errs.invalid(path, name, "must be a standard resource for containers");
    } else if !is_native(name) && name.starts_with("requests.") {
        errs.invalid(path, name, "doesn't follow extended resource name standard");
    }
    amount(text, !is_native(name), path, errs);
}

fn claims(scope: &Scope<'_>, resources: &Value, root: &Path<'_>, errs: &mut ErrorList) {
    let claims = list_at(resources, "claims");
    let known: Vec<&str> = list_at(scope.spec, "resourceClaims").iter().map(|c| str_at(c, "name")).collect();
    let names: HashSet<&str> = known.iter().copied().collect();
    let repeated = checks::repeats(claims, |claim| claim);
    for (i, claim) in claims.iter().enumerate() {
        let path = root.index(i);
        let name = str_at(claim, "name");
        if name.is_empty() {
            errs.required(&path, "");
            continue;
        }
        if repeated[i] {
            errs.duplicate(&path, name);
        }
        if !names.contains(name) {
            errs.not_found(&path, name);
            if let Some(last) = errs.0.last_mut() {
                last.detail = match known.is_empty() {
                    true => "must be one of the names in pod.spec.resourceClaims which is empty".to_string(),
                    false => format!("must be one of the names in pod.spec.resourceClaims: {}", known.join(", ")),
                };
            }
        }
    }
}

fn resize_policy(scope: &Scope<'_>, container: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let policies = list_at(container, "resizePolicy");
    let repeated = checks::repeats(policies, |item| str_at(item, "resourceName"));
    for (i, policy) in policies.iter().enumerate() {
        let (resource, restart) = (str_at(policy, "resourceName"), str_at(policy, "restartPolicy"));
        if repeated[i] {
            errs.duplicate(&path.index(i), resource);
        }
        checks::one_of(resource, &["cpu", "memory"], path, errs);
        checks::one_of(restart, &["NotRequired", "RestartContainer"], path, errs);
        if str_at(scope.spec, "restartPolicy") == "Never" && restart != "NotRequired" {
            errs.invalid(path, restart, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}

fn restart_rules(container: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let rules = list_at(container, "restartPolicyRules");
    let policy_path = path.child("restartPolicy");
    let supported = ["Always", "Never", "OnFailure"];
    match str_at(container, "restartPolicy") {
        "" if rules.is_empty() => {}
        "" => errs.required(&policy_path, "must specify restartPolicy when restart rules are used"),
        policy if !supported.contains(&policy) => errs.not_supported(&policy_path, policy, &supported),
        _ => {}
    }
    let rules_path = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errs.too_many(&rules_path, rules.len(), 20);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = rules_path.index(i);
        let action = str_at(rule, "action");
        let actions = ["Restart", "RestartAllContainers"];
        if !actions.contains(&action) {
            errs.not_supported(&path.child("action"), action, &actions);
        }
        if at(rule, "exitCodes").is_none() {
            errs.required(&path.child("exitCodes"), "must be specified");
            continue;
        }
        let operator = str_at(rule, "exitCodes.operator");
        if !matches!(operator, "In" | "NotIn") {
            errs.not_supported(&path.child("exitCodes.operator"), operator, &["In", "NotIn"]);
        }
        let values = list_at(rule, "exitCodes.values").len();
        if values > 255 {
            errs.too_many(&path.child("exitCodes.values"), values, 255);
        }
    }
}
