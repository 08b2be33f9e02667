//! The storage.k8s.io group.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    checks,
    field::{ErrorList, Path},
    rules::Rules,
    table::{AGE, NAME, NAME_CREATED, Row, age, boolean, name, name_created, number, or_none, text},
    value::{at, bool_at, is_set, list_at, member, set, set_default, set_if_zero, str_at},
};

const BASE: Rules = Rules { group: "storage.k8s.io", namespaced: false, ..Rules::GENERIC };

pub(crate) const RULES: &[Rules] = &[
    Rules {
        resource: "storageclasses",
        kind: "StorageClass",
        defaults: |obj| {
            set_default(obj, "reclaimPolicy", "Delete");
            set_default(obj, "volumeBindingMode", "Immediate");
        },
        validate: storage_class,
        validate_update: storage_class_update,
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
        validate: |obj, errs| attachment(obj, errs),
        validate_update: |new, old, sub, errs| {
            if sub.is_none() {
                attachment(new, errs);
                checks::immutable(new, old, "spec", errs);
            }
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
        columns: &[NAME, text("DriverName"), AGE],
        row: |obj, now| vec![name(obj), str_at(obj, "driverName").into(), age(obj, now)],
        ..BASE
    },
    Rules {
        resource: "csistoragecapacities",
        kind: "CSIStorageCapacity",
        namespaced: true,
        unconditional_update: false,
        columns: NAME_CREATED,
        row: name_created,
        ..BASE
    },
];

fn storage_class(obj: &Value, errs: &mut ErrorList) {
    let provisioner = str_at(obj, "provisioner");
    if provisioner.is_empty() {
        errs.required(&Path::root("provisioner"), "");
    } else {
        checks::qualified(&provisioner.to_lowercase(), &Path::root("provisioner"), errs);
    }
    let policy = str_at(obj, "reclaimPolicy");
    if !matches!(policy, "" | "Delete" | "Retain") {
        errs.not_supported(&Path::root("reclaimPolicy"), policy, &["Delete", "Retain"]);
    }
    let mode = str_at(obj, "volumeBindingMode");
    if mode.is_empty() {
        errs.required(&Path::root("volumeBindingMode"), "");
    } else if !matches!(mode, "Immediate" | "WaitForFirstConsumer") {
        errs.not_supported(&Path::root("volumeBindingMode"), mode, &["Immediate", "WaitForFirstConsumer"]);
    }
}

fn storage_class_update(new: &Value, old: &Value, _: Option<&str>, errs: &mut ErrorList) {
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if !super::value::same_at(new, old, field) {
            errs.forbidden(&Path::root(field), "updates to this field are forbidden.".replace("this field", field));
        }
    }
    checks::immutable(new, old, "volumeBindingMode", errs);
}

fn attachment(obj: &Value, errs: &mut ErrorList) {
    let spec = Path::root("spec");
    if str_at(obj, "spec.attacher").is_empty() {
        errs.required(&spec.child("attacher"), "");
    }
    if str_at(obj, "spec.nodeName").is_empty() {
        errs.required(&spec.child("nodeName"), "");
    }
    let named = is_set(obj, "spec.source.persistentVolumeName");
    let inline = is_set(obj, "spec.source.inlineVolumeSpec");
    if named && inline {
        errs.forbidden(&spec.child("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
    } else if !named && !inline {
        errs.required(&spec.child("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
    }
}

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
