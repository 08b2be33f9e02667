//! What can go wrong in a store, by what a caller can do about it.

use super::{KeyValue, Revision};

/// An error of a [`super::Store`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A create found the key present.
    #[error("key {key} already exists")]
    Exists {
        /// The key.
        key: String,
    },
    /// A compare-and-swap found another revision, or no key at all.
    #[error("key {key} was changed by somebody else")]
    Conflict {
        /// The key.
        key: String,
        /// What is there now; `None` when the key does not exist.
        current: Option<Box<KeyValue>>,
    },
    /// The asked revision is before the compacted one.
    #[error("required revision has been compacted (compacted up to {compacted})")]
    Compacted {
        /// The oldest revision that can still be read (0 when the store did not say).
        compacted: Revision,
    },
    /// The asked revision does not exist yet.
    #[error("required revision {requested} is a future revision (current {current})")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// What there is.
        current: Revision,
    },
    /// The value is larger than the store takes.
    #[error("request is too large: {size} bytes, at most {limit}")]
    TooLarge {
        /// The size of the value.
        size: usize,
        /// The largest that is taken.
        limit: usize,
    },
    /// The store is out of reach or did not answer in time; whether a write took effect is unknown.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// The store was closed.
    #[error("store is closed")]
    Closed,
    /// The file cannot be opened because another process holds it.
    #[error("{path}: the store is locked by another process; stop it or choose another data directory")]
    Locked {
        /// The file.
        path: String,
    },
    /// The stored data cannot be read.
    #[error("{path}: the store is damaged: {reason}; restore it from a backup")]
    Corrupt {
        /// The file or key.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Something else: I/O, configuration.
    #[error("store: {0}")]
    Internal(String),
}
