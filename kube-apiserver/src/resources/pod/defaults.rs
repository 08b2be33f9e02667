//! Defaults of pods and of the pod templates inside workloads.

use serde_json::{Map, Value, json};

use crate::resources::{
    quantity::{self, Quantity},
    value::{at, bool_at, each, existing, int_at, member, remove, set, set_default, set_if_zero, str_at},
};

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Volume sources with a default file mode.
const MODES: [&str; 4] = ["secret", "configMap", "downwardAPI", "projected"];

/// Defaults of a whole pod: what a template has, and what only a running pod needs.
pub(crate) fn pod(obj: &mut Value) {
    let Some(spec) = member(obj, "spec") else { return };
    for list in ["containers", "initContainers"] {
        each(spec, list).for_each(requests_from_limits);
    }
    pod_level_requests(spec);
    set_default(spec, "enableServiceLinks", true);
    if bool_at(spec, "hostNetwork") {
        for list in ["containers", "initContainers"] {
            each(spec, list).for_each(host_ports);
        }
    }
    pod_spec(spec);
    if let Some(status) = existing(obj, "status") {
        for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
            for container in each(status, list) {
                quantity::canonicalize_list(container.get_mut("allocatedResources"));
                quantity::canonicalize_requirements(container.get_mut("resources"));
            }
        }
    }
}

/// Defaults of a `PodTemplateSpec` member of `owner`.
pub(crate) fn template(owner: &mut Value, name: &str) {
    if let Some(template) = member(owner, name)
        && let Some(spec) = member(template, "spec")
    {
        pod_spec(spec);
    }
}

/// Defaults of a `PodSpec`.
pub(crate) fn pod_spec(spec: &mut Value) {
    set_if_zero(spec, "dnsPolicy", "ClusterFirst");
    set_if_zero(spec, "restartPolicy", "Always");
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_if_zero(spec, "schedulerName", "default-scheduler");
    mirror_service_account(spec);
    each(spec, "volumes").for_each(volume);
    for list in CONTAINER_LISTS {
        each(spec, list).for_each(container);
    }
    quantity::canonicalize_list(spec.get_mut("overhead"));
    quantity::canonicalize_requirements(spec.get_mut("resources"));
}

/// `serviceAccount` is the old name of `serviceAccountName`; both always show the same.
pub(crate) fn mirror_service_account(spec: &mut Value) {
    let name = match str_at(spec, "serviceAccountName") {
        "" => str_at(spec, "serviceAccount").to_string(),
        name => name.to_string(),
    };
    if name.is_empty() {
        remove(spec, "serviceAccountName");
        remove(spec, "serviceAccount");
    } else {
        set(spec, "serviceAccountName", name.clone());
        set(spec, "serviceAccount", name);
    }
}

fn container(container: &mut Value) {
    if str_at(container, "imagePullPolicy").is_empty() {
        set(container, "imagePullPolicy", pull_policy(str_at(container, "image")));
    }
    set_if_zero(container, "terminationMessagePath", "/dev/termination-log");
    set_if_zero(container, "terminationMessagePolicy", "File");
    for port in each(container, "ports") {
        set_if_zero(port, "protocol", "TCP");
    }
    for env in each(container, "env") {
        let Some(from) = existing(env, "valueFrom") else { continue };
        field_ref(from);
        if let Some(file) = existing(from, "fileKeyRef") {
            set_default(file, "optional", false);
        }
        if let Some(resource) = existing(from, "resourceFieldRef") {
            divisor(resource);
        }
    }
    set_default(container, "resources", json!({}));
    quantity::canonicalize_requirements(container.get_mut("resources"));
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = existing(container, name) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = existing(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(handler) = existing(lifecycle, hook) {
                http_get(handler);
            }
        }
    }
}

fn field_ref(holder: &mut Value) {
    if let Some(field) = existing(holder, "fieldRef") {
        set_if_zero(field, "apiVersion", "v1");
    }
}

/// A divisor is a quantity that is always written, "0" meaning 1.
fn divisor(resource: &mut Value) {
    let text = at(resource, "divisor").and_then(Quantity::of).map_or_else(|| "0".to_string(), Quantity::canonical);
    set(resource, "divisor", text);
}

fn default_probe(probe: &mut Value) {
    set_if_zero(probe, "timeoutSeconds", 1);
    set_if_zero(probe, "periodSeconds", 10);
    set_if_zero(probe, "successThreshold", 1);
    set_if_zero(probe, "failureThreshold", 3);
    http_get(probe);
    if let Some(grpc) = existing(probe, "grpc") {
        set_default(grpc, "service", "");
    }
}

fn http_get(handler: &mut Value) {
    if let Some(get) = existing(handler, "httpGet") {
        set_if_zero(get, "path", "/");
        set_if_zero(get, "scheme", "HTTP");
    }
}

/// `Always` for images that may move: tag `latest`, or neither tag nor digest.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    match (last.split_once(':'), digest) {
        (Some((_, "latest")), _) => "Always",
        (None, None) if !image.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

