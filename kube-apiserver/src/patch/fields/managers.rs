//! `metadata.managedFields`: who owns which fields. Field sets are decoded when they are looked at, not before.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::set::Set;

/// So many entries of Operation Update are kept; the oldest beyond are merged.
const MAX_UPDATERS: usize = 10;
/// Who owns what the oldest updaters changed.
const ANCIENT: &str = "ancient-changes";

/// How an entry came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Every other write.
    Update,
}

/// Tells entries apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager<'a> {
    /// The name.
    pub name: Cow<'a, str>,
    /// Apply or Update.
    pub operation: Operation,
    /// The version of an Update; an applier is the same in every version.
    pub api_version: Option<Cow<'a, str>>,
    /// The subresource written through.
    pub subresource: Cow<'a, str>,
}

/// What a manager owns.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    pub manager: Manager<'a>,
    /// The version in which the fields are named.
    pub api_version: Cow<'a, str>,
    pub time: Option<Cow<'a, str>>,
    fields: Fields<'a>,
}

#[derive(Debug, Clone)]
enum Fields<'a> {
    Encoded(Option<&'a Value>),
    Decoded(Set<'a>),
}

impl<'a> Entry<'a> {
    pub(super) fn new(manager: Manager<'a>, api_version: Cow<'a, str>, set: Set<'a>) -> Self {
        Self { manager, api_version, time: None, fields: Fields::Decoded(set) }
    }

    pub(super) fn applied(&self) -> bool {
        self.manager.operation == Operation::Apply
    }

    /// What it owns.
    ///
    /// # Errors
    /// `fieldsV1` is malformed.
    pub(super) fn set(&mut self) -> Result<&Set<'a>, String> {
        if let Fields::Encoded(fields) = self.fields {
            let set = fields.map(Set::decode).transpose()?.unwrap_or_default();
            self.fields = Fields::Decoded(set);
        }
        match &self.fields {
            Fields::Decoded(set) => Ok(set),
            Fields::Encoded(_) => Err("fieldsV1 was not decoded".to_owned()),
        }
    }

    pub(super) fn set_fields(&mut self, set: Set<'a>) {
        self.fields = Fields::Decoded(set);
    }

    fn is_empty(&self) -> bool {
        matches!(&self.fields, Fields::Decoded(set) if set.is_empty())
    }

    fn seconds(&self) -> i64 {
        let parsed = self.time.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
        parsed.map_or(0, Timestamp::as_second)
    }

    fn encode(self) -> Value {
        let fields = match self.fields {
            Fields::Encoded(fields) => fields.cloned().unwrap_or_else(|| json!({})),
            Fields::Decoded(set) => set.encode(),
        };
        let mut entry = Map::new();
        let mut put = |name: &str, value: Cow<'_, str>| {
            if !value.is_empty() {
                entry.insert(name.to_owned(), value.into_owned().into());
            }
        };
        put("manager", self.manager.name);
        put("operation", Cow::Borrowed(if self.manager.operation == Operation::Apply { "Apply" } else { "Update" }));
        put("apiVersion", self.api_version);
        put("time", self.time.unwrap_or_default());
        put("fieldsType", Cow::Borrowed("FieldsV1"));
        put("subresource", self.manager.subresource);
        entry.insert("fieldsV1".to_owned(), fields);
        Value::Object(entry)
    }
}

/// Reads the entries of an object. `check` decodes all field sets, for entries that did not come from this server.
///
/// # Errors
/// Why they are malformed.
pub(super) fn decode(entries: Option<&Value>, check: bool) -> Result<Vec<Entry<'_>>, String> {
    let mut decoded: Vec<Entry<'_>> = Vec::new();
    for (at, value) in entries.and_then(Value::as_array).into_iter().flatten().enumerate() {
        let mut entry = decode_entry(value, at)?;
        if check {
            entry.set().map_err(|error| format!("error decoding versioned set: error decoding set: {error}"))?;
        }
        match decoded.iter_mut().find(|known| known.manager == entry.manager) {
            Some(known) => *known = entry,
            None => decoded.push(entry),
        }
    }
    Ok(decoded)
}

fn decode_entry(value: &Value, at: usize) -> Result<Entry<'_>, String> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let operation = match text("operation") {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return Err("operation must be `Apply` or `Update`".to_owned()),
    };
    let api_version = Cow::Borrowed(text("apiVersion"));
    if api_version.is_empty() {
        return Err("apiVersion must not be empty".to_owned());
    }
    match text("fieldsType") {
        "FieldsV1" => {}
        "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
        other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {at}")),
    }
    let manager = Manager {
        name: Cow::Borrowed(text("manager")),
        operation,
        api_version: (operation == Operation::Update).then(|| api_version.clone()),
        subresource: Cow::Borrowed(text("subresource")),
    };
    let time = value.get("time").and_then(Value::as_str).map(Cow::Borrowed);
    Ok(Entry { manager, api_version, time, fields: Fields::Encoded(value.get("fieldsV1")) })
}

