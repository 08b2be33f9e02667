//! Why an apply was refused: fields that other managers own with other values.

use super::managers::{Manager, Operation};
use super::set::Set;
use crate::resources::field::go_quote;

/// What one manager owns and the applier wants otherwise.
#[derive(Debug)]
pub(super) struct Conflict<'a> {
    pub manager: Manager<'a>,
    /// The version in which the fields are named.
    pub api_version: String,
    pub fields: Set<'a>,
}

/// One field of a conflict, as the details of the Status tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `conflict with "manager" using apps/v1`
    pub message: String,
    /// The path.
    pub field: String,
}

impl Conflict<'_> {
    /// The manager as messages name it.
    fn shown(&self) -> String {
        let mut text = go_quote(&self.manager.name);
        if !self.manager.subresource.is_empty() {
            text = format!("{text} with subresource {}", go_quote(&self.manager.subresource));
        }
        if self.manager.operation == Operation::Update {
            text = format!("{text} using {}", self.api_version);
        }
        text
    }
}

/// The message of the 409 and its causes.
pub(super) fn explain(conflicts: &[Conflict<'_>]) -> (String, Vec<Cause>) {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for conflict in conflicts {
        let with = conflict.shown();
        let paths = conflict.fields.paths();
        lines.push(format!("conflicts with {with}:"));
        lines.extend(paths.iter().map(|path| format!("- {path}")));
        let cause = |field| Cause { message: format!("conflict with {with}"), field };
        causes.extend(paths.into_iter().map(cause));
    }
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n")),
    };
    (message, causes)
}

/// Conflicts without what is in `allowed`.
pub(super) fn without<'a>(conflicts: Vec<Conflict<'a>>, allowed: &Set<'_>) -> Vec<Conflict<'a>> {
    let reduced = conflicts.into_iter().map(|conflict| {
        let fields = conflict.fields.difference(allowed);
        Conflict { fields, ..conflict }
    });
    reduced.filter(|conflict| !conflict.fields.is_empty()).collect()
}
