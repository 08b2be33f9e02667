//! Merging one object into another.

use common::schema::{Field, PatchStrategy, Shape, Type};
use serde_json::Value;

use super::{
    DELETE_FROM_LIST, DIRECTIVE, Object, RETAIN_KEYS, SET_ELEMENT_ORDER, lists, order, target, without_directives,
    without_nulls,
};
use crate::patch::PatchError;
use crate::patch::gotext::{go_string, go_text, go_type};

/// Merges `patch` into `original`, both of type `ty` (`None` inside maps and free-form JSON).
pub(super) fn merge(original: Object, mut patch: Object, ty: Option<Type<'_>>) -> Result<Object, PatchError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    let mut merged = original;
    retain_keys(&mut merged, &mut patch)?;
    order::apply_directives(&mut merged, &mut patch, ty)?;
    for (key, value) in patch {
        match target(&key, DELETE_FROM_LIST) {
            Some(list) => lists::delete_from(&mut merged, list?, &value, ty)?,
            None => merge_field(&mut merged, key, value, ty)?,
        }
    }
    Ok(merged)
}

pub(super) fn unknown_directive(directive: &Value, patch: &Object) -> PatchError {
    PatchError::Internal(format!(
        "unknown patch type: {} in map: {}",
        go_string(directive),
        go_text(&Value::Object(patch.clone()))
    ))
}

fn merge_field(merged: &mut Object, key: String, patch: Value, ty: Option<Type<'_>>) -> Result<(), PatchError> {
    if patch.is_null() {
        merged.remove(&key);
        return Ok(());
    }
    let value = match (merged.remove(&key), patch) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            let (ty, strategy) = object_type(ty, &key)?;
            Some(Value::Object(if strategy.replace { new } else { merge(old, new, ty)? }))
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            let list = ListField::find(ty, &key)?;
            Some(Value::Array(if list.merges { lists::merge(old, new, &list)? } else { new }))
        }
        (_, new) => without_directives(without_nulls(new)),
    };
    merged.extend(value.map(|value| (key, value)));
    Ok(())
}

/// The type of an object-valued field and what to do with it.
fn object_type<'t>(ty: Option<Type<'t>>, key: &str) -> Result<(Option<Type<'t>>, PatchStrategy), PatchError> {
    let field = lookup(ty, key)?;
    Ok((Some(field.ty()), field.strategy()))
}

/// What strategic merge needs to know about a list-valued field.
pub(super) struct ListField<'t> {
    /// The type of its elements.
    pub element: Option<Type<'t>>,
    /// Whether patches merge into it (otherwise they replace it).
    pub merges: bool,
    /// The field that identifies elements.
    pub key: Option<&'t str>,
}

impl<'t> ListField<'t> {
    pub(super) fn find(ty: Option<Type<'t>>, key: &str) -> Result<Self, PatchError> {
        let field = lookup(ty, key)?;
        match field.ty().shape() {
            Shape::List(list) => {
                Ok(Self { element: Some(list.element), merges: field.strategy().merge, key: field.merge_key() })
            }
            _ => Err(PatchError::Internal("expected slice or array type, but got: struct".into())),
        }
    }
}

fn lookup<'t>(ty: Option<Type<'t>>, key: &str) -> Result<Field<'t>, PatchError> {
    let kind = match ty.map(Type::shape) {
        Some(Shape::Struct(fields)) => {
            let name = ty.and_then(Type::short_name).unwrap_or_default();
            return fields.field(key).ok_or_else(|| {
                PatchError::Internal(format!("unable to find api field in struct {name} for the json field \"{key}\""))
            });
        }
        Some(Shape::Map(..)) => "map",
        Some(Shape::List(_)) => "slice",
        _ => "interface",
    };
    Err(PatchError::Internal(format!("merging an object in json but data type is not struct, instead is: {kind}")))
}

/// Obeys `$retainKeys`: only the keys it lists survive in the original.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let malformed = || PatchError::BadRequest("invalid patch format of retainKeys".into());
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(malformed()) };
    let listed = |key: &str| keys.iter().any(|wanted| wanted.as_str() == Some(key));
    let directive = |key: &str| key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ELEMENT_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !directive(key) && !listed(key)) {
        return Err(malformed());
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// Go's complaint about a value that is no list.
pub(super) fn not_a_list(value: &Value) -> PatchError {
    PatchError::Internal(format!("expected a []interface {{}}, but received a {}", go_type(value)))
}
