//! The storage.k8s.io group.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    checks,
    rules::Rules,
    storage_rules,
    table::{AGE, NAME, NAME_CREATED, Row, age, boolean, name, name_created, number, or_none, text},
    value::{at, bool_at, list_at, member, set, set_default, set_if_zero, str_at},
};

const BASE: Rules = Rules { group: "storage.k8s.io", namespaced: false, ..Rules::GENERIC };

pub(crate) const RULES: &[Rules] = &[
    Rules {
        resource: "storageclasses",
        kind: "StorageClass",
        warnings: |obj, _, _| super::warnings::storage_class(obj),
        defaults: |obj| {
            set_default(obj, "reclaimPolicy", "Delete");
            set_default(obj, "volumeBindingMode", "Immediate");
        },
        validate: storage_rules::storage_class,
        validate_update: |new, old, _, errs| storage_rules::storage_class_update(new, old, errs),
        columns: &[
            NAME,
            text("Provisioner"),
            text("ReclaimPolicy"),
            text("VolumeBindingMode"),
            text("AllowVolumeExpansion"),
            AGE,
        ],
        row: storage_class_row,
        ..BASE
    },
    Rules {
        resource: "csidrivers",
        kind: "CSIDriver",
        warnings: |obj, old, _| super::warnings::driver(obj, old),
        unconditional_update: false,
        defaults: |obj| {
            let Some(spec) = member(obj, "spec") else { return };
            set_default(spec, "attachRequired", true);
            set_default(spec, "podInfoOnMount", false);
            set_default(spec, "storageCapacity", false);
            set_default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
            set_if_zero(spec, "volumeLifecycleModes", vec!["Persistent"]);
            set_default(spec, "requiresRepublish", false);
            set_default(spec, "seLinuxMount", false);
        },
        gated: &[("spec", &["preventPodSchedulingIfMissing"])],
        prepare_update: |new, old, _, _| {
            if !super::value::same_at(new, old, "spec") {
                super::metadata::bump_generation(new, old);
            }
        },
        validate: storage_rules::driver,
        validate_update: |new, old, _, errs| storage_rules::driver_update(new, old, errs),
        columns: &[
            NAME,
            boolean("AttachRequired"),
            boolean("PodInfoOnMount"),
            boolean("StorageCapacity"),
            text("TokenRequests"),
            boolean("RequiresRepublish"),
            text("Modes"),
            AGE,
        ],
        row: driver_row,
        ..BASE
    },
    Rules {
        resource: "csinodes",
        kind: "CSINode",
        unconditional_update: false,
        validate: |obj, errs| storage_rules::csi_node(obj, None, errs),
        validate_update: |new, old, _, errs| storage_rules::csi_node(new, Some(old), errs),
        columns: &[NAME, number("Drivers"), AGE],
        row: |obj, now| vec![name(obj), list_at(obj, "spec.drivers").len().into(), age(obj, now)],
        ..BASE
    },
    Rules {
        resource: "volumeattachments",
        kind: "VolumeAttachment",
        unconditional_update: false,
        status: true,
        prepare_create: |obj, _| set(obj, "status", json!({"attached": false})),
        validate: storage_rules::attachment,
        validate_update: |new, old, _, errs| {
            storage_rules::attachment(new, errs);
            checks::immutable(new, old, "spec", errs);
        },
        columns: &[NAME, text("Attacher"), text("PV"), text("Node"), boolean("Attached"), AGE],
        row: |obj, now| {
            vec![
                name(obj),
                str_at(obj, "spec.attacher").into(),
                str_at(obj, "spec.source.persistentVolumeName").into(),
                str_at(obj, "spec.nodeName").into(),
                bool_at(obj, "status.attached").into(),
                age(obj, now),
            ]
        },
        ..BASE
    },
    Rules {
        resource: "volumeattributesclasses",
        kind: "VolumeAttributesClass",
        validate: storage_rules::attributes_class,
        validate_update: |new, old, _, errs| storage_rules::attributes_class_update(new, old, errs),
        columns: &[NAME, text("DriverName"), AGE],
        row: |obj, now| vec![name(obj), str_at(obj, "driverName").into(), age(obj, now)],
        ..BASE
    },
    Rules {
        resource: "csistoragecapacities",
        kind: "CSIStorageCapacity",
        warnings: |obj, _, _| super::warnings::capacity(obj),
        namespaced: true,
        unconditional_update: false,
        validate: storage_rules::capacity,
        validate_update: |new, old, _, errs| storage_rules::capacity_update(new, old, errs),
        columns: NAME_CREATED,
        row: name_created,
        ..BASE
    },
];

fn storage_class_row(obj: &Value, now: Timestamp) -> Row {
    let annotations = at(obj, "metadata.annotations");
    let default = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
        .iter()
        .any(|key| annotations.and_then(|a| a.get(*key)).is_some_and(|value| value == "true"));
    let mut shown = str_at(obj, "metadata.name").to_string();
    if default {
        shown.push_str(" (default)");
    }
    let or = |path: &str, default: &str| match str_at(obj, path) {
        "" => default.to_string(),
        value => value.to_string(),
    };
    vec![
        shown.into(),
        str_at(obj, "provisioner").into(),
        or("reclaimPolicy", "Delete").into(),
        or("volumeBindingMode", "Immediate").into(),
        bool_at(obj, "allowVolumeExpansion").into(),
        age(obj, now),
    ]
}

fn driver_row(obj: &Value, now: Timestamp) -> Row {
    let join = |path: &str, field: Option<&str>| -> String {
        let parts: Vec<&str> = list_at(obj, path)
            .iter()
            .map(|entry| field.map_or_else(|| entry.as_str().unwrap_or_default(), |field| str_at(entry, field)))
            .collect();
        parts.join(",")
    };
    let tokens = match at(obj, "spec.tokenRequests") {
        Some(_) => join("spec.tokenRequests", Some("audience")),
        None => "<unset>".to_string(),
    };
    vec![
        name(obj),
        at(obj, "spec.attachRequired").and_then(Value::as_bool).unwrap_or(true).into(),
        bool_at(obj, "spec.podInfoOnMount").into(),
        bool_at(obj, "spec.storageCapacity").into(),
        tokens.into(),
        bool_at(obj, "spec.requiresRepublish").into(),
        or_none(&join("spec.volumeLifecycleModes", None)),
        age(obj, now),
    ]
}
