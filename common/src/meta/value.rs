//! Small accessors over JSON trees: absent, null and wrongly shaped all read as "not there".

use serde_json::{Map, Value};

/// The value at a dotted path.
pub fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let mut current = value;
    for segment in path.split('.') {
        current = current.get(segment)?;
    }
    (!current.is_null()).then_some(current)
}

/// The string at a dotted path, empty when absent.
pub fn str_at<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at a dotted path.
pub fn int_at(value: &Value, path: &str) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// The boolean at a dotted path, false when absent.
pub fn bool_at(value: &Value, path: &str) -> bool {
    at(value, path).and_then(Value::as_bool).unwrap_or_default()
}

/// The list at a dotted path, empty when absent.
pub fn list_at<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The map at a dotted path.
pub fn map_at<'a>(value: &'a Value, path: &str) -> Option<&'a Map<String, Value>> {
    at(value, path).and_then(Value::as_object)
}

/// The string entries of a map at a dotted path.
pub fn strings_at<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    map_at(value, path).into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()))
}

/// True when something that Go would not call empty sits at the path: not null, "", 0, false, [] or {}.
pub fn is_set(value: &Value, path: &str) -> bool {
    at(value, path).is_some_and(|v| !is_zero(v))
}

/// Go's zero value in JSON clothes.
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// The member of an object, which is created (as `{}`) when absent. Returns None when `value` is no object.
pub fn member<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let member = value.as_object_mut()?.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if member.is_null() {
        *member = Value::Object(Map::new());
    }
    Some(member)
}

/// The object member if it is there.
pub fn existing<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    value.get_mut(name).filter(|v| v.is_object())
}

/// The elements of a list member.
pub fn each<'a>(value: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Sets a member that is absent or null.
pub fn set_default(value: &mut Value, name: &str, default: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        let slot = map.entry(name).or_insert(Value::Null);
        if slot.is_null() {
            *slot = default.into();
        }
    }
}

/// Sets a member that is absent, null or a zero value (Go's non-pointer fields).
pub fn set_if_zero(value: &mut Value, name: &str, default: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        let slot = map.entry(name).or_insert(Value::Null);
        if is_zero(slot) {
            *slot = default.into();
        }
    }
}

/// Sets a member of an object.
pub fn set(value: &mut Value, name: &str, new: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        map.insert(name.to_string(), new.into());
    }
}

/// Removes a member of an object.
pub fn remove(value: &mut Value, name: &str) -> Option<Value> {
    value.as_object_mut().and_then(|map| map.remove(name))
}

/// Makes the member of `new` what it is in `old`, absent included.
pub fn keep_old(new: &mut Value, old: &Value, name: &str) {
    match old.get(name) {
        Some(value) => set(new, name, value.clone()),
        None => {
            remove(new, name);
        }
    }
}

/// Equality as upstream's semantic DeepEqual: absent, null and empty are the same.
pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a.filter(|v| !is_empty(v)), b.filter(|v| !is_empty(v))) {
        (None, None) => true,
        (Some(Value::Object(x)), Some(Value::Object(y))) => {
            x.iter().all(|(k, v)| same(Some(v), y.get(k))) && y.iter().all(|(k, v)| x.contains_key(k) || is_empty(v))
        }
        (Some(Value::Array(x)), Some(Value::Array(y))) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| a == b || same(Some(a), Some(b)))
        }
        (Some(x), Some(y)) => x == y,
        _ => false,
    }
}

/// Whether two objects agree at a dotted path.
pub fn same_at(a: &Value, b: &Value, path: &str) -> bool {
    same(at(a, path), at(b, path))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.values().all(is_empty),
        _ => false,
    }
}

/// Drops `null` members, as decoding into upstream's types does.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The values of an object.
pub fn each_value(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_object_mut().into_iter().flat_map(|map| map.values_mut())
}
