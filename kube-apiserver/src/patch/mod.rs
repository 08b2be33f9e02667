//! Patches: JSON patch, merge patch, strategic merge patch (server-side apply comes with its own issue).
//!
//! [`apply`] is pure: document and patch in, patched document out. Admission, validation and storage are the caller's.

mod error;
mod json;
mod merge;

pub use error::PatchError;

use common::schema::Type;
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

/// Applies `patch` to `original`. `ty` is the type of the object; without one strategic merge is refused, as upstream
/// refuses it for custom resources.
pub fn apply(kind: PatchType, original: &Value, patch: &[u8], ty: Option<Type<'_>>) -> Result<Value, PatchError> {
    match kind {
        PatchType::Json => json::apply(original, patch),
        PatchType::Merge => merge::apply(original, patch),
        PatchType::StrategicMerge => {
            let _ty = ty.ok_or(PatchError::StrategicUnsupported)?;
            merge::apply(original, patch)
        }
        PatchType::Apply => Err(PatchError::ApplyUnsupported),
    }
}
