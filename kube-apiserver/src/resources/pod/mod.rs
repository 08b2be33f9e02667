//! Pods: strategy, binding, graceful deletion. Defaults, validation and table columns have their own files.

use common::meta::ip::ip_warning;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::gated;
use super::{
    Ctx, Deletion,
    field::{ErrorList, Path},
    metadata::time,
    names,
    rules::Rules,
    value::{at, bool_at, each, existing, int_at, keep_old, list_at, map_at, member, remove, set, str_at, strings_at},
};

pub(crate) mod containers;
pub(crate) mod defaults;
mod env;
mod network;
mod probes;
pub(crate) mod scheduling;
mod security;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod template;
pub(crate) mod update;
pub(crate) mod validate;
mod volumes;
pub(crate) mod warnings;
mod whole;

pub(crate) const RULES: &[Rules] = &[
    Rules {
        resource: "pods",
        kind: "Pod",
        gated: &[("spec", gated::POD_SPEC)],
        generation: true,
        defaults: defaults::pod,
        prepare_create,
        prepare_update,
        validate: validate::create,
        validate_update: update::validate,
        field_labels: &[
            "metadata.name",
            "metadata.namespace",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        fields: &[
            ("spec.nodeName", |pod| str_at(pod, "spec.nodeName").to_string()),
            ("spec.restartPolicy", |pod| str_at(pod, "spec.restartPolicy").to_string()),
            ("spec.schedulerName", |pod| str_at(pod, "spec.schedulerName").to_string()),
            ("spec.serviceAccountName", |pod| str_at(pod, "spec.serviceAccountName").to_string()),
            ("spec.hostNetwork", |pod| bool_at(pod, "spec.hostNetwork").to_string()),
            ("status.phase", |pod| str_at(pod, "status.phase").to_string()),
            ("status.podIP", |pod| str_at(pod, "status.podIP").to_string()),
            ("status.nominatedNodeName", |pod| str_at(pod, "status.nominatedNodeName").to_string()),
        ],
        graceful_delete: Some(graceful_delete),
        warnings: pod_warnings,
        columns: table::COLUMNS,
        row: table::row,
        ..Rules::GENERIC
    },
    Rules {
        resource: "podtemplates",
        kind: "PodTemplate",
        gated: &[("template.spec", gated::POD_SPEC)],
        generation: true,
        warnings: |obj, old, _| warnings::template(obj, old, "template"),
        defaults: |obj| defaults::template(obj, "template"),
        validate: |obj, errs| template::validate(obj, "template", &Path::root("template"), errs),
        validate_update: |new, _, _, errs| template::validate(new, "template", &Path::root("template"), errs),
        columns: table::TEMPLATE_COLUMNS,
        row: table::template_row,
        ..Rules::GENERIC
    },
];

fn prepare_create(pod: &mut Value, ctx: &Ctx<'_>) {
    let mut status = json!({"phase": "Pending", "qosClass": common::quota::qos::class(pod)});
    if !list_at(pod, "spec.schedulingGates").is_empty() {
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        });
        update_condition(&mut status, condition, ctx.now);
    }
    set(pod, "status", status);
    merge_label_keys(pod);
}

fn prepare_update(new: &mut Value, old: &Value, sub: Option<&str>, _ctx: &Ctx<'_>) {
    match sub {
        None => keep_old(new, old, "status"),
        Some("status") => {
            if let (Some(meta), Some(old_meta)) = (existing(new, "metadata"), old.get("metadata")) {
                keep_old(meta, old_meta, "ownerReferences");
            }
            status::prepare(new, old);
        }
        Some("ephemeralcontainers") => {
            let wanted = at(new, "spec.ephemeralContainers").cloned();
            reset_to_old(new, old);
            if let Some(spec) = existing(new, "spec") {
                match wanted {
                    Some(list) => set(spec, "ephemeralContainers", list),
                    None => {
                        remove(spec, "ephemeralContainers");
                    }
                }
            }
        }
        Some("resize") => prepare_resize(new, old),
        Some(_) => {}
    }
}

/// Spec, status and the metadata that a subresource must not touch become the old ones.
fn reset_to_old(new: &mut Value, old: &Value) {
    keep_old(new, old, "spec");
    keep_old(new, old, "status");
    if let (Some(meta), Some(old_meta)) = (existing(new, "metadata"), old.get("metadata")) {
        for name in ["labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp", "generation"] {
            keep_old(meta, old_meta, name);
        }
    }
}

/// `/resize` changes resources and resize policies of existing containers, nothing else.
fn prepare_resize(new: &mut Value, old: &Value) {
    let lists = ["containers", "initContainers"];
    let names = |pod: &Value, list: &str| -> Vec<String> {
        list_at(pod, &format!("spec.{list}")).iter().map(|c| str_at(c, "name").to_string()).collect()
    };
    if lists.iter().any(|list| names(new, list) != names(old, list)) {
        return;
    }
    let wanted = new.get("spec").cloned().unwrap_or_default();
    reset_to_old(new, old);
    let Some(spec) = existing(new, "spec") else { return };
    keep_old(spec, &wanted, "resources");
    for list in lists {
        for (container, source) in each(spec, list).zip(list_at(&wanted, list)) {
            keep_old(container, source, "resources");
            keep_old(container, source, "resizePolicy");
        }
    }
}

fn graceful_delete(pod: &Value, requested: Option<i64>) -> Deletion {
    let seconds = requested.or_else(|| int_at(pod, "spec.terminationGracePeriodSeconds")).unwrap_or_default();
    let unscheduled = str_at(pod, "spec.nodeName").is_empty();
    let terminated = matches!(str_at(pod, "status.phase"), "Failed" | "Succeeded");
    match (unscheduled || terminated, seconds) {
        (true, _) => Deletion::Graceful(0),
        (false, seconds) if seconds < 0 => Deletion::Graceful(1),
        (false, seconds) => Deletion::Graceful(seconds),
    }
}

