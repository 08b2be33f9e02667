//! Why a patch was refused, with upstream's status code and text.

use common::schema::{Problem, strict_decoding_error};

/// What every 422 of a patch that does not apply says; the reason stays with the server.
const REJECTED: &str = "the server rejected our request due to an error in our request";

/// A refused patch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
    /// The patch is well-formed but does not apply to the object: 422 Invalid. The text is for the log.
    #[error("{REJECTED}")]
    Unprocessable(String),
    /// The patched object does not fit its type: 422 Invalid, with a cause at the field `patch`.
    #[error(" \"\" is invalid: patch: Invalid value: {value:?}: {detail}")]
    Invalid {
        /// The patched object (or the patch), as upstream shows it.
        value: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Too many operations or too large a result: 413 RequestEntityTooLarge.
    #[error("{0}")]
    TooLarge(String),
    /// A patch that this object's type does not support: 415 UnsupportedMediaType.
    #[error("the body of the request was in an unknown format - accepted media types include: {0}")]
    Unsupported(String),
    /// What upstream answers with 500 InternalError: directives that contradict the object's type.
    #[error("{0}")]
    Internal(String),
}

impl PatchError {
    /// The refusal of unknown or duplicate fields under `fieldValidation=Strict`.
    pub fn strict(patched: &str, problems: &[Problem]) -> Self {
        PatchError::Invalid { value: patched.to_owned(), detail: strict_decoding_error(problems) }
    }

    /// Strategic merge of an object without a type.
    pub(super) fn strategic_unsupported() -> Self {
        let accepted = super::MEDIA_TYPES.iter().filter(|media| !media.contains("strategic"));
        PatchError::Unsupported(accepted.copied().collect::<Vec<_>>().join(", "))
    }

    /// HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            PatchError::BadRequest(_) => 400,
            PatchError::Unprocessable(_) | PatchError::Invalid { .. } => 422,
            PatchError::TooLarge(_) => 413,
            PatchError::Unsupported(_) => 415,
            PatchError::Internal(_) => 500,
        }
    }

    /// Status reason.
    pub fn reason(&self) -> &'static str {
        match self {
            PatchError::BadRequest(_) => "BadRequest",
            PatchError::Unprocessable(_) | PatchError::Invalid { .. } => "Invalid",
            PatchError::TooLarge(_) => "RequestEntityTooLarge",
            PatchError::Unsupported(_) => "UnsupportedMediaType",
            PatchError::Internal(_) => "InternalError",
        }
    }
}
