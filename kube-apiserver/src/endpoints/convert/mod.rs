//! Between the version a client speaks and the version that is stored.
//!
//! Most versions of a kind have the same fields, so that only `apiVersion` differs. The exceptions: events, which core/v1 and
//! events.k8s.io/v1 share under different field names, autoscaling/v1 and resource.k8s.io/v1beta1.

mod autoscaling;
mod definitions;
mod devices;

use serde_json::{Map, Value};

use super::Target;

/// Core/v1 name, events.k8s.io/v1 name.
const EVENT_FIELDS: [(&str, &str); 8] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

/// The object as the client of `target` sees it.
#[must_use]
pub fn to_served(target: Target<'_>, mut object: Value) -> Value {
    if target.is_stored_form() {
        return object;
    }
    match (target.resource.group, target.resource.version) {
        ("events.k8s.io", _) => rename(&mut object, true),
        ("autoscaling", "v1") => autoscaling::to_v1(&mut object),
        ("resource.k8s.io", "v1beta1") => devices::to_v1beta1(&mut object, target.resource.kind),
        _ => {}
    }
    set_version(&mut object, &target.resource.api_version(), target.resource.kind);
    // Versions differ in which empty fields are shown.
    if let Some(ty) = crate::request::body::type_of(target.expected()) {
        common::schema::normalize(ty, &mut object);
    }
    object
}

/// The object as it is stored.
#[must_use]
pub fn to_stored(target: Target<'_>, mut object: Value) -> Value {
    if target.is_stored_form() {
        return object;
    }
    upgrade(&mut object, target.resource.group, target.resource.version, target.resource.kind);
    set_version(&mut object, &target.store.resource.api_version(), target.store.resource.kind);
    object
}

/// The fields of an object of another version in the stored form: what a client sends, or what was stored before the
/// storage version changed.
pub fn upgrade(object: &mut Value, group: &str, version: &str, kind: &str) {
    match (group, version) {
        ("events.k8s.io", _) => rename(object, false),
        ("autoscaling", "v1") => autoscaling::to_v2(object),
        ("resource.k8s.io", "v1beta1") => devices::from_v1beta1(object, kind),
        ("apiextensions.k8s.io", "v1beta1") => definitions::to_v1(object),
        _ => {}
    }
}

/// The stored form's name of a field that a client of `target` selects by; `None` when its version has no such field.
#[must_use]
pub fn field_label(target: Target<'_>, label: &str) -> Option<String> {
    if target.is_stored_form() || target.resource.group != "events.k8s.io" {
        return Some(label.to_owned());
    }
    event_label(label)
}

fn event_label(label: &str) -> Option<String> {
    match label.strip_prefix("regarding.") {
        Some(field) => Some(format!("involvedObject.{field}")),
        None if label == "reportingController" => Some("reportingComponent".to_owned()),
        None if matches!(label, "reason" | "type" | "metadata.name" | "metadata.namespace") => Some(label.to_owned()),
        None => None,
    }
}

fn set_version(object: &mut Value, api_version: &str, kind: &str) {
    if let Some(map) = object.as_object_mut() {
        map.insert("kind".to_owned(), kind.into());
        map.insert("apiVersion".to_owned(), api_version.into());
    }
}

fn rename(object: &mut Value, to_new: bool) {
    let Some(map) = object.as_object_mut() else { return };
    let old = std::mem::take(map);
    let renamed: Map<String, Value> = old
        .into_iter()
        .map(|(key, value)| {
            let found = EVENT_FIELDS.iter().find(|(core, new)| key == if to_new { *core } else { *new });
            let name = found.map(|(core, new)| if to_new { *new } else { *core });
            (name.map_or(key, str::to_owned), value)
        })
        .collect();
    *map = renamed;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_change_their_field_names_and_back() {
        let core = json!({"involvedObject": {"name": "a"}, "message": "m", "count": 2, "reason": "R"});
        let mut new = core.clone();
        rename(&mut new, true);
        assert_eq!(new, json!({"regarding": {"name": "a"}, "note": "m", "deprecatedCount": 2, "reason": "R"}));
        rename(&mut new, false);
        assert_eq!(new, core);
    }
}
