//! The `Table` form of objects (`kubectl get`): columns and rows per kind, equal to upstream's printers.

use serde_json::{Value, json};

/// One column of a table. `priority` 0 is always shown, 1 only with `-o wide`.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Header, e.g. `Name`.
    pub name: &'static str,
    /// `string`, `integer` or `date`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// What `kubectl` shows on request.
    pub description: &'static str,
    /// 0 or 1.
    pub priority: i32,
}

/// The cells of one object, in the order of the columns.
pub type Row = Vec<Value>;

const fn column(name: &'static str, kind: &'static str, format: &'static str) -> Column {
    Column { name, kind, format, description: "", priority: 0 }
}

/// The columns of kinds that no printer knows.
pub(crate) const NAME_AGE: &[Column] = &[column("Name", "string", "name"), column("Age", "string", "")];

/// The row that belongs to [`NAME_AGE`].
pub(crate) fn name_age(obj: &Value, now: jiff::Timestamp) -> Row {
    vec![super::value::str_at(obj, "metadata.name").into(), age(obj, now).into()]
}

/// Time since creation as kubectl shows it.
pub(crate) fn age(_obj: &Value, _now: jiff::Timestamp) -> String {
    String::new()
}

/// What a table row carries besides its cells (`?includeObject=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// A `PartialObjectMetadata`: upstream's default.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// Builds a `meta.k8s.io/v1` Table of `objects` of one kind. `list_meta` is the list's (or the single object's) metadata, of which
/// resourceVersion, continue and remainingItemCount are kept.
pub fn table(group: &str, resource: &str, objects: &[Value], list_meta: &Value, include: IncludeObject) -> Value {
    let strategy = super::strategy(group, resource);
    let now = jiff::Timestamp::now();
    let columns: Vec<Value> = strategy.columns().iter().map(column_json).collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| json!({"cells": strategy.row(object, now), "object": included(object, include)}))
        .collect();
    let mut metadata = serde_json::Map::new();
    for field in ["resourceVersion", "continue", "remainingItemCount"] {
        if let Some(value) = list_meta.get(field) {
            metadata.insert(field.to_string(), value.clone());
        }
    }
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

fn column_json(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

fn included(object: &Value, include: IncludeObject) -> Value {
    match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Object => object.clone(),
        IncludeObject::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object.get("metadata").cloned().unwrap_or_default(),
        }),
    }
}
