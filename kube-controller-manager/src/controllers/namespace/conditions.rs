//! The five conditions that tell why a namespace is still there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NamespaceCondition, NamespaceStatus};

use crate::shared::meta::now_time;

/// What one pass over the content found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) discovery_failure: Option<String>,
    pub(super) delete_errors: Vec<String>,
    /// `resource.group` and how many are left.
    pub(super) remaining: BTreeMap<String, usize>,
    /// Finalizer and how many objects it holds.
    pub(super) finalizers: BTreeMap<String, usize>,
}

/// Type, reason and message when all is well.
const GOOD: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

/// Writes the conditions into the status; tells whether anything changed.
pub(super) fn update(status: &mut NamespaceStatus, findings: &Findings) -> bool {
    let mut changed = false;
    for (kind, reason, message) in GOOD {
        let bad = problem(kind, findings);
        let (state, reason, message) = match bad {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", reason, message.to_owned()),
        };
        changed |= set(status.conditions.get_or_insert_default(), kind, state, reason, message);
    }
    changed
}

fn problem(kind: &str, findings: &Findings) -> Option<(&'static str, String)> {
    match kind {
        "NamespaceDeletionDiscoveryFailure" => {
            findings.discovery_failure.clone().map(|message| ("DiscoveryFailed", message))
        }
        "NamespaceDeletionContentFailure" if !findings.delete_errors.is_empty() => {
            let mut list = findings.delete_errors.clone();
            list.sort_unstable();
            let message = format!("Failed to delete all resource types, {} remaining: {}", list.len(), list.join(", "));
            Some(("ContentDeletionFailed", message))
        }
        "NamespaceContentRemaining" if !findings.remaining.is_empty() => {
            let list: Vec<String> =
                findings.remaining.iter().map(|(name, n)| format!("{name} has {n} resource instances")).collect();
            Some(("SomeResourcesRemain", format!("Some resources are remaining: {}", list.join(", "))))
        }
        "NamespaceFinalizersRemaining" if !findings.finalizers.is_empty() => {
            let list: Vec<String> =
                findings.finalizers.iter().map(|(name, n)| format!("{name} in {n} resource instances")).collect();
            let message = format!("Some content in the namespace has finalizers remaining: {}", list.join(", "));
            Some(("SomeFinalizersRemain", message))
        }
        _ => None,
    }
}

fn set(list: &mut Vec<NamespaceCondition>, kind: &str, state: &str, reason: &str, message: String) -> bool {
    let found = list.iter_mut().find(|c| c.type_ == kind);
    let Some(c) = found else {
        list.push(NamespaceCondition {
            type_: kind.to_owned(),
            status: state.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(now_time()),
        });
        return true;
    };
    if c.status == state && c.reason.as_deref() == Some(reason) && c.message.as_ref() == Some(&message) {
        return false;
    }
    if c.status != state {
        c.last_transition_time = Some(now_time());
    }
    state.clone_into(&mut c.status);
    c.reason = Some(reason.to_owned());
    c.message = Some(message);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let mut status = NamespaceStatus::default();
        let mut findings = Findings::default();
        findings.remaining.insert("pods.".into(), 2);
        findings.finalizers.insert("a/b".into(), 1);
        assert!(update(&mut status, &findings));
        assert!(!update(&mut status, &findings));
        let get = |s: &NamespaceStatus, kind: &str| {
            let c = s.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap().clone();
            (c.status, c.reason.unwrap(), c.message.unwrap())
        };
        assert_eq!(
            get(&status, "NamespaceContentRemaining"),
            (
                "True".into(),
                "SomeResourcesRemain".into(),
                "Some resources are remaining: pods. has 2 resource instances".into()
            )
        );
        assert_eq!(get(&status, "NamespaceDeletionContentFailure").0, "False");
        assert!(update(&mut status, &Findings::default()));
        assert_eq!(get(&status, "NamespaceContentRemaining").1, "ContentRemoved");
        let failing = Findings { delete_errors: vec!["b".into(), "a".into()], ..Findings::default() };
        update(&mut status, &failing);
        assert_eq!(
            get(&status, "NamespaceDeletionContentFailure").2,
            "Failed to delete all resource types, 2 remaining: a, b"
        );
    }
}
