//! The `Table` form of objects (`kubectl get`): columns and rows per kind, equal to upstream's printers.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Strategy;
use super::value::{at, int_at, list_at, str_at, strings_at};

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

impl Column {
    const fn new(name: &'static str, kind: &'static str) -> Column {
        Column { name, kind, format: "", description: "", priority: 0 }
    }

    const fn wide(self) -> Column {
        Column { priority: 1, ..self }
    }
}

/// A column of text.
pub(crate) const fn text(name: &'static str) -> Column {
    Column::new(name, "string")
}

/// A column of text that only `-o wide` shows.
pub(crate) const fn wide(name: &'static str) -> Column {
    Column::new(name, "string").wide()
}

/// A column of numbers.
pub(crate) const fn number(name: &'static str) -> Column {
    Column::new(name, "integer")
}

/// A column of booleans.
pub(crate) const fn boolean(name: &'static str) -> Column {
    Column::new(name, "boolean")
}

/// The name column.
pub(crate) const NAME: Column = Column { format: "name", ..Column::new("Name", "string") };
/// The age column.
pub(crate) const AGE: Column = text("Age");

/// The columns of kinds that no printer knows.
pub(crate) const NAME_CREATED: &[Column] = &[NAME, Column::new("Created At", "date")];
/// The columns of kinds that show nothing but their age.
pub(crate) const NAME_AGE: &[Column] = &[NAME, AGE];

/// The row that belongs to [`NAME_CREATED`].
pub(crate) fn name_created(obj: &Value, _: Timestamp) -> Row {
    vec![name(obj), str_at(obj, "metadata.creationTimestamp").into()]
}

/// The row that belongs to [`NAME_AGE`].
pub(crate) fn name_age(obj: &Value, now: Timestamp) -> Row {
    vec![name(obj), age(obj, now)]
}

/// The name cell.
pub(crate) fn name(obj: &Value) -> Value {
    str_at(obj, "metadata.name").into()
}

/// Time since creation as kubectl shows it.
pub(crate) fn age(obj: &Value, now: Timestamp) -> Value {
    since(str_at(obj, "metadata.creationTimestamp"), now).into()
}

/// Time since an RFC 3339 moment, `<unknown>` when there is none.
pub(crate) fn since(moment: &str, now: Timestamp) -> String {
    match moment.parse::<Timestamp>() {
        Ok(moment) => human_duration(now.duration_since(moment).as_secs()),
        Err(_) => "<unknown>".to_string(),
    }
}

/// Upstream's short form of a duration: two units at most, fewer as it grows.
pub(crate) fn human_duration(seconds: i64) -> String {
    let two = |big: i64, unit: char, small: i64, small_unit: char| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        ..-1 => "<invalid>".to_string(),
        -1 => "0s".to_string(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, 'd', hours % 24, 'h'),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// `value`, or `<none>` when empty.
pub(crate) fn or_none(value: &str) -> Value {
    if value.is_empty() { "<none>".into() } else { value.into() }
}

/// `a=b,c=d` of a map of strings, or `<none>`.
pub(crate) fn labels(obj: &Value, path: &str) -> Value {
    let pairs: Vec<String> = strings_at(obj, path).map(|(k, v)| format!("{k}={v}")).collect();
    or_none(&pairs.join(","))
}

/// The text form of a label selector, or `<none>`.
pub(crate) fn selector(obj: &Value, path: &str) -> Value {
    let Some(selector) = at(obj, path) else { return "<none>".into() };
    let mut parts: Vec<String> = strings_at(selector, "matchLabels").map(|(k, v)| format!("{k}={v}")).collect();
    for requirement in list_at(selector, "matchExpressions") {
        let key = str_at(requirement, "key");
        let mut values: Vec<&str> = list_at(requirement, "values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push(match str_at(requirement, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_string(),
            _ => format!("!{key}"),
        });
    }
    parts.sort();
    or_none(&parts.join(","))
}

/// Names and images of the containers at a path.
pub(crate) fn containers(obj: &Value, path: &str) -> [Value; 2] {
    let join = |field: &str| -> Value {
        let parts: Vec<&str> = list_at(obj, path).iter().map(|container| str_at(container, field)).collect();
        parts.join(",").into()
    };
    [join("name"), join("image")]
}

/// An integer cell, 0 when absent.
pub(crate) fn count(obj: &Value, path: &str) -> Value {
    int_at(obj, path).unwrap_or_default().into()
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
    let now = Timestamp::now();
    // Put together by hand where the parts are large: `json!` copies them.
    let rows = objects.iter().map(|object| {
        let mut row = Map::new();
        row.insert("cells".to_owned(), Value::Array(strategy.row(object, now)));
        row.insert("object".to_owned(), included(object, include));
        Value::Object(row)
    });
    let mut metadata = Map::new();
    for field in ["resourceVersion", "continue", "remainingItemCount"] {
        if let Some(value) = list_meta.get(field) {
            metadata.insert(field.to_string(), value.clone());
        }
    }
    let mut table = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
    table["columnDefinitions"] = Value::Array(columns(strategy));
    table["rows"] = rows.collect();
    table
}

/// The column definitions of a kind.
pub fn columns(strategy: &dyn Strategy) -> Vec<Value> {
    strategy.columns().iter().map(column_json).collect()
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
        IncludeObject::Metadata => {
            let mut partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"});
            partial["metadata"] = object.get("metadata").cloned().unwrap_or_default();
            partial
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_shrink_to_what_matters() {
        for (seconds, want) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (47 * 3600, "47h"),
            (2 * 86400 + 5 * 3600, "2d5h"),
            (9 * 86400, "9d"),
            (800 * 86400, "2y70d"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(human_duration(seconds), want);
        }
    }
}
