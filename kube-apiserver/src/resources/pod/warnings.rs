//! Warnings about pods and templates: what is accepted and likely not meant.

use std::collections::BTreeMap;

use common::meta::ip::ip_warning;
use serde_json::Value;

use crate::resources::{
    checks,
    field::{Path, go_quote},
    quantity::Quantity,
    value::{at, int_at, list_at, same_at, str_at, strings_at},
};

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const NODE_LABELS: [(&str, &str); 8] = [
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
];
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];
const VOLUMES: [(&str, &str); 9] = [
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
];

/// Warnings about the template of a workload; on updates only when it changed.
pub(crate) fn template(owner: &Value, old: Option<&Value>, field: &str) -> Vec<String> {
    match at(owner, field) {
        Some(template) if old.is_none_or(|old| !same_at(owner, old, field)) => warnings(template, &Path::root(field)),
        _ => Vec::new(),
    }
}

/// Warnings about a pod or a template at `path`.
pub(crate) fn warnings(pod: &Value, path: &Path<'_>) -> Vec<String> {
    let mut out = Vec::new();
    let spec_path = path.child("spec");
    let spec = at(pod, "spec").unwrap_or(&Value::Null);
    labels(spec, &spec_path, &mut out);
    for (key, _) in strings_at(pod, "metadata.annotations") {
        if let Some((_, text)) = ANNOTATIONS.iter().find(|(name, _)| *name == key) {
            out.push(format!("{}: {text}", path.child("metadata.annotations").key(key)));
        }
    }
    volumes(spec, &spec_path, &mut out);
    references(spec, &spec_path, &mut out);
    fractions(spec.get("overhead"), &spec_path.child("overhead"), &mut out);
    each_container(spec, &spec_path, |container, path| {
        for list in ["limits", "requests"] {
            let amounts = container.get("resources").and_then(|r| r.get(list));
            fractions(amounts, &path.child("resources").child(list), &mut out);
        }
        variables(container, path, &mut out);
    });
    ports(spec, &spec_path, &mut out);
    if int_at(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        let path = spec_path.child("terminationGracePeriodSeconds");
        out.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinity(spec, &spec_path, &mut out);
    let servers = spec_path.child("dnsConfig.nameservers");
    for (i, server) in list_at(spec, "dnsConfig.nameservers").iter().enumerate() {
        out.extend(ip_warning(servers.index(i), server.as_str().unwrap_or_default()));
    }
    let aliases = spec_path.child("hostAliases");
    for (i, alias) in list_at(spec, "hostAliases").iter().enumerate() {
        out.extend(ip_warning(aliases.index(i).child("ip"), str_at(alias, "ip")));
    }
    out
}

fn each_container(spec: &Value, path: &Path<'_>, mut visit: impl FnMut(&Value, &Path<'_>)) {
    for list in CONTAINERS {
        let root = path.child(list);
        for (i, container) in list_at(spec, list).iter().enumerate() {
            visit(container, &root.index(i));
        }
    }
}

/// Why a label of nodes should no longer be used.
pub(crate) fn outdated(label: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(name, _)| *name == label).map(|(_, text)| *text)
}

fn labels(spec: &Value, path: &Path<'_>, out: &mut Vec<String>) {
    for (key, _) in strings_at(spec, "nodeSelector") {
        out.extend(outdated(key).map(|text| format!("{}: {text}", path.child("nodeSelector").key(key))));
    }
    let root = path.child("topologySpreadConstraints");
    for (i, constraint) in list_at(spec, "topologySpreadConstraints").iter().enumerate() {
        let (path, key) = (root.index(i), str_at(constraint, "topologyKey"));
        out.extend(outdated(key).map(|text| format!("{}: {key} is {text}", path.child("topologyKey"))));
        if at(constraint, "labelSelector").is_none() {
            out.push(format!("{}: a null labelSelector results in matching no pod", path.child("labelSelector")));
        }
    }
}

fn volumes(spec: &Value, path: &Path<'_>, out: &mut Vec<String>) {
    let root = path.child("volumes");
    for (i, volume) in list_at(spec, "volumes").iter().enumerate() {
        for (kind, text) in VOLUMES.iter().filter(|(kind, _)| at(volume, kind).is_some()) {
            // The path says storageOS though the field is storageos.
            let shown = if *kind == "storageos" { "storageOS" } else { kind };
            out.push(format!("{}: {text}", root.index(i).child(shown)));
        }
    }
}

/// Items that occur twice or have no name.
fn references(spec: &Value, path: &Path<'_>, out: &mut Vec<String>) {
    for (list, field) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let (items, root) = (list_at(spec, list), path.child(list));
        let repeated = checks::repeats(items, |item| str_at(item, field));
        for (i, item) in items.iter().enumerate() {
            let value = str_at(item, field);
            let item_path = root.index(i);
            if repeated[i] {
                out.push(format!("{}: duplicate {field} {}", item_path.child(field), go_quote(value)));
            }
            if list == "imagePullSecrets" && value.is_empty() {
                out.push(format!("{}: invalid empty name \"\"", item_path.child(field)));
            }
        }
    }
}

