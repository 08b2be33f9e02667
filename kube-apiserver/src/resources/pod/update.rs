//! Validation of changes to pods: almost nothing of a pod's spec may change.

use serde_json::Value;

use super::{scheduling, status, validate::pod_and_spec};
use crate::resources::{
    field::{ErrorList, Path},
    value::{at, each, existing, int_at, is_set, keep_old, list_at, map_at, same, same_at, set, str_at},
};

const SPEC: Path<'static> = Path::root("spec");
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(crate) fn validate(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    match sub {
        None => update(new, old, errs),
        Some("status") => status::validate(new, old, errs),
        Some("ephemeralcontainers") => ephemeral(new, old, errs),
        Some("resize") => resize(new, old, errs),
        Some(_) => {}
    }
}

fn update(new: &Value, old: &Value, errs: &mut ErrorList) {
    pod_and_spec(new, errs);
    mirror_annotation(new, old, errs);
    for list in ["containers", "initContainers"] {
        let field = format!("spec.{list}");
        if list_at(new, &field).len() != list_at(old, &field).len() {
            errs.forbidden(&SPEC.child(list), "pod updates may not add or remove containers");
            return;
        }
    }
    if !deadline(new, old, errs) {
        return;
    }
    only_added_tolerations(new, old, errs);
    only_deleted_gates(new, old, errs);
    if same_at(new, old, "spec") {
        return;
    }
    let munged = munge(new, old, errs);
    if !same(Some(&munged), at(old, "spec")) {
        let difference = difference(&munged, at(old, "spec").unwrap_or(&Value::Null));
        errs.forbidden(&SPEC, format!("pod updates may not change fields other than {UPDATABLE}\n{difference}"));
    }
}

/// Mirror pods stay mirror pods of the same static pod.
fn mirror_annotation(new: &Value, old: &Value, errs: &mut ErrorList) {
    let key = "kubernetes.io/config.mirror";
    let value = |pod: &Value| map_at(pod, "metadata.annotations").and_then(|a| a.get(key)).cloned();
    if value(new) != value(old) {
        let path = Path::root("metadata.annotations");
        let detail = match (value(new).is_some(), value(old).is_some()) {
            (false, true) => "may not remove mirror pod annotation",
            (true, false) => "may not add mirror pod annotation",
            _ => "may not update mirror pod annotation",
        };
        errs.forbidden(&path.key(key), detail);
    }
}

/// The active deadline can be set and shortened.
fn deadline(new: &Value, old: &Value, errs: &mut ErrorList) -> bool {
    let path = SPEC.child("activeDeadlineSeconds");
    let seconds = |pod: &Value| int_at(pod, "spec.activeDeadlineSeconds");
    match (seconds(new), seconds(old)) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            errs.invalid(&path, now, "must be between 0 and 2147483647, inclusive");
            false
        }
        (Some(now), Some(before)) if before < now => {
            errs.invalid(&path, now, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errs.invalid(&path, Value::Null, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn only_added_tolerations(new: &Value, old: &Value, errs: &mut ErrorList) {
    let path = SPEC.child("tolerations");
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        crate::resources::value::remove(&mut toleration, "tolerationSeconds");
        toleration
    };
    let now: Vec<Value> = list_at(new, "spec.tolerations").iter().map(without_seconds).collect();
    for before in list_at(old, "spec.tolerations").iter().map(without_seconds) {
        if !now.iter().any(|toleration| same(Some(toleration), Some(&before))) {
            errs.forbidden(&path, "existing toleration can not be modified except its tolerationSeconds");
            return;
        }
    }
    if !same_at(new, old, "spec.tolerations") {
        scheduling::tolerations(list_at(new, "spec.tolerations"), &path, errs);
    }
}

fn only_deleted_gates(new: &Value, old: &Value, errs: &mut ErrorList) {
    let path = SPEC.child("schedulingGates");
    let before = list_at(old, "spec.schedulingGates");
    for (i, gate) in list_at(new, "spec.schedulingGates").iter().enumerate() {
        let name = str_at(gate, "name");
        if !before.iter().any(|other| str_at(other, "name") == name) {
            errs.forbidden(
                &path.index(i).child("name"),
                format!("only deletion is allowed, but found new scheduling gate '{name}'"),
            );
        }
    }
}

/// The new spec with everything that may change put back to the old value.
fn munge(new: &Value, old: &Value, errs: &mut ErrorList) -> Value {
    let mut spec = at(new, "spec").cloned().unwrap_or_default();
    let old_spec = at(old, "spec").cloned().unwrap_or_default();
    for list in ["containers", "initContainers"] {
        for (container, before) in each(&mut spec, list).zip(list_at(&old_spec, list)) {
            keep_old(container, before, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        keep_old(&mut spec, &old_spec, field);
    }
    let grace = |spec: &Value| int_at(spec, "terminationGracePeriodSeconds");
    if grace(&old_spec).is_some_and(|seconds| seconds < 0) && grace(&spec) == Some(1) {
        keep_old(&mut spec, &old_spec, "terminationGracePeriodSeconds");
    }
    if !list_at(&old_spec, "schedulingGates").is_empty() {
        gated(&mut spec, &old_spec, errs);
    }
    spec
}

/// A gated pod may still become pickier about nodes.
fn gated(spec: &mut Value, old: &Value, errs: &mut ErrorList) {
    if !same_at(spec, old, "nodeSelector") {
        let path = SPEC.child("nodeSelector");
        let selector = |spec: &Value| map_at(spec, "nodeSelector").cloned().unwrap_or_default();
        let now = selector(spec);
        for (key, value) in selector(old) {
            if now.get(&key) != Some(&value) {
                errs.invalid(
                    &path,
                    Value::Object(now),
                    "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
                );
                break;
            }
        }
        keep_old(spec, old, "nodeSelector");
    }
    if !same_at(spec, old, "affinity.nodeAffinity") {
        match (at(old, "affinity").cloned(), existing(spec, "affinity")) {
            (Some(before), Some(affinity)) => keep_old(affinity, &before, "nodeAffinity"),
            (None, Some(affinity)) => {
                crate::resources::value::remove(affinity, "nodeAffinity");
            }
            (Some(before), None) => {
                if let Some(node) = before.get("nodeAffinity") {
                    set(spec, "affinity", serde_json::json!({"nodeAffinity": node}));
                }
            }
            (None, None) => {}
        }
    }
}

/// Which fields differ, one line each.
fn difference(new: &Value, old: &Value) -> String {
    let mut lines = Vec::new();
    compare(new, old, &mut String::from("spec"), &mut lines);
    lines.truncate(20);
    lines.join("\n")
}

fn compare(new: &Value, old: &Value, path: &mut String, lines: &mut Vec<String>) {
    if same(Some(new), Some(old)) {
        return;
    }
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let length = path.len();
                path.push('.');
                path.push_str(key);
                compare(a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), path, lines);
                path.truncate(length);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                let length = path.len();
                path.push_str(&format!("[{i}]"));
                compare(a, b, path, lines);
                path.truncate(length);
            }
        }
        _ => {
            lines.push(format!("- {path}: {old}"));
            lines.push(format!("+ {path}: {new}"));
        }
    }
}

