//! Persistent volumes and claims.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    metadata,
    pod::scheduling,
    quantity::{self, Quantity},
    rules::Rules,
    table::{AGE, Column, NAME, Row, age, name, text, wide},
    value::{at, existing, is_set, list_at, member, remove, same, same_at, set, set_default, set_if_zero, str_at},
    volume_sources, warnings,
};

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub(crate) const RULES: &[Rules] = &[
    Rules {
        resource: "persistentvolumes",
        kind: "PersistentVolume",
        warnings: |obj, _, sub| if sub.is_none() { warnings::volume(obj) } else { Vec::new() },
        namespaced: false,
        status: true,
        defaults: volume_defaults,
        prepare_create: |obj, ctx| {
            set(obj, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": metadata::time(ctx.now)}));
        },
        prepare_update: |new, old, sub, ctx| {
            if sub == Some("status")
                && !same_at(new, old, "status.phase")
                && let Some(status) = member(new, "status")
            {
                set_default(status, "lastPhaseTransitionTime", metadata::time(ctx.now));
                if same_at(status, old.get("status").unwrap_or(&Value::Null), "lastPhaseTransitionTime") {
                    set(status, "lastPhaseTransitionTime", metadata::time(ctx.now));
                }
            }
        },
        validate: volume,
        validate_update: volume_update,
        fields: &[("name", |obj| str_at(obj, "metadata.name").to_string())],
        field_labels: &["metadata.name", "name"],
        columns: VOLUME_COLUMNS,
        row: volume_row,
        ..Rules::GENERIC
    },
    Rules {
        resource: "persistentvolumeclaims",
        kind: "PersistentVolumeClaim",
        warnings: |obj, _, sub| if sub.is_none() { warnings::claim(obj) } else { Vec::new() },
        status: true,
        defaults: claim_defaults,
        prepare_create: |obj, _| {
            set(obj, "status", json!({"phase": "Pending"}));
            if let Some(spec) = member(obj, "spec") {
                data_sources(spec);
            }
        },
        validate: |obj, errs| validate_claim_spec(at(obj, "spec").unwrap_or(&Value::Null), &Path::root("spec"), errs),
        validate_update: claim_update,
        fields: &[("name", |obj| str_at(obj, "metadata.name").to_string())],
        field_labels: &["metadata.name", "metadata.namespace", "name"],
        columns: CLAIM_COLUMNS,
        row: claim_row,
        ..Rules::GENERIC
    },
];

/// `dataSource` and `dataSourceRef` say the same, whichever was given. Sources in other namespaces are behind a gate that is off.
fn data_sources(spec: &mut Value) {
    if !str_at(spec, "dataSourceRef.namespace").is_empty() {
        remove(spec, "dataSourceRef");
    }
    match (at(spec, "dataSource").cloned(), at(spec, "dataSourceRef").cloned()) {
        (Some(source), None) => set(spec, "dataSourceRef", source),
        (None, Some(source)) if matches!(str_at(&source, "kind"), "PersistentVolumeClaim" | "VolumeSnapshot") => {
            set(spec, "dataSource", source);
        }
        _ => {}
    }
}

fn data_source(spec: &Value, field: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let Some(source) = at(spec, field) else { return };
    let path = path.child(field);
    for field in ["name", "kind"] {
        if str_at(source, field).is_empty() {
            errs.required(&path.child(field), "");
        }
    }
    let (group, kind) = (str_at(source, "apiGroup"), str_at(source, "kind"));
    if group.is_empty() && !matches!(kind, "PersistentVolumeClaim" | "") {
        let text = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errs.invalid(&path, kind, text);
    }
    if !group.is_empty() {
        checks::subdomain(group, &path.child("apiGroup"), errs);
    }
}

fn volume_defaults(obj: &mut Value) {
    if let Some(spec) = member(obj, "spec") {
        set_if_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default(spec, "volumeMode", "Filesystem");
        quantity::canonicalize_list(spec.get_mut("capacity"));
        if let Some(host_path) = existing(spec, "hostPath") {
            set_default(host_path, "type", "");
        }
    }
    if let Some(status) = member(obj, "status") {
        set_if_zero(status, "phase", "Pending");
    }
}

/// Defaults of a claim, also inside templates.
pub(crate) fn claim_defaults(obj: &mut Value) {
    if let Some(spec) = member(obj, "spec") {
        set_default(spec, "volumeMode", "Filesystem");
        quantity::canonicalize_requirements(spec.get_mut("resources"));
    }
    if let Some(status) = member(obj, "status") {
        set_if_zero(status, "phase", "Pending");
        quantity::canonicalize_list(status.get_mut("capacity"));
    }
}

fn access_modes(spec: &Value, missing: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let modes = list_at(spec, "accessModes");
    let path = path.child("accessModes");
    if modes.is_empty() {
        errs.required(&path, missing);
    }
    for mode in modes.iter().filter_map(Value::as_str) {
        if !MODES.contains(&mode) {
            errs.not_supported(&path, mode, &MODES);
        }
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errs.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Volume sources of a persistent volume: everything in its spec that is not one of the common fields.
fn source_names(spec: &Value) -> Vec<&str> {
    const COMMON: [&str; 9] = [
        "capacity",
        "accessModes",
        "claimRef",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "mountOptions",
        "volumeMode",
        "nodeAffinity",
        "volumeAttributesClassName",
    ];
    spec.as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .filter(|name| !COMMON.contains(name))
        .collect()
}

fn volume(obj: &Value, errs: &mut ErrorList) {
    let path = Path::root("spec");
    let nothing = Value::Null;
    let spec = at(obj, "spec").unwrap_or(&nothing);
    access_modes(spec, "", &path, errs);
    let capacity_path = path.child("capacity");
    let capacity = spec.get("capacity");
    if capacity.and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
        errs.required(&capacity_path, "");
    }
    match capacity.and_then(|capacity| capacity.get("storage")) {
        None => errs.not_supported(&capacity_path, capacity.cloned().unwrap_or_default(), &["storage"]),
        Some(amount) if Quantity::of(amount).is_none_or(|q| q.sign() <= 0) => {
            errs.invalid(&capacity_path.key("storage"), amount.clone(), "must be greater than zero");
        }
        Some(_) => {}
    }
    let policy = str_at(spec, "persistentVolumeReclaimPolicy");
    if !matches!(policy, "Delete" | "Recycle" | "Retain") {
        errs.not_supported(&path.child("persistentVolumeReclaimPolicy"), policy, &["Delete", "Recycle", "Retain"]);
    }
    let sources = source_names(spec);
    if let Some(affinity) = at(spec, "nodeAffinity") {
        volume_affinity(affinity, &path.child("nodeAffinity"), errs);
    }
    match sources.as_slice() {
        [] => errs.required(&path, "must specify a volume type"),
        [first, extra @ ..] => {
            volume_sources::validate(first, &spec[*first], true, &path.child(first), errs);
            extra.iter().for_each(|name| errs.forbidden(&path.child(name), "may not specify more than 1 volume type"));
        }
    }
    let class = str_at(spec, "storageClassName");
    if !class.is_empty() {
        checks::subdomain(class, &path.child("storageClassName"), errs);
    }
    let mode = str_at(spec, "volumeMode");
    if spec.get("volumeMode").is_some_and(Value::is_string) && !matches!(mode, "Block" | "Filesystem") {
        errs.not_supported(&path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
}

fn volume_affinity(affinity: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    match at(affinity, "required") {
        Some(selector) => scheduling::node_selector(selector, &path.child("required"), errs),
        None => errs.required(&path.child("required"), "must specify required node constraints"),
    }
}

/// What of a volume never changes: its source (a secret for expansion may be added), mode and nodes.
fn volume_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub == Some("status") {
        return;
    }
    volume(new, errs);
    let source = |obj: &Value| {
        let spec = at(obj, "spec").cloned().unwrap_or_default();
        let names: Vec<String> = source_names(&spec).into_iter().map(str::to_owned).collect();
        names.into_iter().map(|name| (name.clone(), spec[&name].clone())).collect::<serde_json::Map<_, _>>()
    };
    let (mut now, was) = (source(new), source(old));
    let secret = "controllerExpandSecretRef";
    if was.get("csi").is_some_and(|csi| at(csi, secret).is_none())
        && let Some(csi) = now.get_mut("csi").and_then(Value::as_object_mut)
    {
        csi.remove(secret);
    }
    if !same(Some(&now.into()), Some(&was.into())) {
        let text = "spec.persistentvolumesource is immutable after creation";
        errs.forbidden(&Path::root("spec.persistentvolumesource"), text);
    }
    metadata::immutable(new, old, "spec.volumeMode", &Path::root("volumeMode"), errs);
    if at(old, "spec.nodeAffinity").is_some() {
        metadata::immutable(new, old, "spec.nodeAffinity", &Path::root("nodeAffinity"), errs);
    }
    let class = "spec.volumeAttributesClassName";
    if at(old, class).is_some() && at(new, class).is_none() {
        errs.forbidden(&Path::root(class), "update from non-nil value to nil is forbidden");
    }
}

/// Rules of a claim's spec.
pub(crate) fn validate_claim_spec(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    access_modes(spec, "at least 1 access mode is required", path, errs);
    if let Some(selector) = at(spec, "selector") {
        checks::label_selector(selector, &path.child("selector"), errs);
    }
    let storage = path.child("resources");
    match at(spec, "resources.requests").and_then(|requests| requests.get("storage")) {
        None => errs.required(&storage.key("storage"), ""),
        Some(amount) if Quantity::of(amount).is_none_or(|q| q.sign() <= 0) => {
            errs.invalid(&storage.key("storage"), amount.clone(), "must be greater than zero");
        }
        Some(_) => {}
    }
    let class = str_at(spec, "storageClassName");
    if !class.is_empty() {
        checks::subdomain(class, &path.child("storageClassName"), errs);
    }
    let mode = str_at(spec, "volumeMode");
    if !mode.is_empty() && !matches!(mode, "Block" | "Filesystem") {
        errs.not_supported(&path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    for field in ["dataSource", "dataSourceRef"] {
        data_source(spec, field, path, errs);
    }
    let sources = (at(spec, "dataSource"), at(spec, "dataSourceRef"));
    if let (Some(source), Some(reference)) = sources
        && !["apiGroup", "kind", "name"].iter().all(|f| same_at(source, reference, f))
    {
        errs.invalid(path, path.to_string(), "must match dataSourceRef");
    }
}

fn claim_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    let path = Path::root("spec");
    if sub == Some("status") {
        return;
    }
    validate_claim_spec(at(new, "spec").unwrap_or(&Value::Null), &path, errs);
    let bound = str_at(old, "status.phase") == "Bound";
    let fixed = |obj: &Value| {
        let mut spec = at(obj, "spec").cloned().unwrap_or_default();
        if let Some(map) = spec.as_object_mut() {
            map.remove("volumeAttributesClassName");
            if bound {
                map.remove("resources");
            }
            if str_at(old, "spec.volumeName").is_empty() {
                map.remove("volumeName");
            }
            if at(old, "spec.storageClassName").is_none() {
                map.remove("storageClassName");
            }
        }
        spec
    };
    if !same(Some(&fixed(new)), Some(&fixed(old))) {
        errs.forbidden(
            &path,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let size = |obj: &Value| at(obj, "spec.resources.requests").and_then(|r| r.get("storage")).and_then(Quantity::of);
    if let (Some(now), Some(was)) = (size(new), size(old))
        && now.compare(was).is_lt()
    {
        errs.forbidden(&path.child("resources.requests.storage"), "field can not be less than status.capacity");
    }
    metadata::immutable(new, old, "spec.volumeMode", &path.child("volumeMode"), errs);
}

const VOLUME_COLUMNS: &[Column] = &[
    NAME,
    text("Capacity"),
    text("Access Modes"),
    text("Reclaim Policy"),
    text("Status"),
    text("Claim"),
    text("StorageClass"),
    text("VolumeAttributesClass"),
    text("Reason"),
    AGE,
    wide("VolumeMode"),
];

const CLAIM_COLUMNS: &[Column] = &[
    NAME,
    text("Status"),
    text("Volume"),
    text("Capacity"),
    text("Access Modes"),
    text("StorageClass"),
    text("VolumeAttributesClass"),
    AGE,
    wide("VolumeMode"),
];

fn short_modes(obj: &Value, path: &str) -> Value {
    let has = |mode: &str| list_at(obj, path).iter().any(|m| m == mode);
    let order =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let modes: Vec<&str> = order.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect();
    modes.join(",").into()
}

fn or_unset(obj: &Value, path: &str) -> Value {
    at(obj, path).cloned().unwrap_or_else(|| "<unset>".into())
}

fn phase(obj: &Value) -> Value {
    if is_set(obj, "metadata.deletionTimestamp") { "Terminating".into() } else { str_at(obj, "status.phase").into() }
}

fn volume_row(obj: &Value, now: Timestamp) -> Row {
    let claim = at(obj, "spec.claimRef")
        .map(|claim| format!("{}/{}", str_at(claim, "namespace"), str_at(claim, "name")))
        .unwrap_or_default();
    let capacity = at(obj, "spec.capacity.storage").cloned().unwrap_or_else(|| "0".into());
    vec![
        name(obj),
        capacity,
        short_modes(obj, "spec.accessModes"),
        str_at(obj, "spec.persistentVolumeReclaimPolicy").into(),
        phase(obj),
        claim.into(),
        str_at(obj, "spec.storageClassName").into(),
        or_unset(obj, "spec.volumeAttributesClassName"),
        str_at(obj, "status.reason").into(),
        age(obj, now),
        or_unset(obj, "spec.volumeMode"),
    ]
}

fn claim_row(obj: &Value, now: Timestamp) -> Row {
    let bound = is_set(obj, "spec.volumeName");
    let capacity = at(obj, "status.capacity.storage").cloned().unwrap_or_else(|| "0".into());
    vec![
        name(obj),
        phase(obj),
        str_at(obj, "spec.volumeName").into(),
        if bound { capacity } else { "".into() },
        if bound { short_modes(obj, "status.accessModes") } else { "".into() },
        str_at(obj, "spec.storageClassName").into(),
        or_unset(obj, "spec.volumeAttributesClassName"),
        age(obj, now),
        or_unset(obj, "spec.volumeMode"),
    ]
}
