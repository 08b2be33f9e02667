//! YAML bodies: what they say as JSON, and which keys they say twice.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Budget, DuplicateKeyPolicy, Options, Spanned};

/// Deeper documents are refused.
const MAX_DEPTH: usize = 128;

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

/// Reads a document.
///
/// # Errors
/// It is no YAML.
pub fn read(bytes: &[u8]) -> Result<Document, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "yaml: invalid UTF-8".to_owned())?;
    let mut twice = Vec::new();
    let value = parse(text)?.into_value(&mut twice);
    Ok(Document { value, twice })
}

/// A document with the lines of its keys.
enum Node {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(Spanned<Key>, Node)>),
}

/// A key, whatever it is in YAML, as JSON has it.
struct Key(String);

fn parse(text: &str) -> Result<Node, String> {
    let mut budget = Budget::default();
    budget.max_depth = MAX_DEPTH;
    let mut options = Options::default();
    options.budget = Some(budget);
    options.duplicate_keys = DuplicateKeyPolicy::LastWins;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| told(&error.to_string()))
}

/// An error in the form of upstream's reader: a line unless it is the first, and no picture of it.
fn told(error: &str) -> String {
    let error = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
    let Some((line, what)) = error.strip_prefix("line ").and_then(|rest| {
        let (place, what) = rest.split_once(": ")?;
        Some((place.split(' ').next()?, what))
    }) else {
        return format!("yaml: {error}");
    };
    if line == "1" { format!("yaml: {what}") } else { format!("yaml: line {line}: {what}") }
}

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
                        let quoted = crate::resources::field::go_quote(&key.value.0);
                        twice.push(format!("line {}: key {quoted} already set in map", key.referenced.line()));
                    }
                    object.insert(key.value.0, value);
                }
                Value::Object(object)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
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

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element()? {
            list.push(node);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = access.next_entry()? {
            members.push(member);
        }
        Ok(Node::Map(members))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Node::deserialize(deserializer)? {
            Node::Scalar(Value::String(text)) => Ok(Self(text)),
            Node::Scalar(scalar) => Ok(Self(scalar.to_string())),
            _ => Err(serde::de::Error::custom("invalid map key")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_that_occur_twice_are_told_with_their_lines() {
        let yaml = "a: 1\nb:\n  c: x\n  d:\n  - e: 1\n    e: 2\n  c: z\n2: true\n";
        let read = read(yaml.as_bytes()).unwrap();
        assert_eq!(read.value, json!({"a": 1, "b": {"c": "z", "d": [{"e": 2}]}, "2": true}));
        assert_eq!(read.twice, ["line 6: key \"e\" already set in map", "line 7: key \"c\" already set in map"]);
        assert_eq!(
            read.strict_error(),
            "yaml: unmarshal errors:\n  line 6: key \"e\" already set in map\n  line 7: key \"c\" already set in map"
        );
    }

    #[test]
    fn hostile_documents_are_refused() {
        assert!(read("[".repeat(10_000).as_bytes()).is_err());
        assert!(read(&[0xff]).is_err());
        let bomb: String = (1..30).map(|i| format!("a{i}: &a{i} [*a{0}, *a{0}, *a{0}, *a{0}]\n", i - 1)).collect();
        assert!(read(format!("a0: &a0 [x]\n{bomb}").as_bytes()).is_err());
    }
}
