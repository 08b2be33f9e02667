//! Strategic merge patch: a merge patch that knows, from the type table, which lists merge by key and which maps are
//! replaced, and that obeys the directives a patch may carry (`$patch`, `$retainKeys`, `$setElementOrder/<list>`,
//! `$deleteFromPrimitiveList/<list>`).

mod lists;
mod object;
mod order;

#[cfg(test)]
mod tests;

use common::schema::Type;
use serde_json::{Map, Value};

use super::PatchError;

pub(super) type Object = Map<String, Value>;

/// The key that says what to do with the object it stands in.
const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const SET_ELEMENT_ORDER: &str = "$setElementOrder";

pub(super) fn apply(original: &Value, patch: Value, ty: Type<'_>) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::BadRequest(super::wrong_shape(&patch, "map[string]interface {}")));
    };
    let original = match original {
        Value::Object(original) => original.clone(),
        _ => Object::new(),
    };
    object::merge(original, patch, Some(ty)).map(Value::Object)
}

/// The list a directive key such as `$setElementOrder/containers` is about.
fn target<'k>(key: &'k str, prefix: &str) -> Option<Result<&'k str, PatchError>> {
    let rest = key.strip_prefix(prefix)?;
    Some(rest.strip_prefix('/').ok_or_else(|| {
        let what = if prefix == DELETE_FROM_LIST { "primitive list" } else { "setElementOrder list" };
        PatchError::BadRequest(format!("invalid patch format of {what}"))
    }))
}

/// Drops objects that carry a directive (there is nothing to apply it to).
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(object) if object.contains_key(DIRECTIVE) => None,
        Value::Object(object) => {
            let kept = object.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}

/// Drops nulls: they ask for the deletion of what is not there.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        scalar => scalar,
    }
}
