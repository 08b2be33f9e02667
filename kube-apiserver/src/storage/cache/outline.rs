//! Trees of stored objects for who reads a few members of many objects: without the parts that cost most and that
//! nobody there looks at.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Selectable fields are at most so many objects and lists deep.
const OUTLINE: usize = 4;
/// About the other half of an object, and often as large.
const MANAGED: &str = "managedFields";

/// The tree of an object as far as selectable fields reach: deeper objects and lists are null.
///
/// # Errors
/// It is no JSON.
pub fn outline(json: &[u8]) -> serde_json::Result<Value> {
    parse(json, OUTLINE)
}

/// The tree of an object but for who owns its fields.
///
/// # Errors
/// It is no JSON.
pub fn without_managers(json: &[u8]) -> serde_json::Result<Value> {
    parse(json, usize::MAX)
}

fn parse(json: &[u8], depth: usize) -> serde_json::Result<Value> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let tree = Pruned { depth }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(tree)
}

/// A value of which this many levels are kept.
#[derive(Clone, Copy)]
struct Pruned {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Pruned {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pruned {
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
        let Some(depth) = self.depth.checked_sub(1) else {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        };
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Self { depth })? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let Some(depth) = self.depth.checked_sub(1) else {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        };
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if key == MANAGED {
                members.next_value::<IgnoredAny>()?;
            } else {
                object.insert(key, members.next_value_seed(Self { depth })?);
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use common::{
        api::catalog,
        schema::{Scalar, Shape, Type},
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn trees_are_cut_where_they_should_be() {
        let text = r#"{"a":[1,-2,0.5,null,true,"x\n"],"metadata":{"managedFields":[{"a":1}],"n":"x"},
            "b":{"c":[{"d":[{"e":1}],"f":"y"}]}}"#;
        let whole = json!({"a": [1, -2, 0.5, null, true, "x\n"], "metadata": {"n": "x"},
            "b": {"c": [{"d": [{"e": 1}], "f": "y"}]}});
        assert_eq!(without_managers(text.as_bytes()).unwrap(), whole);
        let cut = json!({"a": [1, -2, 0.5, null, true, "x\n"], "metadata": {"n": "x"},
            "b": {"c": [{"d": null, "f": "y"}]}});
        assert_eq!(outline(text.as_bytes()).unwrap(), cut);
        assert!(outline(b"{").is_err() && outline(b"{} x").is_err());
    }

    /// Objects with every field of their type filled have the same selectable fields either way.
    #[test]
    fn every_selectable_field_is_in_the_outline() {
        for resource in catalog().resources().filter(|resource| resource.storage.is_some()) {
            let strategy = crate::resources::strategy(resource.group, resource.plural);
            let ty = common::schema::lookup(resource.group, resource.version, resource.kind);
            let Some(object) = ty.map(|ty| filled(ty, 8)) else { continue };
            let outlined = outline(object.to_string().as_bytes()).unwrap();
            assert_eq!(strategy.fields(&outlined), strategy.fields(&object), "{}", resource.kind);
        }
    }

    fn filled(ty: Type<'_>, depth: usize) -> Value {
        match ty.shape() {
            _ if depth == 0 => Value::Null,
            Shape::Struct(object) => {
                object.fields().map(|field| (field.name().to_owned(), filled(field.ty(), depth - 1))).collect()
            }
            Shape::List(list) => json!([filled(list.element, depth - 1)]),
            Shape::Map(item, _) => json!({"key": filled(item, depth - 1)}),
            Shape::Scalar(Scalar::Bool) => true.into(),
            Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double) => 7.into(),
            Shape::Scalar(_) => "text".into(),
            Shape::Any(_) => json!({"any": "thing"}),
        }
    }
}
