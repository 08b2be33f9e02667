//! Patches: JSON patch, merge patch, strategic merge patch; server-side apply is in [`fields`].
//!
//! [`apply`] is pure: document and patch in, patched document out. Admission, validation and storage are the caller's.

mod configuration;
mod error;
pub mod fields;
mod gotext;
mod json;
mod merge;
mod shown;
mod strategic;

pub use configuration::read_configuration;
pub use error::PatchError;

use common::{
    api::catalog,
    schema::{self, Decoded, Problem, Type},
};
use serde_json::{Map, Value};

use crate::request::{
    body::Expected,
    type_meta::{Mismatch, TypeMeta},
};

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
    /// What a refusal shows: the patched document, or the patch.
    pub shown: String,
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
        PatchType::Apply => Err(PatchError::Internal("an apply needs to know who applies".to_owned())),
    }
}

/// [`apply`], and then decodes the outcome into the type as upstream does: values of a wrong type are an error, unknown
/// fields are dropped and, when `strict`, reported with duplicate ones. A patch that makes another kind of it is refused.
pub fn apply_typed(
    kind: PatchType,
    original: &Value,
    patch: &[u8],
    (expected, ty): (Expected<'_>, Type<'_>),
    strict: bool,
) -> Result<Patched, PatchError> {
    let value = apply(kind, original, patch, Some(ty))?;
    let shown = || shown_text(kind, original, patch, &value, ty);
    let refused = |detail: String| PatchError::Invalid { value: shown(), detail };
    let decoded = match kind {
        PatchType::StrategicMerge => schema::convert(ty, &value),
        _ => decode(expected, ty, &value).map_err(refused)?,
    };
    if let Some(detail) = decoded.error {
        return Err(refused(detail));
    }
    let mut problems = if strict { doubts(kind, patch) } else { Vec::new() };
    problems.extend(decoded.problems);
    let shown = if problems.is_empty() { String::new() } else { shown() };
    Ok(Patched { value: decoded.value, problems, shown })
}

/// Decodes a patched document into what it says that it is.
fn decode(expected: Expected<'_>, ty: Type<'_>, value: &Value) -> Result<Decoded, String> {
    let meta = TypeMeta::of(value).map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))?;
    if meta.api_version.as_deref().is_none_or(str::is_empty) {
        // Without a version upstream decodes into its internal type, which knows none of the names.
        let unknown = value.as_object().into_iter().flatten().map(|(name, _)| name);
        let unknown = unknown.filter(|name| !matches!(name.as_str(), "kind" | "apiVersion"));
        let problems = unknown.map(|name| Problem::UnknownField(name.clone())).collect();
        return Ok(Decoded { value: Value::Object(Map::new()), problems, error: None });
    }
    match meta.check(expected) {
        Ok(()) | Err(Mismatch::Version(_)) => Ok(schema::prune(ty, value)),
        Err(Mismatch::Unreadable(error)) => Err(error),
        Err(Mismatch::Kind { kind, error, .. }) => {
            let (group, version) = catalog::split_api_version(meta.api_version.as_deref().unwrap_or_default());
            let other = schema::lookup(group, version, &kind).and_then(|ty| schema::prune(ty, value).error);
            Err(other.unwrap_or(error))
        }
    }
}

/// What a refusal shows: the patched document, or of a strategic merge the patch.
fn shown_text(kind: PatchType, original: &Value, patch: &[u8], value: &Value, ty: Type<'_>) -> String {
    let tree = || serde_json::from_slice::<Value>(patch).unwrap_or_default();
    match kind {
        PatchType::StrategicMerge => gotext::go_text(&tree()),
        PatchType::Merge => shown::shown(value, ty, &shown::Merged { original, patch: &tree() }),
        _ => shown::shown(value, ty, &shown::Operated::of(patch)),
    }
}

/// What a strict decoder finds in the patch itself: fields that occur twice, operations with unknown fields.
fn doubts(kind: PatchType, patch: &[u8]) -> Vec<Problem> {
    let found = schema::duplicate_fields(patch);
    match kind {
        PatchType::Json => json::doubts(patch, found),
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
