//! One pass over a stored object for all that its index needs: labels, whether it says a resourceVersion, and the members
//! that selectable fields are read from. Everything else is stepped over.

use std::{collections::BTreeMap, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Labels;

/// The members of an object that somebody reads.
#[derive(Clone, Debug, Default)]
pub struct Outline(Vec<(&'static str, Outline)>);

impl Outline {
    /// From dotted paths; what a path leads to is kept whole.
    #[must_use]
    pub fn of(paths: impl IntoIterator<Item = &'static str>) -> Self {
        let mut outline = Self::default();
        for path in paths {
            path.split('.').fold(&mut outline, |level, name| {
                let at = level.0.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                    level.0.push((name, Self::default()));
                    level.0.len() - 1
                });
                &mut level.0[at].1
            });
        }
        outline
    }

    fn below(&self, name: &str) -> Option<&Self> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, below)| below)
    }

    fn is_end(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a pass finds.
pub(super) struct Found {
    pub labels: Labels,
    /// The metadata has a resourceVersion.
    pub versioned: bool,
    /// The members that were asked for, if any were.
    pub outline: Option<Value>,
}

/// Goes over an object.
pub(super) fn scan(json: &[u8], outline: &Outline) -> serde_json::Result<Found> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let mut found = Found { labels: Labels::default(), versioned: false, outline: None };
    let tree = Object { outline, found: &mut found }.deserialize(&mut reader)?;
    reader.end()?;
    found.outline = (!outline.is_end()).then_some(Value::Object(tree));
    Ok(found)
}

/// The whole object.
struct Object<'a> {
    outline: &'a Outline,
    found: &'a mut Found,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut kept = Map::new();
        while let Some(name) = members.next_key_seed(Name)? {
            let below = self.outline.below(&name);
            if name == "metadata" {
                let nothing = Outline::default();
                let metadata = Metadata { outline: below.unwrap_or(&nothing), found: &mut *self.found };
                kept.insert(name, members.next_value_seed(metadata)?);
            } else if let Some(outline) = below {
                kept.insert(name, members.next_value_seed(Kept { outline })?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(kept)
    }
}

/// The metadata, which may be null.
struct Metadata<'a> {
    outline: &'a Outline,
    found: &'a mut Found,
}

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metadata")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(name) = members.next_key_seed(Name)? {
            if name == "labels" {
                let labels: Option<BTreeMap<Box<str>, Box<str>>> = members.next_value()?;
                self.found.labels = Labels::new(labels.unwrap_or_default());
            } else if let Some(outline) = self.outline.below(&name) {
                kept.insert(name, members.next_value_seed(Kept { outline })?);
            } else {
                self.found.versioned |= name == "resourceVersion";
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Object(kept))
    }
}

/// The name of a member.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<String, D::Error> {
        serde::Deserialize::deserialize(reader)
    }
}

/// A value, of which the outline says what is kept.
#[derive(Clone, Copy)]
struct Kept<'a> {
    outline: &'a Outline,
}

impl<'de> DeserializeSeed<'de> for Kept<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        if self.outline.is_end() { serde::Deserialize::deserialize(reader) } else { reader.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Kept<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
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
        let mut kept = Map::new();
        while let Some(name) = members.next_key_seed(Name)? {
            match self.outline.below(&name) {
                Some(outline) => drop(kept.insert(name, members.next_value_seed(Kept { outline })?)),
                None => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(kept))
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
    fn what_is_asked_for_is_found() {
        let text = r#"{"kind":"X","metadata":{"name":"x","labels":{"b":"\u0041","a":"x"},"managedFields":[{"a":1}]},
            "spec":{"a":[{"b":1,"c":2},{"c":[3]}],"d":-0.5,"e":{"f":{"g":null}},"h":0}}"#;
        let outline = Outline::of(["spec.a.c", "spec.d", "spec.e", "metadata.name", "nothing"]);
        let found = scan(text.as_bytes(), &outline).unwrap();
        let want = json!({"metadata": {"name": "x"}, "spec": {"a": [{"c": 2}, {"c": [3]}], "d": -0.5, "e": {"f": {"g": null}}}});
        assert_eq!(found.outline, Some(want));
        assert_eq!(found.labels.iter().collect::<Vec<_>>(), [("a", "x"), ("b", "A")]);
        assert!(!found.versioned);
        let found = scan(br#"{"metadata":{"labels":null,"resourceVersion":"1"}}"#, &Outline::default()).unwrap();
        assert!(found.versioned && found.outline.is_none());
        for damaged in [&b"{"[..], b"{} x", b"[]", br#"{"metadata":1}"#] {
            assert!(scan(damaged, &outline).is_err());
        }
        assert!(scan(br#"{"metadata":null}"#, &outline).is_ok());
    }

    /// Objects with every field of their type filled have the same selectable fields either way.
    #[test]
    fn every_selectable_field_is_in_the_outline() {
        for resource in catalog().resources().filter(|resource| resource.storage.is_some()) {
            let strategy = crate::resources::strategy(resource.group, resource.plural);
            let ty = common::schema::lookup(resource.group, resource.version, resource.kind);
            let Some(object) = ty.map(|ty| filled(ty, 8)) else { continue };
            let outline = Outline::of(strategy.read_for_fields());
            let outlined = scan(object.to_string().as_bytes(), &outline).unwrap().outline.unwrap();
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
