//! Decoding into a type as Go's decoder does: unknown fields and nulls are dropped, unknown and duplicate fields and
//! values of a wrong type are reported with upstream's texts and paths.

use std::fmt;

use serde_json::Value;

use super::table::Type;

/// Something a strict decoder objects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A field that the type does not have.
    UnknownField(String),
    /// A field that occurs twice in one object.
    DuplicateField(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::UnknownField(path) => write!(f, "unknown field \"{path}\""),
            Problem::DuplicateField(path) => write!(f, "duplicate field \"{path}\""),
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
    let _ = ty;
    match serde_json::from_slice(bytes) {
        Ok(value) => Decoded { value, ..Decoded::default() },
        Err(error) => Decoded { error: Some(error.to_string()), ..Decoded::default() },
    }
}

/// Decodes a tree into a type (after a patch, say): as [`decode`], but duplicates can no longer be seen.
pub fn prune(ty: Type<'_>, value: &Value) -> Decoded {
    let _ = ty;
    Decoded { value: value.clone(), ..Decoded::default() }
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
