//! Events in both forms: the core one, which is stored, and events.k8s.io.

use jiff::Timestamp;
use serde_json::Value;

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    metadata::{self, NameRule},
    names,
    rules::{Rules, Selectable},
    table::{Column, NAME, Row, name, since, text, wide},
    value::{at, int_at, is_set, same_at, str_at},
};

const FIELDS: &[Selectable] = &[
    ("involvedObject.kind", |e| str_at(e, "involvedObject.kind").to_string()),
    ("involvedObject.namespace", |e| str_at(e, "involvedObject.namespace").to_string()),
    ("involvedObject.name", |e| str_at(e, "involvedObject.name").to_string()),
    ("involvedObject.uid", |e| str_at(e, "involvedObject.uid").to_string()),
    ("involvedObject.apiVersion", |e| str_at(e, "involvedObject.apiVersion").to_string()),
    ("involvedObject.resourceVersion", |e| str_at(e, "involvedObject.resourceVersion").to_string()),
    ("involvedObject.fieldPath", |e| str_at(e, "involvedObject.fieldPath").to_string()),
    ("reason", |e| str_at(e, "reason").to_string()),
    ("reportingComponent", |e| str_at(e, "reportingComponent").to_string()),
    ("source", |e| match str_at(e, "source.component") {
        "" => str_at(e, "reportingComponent").to_string(),
        component => component.to_string(),
    }),
    ("type", |e| str_at(e, "type").to_string()),
];

const CORE_LABELS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const COLUMNS: &[Column] = &[
    text("Last Seen"),
    text("Type"),
    text("Reason"),
    text("Object"),
    wide("Subobject"),
    wide("Source"),
    text("Message"),
    wide("First Seen"),
    wide("Count"),
    Column { priority: 1, ..NAME },
];

const EVENT: Rules = Rules {
    resource: "events",
    kind: "Event",
    name: NameRule::Any,
    create_on_update: true,
    validate: |event, errs| legacy(event, "reportingComponent", errs),
    validate_update: |new, _, _, errs| legacy(new, "reportingComponent", errs),
    fields: FIELDS,
    field_labels: CORE_LABELS,
    columns: COLUMNS,
    row,
    ..Rules::GENERIC
};

/// Both groups describe the same stored objects; strategies see the stored (core) form.
pub(crate) const RULES: &[Rules] = &[
    EVENT,
    Rules {
        group: "events.k8s.io",
        name: NameRule::Subdomain,
        validate: |obj, errs| {
            legacy(obj, "reportingController", errs);
            strict(obj, errs);
        },
        validate_update: strict_update,
        ..EVENT
    },
];

/// `component` is how the version at hand calls the reporter.
fn legacy(event: &Value, component_field: &str, errs: &mut ErrorList) {
    let namespace = str_at(event, "metadata.namespace");
    let involved = str_at(event, "involvedObject.namespace");
    let path = Path::root("involvedObject.namespace");
    let detail = "does not match event.namespace";
    if !is_set(event, "eventTime") {
        let matches = if involved.is_empty() { matches!(namespace, "" | "default") } else { involved == namespace };
        if !matches {
            errs.invalid(&path, involved, detail);
        }
    } else {
        if involved.is_empty() && !matches!(namespace, "default" | "kube-system") {
            errs.invalid(&path, involved, detail);
        }
        let component = str_at(event, "reportingComponent");
        let component_path = Path::root(component_field);
        if component.is_empty() {
            errs.required(&component_path, "");
        }
        checks::qualified(component, &component_path, errs);
        for field in ["reportingInstance", "action", "reason"] {
            let value = str_at(event, field);
            if value.is_empty() {
                errs.required(&Path::root(field), "");
            }
            if value.len() > 128 {
                errs.invalid(&Path::root(field), "", "can have at most 128 characters");
            }
        }
        if str_at(event, "message").len() > 1024 {
            errs.invalid(&Path::root("message"), "", "can have at most 1024 characters");
        }
    }
    for text in names::dns1123_subdomain(namespace) {
        errs.invalid(&Path::root("namespace"), namespace, text);
    }
}

fn series(event: &Value, errs: &mut ErrorList) {
    if at(event, "series").is_none() {
        return;
    }
    if int_at(event, "series.count").unwrap_or_default() < 2 {
        errs.invalid(&Path::root("series.count"), "", "should be at least 2");
    }
    if !is_set(event, "series.lastObservedTime") {
        errs.required(&Path::root("series.lastObservedTime"), "");
    }
}

/// What events.k8s.io/v1 asks for beyond the legacy rules.
fn strict(event: &Value, errs: &mut ErrorList) {
    series(event, errs);
    if !is_set(event, "eventTime") {
        errs.required(&Path::root("eventTime"), "");
    }
    let kind = str_at(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errs.invalid(&Path::root("type"), "", format!("has invalid value: {kind}"));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if is_set(event, field) {
            errs.invalid(&Path::root(field), "", "needs to be unset");
        }
    }
}

fn strict_update(new: &Value, old: &Value, _: Option<&str>, errs: &mut ErrorList) {
    legacy(new, "reportingController", errs);
    if !same_at(new, old, "series") {
        series(new, errs);
    }
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ] {
        let shown = if field == "reportingComponent" { "reportingController" } else { field };
        metadata::immutable(new, old, field, &Path::root(shown), errs);
    }
}

fn row(event: &Value, now: Timestamp) -> Row {
    let seen = |path: &str| is_set(event, path).then(|| since(str_at(event, path), now));
    let unknown = || "<unknown>".to_string();
    let first = seen("firstTimestamp").or_else(|| seen("eventTime")).unwrap_or_else(unknown);
    let last = seen("series.lastObservedTime").or_else(|| seen("lastTimestamp")).unwrap_or_else(|| first.clone());
    let count = int_at(event, "series.count").or_else(|| int_at(event, "count")).filter(|c| *c > 0).unwrap_or(1);
    let kind = str_at(event, "involvedObject.kind").to_lowercase();
    let target = match str_at(event, "involvedObject.name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let first_of = |a: &str, b: &str| match str_at(event, a) {
        "" => str_at(event, b).to_string(),
        value => value.to_string(),
    };
    let component = first_of("source.component", "reportingComponent");
    let source = match first_of("source.host", "reportingInstance").as_str() {
        "" => component,
        host => format!("{component}, {host}"),
    };
    vec![
        last.into(),
        str_at(event, "type").into(),
        str_at(event, "reason").into(),
        target.into(),
        str_at(event, "involvedObject.fieldPath").into(),
        source.into(),
        str_at(event, "message").trim().into(),
        first.into(),
        count.into(),
        name(event),
    ]
}
