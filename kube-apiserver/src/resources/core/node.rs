//! Nodes.

use common::meta::ip::cidr_warnings;
use jiff::Timestamp;
use serde_json::Value;

use crate::resources::{
    checks,
    field::{ErrorKind, ErrorList, Path},
    names, quantity,
    rules::Rules,
    table::{AGE, Column, NAME, Row, age, name, text, wide},
    value::{at, bool_at, existing, int_at, is_set, list_at, remove, same_at, set, str_at, strings_at},
};

const COLUMNS: &[Column] = &[
    NAME,
    text("Status"),
    text("Roles"),
    AGE,
    text("Version"),
    wide("Internal-IP"),
    wide("External-IP"),
    wide("OS-Image"),
    wide("Kernel-Version"),
    wide("Container-Runtime"),
];

pub(crate) const RULES: &[Rules] = &[Rules {
    resource: "nodes",
    kind: "Node",
    namespaced: false,
    defaults: |obj| {
        settle_cidrs(obj);
        if let Some(status) = existing(obj, "status") {
            quantity::canonicalize_list(status.get_mut("capacity"));
            quantity::canonicalize_list(status.get_mut("allocatable"));
            if !is_set(status, "allocatable")
                && let Some(capacity) = at(status, "capacity").cloned()
            {
                set(status, "allocatable", capacity);
            }
        }
    },
    prepare_create: |obj, _| {
        drop_config(obj, None, "spec", "configSource");
        drop_config(obj, None, "status", "config");
    },
    prepare_update: |new, old, sub, _| {
        if sub.is_none() {
            crate::resources::value::keep_old(new, old, "status");
            drop_config(new, Some(old), "spec", "configSource");
        } else {
            drop_config(new, Some(old), "status", "config");
        }
    },
    validate,
    validate_update,
    warnings: |obj, _, sub| if sub.is_none() { warnings(obj) } else { Vec::new() },
    fields: &[("spec.unschedulable", |obj| bool_at(obj, "spec.unschedulable").to_string())],
    field_labels: &["metadata.name", "spec.unschedulable"],
    columns: COLUMNS,
    row,
    ..Rules::GENERIC
}];

/// The old field wins where the two disagree, as upstream's conversion has it.
fn settle_cidrs(obj: &mut Value) {
    let Some(spec) = existing(obj, "spec") else { return };
    let (single, first) = (str_at(spec, "podCIDR").to_owned(), list_at(spec, "podCIDRs").first().cloned());
    if !single.is_empty() && first != Some(single.as_str().into()) {
        set(spec, "podCIDRs", vec![single]);
    } else if let (true, Some(first)) = (single.is_empty(), first) {
        set(spec, "podCIDR", first);
    }
}

fn validate(obj: &Value, errs: &mut ErrorList) {
    taints(obj, errs);
    amounts(obj, errs);
    if let Some(capacity) = int_at(obj, "status.nodeInfo.swap.capacity").filter(|n| *n <= 0) {
        errs.invalid(&Path::root("metadata.nodeSwapStatus.capacity"), capacity, "must be greater than 0");
    }
    declared_features(obj, errs);
    let path = Path::root("spec.podCIDRs");
    let cidrs = list_at(obj, "spec.podCIDRs");
    for (i, cidr) in cidrs.iter().filter_map(Value::as_str).enumerate() {
        checks::legacy_cidr(cidr, &[], &path.index(i), errs);
    }
    let v6 = |cidr: &Value| cidr.as_str().is_some_and(|text| text.contains(':'));
    if cidrs.len() > 2 || (cidrs.len() == 2 && v6(&cidrs[0]) == v6(&cidrs[1])) {
        errs.invalid(&path, cidrs.to_vec(), "may specify no more than one CIDR for each IP family");
    }
}

fn amounts(obj: &Value, errs: &mut ErrorList) {
    for list in ["status.capacity", "status.allocatable"] {
        for (resource, text) in strings_at(obj, list) {
            checks::amount(resource, text, &Path::root(list).child(resource), errs);
        }
    }
}

/// Names in UpperCamelCase segments, sorted.
fn declared_features(obj: &Value, errs: &mut ErrorList) {
    const LONGEST: usize = 253;
    let segment = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let root = Path::root("status.declaredFeatures");
    let features = list_at(obj, "status.declaredFeatures");
    for (i, name) in features.iter().enumerate().filter_map(|(i, f)| Some((i, f.as_str()?))) {
        if name.len() > LONGEST {
            errs.invalid(
                &root.index(i),
                name,
                format!("invalid feature name {name:?}: must be no more than {LONGEST} characters"),
            );
        } else if !name.starts_with(|c: char| c.is_ascii_uppercase()) || !name.split('/').all(segment) {
            let rule = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";
            errs.invalid(&root.index(i), name, format!("invalid feature name {name:?}: {rule}"));
        }
        match features.get(i + 1).and_then(Value::as_str) {
            Some(next) if next == name => errs.duplicate(&root.index(i + 1), next),
            Some(next) if next < name => {
                errs.invalid(&root.index(i + 1), next, "list must be sorted alphabetically");
            }
            _ => {}
        }
    }
}

