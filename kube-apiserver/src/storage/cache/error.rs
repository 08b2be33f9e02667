//! Why a read or watch of the cache failed; each maps to one Status at the HTTP edge.

use super::super::{Revision, StoreError};

/// An error of a [`super::ResourceCache`]. Display is the Status message upstream sends.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CacheError {
    /// 410 Expired. `continue_token` goes to `metadata.continue` of the Status when present.
    #[error("{message}")]
    Expired {
        /// The message.
        message: String,
        /// A token that continues inconsistently at the newest state.
        continue_token: Option<String>,
    },
    /// 400 BadRequest: a continue token or version that cannot be used.
    #[error("{0}")]
    BadRequest(String),
    /// 504 Timeout with the cause `ResourceVersionTooLarge` and `retryAfterSeconds: 1`.
    #[error("Too large resource version: {requested}, current: {current}")]
    TooLargeResourceVersion {
        /// What was asked for.
        requested: Revision,
        /// Where the cache is.
        current: Revision,
    },
    /// 503 ServiceUnavailable: the cache is starting, or the store is out of reach.
    #[error("{0}")]
    Unavailable(String),
    /// An error of the store behind the cache.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CacheError {
    /// A 410 without a continue token.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::Expired { message: message.into(), continue_token: None }
    }
}
