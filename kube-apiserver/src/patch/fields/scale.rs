//! Ownership seen through `scale`: an owner of the replicas is an owner of the Scale's `spec.replicas`, and back.

use std::borrow::Cow;

use serde_json::Value;

use super::managers::{self, Entry, Manager};
use super::set::Set;

/// The version of Scale objects.
const SCALE: &str = "autoscaling/v1";
const REPLICAS: [&str; 2] = ["spec", "replicas"];

/// The ownership of an object that has a scale.
pub struct Scale<'a> {
    /// `metadata.managedFields` of the object.
    pub parent: Option<&'a Value>,
    /// The version of the request.
    pub api_version: &'a str,
    /// The group of the resource: replicas stand at `spec.replicas` in all its versions.
    pub group: &'a str,
}

impl Scale<'_> {
    fn knows(&self, api_version: &str) -> bool {
        common::api::catalog::split_api_version(api_version).0 == self.group
    }

    fn replicas() -> Set<'static> {
        Set::of_fields(&[&REPLICAS])
    }

    /// `managedFields` of the Scale.
    pub fn to_scale(&self) -> Option<Value> {
        let mut scale = Vec::new();
        for mut entry in managers::decode(self.parent, false).ok()? {
            if self.knows(&entry.api_version) && entry.set().ok()?.has(&REPLICAS) {
                let mut seen = Entry::new(entry.manager, Cow::Borrowed(SCALE), Self::replicas());
                seen.time = entry.time;
                scale.push(seen);
            }
        }
        managers::encode(scale)
    }

    /// `managedFields` of the object, once those of its Scale are `scale`.
    pub fn to_parent(&self, scale: Option<&Value>) -> Option<Value> {
        let mut scale = managers::decode(scale, false).ok()?;
        let mut parent = Vec::new();
        for mut entry in managers::decode(self.parent, false).ok()? {
            if !self.knows(&entry.api_version) {
                continue;
            }
            if entry.set().ok()?.has(&REPLICAS) {
                let shown = scale.iter().position(|seen| is_same(&seen.manager, &entry.manager));
                match shown {
                    Some(at) => {
                        scale.remove(at);
                    }
                    None => {
                        let left = entry.set().ok()?.difference(&Self::replicas());
                        entry.set_fields(left);
                    }
                }
            }
            parent.push(entry);
        }
        for mut entry in scale {
            if entry.set().ok()?.has(&REPLICAS) {
                // Upstream keeps no time of these.
                parent.push(Entry::new(entry.manager, Cow::Borrowed(self.api_version), Self::replicas()));
            }
        }
        managers::encode(parent)
    }
}

/// Whether a manager of a Scale is a manager of its object: only the versions differ.
fn is_same(scale: &Manager<'_>, parent: &Manager<'_>) -> bool {
    (&scale.name, scale.operation, &scale.subresource) == (&parent.name, parent.operation, &parent.subresource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(manager: &str, operation: &str, api_version: &str, subresource: &str, fields: &[&str]) -> Value {
        let fields: serde_json::Map<String, Value> = fields.iter().map(|f| (format!("f:{f}"), json!({}))).collect();
        let mut entry = json!({"manager": manager, "operation": operation, "apiVersion": api_version,
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": fields}});
        if !subresource.is_empty() {
            entry["subresource"] = subresource.into();
        }
        entry
    }

    #[test]
    fn the_scale_shows_owners_of_the_replicas_and_gives_them_to_others() {
        let parent = json!([
            entry("a", "Apply", "apps/v1", "", &["replicas", "selector"]),
            entry("b", "Update", "apps/v1", "", &["selector"]),
            entry("c", "Update", "other/v1", "", &["replicas"]),
        ]);
        let scale = Scale { parent: Some(&parent), api_version: "apps/v1", group: "apps" };
        let shown = scale.to_scale().unwrap();
        assert_eq!(shown, json!([entry("a", "Apply", SCALE, "", &["replicas"])]));
        // Nothing changes hands: only entries of unknown versions go.
        assert_eq!(scale.to_parent(Some(&shown)).unwrap(), json!([parent[0], parent[1]]));
        let stolen = json!([entry("s", "Update", SCALE, "scale", &["replicas"])]);
        assert_eq!(
            scale.to_parent(Some(&stolen)).unwrap(),
            json!([
                entry("a", "Apply", "apps/v1", "", &["selector"]),
                entry("b", "Update", "apps/v1", "", &["selector"]),
                entry("s", "Update", "apps/v1", "scale", &["replicas"]),
            ])
        );
    }
}
