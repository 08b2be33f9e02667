//! Follows writes by any means but apply: the writer comes to own what it changed.

use serde_json::Value;

use super::compare::New;
use super::managers;
use super::settle::{self, Others};
use super::typed::Place;
use super::{Write, has_entries, managed_fields, put_managed_fields, take_managed_fields};
use crate::resources::same;

/// Writes `metadata.managedFields` of `new`, which is to replace `live` (for a new object: `{}`). Both are in the version
/// of the write. Never fails: what cannot be followed is forgotten.
pub fn update(write: &Write<'_>, live: &Value, new: &mut Value) {
    let sent = take_managed_fields(new);
    let fields = match base(write, live, sent.as_ref()) {
        // Objects whose managers were forgotten stay without, until somebody applies.
        Base::Nothing if live["metadata"]["uid"].is_string() => None,
        Base::Nothing => follow(write, live, new, None).unwrap_or_default(),
        Base::Live(fields) | Base::Sent(fields) => follow(write, live, new, Some(fields)).unwrap_or_default(),
    };
    put_managed_fields(new, fields);
}

enum Base<'a> {
    Nothing,
    /// The live object's entries.
    Live(&'a Value),
    /// Entries that the request brings.
    Sent(&'a Value),
}

/// Which entries to go on from: those that the request sends, if it may and they make sense, else the live ones.
fn base<'a>(write: &Write<'_>, live: &'a Value, sent: Option<&'a Value>) -> Base<'a> {
    let live = managed_fields(live);
    let own = || match live.filter(|fields| has_entries(Some(fields))) {
        Some(fields) => Base::Live(fields),
        None => Base::Nothing,
    };
    if !write.subresource.is_empty() || sent == live {
        return own();
    }
    if managers::is_reset(sent) {
        return Base::Nothing;
    }
    match sent {
        Some(fields) if has_entries(sent) && managers::decode(sent, true).is_ok() => Base::Sent(fields),
        _ => own(),
    }
}

/// The entries after the write; `None` when there are none.
///
/// # Errors
/// Entries are malformed, or elements of a list cannot be told apart.
fn follow(write: &Write<'_>, live: &Value, new: &Value, base: Option<&Value>) -> Result<Option<Value>, String> {
    let own = settle::changes(write, Place::root(write.ty), live, new, New::Typed)?;
    if own.is_empty() && base.is_some() && base == managed_fields(live) {
        return Ok(base.cloned());
    }
    let mut entries = managers::decode(base, false)?;
    settle::reconcile(write, live, &mut entries)?;
    let others = Others::new(write, &entries, live, new);
    settle::settle(write, &mut entries, None, &own, &others)?;
    settle::claim(write, &mut entries, write.manager, &own.changed)?;
    managers::cap(&mut entries)?;
    Ok(managers::encode(entries))
}

/// Takes back new times of entries when nothing else about the object is new: such a write is none.
pub fn forget_new_times(old: &Value, new: &mut Value) {
    let (Some(Value::Array(before)), Some(Value::Array(after))) = (managed_fields(old), managed_fields(new)) else {
        return;
    };
    // Exactly: in a set of fields all values are empty.
    let covers = |a: &Value, b: &Value| {
        a.as_object().into_iter().flatten().all(|(name, value)| name == "time" || b.get(name) == Some(value))
    };
    let only_time = |a: &Value, b: &Value| covers(a, b) && covers(b, a);
    if before == after || before.len() != after.len() || !before.iter().zip(after).all(|(a, b)| only_time(a, b)) {
        return;
    }
    let metadata = |name: &str| matches!(name, "managedFields" | "resourceVersion");
    let same =
        same_but(old, new, &|name| name == "metadata") && same_but(&old["metadata"], &new["metadata"], &metadata);
    if same {
        let before = before.clone();
        put_managed_fields(new, Some(Value::Array(before)));
    }
}

/// Whether two objects agree in all members that are not left out. Absent and empty are the same.
fn same_but(a: &Value, b: &Value, left_out: &dyn Fn(&str) -> bool) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return a == b };
    let covers = |a: &serde_json::Map<String, Value>, b: &serde_json::Map<String, Value>| {
        a.iter().all(|(name, value)| left_out(name) || same(Some(value), b.get(name)))
    };
    covers(a, b) && covers(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_new_time_is_forgotten_only_alone() {
        let object = |time: &str, fields: Value| json!({"metadata": {"managedFields": [{"manager": "m", "time": time, "fieldsV1": fields}]}, "spec": {"a": 1}});
        let (both, one) = (json!({"f:spec": {"f:a": {}, "f:env": {"f:x": {}}}}), json!({"f:spec": {"f:a": {}}}));
        let old = object("1", both.clone());
        for (mut new, kept) in [(object("2", both), true), (object("2", one), false)] {
            forget_new_times(&old, &mut new);
            assert_eq!(new == old, kept, "{new}");
        }
    }
}
