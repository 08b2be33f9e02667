//! Patches: JSON patch, merge patch, strategic merge patch (server-side apply comes with its own issue).
//!
//! [`apply`] is pure: document and patch in, patched document out. Admission, validation and storage are the caller's.

mod error;
mod gotext;
mod json;
mod merge;
mod strategic;

pub use error::PatchError;

use common::schema::{self, Problem, Type};
use serde_json::Value;

/// How a patch's body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Merge along the type's merge keys.
    StrategicMerge,
    /// Server-side apply.
    Apply,
}

/// The media types of patches, in the order upstream lists them in a 415.
pub const MEDIA_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

impl PatchType {
    /// The patch type of a `Content-Type` (parameters are ignored).
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::StrategicMerge),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// A patched document that fits its type.
#[derive(Debug, Clone, PartialEq)]
pub struct Patched {
    /// The document, without unknown fields and nulls.
    pub value: Value,
    /// Unknown and duplicate fields, to be ignored, warned about or refused ([`PatchError::strict`]).
    pub problems: Vec<Problem>,
}

/// Applies `patch` to `original`. `ty` is the type of the object; without one strategic merge is refused, as upstream
/// refuses it for custom resources.
pub fn apply(kind: PatchType, original: &Value, patch: &[u8], ty: Option<Type<'_>>) -> Result<Value, PatchError> {
    match kind {
        PatchType::Json => json::apply(original, patch),
        PatchType::Merge => merge::apply(original, patch),
        PatchType::StrategicMerge => {
            let ty = ty.ok_or_else(PatchError::strategic_unsupported)?;
            let patch = serde_json::from_slice(patch)
                .map_err(|error| PatchError::BadRequest(schema::syntax_error(patch, &error)))?;
            strategic::apply(original, patch, ty)
        }
        PatchType::Apply => Err(PatchError::apply_unsupported()),
    }
}

/// [`apply`], and then decodes the outcome into the type as upstream does: values of a wrong type are an error, unknown
/// fields are dropped and reported.
pub fn apply_typed(kind: PatchType, original: &Value, patch: &[u8], ty: Type<'_>) -> Result<Patched, PatchError> {
    let mut problems = duplicates(kind, patch);
    let value = apply(kind, original, patch, Some(ty))?;
    let decoded = match kind {
        PatchType::StrategicMerge => schema::convert(ty, &value),
        _ => schema::prune(ty, &value),
    };
    if let Some(detail) = decoded.error {
        let shown = match kind {
            PatchType::StrategicMerge => {
                serde_json::from_slice(patch).map(|patch| gotext::go_text(&patch)).unwrap_or_default()
            }
            _ => value.to_string(),
        };
        return Err(PatchError::Invalid { value: shown, detail });
    }
    problems.extend(decoded.problems);
    Ok(Patched { value: decoded.value, problems })
}

/// Fields that occur twice in the patch itself.
fn duplicates(kind: PatchType, patch: &[u8]) -> Vec<Problem> {
    let found = schema::duplicate_fields(patch);
    match kind {
        // Upstream says in which language the path is to be read.
        PatchType::Json => found.into_iter().map(|problem| Problem::Other(format!("json patch {problem}"))).collect(),
        _ => found,
    }
}

/// Go's complaint about a body of the wrong shape.
fn wrong_shape(value: &Value, wanted: &str) -> String {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {found} into Go value of type {wanted}")
}
