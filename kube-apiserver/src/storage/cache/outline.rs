//! Trees of stored objects without the part that costs most and that few look at: who owns which field.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// About the other half of an object, and often as large.
const MANAGED: &str = "managedFields";

/// The tree of an object but for who owns its fields.
///
/// # Errors
/// It is no JSON.
pub fn without_managers(json: &[u8]) -> serde_json::Result<Value> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let tree = Unmanaged.deserialize(&mut reader)?;
    reader.end()?;
    Ok(tree)
}

/// A value without such members at any depth.
#[derive(Clone, Copy)]
struct Unmanaged;

impl<'de> DeserializeSeed<'de> for Unmanaged {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unmanaged {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if key == MANAGED {
                members.next_value::<IgnoredAny>()?;
            } else {
                object.insert(key, members.next_value_seed(self)?);
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_owners_are_left_out() {
        let text = r#"{"a":[1,-2,0.5,null,true,"x\n"],"metadata":{"managedFields":[{"a":1}],"n":"x"},
            "b":{"c":[{"d":[{"e":1}],"f":"y"}]}}"#;
        let whole = json!({"a": [1, -2, 0.5, null, true, "x\n"], "metadata": {"n": "x"},
            "b": {"c": [{"d": [{"e": 1}], "f": "y"}]}});
        assert_eq!(without_managers(text.as_bytes()).unwrap(), whole);
        assert!(without_managers(b"{").is_err() && without_managers(b"{} x").is_err());
    }
}
