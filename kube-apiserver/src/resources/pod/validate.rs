//! Validation of new pods and of every `PodSpec`, in upstream's order.

use std::collections::HashMap;

use serde_json::Value;

use super::{containers, network, scheduling, security, volumes, whole};
use crate::resources::{
    checks,
    field::{ErrorList, Path},
    names, quantity,
    value::{at, bool_at, int_at, is_set, list_at, str_at, strings_at},
};

/// What a check of a part of the spec needs to know about the whole.
pub(crate) struct Scope<'a> {
    /// The spec.
    pub spec: &'a Value,
    /// The pod's name, when it is a pod and not a template.
    pub pod_name: Option<&'a str>,
    /// Names of volumes that are well formed.
    pub volumes: HashMap<&'a str, &'a Value>,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(spec: &'a Value, pod_name: Option<&'a str>) -> Scope<'a> {
        Scope { spec, pod_name, volumes: HashMap::new() }
    }

    /// The volume of that name.
    pub(crate) fn volume(&self, name: &str) -> Option<&'a Value> {
        self.volumes.get(name).copied()
    }

    /// True for pods, false for templates.
    pub(crate) fn is_pod(&self) -> bool {
        self.pod_name.is_some()
    }

    /// True when containers use the host's user namespace.
    pub(crate) fn host_users(&self) -> bool {
        at(self.spec, "hostUsers").and_then(Value::as_bool).unwrap_or(true)
    }
}

