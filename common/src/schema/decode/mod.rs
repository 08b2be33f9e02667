//! Decoding into a type as Go's decoder does: unknown fields and nulls are dropped, unknown and duplicate fields and
//! values of a wrong type are reported with upstream's texts and paths.
//!
//! One walk ([`walk`]) serves bytes and trees alike: both are serde deserializers.

mod scalar;
mod syntax;
mod texts;
mod walk;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::de::DeserializeSeed;
use serde_json::Value;

use super::table::Type;
pub use syntax::{check_syntax, syntax_error};
use texts::Style;

/// Something a strict decoder objects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A field that the type does not have.
    UnknownField(String),
    /// A field that occurs twice in one object.
    DuplicateField(String),
    /// Anything else, in full.
    Other(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::UnknownField(path) => write!(f, "unknown field \"{path}\""),
            Problem::DuplicateField(path) => write!(f, "duplicate field \"{path}\""),
            Problem::Other(text) => f.write_str(text),
        }
    }
}

/// The outcome of decoding.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoded {
    /// The value, without unknown fields and nulls.
    pub value: Value,
    /// Unknown and duplicate fields: ignored, warned about or refused, as `fieldValidation` says.
    pub problems: Vec<Problem>,
    /// A value of a wrong type (or text that is no JSON): always refused. Go's message, without its context.
    pub error: Option<String>,
}

/// Decodes JSON text into a type.
pub fn decode(ty: Type<'_>, bytes: &[u8]) -> Decoded {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut state = walk::State::new(Style::Json);
    let value = walk::Seed::new(&mut state, Some(ty)).deserialize(&mut deserializer);
    match value.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => state.finish(value),
        Err(error) => Decoded { error: Some(syntax_error(bytes, &error)), ..Decoded::default() },
    }
}

/// Decodes a tree into a type (after a JSON or merge patch, say): as [`decode`], but duplicates can no longer be seen.
pub fn prune(ty: Type<'_>, value: &Value) -> Decoded {
    tree(ty, value, Style::Json)
}

/// As [`prune`], with the messages upstream gives after a strategic merge (it converts trees without a JSON decoder).
pub fn convert(ty: Type<'_>, value: &Value) -> Decoded {
    tree(ty, value, Style::Unstructured)
}

fn tree(ty: Type<'_>, value: &Value, style: Style) -> Decoded {
    let mut state = walk::State::new(style);
    match walk::Seed::new(&mut state, Some(ty)).deserialize(value) {
        Ok(value) => state.finish(value),
        Err(error) => Decoded { error: Some(error.to_string()), ..Decoded::default() },
    }
}

/// Fields that occur twice in an object of JSON text, whatever its type. Text that is no JSON has none.
pub fn duplicate_fields(bytes: &[u8]) -> Vec<Problem> {
    let mut state = walk::State::new(Style::Json);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    match walk::Seed::new(&mut state, None).deserialize(&mut deserializer) {
        Ok(value) => state.finish(value).problems,
        Err(_) => Vec::new(),
    }
}

/// The message of a strict refusal: `strict decoding error: unknown field "spec.foo", ...`.
pub fn strict_decoding_error(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    format!("strict decoding error: {}", texts.join(", "))
}

/// The message of a body that does not decode: `Deployment in version "v1" cannot be handled as a Deployment: ...`.
pub fn cannot_be_handled(kind: &str, version: &str, error: &str) -> String {
    format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {error}")
}
