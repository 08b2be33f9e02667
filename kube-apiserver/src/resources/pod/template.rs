//! Validation of pod templates.

use serde_json::Value;

use super::validate::pod_spec;
use crate::resources::{
    field::{ErrorList, Path},
    metadata,
    value::{at, list_at, strings_at},
};

/// The template at a dotted path of its owner; `path` names it.
pub(crate) fn validate(owner: &Value, field: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let nothing = Value::Null;
    let template = at(owner, field).unwrap_or(&nothing);
    metadata::labels(strings_at(template, "metadata.labels"), &path.child("labels"), errs);
    metadata::annotations(template, &path.child("annotations"), errs);
    pod_spec(at(template, "spec").unwrap_or(&nothing), None, &path.child("spec"), errs);
    if !list_at(template, "spec.ephemeralContainers").is_empty() {
        errs.forbidden(&path.child("spec.ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}