/// People seldom change pods themselves: updates are not commented on.
fn pod_warnings(pod: &Value, old: Option<&Value>, sub: Option<&str>) -> Vec<String> {
    let mut out = Vec::new();
    if old.is_some() {
        for list in ["podIPs", "hostIPs"].into_iter().filter(|_| sub == Some("status")) {
            let path = Path::root("status");
            let path = path.child(list);
            for (i, entry) in list_at(pod, &format!("status.{list}")).iter().enumerate() {
                out.extend(ip_warning(path.index(i).child("ip"), str_at(entry, "ip")));
            }
        }
        return out;
    }
    let complaints = names::dns1123_label(str_at(pod, "metadata.name"));
    if !complaints.is_empty() {
        let text = "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended";
        out.push(format!("{text}: [{}]", complaints.join(" ")));
    }
    out.extend(warnings::warnings(pod, &Path::root("")));
    out
}

/// Sets a condition; the transition time moves only with the status.
pub(crate) fn update_condition(status: &mut Value, mut condition: Value, now: Timestamp) {
    let Some(map) = status.as_object_mut() else { return };
    let list = map.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    set(&mut condition, "lastTransitionTime", time(now));
    match list.iter_mut().find(|c| c.get("type") == condition.get("type")) {
        Some(current) => {
            if current.get("status") == condition.get("status") {
                let old = current.clone();
                keep_old(&mut condition, &old, "lastTransitionTime");
            }
            *current = condition;
        }
        None => list.push(condition),
    }
}

/// The rules of a `Binding` object.
pub fn validate_binding(binding: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let target = Path::root("target");
    let kind = str_at(binding, "target.kind");
    if !kind.is_empty() && kind != "Node" {
        errs.not_supported(&target.child("kind"), kind, &["Node", "<empty>"]);
    }
    if str_at(binding, "target.name").is_empty() {
        errs.required(&target.child("name"), "");
    }
    errs
}

/// Assigns the pod to the node of a `Binding`. The error is the text of a conflict on `pods/binding`.
pub fn bind(pod: &mut Value, binding: &Value, now: Timestamp) -> Result<(), String> {
    let name = str_at(pod, "metadata.name");
    if !str_at(pod, "metadata.deletionTimestamp").is_empty() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = str_at(pod, "spec.nodeName");
    if !node.is_empty() {
        return Err(format!("pod {name} is already assigned to node \"{node}\""));
    }
    if !list_at(pod, "spec.schedulingGates").is_empty() {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    if let Some(spec) = member(pod, "spec") {
        set(spec, "nodeName", str_at(binding, "target.name"));
    }
    if let Some(meta) = member(pod, "metadata") {
        for kind in ["annotations", "labels"] {
            let Some(extra) = map_at(binding, &format!("metadata.{kind}")).filter(|map| !map.is_empty()) else {
                continue;
            };
            if let Some(map) = member(meta, kind) {
                extra.iter().for_each(|(key, value)| set(map, key, value.clone()));
            }
        }
    }
    if let Some(status) = member(pod, "status") {
        remove(status, "nominatedNodeName");
        update_condition(status, json!({"type": "PodScheduled", "status": "True"}), now);
    }
    Ok(())
}

/// `matchLabelKeys` of affinity terms and spread constraints become selector requirements on the pod's own label values.
fn merge_label_keys(pod: &mut Value) {
    let labels: Vec<(String, String)> =
        strings_at(pod, "metadata.labels").map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let Some(spec) = existing(pod, "spec") else { return };
    for constraint in each(spec, "topologySpreadConstraints") {
        merge_keys(constraint, &labels);
    }
    let Some(affinity) = existing(spec, "affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(rules) = existing(affinity, kind) else { continue };
        for term in each(rules, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_keys(term, &labels);
        }
        for weighted in each(rules, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = existing(weighted, "podAffinityTerm") {
                merge_keys(term, &labels);
            }
        }
    }
}

fn merge_keys(term: &mut Value, labels: &[(String, String)]) {
    let mut added = Vec::new();
    for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in list_at(term, list).iter().filter_map(Value::as_str) {
            if let Some((_, value)) = labels.iter().find(|(k, _)| k == key) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if added.is_empty() {
        return;
    }
    let Some(selector) = existing(term, "labelSelector").and_then(Value::as_object_mut) else { return };
    if let Some(list) = selector.entry("matchExpressions").or_insert_with(|| json!([])).as_array_mut() {
        list.extend(added);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binding_assigns_once() {
        let now = Timestamp::UNIX_EPOCH;
        let mut pod = json!({"metadata": {"name": "web", "generation": 1}, "spec": {}, "status": {"phase": "Pending"}});
        let binding = json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": "n1"}});
        assert!(validate_binding(&binding).is_empty());
        assert_eq!(bind(&mut pod, &binding, now), Ok(()));
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
        assert_eq!(bind(&mut pod, &binding, now), Err("pod web is already assigned to node \"n1\"".to_string()));
    }

    #[test]
    fn grace_comes_from_request_then_spec() {
        let pod =
            json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}});
        assert_eq!(graceful_delete(&pod, None), Deletion::Graceful(30));
        assert_eq!(graceful_delete(&pod, Some(5)), Deletion::Graceful(5));
        let pending = json!({"spec": {"terminationGracePeriodSeconds": 30}});
        assert_eq!(graceful_delete(&pending, None), Deletion::Graceful(0));
    }
}