fn taints(obj: &Value, errs: &mut ErrorList) {
    let path = Path::root("metadata.taints");
    let taints = list_at(obj, "spec.taints");
    let repeated = checks::repeats(taints, |taint| (taint.get("key"), taint.get("effect")));
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        checks::qualified(str_at(taint, "key"), &path.child("key"), errs);
        let value = str_at(taint, "value");
        let complaints = names::label_value(value);
        if !complaints.is_empty() {
            errs.invalid(&path.child("value"), value, complaints.join(";"));
        }
        checks::one_of(
            str_at(taint, "effect"),
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
            &path.child("effect"),
            errs,
        );
        if repeated[i] {
            let members = [("Key", "key"), ("Value", "value"), ("Effect", "effect")];
            let mut shown = checks::internal(taint, &members, &"".into());
            shown.push(("TimeAdded", checks::shown(taint, "timeAdded")));
            errs.of_struct(ErrorKind::Duplicate, &path, &shown, "taints must be unique by key and effect pair");
        }
    }
}

fn validate_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub.is_none() {
        validate(new, errs);
    } else {
        amounts(new, errs);
        declared_features(new, errs);
    }
    let path = Path::root("status.addresses");
    let addresses = list_at(new, "status.addresses");
    let repeated = checks::repeats(addresses, |address| address);
    for (i, address) in addresses.iter().enumerate() {
        if repeated[i] {
            let shown = checks::internal(address, &[("Type", "type"), ("Address", "address")], &"".into());
            errs.of_struct(ErrorKind::Duplicate, &path.index(i), &shown, "");
        }
    }
    if is_set(old, "spec.podCIDRs") && !same_at(new, old, "spec.podCIDRs") {
        errs.forbidden(&Path::root("spec.podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    if is_set(old, "spec.providerID") && !same_at(new, old, "spec.providerID") {
        errs.forbidden(
            &Path::root("spec.providerID"),
            "node updates may not change providerID except from \"\" to valid",
        );
    }
    if let Some(source) = at(new, "spec.configSource") {
        config_source(source, false, &Path::root("spec.configSource"), errs);
    }
    for name in ["assigned", "active", "lastKnownGood"] {
        if let Some(source) = at(new, &format!("status.config.{name}")) {
            config_source(source, true, &Path::root("status.config").child(name), errs);
        }
    }
    if sub.is_some() {
        taints(new, errs);
    }
    if str_at(new, "spec.externalID") != str_at(old, "spec.externalID") {
        errs.forbidden(&Path::root("spec.externalID"), "may not be updated");
    }
}

/// Where a kubelet once read its configuration from; only objects that have it may keep it.
fn config_source(source: &Value, in_status: bool, path: &Path<'_>, errs: &mut ErrorList) {
    let Some(map) = at(source, "configMap") else {
        return errs.invalid(
            path,
            serde_json::json!({"ConfigMap": null}),
            "exactly one reference subfield must be non-nil",
        );
    };
    let path = path.child("configMap");
    for field in ["uid", "resourceVersion"] {
        match (in_status, str_at(map, field).is_empty()) {
            (true, true) => errs.required(&path.child(field), ""),
            (false, false) => errs.forbidden(&path.child(field), format!("{field} must not be set in spec")),
            _ => {}
        }
    }
    let rules: [(&str, names::Rule); 3] = [
        ("namespace", names::dns1123_label),
        ("name", names::dns1123_subdomain),
        ("kubeletConfigKey", names::config_key),
    ];
    for (field, rule) in rules {
        match str_at(map, field) {
            "" => errs.required(&path.child(field), ""),
            value => checks::complain(value, rule(value), &path.child(field), errs),
        }
    }
}

fn warnings(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if at(obj, "spec.configSource").is_some() {
        out.push("spec.configSource: the feature is removed".to_owned());
    }
    if is_set(obj, "spec.externalID") {
        out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    let path = Path::root("spec.podCIDRs");
    for (i, cidr) in list_at(obj, "spec.podCIDRs").iter().enumerate() {
        out.extend(cidr_warnings(path.index(i), cidr.as_str().unwrap_or_default()));
    }
    out
}

/// Dynamic kubelet configuration is gone: only objects that have it keep it.
fn drop_config(new: &mut Value, old: Option<&Value>, part: &str, field: &str) {
    let in_use = old.and_then(|old| old.get(part)).is_some_and(|part| at(part, field).is_some());
    if let Some(part) = existing(new, part).filter(|_| !in_use) {
        remove(part, field);
    }
}

fn roles(obj: &Value) -> Vec<&str> {
    let mut roles: Vec<&str> = strings_at(obj, "metadata.labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => (key == "kubernetes.io/role").then_some(value),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}

fn row(obj: &Value, now: Timestamp) -> Row {
    let ready = list_at(obj, "status.conditions").iter().find(|c| str_at(c, "type") == "Ready");
    let mut status = match ready.map(|c| str_at(c, "status")) {
        Some("True") => "Ready".to_string(),
        Some(_) => "NotReady".to_string(),
        None => "Unknown".to_string(),
    };
    if bool_at(obj, "spec.unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| -> Value {
        let found = list_at(obj, "status.addresses").iter().find(|a| str_at(a, "type") == kind);
        crate::resources::table::or_none(found.map(|a| str_at(a, "address")).unwrap_or_default())
    };
    let info = |field: &str| match str_at(obj, &format!("status.nodeInfo.{field}")) {
        "" => "<unknown>".to_string(),
        value => value.to_string(),
    };
    let mut kernel = info("kernelVersion");
    let architecture = str_at(obj, "status.nodeInfo.architecture");
    if !architecture.is_empty() {
        kernel.push_str(&format!(" ({architecture})"));
    }
    vec![
        name(obj),
        status.into(),
        crate::resources::table::or_none(&roles(obj).join(",")),
        age(obj, now),
        str_at(obj, "status.nodeInfo.kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage").into(),
        kernel.into(),
        info("containerRuntimeVersion").into(),
    ]
}