fn volume(volume: &mut Value) {
    let has_source = volume.as_object().is_some_and(|map| map.keys().any(|key| key != "name"));
    if !has_source {
        set(volume, "emptyDir", json!({}));
    }
    for source in MODES {
        if let Some(source) = existing(volume, source) {
            set_default(source, "defaultMode", 420);
        }
    }
    if let Some(source) = existing(volume, "hostPath") {
        set_default(source, "type", "");
    }
    if let Some(source) = existing(volume, "downwardAPI") {
        downward_items(source);
    }
    if let Some(source) = existing(volume, "emptyDir")
        && let Some(limit) = at(source, "sizeLimit").and_then(Quantity::of)
    {
        set(source, "sizeLimit", limit.canonical());
    }
    if let Some(source) = existing(volume, "projected") {
        for projection in each(source, "sources") {
            if let Some(downward) = existing(projection, "downwardAPI") {
                downward_items(downward);
            }
            if let Some(token) = existing(projection, "serviceAccountToken") {
                set_default(token, "expirationSeconds", 3600);
            }
        }
    }
    if let Some(source) = existing(volume, "image") {
        let policy = pull_policy(str_at(source, "reference"));
        set_if_zero(source, "pullPolicy", policy);
    }
    rare_volume(volume);
}

fn rare_volume(volume: &mut Value) {
    const DEFAULTS: [(&str, &str, &str); 9] = [
        ("iscsi", "iscsiInterface", "default"),
        ("rbd", "pool", "rbd"),
        ("rbd", "user", "admin"),
        ("rbd", "keyring", "/etc/ceph/keyring"),
        ("azureDisk", "cachingMode", "ReadWrite"),
        ("azureDisk", "fsType", "ext4"),
        ("azureDisk", "kind", "Shared"),
        ("scaleIO", "storageMode", "ThinProvisioned"),
        ("scaleIO", "fsType", "xfs"),
    ];
    for (source, field, default) in DEFAULTS {
        if let Some(source) = existing(volume, source) {
            set_if_zero(source, field, default);
        }
    }
    if let Some(source) = existing(volume, "azureDisk") {
        set_default(source, "readOnly", false);
    }
    if let Some(claim) = existing(volume, "ephemeral").and_then(|source| existing(source, "volumeClaimTemplate"))
        && let Some(spec) = existing(claim, "spec")
    {
        set_default(spec, "volumeMode", "Filesystem");
        quantity::canonicalize_requirements(spec.get_mut("resources"));
    }
}

fn downward_items(source: &mut Value) {
    for item in each(source, "items") {
        field_ref(item);
        if let Some(resource) = existing(item, "resourceFieldRef") {
            divisor(resource);
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(resources) = existing(container, "resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let Some(requests) = member(resources, "requests") else { return };
    for (name, limit) in limits {
        set_default(requests, &name, limit);
    }
}

fn host_ports(container: &mut Value) {
    for port in each(container, "ports") {
        if let Some(number) = int_at(port, "containerPort") {
            set_if_zero(port, "hostPort", number);
        }
    }
}

/// Pod-level requests default to what the containers ask for together, then to the pod-level limits.
fn pod_level_requests(spec: &mut Value) {
    let Some(limits) = at(spec, "resources.limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    let mut wanted = Map::new();
    for name in ["cpu", "memory"] {
        if let Some(sum) = container_requests(spec, name) {
            wanted.insert(name.to_string(), Value::from(sum.canonical()));
        }
    }
    for (name, limit) in limits {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            wanted.entry(name).or_insert(limit);
        }
    }
    if let Some(requests) = existing(spec, "resources").and_then(|resources| member(resources, "requests")) {
        for (name, value) in wanted {
            set_default(requests, &name, value);
        }
    }
}

/// Effective request of all containers: the sum of those that run on, or the largest moment of the init phase.
fn container_requests(spec: &Value, resource: &str) -> Option<Quantity> {
    let request = |container: &Value| {
        container.get("resources").and_then(|r| r.get("requests")).and_then(|r| r.get(resource)).and_then(Quantity::of)
    };
    let add = |sum: Option<Quantity>, more: Option<Quantity>| match (sum, more) {
        (Some(sum), Some(more)) => Some(sum.plus(more)),
        (sum, more) => sum.or(more),
    };
    let max = |a: Option<Quantity>, b: Option<Quantity>| match (a, b) {
        (Some(a), Some(b)) => Some(if a.compare(b).is_lt() { b } else { a }),
        (a, b) => a.or(b),
    };
    let list = |name: &str| spec.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let running = list("containers").iter().map(request).fold(None, add);
    let (mut sidecars, mut peak) = (None, None);
    for container in list("initContainers") {
        if str_at(&container, "restartPolicy") == "Always" {
            sidecars = add(sidecars, request(&container));
            peak = max(peak, sidecars);
        } else {
            peak = max(peak, add(sidecars, request(&container)));
        }
    }
    max(add(running, sidecars), peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_pod_gets_upstreams_defaults() {
        let mut pod = json!({"spec": {
            "containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}},
                "livenessProbe": {"httpGet": {"port": 80}}}],
            "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/"}}],
        }});
        super::pod(&mut pod);
        assert_eq!(
            pod,
            json!({"spec": {
                "containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
                    "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}],
                "volumes": [{"name": "e", "emptyDir": {}},
                    {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
                    {"name": "h", "hostPath": {"path": "/", "type": ""}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "enableServiceLinks": true,
            }})
        );
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.25", "IfNotPresent"),
            ("registry:5000/nginx", "Always"),
            ("registry:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }
}
