//! Namespaces: the kubernetes finalizer, the phase, the name label.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    metadata::{NameRule, time},
    rules::Rules,
    table::{AGE, NAME, Row, age, name, text},
    value::{at, is_set, keep_old, list_at, member, set, set_if_zero, str_at},
};

/// Finalizer names that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

pub(crate) const RULES: &[Rules] = &[Rules {
    resource: "namespaces",
    kind: "Namespace",
    namespaced: false,
    name: NameRule::Label,
    status: true,
    defaults,
    prepare_create: |obj, _| {
        set(obj, "status", json!({"phase": "Active"}));
        let Some(spec) = member(obj, "spec") else { return };
        let mut finalizers = list_at(spec, "finalizers").to_vec();
        if !finalizers.iter().any(|f| f == "kubernetes") {
            finalizers.push("kubernetes".into());
        }
        set(spec, "finalizers", finalizers);
        name_label(obj);
    },
    prepare_update,
    validate,
    validate_update,
    fields: &[
        ("status.phase", |obj| str_at(obj, "status.phase").to_string()),
        ("name", |obj| str_at(obj, "metadata.name").to_string()),
    ],
    field_labels: &["metadata.name", "status.phase", "name"],
    columns: &[NAME, text("Status"), AGE],
    row: |obj, now| -> Row { vec![name(obj), str_at(obj, "status.phase").into(), age(obj, now)] },
    ..Rules::GENERIC
}];

fn defaults(obj: &mut Value) {
    name_label(obj);
    if let Some(status) = member(obj, "status") {
        set_if_zero(status, "phase", "Active");
    }
}

fn name_label(obj: &mut Value) {
    let name = str_at(obj, "metadata.name").to_string();
    if name.is_empty() {
        return;
    }
    if let Some(labels) = member(obj, "metadata").and_then(|meta| member(meta, "labels")) {
        set(labels, "kubernetes.io/metadata.name", name);
    }
}

fn prepare_update(new: &mut Value, old: &Value, sub: Option<&str>, _: &crate::resources::Ctx<'_>) {
    match sub {
        Some("finalize") => keep_old(new, old, "status"),
        Some(_) => {}
        None => {
            if let Some(spec) = member(new, "spec") {
                keep_old(spec, old.get("spec").unwrap_or(&Value::Null), "finalizers");
            }
            name_label(new);
        }
    }
}

fn validate(obj: &Value, errs: &mut ErrorList) {
    let path = Path::root("spec.finalizers");
    for name in list_at(obj, "spec.finalizers").iter().filter_map(Value::as_str) {
        finalizer(name, &path, errs);
    }
}

fn finalizer(name: &str, path: &Path<'_>, errs: &mut ErrorList) {
    checks::qualified(name, path, errs);
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        errs.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

fn validate_update(new: &Value, _: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub == Some("finalize") {
        let path = Path::root("spec.finalizers");
        for (i, name) in list_at(new, "spec.finalizers").iter().enumerate() {
            finalizer(name.as_str().unwrap_or_default(), &path.index(i), errs);
        }
    } else if sub == Some("status") {
        let phase = str_at(new, "status.phase");
        let deleting = is_set(new, "metadata.deletionTimestamp");
        let path = Path::root("status.Phase");
        match (deleting, phase) {
            (false, "Active") | (true, "Terminating") => {}
            (false, _) => errs.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty"),
            (true, _) => errs.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"),
        }
    } else {
        validate(new, errs);
    }
}

/// Marks a namespace as being deleted. Returns false when it was marked before: nothing to store.
pub fn begin_deletion(obj: &mut Value, now: Timestamp) -> bool {
    if is_set(obj, "metadata.deletionTimestamp") && str_at(obj, "status.phase") == "Terminating" {
        return false;
    }
    let marked = is_set(obj, "metadata.deletionTimestamp");
    if let Some(meta) = member(obj, "metadata").filter(|_| !marked) {
        set(meta, "deletionTimestamp", time(now));
    }
    if let Some(status) = member(obj, "status") {
        set(status, "phase", "Terminating");
    }
    true
}

/// True when nothing holds a marked namespace any more: neither spec nor metadata finalizers.
pub fn may_be_removed(obj: &Value) -> bool {
    is_set(obj, "metadata.deletionTimestamp")
        && list_at(obj, "spec.finalizers").is_empty()
        && at(obj, "metadata.finalizers").and_then(Value::as_array).is_none_or(Vec::is_empty)
}
