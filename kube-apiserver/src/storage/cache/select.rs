//! What a list or watch asks for, compiled: namespace, name, labels, fields. No tree of the object is needed to decide.

use std::sync::Arc;

use super::{CachedObject, Labels};

/// A compiled label selector.
pub type LabelMatcher = Arc<dyn Fn(&Labels) -> bool + Send + Sync>;

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field, for example `spec.nodeName`.
    pub field: String,
    /// The value.
    pub value: String,
    /// Whether the field must equal (`=`) or differ (`!=`).
    pub equal: bool,
}

/// A conjunction of everything that a client selects by.
#[derive(Clone, Default)]
pub struct Selection {
    /// Only this namespace; all when absent.
    pub namespace: Option<String>,
    /// Only this name.
    pub name: Option<String>,
    /// Only objects whose labels match.
    pub labels: Option<LabelMatcher>,
    /// Only objects whose fields match. `metadata.name` and `metadata.namespace` are always known.
    pub fields: Vec<FieldRequirement>,
}

impl Selection {
    /// Everything in a namespace, or everything at all.
    pub fn namespace(namespace: Option<&str>) -> Self {
        Self { namespace: namespace.map(str::to_owned), ..Self::default() }
    }

    /// Whether anything but the namespace narrows the selection.
    pub fn is_filtered(&self) -> bool {
        self.name.is_some() || self.labels.is_some() || !self.fields.is_empty()
    }

    /// Whether `object` is selected.
    pub fn matches(&self, object: &CachedObject) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == object.namespace())
            && self.name.as_deref().is_none_or(|name| name == object.name())
            && self.fields.iter().all(|term| (object.field(&term.field) == Some(&term.value)) == term.equal)
            && self.labels.as_ref().is_none_or(|labels| labels(object.labels()))
    }

    /// The value a field must have for an object to be selected.
    pub(crate) fn required(&self, field: &str) -> Option<&str> {
        self.fields.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }
}
