//! What a list asks and answers.

use std::sync::Arc;

use super::{super::Revision, CachedObject, Selection};

/// Which state a read wants, from `resourceVersion` and `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResourceVersion {
    /// Unset: the newest state, every write acknowledged before the call included.
    #[default]
    MostRecent,
    /// `0`: whatever the cache has.
    Any,
    /// A number (`NotOlderThan`): at least this revision.
    NotOlderThan(Revision),
    /// `Exact`: this very revision.
    Exact(Revision),
}

/// A list request.
#[derive(Clone, Default)]
pub struct ListQuery {
    /// What is asked for.
    pub selection: Selection,
    /// At most so many items; 0 means all.
    pub limit: usize,
    /// The continue token of the page before; the version must then be `MostRecent`.
    pub continue_token: Option<String>,
    /// Which state.
    pub version: ResourceVersion,
}

/// A page of a list.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// The objects in key order.
    pub items: Vec<Arc<CachedObject>>,
    /// The list's resourceVersion.
    pub revision: Revision,
    /// The token for the next page.
    pub continue_token: Option<String>,
    /// `remainingItemCount`; absent with selectors or on the last page.
    pub remaining: Option<u64>,
}
