//! Why a patch was refused, with upstream's status code and text.

/// A refused patch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
    /// The patch is well-formed but does not fit the object: 422 Invalid.
    #[error("{0}")]
    Unprocessable(String),
    /// Too many operations: 413 RequestEntityTooLarge.
    #[error("{0}")]
    TooLarge(String),
    /// Strategic merge needs a type: 415 UnsupportedMediaType.
    #[error(
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    )]
    StrategicUnsupported,
    /// Server-side apply is not served yet: 415 UnsupportedMediaType.
    #[error(
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
    )]
    ApplyUnsupported,
}

impl PatchError {
    /// HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            PatchError::BadRequest(_) => 400,
            PatchError::Unprocessable(_) => 422,
            PatchError::TooLarge(_) => 413,
            PatchError::StrategicUnsupported | PatchError::ApplyUnsupported => 415,
        }
    }

    /// Status reason.
    pub fn reason(&self) -> &'static str {
        match self {
            PatchError::BadRequest(_) => "BadRequest",
            PatchError::Unprocessable(_) => "Invalid",
            PatchError::TooLarge(_) => "RequestEntityTooLarge",
            PatchError::StrategicUnsupported | PatchError::ApplyUnsupported => "UnsupportedMediaType",
        }
    }
}
