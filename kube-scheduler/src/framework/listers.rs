//! What plugins may ask about objects other than nodes and pods.

use std::collections::BTreeMap;

use common::meta::selector::LabelSelector;

use super::template::Template;

/// A disruption budget, as preemption counts with it.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Which pods it protects.
    pub selector: LabelSelector,
    /// How many of them may go now.
    pub allowed: i32,
    /// Pods whose disruption is already counted.
    pub disrupted: Vec<String>,
}

/// Other objects.
pub trait Listers: Send + Sync {
    /// Labels of a namespace; empty when unknown.
    fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String>;
    /// Changes with every namespace that does: whatever was worked out from their labels is void then.
    fn namespaces_version(&self) -> u64 {
        0
    }
    /// What Services and the controller of the pod select it by; `None` when nothing does.
    fn default_selector(&self, template: &Template) -> Option<LabelSelector>;
    /// Budgets of a namespace.
    fn budgets(&self, namespace: &str) -> Vec<Budget>;
}

/// Nothing but nodes and pods exists.
pub struct NoListers;

impl Listers for NoListers {
    fn namespace_labels(&self, _namespace: &str) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    fn default_selector(&self, _template: &Template) -> Option<LabelSelector> {
        None
    }
    fn budgets(&self, _namespace: &str) -> Vec<Budget> {
        Vec::new()
    }
}
