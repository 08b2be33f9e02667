//! YAML: what its first document says as JSON, and which keys it says twice, with limits that no honest manifest reaches.

mod errors;
#[cfg(test)]
mod tests;

use std::{cell::Cell, fmt};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Budget, DuplicateKeyPolicy, Options, Spanned};

/// Deeper documents are refused.
const MAX_DEPTH: usize = 64;
/// Aliases may make a document's text this many times larger than it is, or this large (bytes), whichever is more.
const MAX_GROWTH: usize = 8;
const MIN_OUTPUT: usize = 1 << 20;

/// A document.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Document {
    /// What it says; of keys that occur twice, the last.
    pub value: Value,
    /// Keys that occur twice: `line 3: key "a" already set in map`.
    pub twice: Vec<String>,
}

impl Document {
    /// What upstream's strict reader says about keys that occur twice.
    #[must_use]
    pub fn strict_error(&self) -> String {
        let lines: Vec<String> = self.twice.iter().map(|line| format!("\n  {line}")).collect();
        format!("yaml: unmarshal errors:{}", lines.concat())
    }
}

/// Reads the first document; as upstream's reader, it does not look at others.
///
/// # Errors
/// It is no YAML, in the words of upstream's reader as far as they are known here.
pub fn read(bytes: &[u8]) -> Result<Document, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "yaml: invalid UTF-8".to_owned())?;
    let text = first_document(text);
    let mut budget = Budget::default();
    budget.max_depth = MAX_DEPTH;
    let mut options = Options::default();
    options.budget = Some(budget);
    options.duplicate_keys = DuplicateKeyPolicy::LastWins;
    options.legacy_octal_numbers = true;
    let left = Cell::new(MIN_OUTPUT.max(text.len().saturating_mul(MAX_GROWTH)));
    let node = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        Reader { left: &left }.deserialize(deserializer)
    });
    let node = node.map_err(|error| errors::told(&error.to_string(), text))?;
    let mut twice = Vec::new();
    let value = node.into_value(&mut twice);
    Ok(Document { value, twice })
}

/// The text up to the line that ends the first document.
fn first_document(text: &str) -> &str {
    let mut begun = false;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let marks = |mark: &str| {
            line.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        if begun && (marks("---") || marks("...")) {
            return &text[..at];
        }
        begun |= !(line.trim().is_empty() || line.starts_with(['#', '%']));
        at += line.len();
    }
    text
}

/// A document with the lines of its keys.
enum Node {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(Spanned<Key>, Node)>),
}

/// A key, whatever it is in YAML, as JSON has it.
struct Key(String);

impl Node {
    fn into_value(self, twice: &mut Vec<String>) -> Value {
        match self {
            Self::Scalar(value) => value,
            Self::List(list) => Value::Array(list.into_iter().map(|node| node.into_value(twice)).collect()),
            Self::Map(members) => {
                let mut object = Map::new();
                for (key, node) in members {
                    let value = node.into_value(twice);
                    if object.contains_key(&key.value.0) {
                        let quoted = Value::from(key.value.0.as_str());
                        twice.push(format!("line {}: key {quoted} already set in map", key.referenced.line()));
                    }
                    object.insert(key.value.0, value);
                }
                Value::Object(object)
            }
        }
    }
}

/// Reads a node, as long as enough bytes are left.
#[derive(Clone, Copy)]
struct Reader<'l> {
    left: &'l Cell<usize>,
}

impl Reader<'_> {
    fn take<E: serde::de::Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(bytes).ok_or_else(|| E::custom(errors::TOO_MANY_ALIASES))?;
        self.left.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom(format!("non-finite float `{value}`")))?;
        Ok(Node::Scalar(Value::Number(number)))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Node, E> {
        self.take(value.len())?;
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element_seed(self)? {
            list.push(node);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(key) = access.next_key::<Spanned<Key>>()? {
            self.take(key.value.0.len())?;
            members.push((key, access.next_value_seed(self)?));
        }
        Ok(Node::Map(members))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let left = Cell::new(usize::MAX);
        match (Reader { left: &left }).deserialize(deserializer)? {
            Node::Scalar(Value::String(text)) => Ok(Self(text)),
            Node::Scalar(scalar) => Ok(Self(scalar.to_string())),
            _ => Err(D::Error::custom("invalid map key")),
        }
    }
}
