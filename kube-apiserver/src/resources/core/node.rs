//! Nodes.

use jiff::Timestamp;
use serde_json::Value;

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    names, quantity,
    rules::Rules,
    table::{AGE, Column, NAME, Row, age, name, text, wide},
    value::{at, bool_at, existing, is_set, list_at, same_at, set, str_at, strings_at},
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
    prepare_update: |new, old, sub, _| {
        if sub.is_none() {
            crate::resources::value::keep_old(new, old, "status");
        }
    },
    validate,
    validate_update,
    fields: &[("spec.unschedulable", |obj| bool_at(obj, "spec.unschedulable").to_string())],
    field_labels: &["metadata.name", "spec.unschedulable"],
    columns: COLUMNS,
    row,
    ..Rules::GENERIC
}];

fn validate(obj: &Value, errs: &mut ErrorList) {
    taints(obj, errs);
    let path = Path::root("spec.podCIDRs");
    let cidrs = list_at(obj, "spec.podCIDRs");
    for (i, cidr) in cidrs.iter().filter_map(Value::as_str).enumerate() {
        if cidr.parse::<ipnet::IpNet>().is_err() {
            errs.invalid(&path.index(i), cidr, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        }
    }
    let v6 = |cidr: &Value| cidr.as_str().is_some_and(|text| text.contains(':'));
    if cidrs.len() > 2 || (cidrs.len() == 2 && v6(&cidrs[0]) == v6(&cidrs[1])) {
        errs.invalid(&path, cidrs.to_vec(), "may specify no more than one CIDR for each IP family");
    }
}

fn taints(obj: &Value, errs: &mut ErrorList) {
    let path = Path::root("metadata.taints");
    let taints = list_at(obj, "spec.taints");
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
        let same = |other: &&Value| other.get("key") == taint.get("key") && other.get("effect") == taint.get("effect");
        if taints[..i].iter().any(|other| same(&other)) {
            errs.duplicate(&path, taint.clone());
            if let Some(last) = errs.0.last_mut() {
                last.detail = "taints must be unique by key and effect pair".to_string();
            }
        }
    }
}

fn validate_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub.is_none() {
        validate(new, errs);
    }
    let path = Path::root("status.addresses");
    let addresses = list_at(new, "status.addresses");
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            errs.duplicate(&path.index(i), address.clone());
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
