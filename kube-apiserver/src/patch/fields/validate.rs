//! Whether a configuration fits its type: declared fields, kinds of values, no element of a list twice.

use common::schema::Scalar;
use serde_json::Value;

use super::typed::{Associative, Atom, Members, Place};
use crate::patch::gotext::go_text;

/// Objects deeper than this are refused before anything walks them.
const MAX_DEPTH: usize = 120;

/// Everything that does not fit, in upstream's words.
///
/// # Errors
/// The text of all errors.
pub(super) fn validate(root: Place<'_>, object: &Value) -> Result<(), String> {
    let mut errors = Vec::new();
    visit(root, object, "", 0, &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn visit(place: Place<'_>, value: &Value, path: &str, depth: usize, errors: &mut Vec<String>) {
    if depth > MAX_DEPTH {
        return complain(errors, path, "exceeded max depth");
    }
    match place.atom(Some(value)) {
        Atom::Object(members) => object(members, value, path, depth, errors),
        Atom::Associative(list) => associative(list, value, path, depth, errors),
        Atom::Whole(element) => match value {
            Value::Array(list) => {
                let Some(element) = element else { return };
                for (at, value) in list.iter().enumerate() {
                    visit(element, value, &format!("{path}[{at}]"), depth + 1, errors);
                }
            }
            Value::Null => {}
            other => complain(errors, path, &format!("expected list, got {}", shown(other))),
        },
        Atom::Scalar(scalar) => {
            if let Some(error) = scalar_error(scalar, value) {
                complain(errors, path, &error);
            }
        }
        Atom::Untyped => {}
    }
}

fn complain(errors: &mut Vec<String>, path: &str, error: &str) {
    errors.push(if path.is_empty() { error.to_owned() } else { format!("{path}: {error}") });
}

fn object(members: Members<'_>, value: &Value, path: &str, depth: usize, errors: &mut Vec<String>) {
    let object = match value {
        Value::Object(object) => object,
        Value::Null => return,
        other => return complain(errors, path, &format!("expected map, got {}", shown(other))),
    };
    for (name, value) in object {
        let path = format!("{path}.{name}");
        match members.place(name) {
            Some(place) => visit(place, value, &path, depth + 1, errors),
            None => return complain(errors, &path, "field not declared in schema"),
        }
    }
}

fn associative(list: Associative<'_>, value: &Value, path: &str, depth: usize, errors: &mut Vec<String>) {
    let elements = match value {
        Value::Array(elements) => elements,
        Value::Null => return,
        other => return complain(errors, path, &format!("expected list, got {}", shown(other))),
    };
    let indexed = match list.index(elements) {
        Ok(indexed) => indexed,
        Err(error) => return complain(errors, path, &error),
    };
    let mut seen = std::collections::BTreeSet::new();
    for (element, value) in &indexed {
        if !seen.insert(element) {
            complain(errors, path, &format!("duplicate entries for key {element}"));
        }
        visit(list.element, value, &format!("{path}{element}"), depth + 1, errors);
    }
}

fn scalar_error(scalar: Scalar, value: &Value) -> Option<String> {
    let fits = match (scalar, value) {
        (_, Value::Null) => true,
        (Scalar::Quantity | Scalar::IntOrString, other) => !other.is_object() && !other.is_array(),
        (Scalar::Int32 | Scalar::Int64 | Scalar::Double, other) => other.is_number(),
        (Scalar::Bool, other) => other.is_boolean(),
        (_, other) => other.is_string(),
    };
    if fits {
        return None;
    }
    Some(match scalar {
        Scalar::Quantity | Scalar::IntOrString => format!("expected any scalar, got {}", shown(value)),
        Scalar::Int32 | Scalar::Int64 | Scalar::Double => {
            format!("expected numeric (int or float), got {}", go_type(value))
        }
        Scalar::Bool => format!("expected boolean, got {}", shown(value)),
        _ => format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(value)),
    })
}

fn shown(value: &Value) -> String {
    format!("&{{{}}}", go_text(value))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Go's `%#v` shows it.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => crate::resources::field::go_quote(text),
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(go_syntax).collect();
            format!("[]interface {{}}{{{}}}", list.join(", "))
        }
        Value::Object(object) => {
            let members: Vec<String> = object
                .iter()
                .map(|(name, value)| format!("{}:{}", crate::resources::field::go_quote(name), go_syntax(value)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", members.join(", "))
        }
        scalar => scalar.to_string(),
    }
}
