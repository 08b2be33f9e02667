//! Merging lists: of scalars as sets, of objects by their merge key.

use common::schema::Type;
use serde_json::Value;

use super::object::{self, ListField};
use super::order::{self, Places};
use super::{DIRECTIVE, Object};
use crate::patch::PatchError;
use crate::patch::gotext::go_text;

/// Merges `patch` into `original`.
pub(super) fn merge(original: Vec<Value>, patch: Vec<Value>, list: &ListField<'_>) -> Result<Vec<Value>, PatchError> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    if !holds_objects(&original, &patch)? {
        let merged = union(&original, &patch);
        return Ok(order::arrange(merged, &patch, &original, None));
    }
    let key = list.key.ok_or_else(|| {
        let name = list.element.and_then(Type::short_name).unwrap_or("struct");
        PatchError::Internal(format!("cannot merge lists without merge key for {name}"))
    })?;
    let (original, patch) = obey_elements(original, patch, key)?;
    let merged = merge_elements(original.clone(), &patch, key, list.element)?;
    for element in &merged {
        identity(element, key)?;
    }
    Ok(order::arrange(merged, &patch, &original, Some(key)))
}

/// Removes the scalars that a `$deleteFromPrimitiveList/<name>` lists.
pub(super) fn delete_from(
    object: &mut Object,
    name: &str,
    unwanted: &Value,
    ty: Option<Type<'_>>,
) -> Result<(), PatchError> {
    let (Some(Value::Array(list)), Value::Array(unwanted)) = (object.get_mut(name), unwanted) else { return Ok(()) };
    ListField::find(ty, name)?;
    if (!list.is_empty() || !unwanted.is_empty()) && holds_objects(list, unwanted)? {
        return Err(PatchError::BadRequest("invalid patch format of primitive list".into()));
    }
    let unwanted = Places::of(unwanted, None);
    list.retain(|value| unwanted.find(value).is_none());
    Ok(())
}

/// Whether the lists hold objects; an error if they are mixed or hold lists.
pub(super) fn holds_objects(left: &[Value], right: &[Value]) -> Result<bool, PatchError> {
    let mut all = left.iter().chain(right);
    let Some(first) = all.next() else {
        return Err(PatchError::Internal("no elements in any of the given slices".into()));
    };
    if first.is_array() {
        return Err(PatchError::Unprocessable("lists of lists are not supported".into()));
    }
    if all.any(|value| std::mem::discriminant(value) != std::mem::discriminant(first)) {
        return Err(PatchError::Internal(format!(
            "list element types are not identical: [{} {}]",
            go_text(&Value::Array(left.to_vec())),
            go_text(&Value::Array(right.to_vec()))
        )));
    }
    Ok(first.is_object())
}

/// The value of the merge key of a list element.
pub(super) fn identity<'v>(element: &'v Value, key: &str) -> Result<&'v Value, PatchError> {
    element.get(key).ok_or_else(|| {
        PatchError::Internal(format!("map: {} does not contain declared merge key: {key}", go_text(element)))
    })
}

fn union(original: &[Value], patch: &[Value]) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
    let mut places = Places::of(&[], None);
    for value in original.iter().chain(patch) {
        if places.find(value).is_none() {
            places.add(value, merged.len());
            merged.push(value.clone());
        }
    }
    merged
}

/// Obeys the directives among the patch's elements; what is left of original and patch.
fn obey_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    let mut deleted = Places::of(&[], Some(key));
    for element in patch {
        let Some(directive) = element.get(DIRECTIVE) else {
            plain.push(element);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                identity(&element, key)?;
                deleted.add(&element, 0);
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(PatchError::Internal("merging lists cannot yet be specified in the patch".into()));
            }
            _ => return Err(object::unknown_directive(directive, element.as_object().unwrap_or(&Object::new()))),
        }
    }
    original.retain(|value| deleted.find(value).is_none());
    Ok(if replace { (plain, Vec::new()) } else { (original, plain) })
}

fn merge_elements(
    mut original: Vec<Value>,
    patch: &[Value],
    key: &str,
    ty: Option<Type<'_>>,
) -> Result<Vec<Value>, PatchError> {
    let mut places = Places::of(&original, Some(key));
    for element in patch {
        identity(element, key)?;
        match places.find(element).and_then(|at| original.get_mut(at)) {
            Some(Value::Object(found)) => {
                let patch = element.as_object().cloned().unwrap_or_default();
                *found = object::merge(std::mem::take(found), patch, ty)?;
            }
            _ => {
                places.add(element, original.len());
                original.push(element.clone());
            }
        }
    }
    Ok(original)
}