/// All rules of a new pod beyond generic metadata.
pub(crate) fn create(pod: &Value, errs: &mut ErrorList) {
    pod_and_spec(pod, errs);
    let path = Path::root("spec");
    if !list_at(pod, "spec.ephemeralContainers").is_empty() {
        errs.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if is_set(pod, "spec.nodeName") && !list_at(pod, "spec.schedulingGates").is_empty() {
        errs.forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

/// What holds for a pod at all times.
pub(crate) fn pod_and_spec(pod: &Value, errs: &mut ErrorList) {
    let path = Path::root("spec");
    let nothing = Value::Null;
    let spec = at(pod, "spec").unwrap_or(&nothing);
    whole::annotations(pod, errs);
    pod_spec(spec, Some(str_at(pod, "metadata.name")), &path, errs);
    if !is_set(spec, "serviceAccountName") {
        let volumes_path = path.child("volumes");
        for (i, volume) in list_at(spec, "volumes").iter().enumerate() {
            for (j, source) in list_at(volume, "projected.sources").iter().enumerate() {
                if at(source, "serviceAccountToken").is_some() {
                    let volume = volumes_path.index(i);
                    let sources = volume.child("projected.sources");
                    errs.forbidden(
                        &sources.index(j).child("serviceAccountToken"),
                        "must not be specified when serviceAccountName is not set",
                    );
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        let list_path = path.child(list);
        for (i, container) in list_at(spec, list).iter().enumerate() {
            containers::image_whitespace(container, &list_path.index(i), errs);
        }
    }
}

/// A `PodSpec`; `pod_name` is None inside templates.
pub(crate) fn pod_spec(spec: &Value, pod_name: Option<&str>, path: &Path<'_>, errs: &mut ErrorList) {
    if int_at(spec, "terminationGracePeriodSeconds").is_none() {
        errs.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let mut scope = Scope::new(spec, pod_name);
    scope.volumes = volumes::validate(&scope, &path.child("volumes"), errs);
    resource_claims(spec, &path.child("resourceClaims"), errs);
    containers::regular(&scope, &path.child("containers"), errs);
    containers::init(&scope, &path.child("initContainers"), errs);
    containers::ephemeral(&scope, &path.child("ephemeralContainers"), errs);
    match at(spec, "resources") {
        Some(_) if str_at(spec, "os.name") == "windows" => {
            errs.forbidden(&path.child("resources"), "may not be set for a windows pod");
        }
        Some(resources) => {
            containers::requirements(resources, true, &path.child("resources"), errs);
            whole::resources(spec, path, errs);
        }
        None => {}
    }
    network::host_ports(&scope, path, errs);
    checks::one_of(
        str_at(spec, "restartPolicy"),
        &["Always", "OnFailure", "Never"],
        &path.child("restartPolicy"),
        errs,
    );
    network::dns(spec, path, errs);
    crate::resources::metadata::labels(strings_at(spec, "nodeSelector"), &path.child("nodeSelector"), errs);
    security::pod(spec, path, errs);
    scheduling::affinity(spec, &path.child("affinity"), errs);
    gates(spec, path, errs);
    scheduling::spread(spec, &path.child("topologySpreadConstraints"), errs);
    whole::host_process(&scope, path, errs);
    security::host_users(&scope, path, errs);
    network::host_names(spec, path, errs);
    references(spec, path, errs);
    scheduling::tolerations(list_at(spec, "tolerations"), &path.child("tolerations"), errs);
    network::host_aliases(spec, &path.child("hostAliases"), errs);
    if let Some(seconds) = int_at(spec, "activeDeadlineSeconds").filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        errs.invalid(&path.child("activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
    let preemption = str_at(spec, "preemptionPolicy");
    if !preemption.is_empty() {
        checks::one_of(preemption, &["PreemptLowerPriority", "Never"], &path.child("preemptionPolicy"), errs);
    }
    let overhead_path = path.child("overhead");
    for (name, text) in strings_at(spec, "overhead") {
        containers::resource_amount(name, text, false, &overhead_path.key(name), errs);
    }
    os(spec, path, errs);
    whole::file_keys(spec, path, errs);
}

fn gates(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let readiness = path.child("readinessGates");
    for (i, gate) in list_at(spec, "readinessGates").iter().enumerate() {
        checks::qualified(str_at(gate, "conditionType"), &readiness.index(i).child("conditionType"), errs);
    }
    let scheduling = path.child("schedulingGates");
    let gates = list_at(spec, "schedulingGates");
    let repeated = checks::repeats(gates, |item| str_at(item, "name"));
    for (i, gate) in gates.iter().enumerate() {
        let name = str_at(gate, "name");
        checks::qualified(name, &scheduling.index(i), errs);
        if repeated[i] {
            errs.duplicate(&scheduling.index(i), name);
        }
    }
}

/// Names of other objects.
fn references(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    for field in ["serviceAccountName", "nodeName", "priorityClassName"] {
        let name = str_at(spec, field);
        if !name.is_empty() {
            checks::subdomain(name, &path.child(field), errs);
        }
    }
    if let Some(name) = at(spec, "runtimeClassName").and_then(Value::as_str) {
        checks::subdomain(name, &path.child("runtimeClassName"), errs);
    }
}

fn resource_claims(spec: &Value, root: &Path<'_>, errs: &mut ErrorList) {
    let claims = list_at(spec, "resourceClaims");
    let repeated = checks::repeats(claims, |item| str_at(item, "name"));
    for (i, claim) in claims.iter().enumerate() {
        let path = root.index(i);
        match str_at(claim, "name") {
            "" => errs.required(&path.child("name"), ""),
            name if repeated[i] => {
                errs.duplicate(&path.child("name"), name);
            }
            name => checks::label(name, &path.child("name"), errs),
        }
        let fields = ["resourceClaimName", "resourceClaimTemplateName"];
        match fields.iter().filter(|field| at(claim, field).is_some()).count() {
            0 => errs.invalid(
                &path,
                claim.clone(),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            1 => {}
            _ => errs.invalid(
                &path,
                claim.clone(),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
        }
        for field in fields {
            if let Some(name) = at(claim, field).and_then(Value::as_str) {
                checks::subdomain(name, &path.child(field), errs);
            }
        }
    }
}

fn os(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    if at(spec, "os").is_none() {
        return;
    }
    let name_path = path.child("os.name");
    match str_at(spec, "os.name") {
        "" => errs.required(&name_path, "cannot be empty"),
        "linux" if at(spec, "securityContext.windowsOptions").is_some() => {
            errs.forbidden(
                &path.child("securityContext.windowsOptions"),
                "windows options cannot be set for a linux pod",
            );
        }
        "linux" => {}
        "windows" => windows(spec, path, errs),
        other => errs.not_supported(&name_path, other, &["linux", "windows"]),
    }
}

fn windows(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let detail = "cannot be set for a windows pod";
    let context = path.child("securityContext");
    for field in [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
    ] {
        if at(spec, &format!("securityContext.{field}")).is_some() {
            errs.forbidden(&context.child(field), detail);
        }
    }
    for field in ["hostPID", "hostIPC"] {
        if bool_at(spec, field) {
            errs.forbidden(&path.child(field), detail);
        }
    }
    for field in ["hostUsers", "shareProcessNamespace"] {
        if at(spec, field).is_some() {
            errs.forbidden(&path.child(field), detail);
        }
    }
}

/// Whether an amount is a valid, non-negative quantity; counts must be whole.
pub(crate) fn amount(text: &str, whole: bool, path: &Path<'_>, errs: &mut ErrorList) {
    let Some(quantity) = quantity::Quantity::parse(text) else { return };
    if quantity.sign() < 0 {
        errs.invalid(path, text, "must be greater than or equal to 0");
    }
    if whole && !quantity.is_whole() {
        errs.invalid(path, text, "must be an integer");
    }
}

/// A file mode, octal 0 to 0777.
pub(crate) fn mode(holder: &Value, field: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if let Some(mode) = int_at(holder, field).filter(|mode| !(0..=0o777).contains(mode)) {
        errs.invalid(&path.child(field), mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// A relative path that does not climb.
pub(crate) fn descending_path(value: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if value.starts_with('/') {
        errs.invalid(path, value, "must be a relative path");
    }
    no_backsteps(value, path, errs);
}

/// A path without `..`.
pub(crate) fn no_backsteps(value: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if value.split('/').any(|part| part == "..") {
        errs.invalid(path, value, "must not contain '..'");
    }
}

/// A relative path inside a volume that a projection may use.
pub(crate) fn projected_path(value: &str, path: &Path<'_>, errs: &mut ErrorList) {
    descending_path(value, path, errs);
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errs.invalid(path, value, "must not start with '..'");
    }
}

/// A ConfigMap or Secret key with the object's name beside it.
pub(crate) fn key_selector(selector: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    checks::subdomain(str_at(selector, "name"), &path.child("name"), errs);
    match str_at(selector, "key") {
        "" => errs.required(&path.child("key"), ""),
        key => names::config_key(key).into_iter().for_each(|text| errs.invalid(&path.child("key"), key, text)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complaints(mut pod: Value) -> Vec<String> {
        super::super::defaults::pod(&mut pod);
        let mut errs = ErrorList::new();
        create(&pod, &mut errs);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_pod_has_no_complaints() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "ports": [{"name": "http", "containerPort": 80}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "readinessProbe": {"tcpSocket": {"port": "http"}},
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "64Mi"}}}],
            "initContainers": [{"name": "i", "image": "i"}, {"name": "s", "image": "i", "restartPolicy": "Always"}],
            "volumes": [{"name": "v", "configMap": {"name": "m"}}],
            "tolerations": [{"operator": "Exists"}],
        }});
        assert_eq!(complaints(pod), Vec::<String>::new());
    }

    #[test]
    fn mistakes_are_told_as_upstream_does() {
        let cases = [
            (json!({"containers": []}), "spec.containers: Required value"),
            (json!({"containers": [{"image": "i"}]}), "spec.containers[0].name: Required value"),
            (json!({"containers": [{"name": "c"}]}), "spec.containers[0].image: Required value"),
            (
                json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}),
                "spec.containers[1].name: Duplicate value: \"c\"",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]}),
                "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]}),
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Sometimes"}),
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i", "livenessProbe": {}}]}),
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "i", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]}),
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ),
        ];
        for (spec, want) in cases {
            let got = complaints(json!({"metadata": {"name": "p"}, "spec": spec}));
            assert_eq!(got, [want], "{spec}");
        }
    }
}
