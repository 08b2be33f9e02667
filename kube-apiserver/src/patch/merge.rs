//! JSON merge patch (RFC 7386).

use common::schema;
use serde_json::Value;

use super::PatchError;

pub(super) fn apply(original: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let patch: Value = serde_json::from_slice(patch).map_err(|error| decoding(&schema::syntax_error(patch, &error)))?;
    if patch.is_null() {
        return Err(PatchError::BadRequest("Invalid JSON Patch".to_owned()));
    }
    if !patch.is_object() {
        return Err(decoding(&super::wrong_shape(&patch, "map[string]interface {}")));
    }
    let mut patched = original.clone();
    merge(&mut patched, patch);
    Ok(patched)
}

fn merge(target: &mut Value, patch: Value) {
    let (Value::Object(target), Value::Object(patch)) = (&mut *target, patch) else { return };
    for (name, value) in patch {
        match (target.get_mut(&name), value) {
            (_, Value::Null) => drop(target.remove(&name)),
            (Some(found @ Value::Object(_)), value @ Value::Object(_)) => merge(found, value),
            (_, value) => drop(target.insert(name, without_nulls(value))),
        }
    }
}

/// Upstream's library leaves null members out of what it puts, inside of lists too.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        Value::Object(members) => {
            let kept = members.into_iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name, without_nulls(value))).collect()
        }
        scalar => scalar,
    }
}

pub(super) fn decoding(error: &str) -> PatchError {
    PatchError::BadRequest(format!("error decoding patch: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges_maps_replaces_lists_and_deletes_nulls() {
        let original = json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "gone": true});
        let patch = br#"{"a": {"b": null, "d": 3}, "l": [3], "gone": null, "absent": null}"#;
        assert_eq!(apply(&original, patch).unwrap(), json!({"a": {"c": 2, "d": 3}, "l": [3]}));
    }

    #[test]
    fn refuses_what_is_no_object() {
        let refused = apply(&json!({}), b"[1]").unwrap_err();
        assert_eq!(refused.code(), 400);
        assert_eq!(
            refused.to_string(),
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        );
        assert_eq!(
            apply(&json!({}), b"{").unwrap_err().to_string(),
            "error decoding patch: unexpected end of JSON input"
        );
    }
}