/// Writes entries in upstream's order; `None` when there are none.
pub(super) fn encode(mut entries: Vec<Entry<'_>>) -> Option<Value> {
    entries.retain(|entry| !entry.is_empty());
    let key = |entry: &Entry<'_>| {
        let manager = &entry.manager;
        (
            manager.operation,
            entry.seconds(),
            manager.name.to_string(),
            entry.api_version.to_string(),
            manager.subresource.to_string(),
        )
    };
    entries.sort_by_cached_key(key);
    (!entries.is_empty()).then(|| Value::Array(entries.into_iter().map(Entry::encode).collect()))
}

/// Merges the oldest updaters of each version until there are no more than allowed.
///
/// # Errors
/// A field set is malformed.
pub(super) fn cap(entries: &mut Vec<Entry<'_>>) -> Result<(), String> {
    let updaters = |entries: &[Entry<'_>]| entries.iter().filter(|entry| !entry.applied()).count();
    if updaters(entries) <= MAX_UPDATERS {
        return Ok(());
    }
    let (mut rest, appliers): (Vec<_>, Vec<_>) =
        std::mem::take(entries).into_iter().partition(|entry| !entry.applied());
    rest.sort_by_cached_key(|entry| (entry.seconds(), entry.manager.clone()));
    let mut kept: Vec<Entry<'_>> = Vec::new();
    let mut left = rest.len();
    for mut entry in rest {
        // The first of a version stays as it is, and becomes the bucket once a second one comes.
        let bucket = kept.iter_mut().find(|known| known.api_version == entry.api_version);
        match bucket.filter(|_| left > MAX_UPDATERS) {
            Some(bucket) => {
                let union = bucket.set()?.union(entry.set()?);
                bucket.set_fields(union);
                bucket.manager.name = Cow::Borrowed(ANCIENT);
                bucket.manager.subresource = Cow::Borrowed("");
                bucket.time = entry.time;
                left -= 1;
            }
            None => kept.push(entry),
        }
    }
    *entries = appliers;
    entries.extend(kept);
    Ok(())
}

/// Whether a request asks to forget all managers: an empty list, or one entry that says nothing.
pub(super) fn is_reset(sent: Option<&Value>) -> bool {
    match sent.and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(entry)]) => entry.values().all(|value| value.is_null() || value == ""),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, time: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1",
            "fieldsV1": fields})
    }

    #[test]
    fn entries_are_checked_and_written_in_order() {
        let list = json!([
            entry("b", "Update", "2026-01-01T00:00:01Z", json!({"f:a": {}})),
            entry("c", "Update", "2026-01-01T00:00:00Z", json!({"f:b": {}})),
            entry("z", "Apply", "2026-01-01T00:00:09Z", json!({"f:c": {}})),
        ]);
        let written = encode(decode(Some(&list), true).unwrap()).unwrap();
        let names: Vec<_> =
            written.as_array().unwrap().iter().map(|entry| entry["manager"].as_str().unwrap()).collect();
        assert_eq!(names, ["z", "c", "b"]);
        assert_eq!(written[0], list[2]);
        for (name, value, error) in [
            ("operation", json!("Steal"), "operation must be `Apply` or `Update`"),
            ("apiVersion", json!(""), "apiVersion must not be empty"),
            ("fieldsType", json!(""), "missing fieldsType in managed fields entry 0"),
            ("fieldsType", json!("V2"), "invalid fieldsType \"V2\" in managed fields entry 0"),
            (
                "fieldsV1",
                json!({"x": {}}),
                "error decoding versioned set: error decoding set: key must be 2 characters long:",
            ),
        ] {
            let mut list = json!([list[0]]);
            list[0][name] = value;
            assert_eq!(decode(Some(&list), true).unwrap_err(), error);
        }
        assert!(encode(Vec::new()).is_none());
    }

    #[test]
    fn the_oldest_updaters_share_a_bucket() {
        let list: Vec<Value> = (0..14)
            .map(|i| {
                let fields = json!({format!("f:{i}"): {}});
                entry(&format!("m{i:02}"), "Update", &format!("2026-01-01T00:00:{i:02}Z"), fields)
            })
            .chain([entry("a", "Apply", "2026-01-01T00:00:00Z", json!({"f:x": {}}))])
            .collect();
        let list = Value::Array(list);
        let mut entries = decode(Some(&list), true).unwrap();
        cap(&mut entries).unwrap();
        let written = encode(entries).unwrap();
        assert_eq!(written.as_array().unwrap().len(), 11);
        assert_eq!(written[1]["manager"], ANCIENT);
        assert_eq!(written[1]["time"], "2026-01-01T00:00:04Z");
        assert_eq!(written[1]["fieldsV1"], json!({"f:0": {}, "f:1": {}, "f:2": {}, "f:3": {}, "f:4": {}}));
        assert_eq!(written[2]["manager"], "m05");
    }

    #[test]
    fn resets_are_an_empty_list_or_an_empty_entry() {
        assert!(is_reset(Some(&json!([]))) && is_reset(Some(&json!([{}]))));
        assert!(!is_reset(None) && !is_reset(Some(&Value::Null)) && !is_reset(Some(&json!([{"manager": "a"}]))));
    }
}