/// Bytes come whole.
fn fractions(amounts: Option<&Value>, path: &Path<'_>, out: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let amount = amounts.and_then(|a| a.get(name)).and_then(Quantity::of);
        if let Some(amount) = amount.filter(|a| !a.is_whole()) {
            let text = amount.canonical();
            out.push(format!("{}: fractional byte value {text:?} is invalid, must be an integer", path.key(name)));
        }
    }
}

/// Variables that are defined again without building on the first definition.
fn variables(container: &Value, path: &Path<'_>, out: &mut Vec<String>) {
    let (list, root) = (list_at(container, "env"), path.child("env"));
    let repeated = checks::repeats(list, |item| str_at(item, "name"));
    for (i, variable) in list.iter().enumerate() {
        let (name, value) = (str_at(variable, "name"), str_at(variable, "value"));
        let reference = format!("$({name})");
        let builds_on = at(variable, "valueFrom").is_none() && value != reference && value.contains(&reference);
        if repeated[i] && !builds_on {
            let path = root.index(i);
            out.push(format!(
                "{path}: hides previous definition of {}, which may be dropped when using apply",
                go_quote(name)
            ));
        }
    }
}

fn ports(spec: &Value, path: &Path<'_>, out: &mut Vec<String>) {
    let mut seen: BTreeMap<String, Vec<(String, Value)>> = BTreeMap::new();
    let mut named: BTreeMap<String, String> = BTreeMap::new();
    let mut names = Vec::new();
    let host = |port: &Value| (str_at(port, "hostIP").to_owned(), int_at(port, "hostPort").unwrap_or_default());
    each_container(spec, path, |container, path| {
        let root = path.child("ports");
        for (i, port) in list_at(container, "ports").iter().enumerate() {
            let path = root.index(i).to_string();
            let key = format!("{}/{}", int_at(port, "containerPort").unwrap_or_default(), str_at(port, "protocol"));
            let others = seen.entry(key).or_default();
            for (other_path, other) in others.iter() {
                let ((ip, number), (other_ip, other_number)) = (host(port), host(other));
                let what = if (&ip, number) == (&other_ip, other_number) {
                    "duplicate"
                } else if number == 0 || other_number == 0 {
                    "overlapping"
                } else if number == other_number && ip.is_empty() != other_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                out.push(format!("{path}: {what} port definition with {other_path}"));
            }
            others.push((path.clone(), port.clone()));
            let name = str_at(port, "name");
            if name.is_empty() {
                continue;
            }
            match named.get(name) {
                Some(first) => names.push(format!(
                    "{path}: duplicate port name {} with {first}, services and probes that select ports by name will use {first}",
                    go_quote(name)
                )),
                None => {
                    named.insert(name.to_owned(), path);
                }
            }
        }
    });
    out.extend(names);
}

fn affinity(spec: &Value, path: &Path<'_>, out: &mut Vec<String>) {
    const WHEN: [(&str, &str); 2] = [
        ("requiredDuringSchedulingIgnoredDuringExecution", "labelSelector"),
        ("preferredDuringSchedulingIgnoredDuringExecution", "podAffinityTerm.labelSelector"),
    ];
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (when, selector) in WHEN {
            let holder = path.child("affinity");
            let holder = holder.child(kind);
            let root = holder.child(when);
            for (i, term) in list_at(spec, &format!("affinity.{kind}.{when}")).iter().enumerate() {
                if at(term, selector).is_none() {
                    let path = root.index(i);
                    out.push(format!("{}: a null labelSelector results in matching no pod", path.child(selector)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_likely_not_meant_is_told() {
        let deployment = json!({"spec": {"template": {"spec": {
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "volumes": [{"name": "g", "gitRepo": {}}],
            "containers": [{"resources": {"limits": {"memory": "1m"}}, "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
                "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}]},
                {"ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}]}]}}}});
        assert_eq!(
            template(&deployment, None, "spec.template"),
            [
                "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.template.spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
                "spec.template.spec.containers[0].resources.limits[memory]: fractional byte value \"1m\" is invalid, must be an integer",
                "spec.template.spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.template.spec.containers[1].ports[0]: duplicate port definition with spec.template.spec.containers[0].ports[0]",
                "spec.template.spec.containers[1].ports[0]: duplicate port name \"http\" with spec.template.spec.containers[0].ports[0], services and probes that select ports by name will use spec.template.spec.containers[0].ports[0]",
            ]
        );
        assert!(template(&deployment, Some(&deployment), "spec.template").is_empty());
    }
}
