//! The resource.k8s.io group: devices that pods claim.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    checks, dra_rules,
    field::Path,
    rules::Rules,
    table::{AGE, NAME, NAME_AGE, Row, age, name, name_age, text},
    value::{at, each, existing, is_set, list_at, set_default, set_if_zero, str_at},
};

const BASE: Rules = Rules { group: "resource.k8s.io", columns: NAME_AGE, row: name_age, ..Rules::GENERIC };

pub(crate) const RULES: &[Rules] = &[
    Rules {
        resource: "resourceclaims",
        kind: "ResourceClaim",
        status: true,
        defaults: |obj| {
            if let Some(spec) = existing(obj, "spec") {
                claim_spec(spec);
            }
        },
        validate: |obj, errs| dra_rules::claim_spec(obj.get("spec").unwrap_or(&Value::Null), &Path::root("spec"), errs),
        validate_update: dra_rules::claim_update,
        columns: &[NAME, text("State"), AGE],
        row: claim_row,
        ..BASE
    },
    Rules {
        resource: "resourceclaimtemplates",
        kind: "ResourceClaimTemplate",
        defaults: |obj| {
            if let Some(spec) = existing(obj, "spec").and_then(|outer| existing(outer, "spec")) {
                claim_spec(spec);
            }
        },
        validate: dra_rules::template,
        validate_update: |new, old, _, errs| checks::immutable(new, old, "spec", errs),
        ..BASE
    },
    Rules {
        resource: "deviceclasses",
        kind: "DeviceClass",
        namespaced: false,
        generation: true,
        validate: dra_rules::class,
        validate_update: |new, _, _, errs| dra_rules::class(new, errs),
        ..BASE
    },
    Rules {
        resource: "resourceslices",
        kind: "ResourceSlice",
        warnings: |obj, _, _| super::warnings::slice(obj),
        namespaced: false,
        generation: true,
        gated: &[("spec", &["devices.*.nodeAllocatableResourceMappings"])],
        validate: |obj, errs| dra_rules::slice(obj, None, errs),
        validate_update: |new, old, _, errs| dra_rules::slice(new, Some(old), errs),
        fields: &[
            ("spec.nodeName", |obj| str_at(obj, "spec.nodeName").to_string()),
            ("spec.driver", |obj| str_at(obj, "spec.driver").to_string()),
        ],
        field_labels: &["metadata.name", "spec.nodeName", "spec.driver"],
        columns: &[NAME, text("Node"), text("Driver"), text("Pool"), AGE],
        row: |obj, now| {
            let cell = |path: &str| Value::from(str_at(obj, path));
            vec![name(obj), cell("spec.nodeName"), cell("spec.driver"), cell("spec.pool.name"), age(obj, now)]
        },
        ..BASE
    },
];

fn claim_spec(spec: &mut Value) {
    let Some(devices) = existing(spec, "devices") else { return };
    for request in each(devices, "requests") {
        if let Some(exact) = existing(request, "exactly") {
            allocation(exact);
        }
        each(request, "firstAvailable").for_each(allocation);
    }
}

fn allocation(request: &mut Value) {
    set_if_zero(request, "allocationMode", "ExactCount");
    if str_at(request, "allocationMode") == "ExactCount" {
        set_default(request, "count", 1);
    }
}

fn claim_row(obj: &Value, now: Timestamp) -> Row {
    let mut states = Vec::new();
    if is_set(obj, "metadata.deletionTimestamp") {
        states.push("deleted");
    }
    if at(obj, "status.allocation").is_some() {
        states.push("allocated");
        if !list_at(obj, "status.reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !is_set(obj, "metadata.deletionTimestamp") {
        states.push("pending");
    }
    vec![name(obj), states.join(",").into(), age(obj, now)]
}
