//! An object as the cache keeps it: the bytes clients get, and the little that selectors ask about.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

use super::super::Revision;

/// The labels of an object, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// Labels from pairs in any order.
    pub fn new(pairs: impl IntoIterator<Item = (Box<str>, Box<str>)>) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort();
        Self(pairs.into_boxed_slice())
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(name, _)| (**name).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    /// All labels in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

/// One object of a cache.
#[derive(Debug)]
pub struct CachedObject {
    pub(super) key: Arc<str>,
    pub(super) namespace_at: (u32, u32),
    pub(super) name_at: u32,
    pub(super) revision: Revision,
    pub(super) create_revision: Revision,
    pub(super) bytes: Bytes,
    pub(super) labels: Labels,
    pub(super) fields: Box<[(Cow<'static, str>, Box<str>)]>,
}

impl CachedObject {
    /// The full key in the store.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// The namespace; empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.key.get(self.namespace_at.0 as usize..self.namespace_at.1 as usize).unwrap_or_default()
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.key.get(self.name_at as usize..).unwrap_or_default()
    }

    /// The revision of the last change: the object's resourceVersion, and what a compare-and-swap expects.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision that created it.
    pub fn create_revision(&self) -> Revision {
        self.create_revision
    }

    /// The encoded object with `metadata.resourceVersion` in place.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its labels.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// A selectable field.
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| &**value),
        }
    }
}