fn ephemeral(new: &Value, old: &Value, errs: &mut ErrorList) {
    pod_and_spec(new, errs);
    if map_at(old, "metadata.annotations").is_some_and(|a| a.contains_key("kubernetes.io/config.mirror")) {
        errs.0.clear();
        errs.forbidden(&Path::root(""), "static pods do not support ephemeral containers");
        return;
    }
    let path = SPEC.child("ephemeralContainers");
    for before in list_at(old, "spec.ephemeralContainers") {
        let name = str_at(before, "name");
        match list_at(new, "spec.ephemeralContainers").iter().find(|c| str_at(c, "name") == name) {
            None => errs.forbidden(&path, format!("existing ephemeral containers \"{name}\" may not be removed\n")),
            Some(now) if !same(Some(now), Some(before)) => {
                errs.forbidden(&path, format!("existing ephemeral containers \"{name}\" may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}

fn resize(new: &Value, old: &Value, errs: &mut ErrorList) {
    pod_and_spec(new, errs);
    if map_at(old, "metadata.annotations").is_some_and(|a| a.contains_key("kubernetes.io/config.mirror")) {
        errs.0.clear();
        errs.forbidden(&Path::root(""), "static pods cannot be resized");
        return;
    }
    if is_set(old, "status.qosClass") && str_at(old, "status.qosClass") != common::quota::qos::class(new) {
        errs.invalid(&SPEC, str_at(new, "status.qosClass"), "Pod QOS Class may not change as a result of resizing");
    }
    for list in ["containers", "initContainers"] {
        let field = format!("spec.{list}");
        let names = |pod: &Value| -> Vec<String> {
            list_at(pod, &field).iter().map(|c| str_at(c, "name").to_string()).collect()
        };
        if list_at(new, &field).len() != list_at(old, &field).len() {
            errs.forbidden(&SPEC.child(list), format!("{list} may not be added or removed on resize"));
        } else if names(new) != names(old) {
            errs.forbidden(&SPEC.child(list), "containers may not be renamed or reordered on resize");
        } else {
            for (i, (now, before)) in list_at(new, &field).iter().zip(list_at(old, &field)).enumerate() {
                resized(now, before, &SPEC.child(list).index(i).child("resources"), errs);
            }
        }
    }
}

/// Only cpu and memory change, and none is taken away.
fn resized(new: &Value, old: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    for (kind, what) in [("requests", "resource requests"), ("limits", "resource limits")] {
        let field = format!("resources.{kind}");
        let before = map_at(old, &field).cloned().unwrap_or_default();
        let now = map_at(new, &field).cloned().unwrap_or_default();
        if before.keys().any(|name| !now.contains_key(name)) {
            errs.forbidden(&path.child(kind), format!("{what} cannot be removed"));
        }
        let fixed = |list: &serde_json::Map<String, Value>| -> Vec<(String, Value)> {
            let others = list.iter().filter(|(name, _)| !matches!(name.as_str(), "cpu" | "memory"));
            others.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        if fixed(&before) != fixed(&now) {
            errs.forbidden(&SPEC, "only cpu and memory resources are mutable");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "a:1"}]}});
        super::super::defaults::pod(&mut pod);
        pod
    }

    fn complaints(change: impl FnOnce(&mut Value)) -> String {
        let (old, mut new) = (pod(), pod());
        change(&mut new);
        let mut errs = ErrorList::new();
        update(&new, &old, &mut errs);
        errs.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn images_and_added_tolerations_may_change() {
        assert_eq!(complaints(|new| new["spec"]["containers"][0]["image"] = "a:2".into()), "");
        assert_eq!(complaints(|new| new["spec"]["tolerations"] = json!([{"operator": "Exists"}])), "");
    }

    #[test]
    fn nothing_else_may_change() {
        let text = complaints(|new| new["spec"]["nodeName"] = "n2".into());
        assert!(
            text.starts_with(
                "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
            )
        );
        assert!(text.ends_with("\n- spec.nodeName: null\n+ spec.nodeName: \"n2\""), "{text}");
        assert_eq!(
            complaints(|new| new["spec"]["containers"] = json!([])),
            "spec.containers: Required value; spec.containers: Forbidden: pod updates may not add or remove containers"
        );
    }
}
