//! Label and field selectors of a query string, compiled for the watch cache.

use std::sync::Arc;

use common::meta::selector::{FieldSelector, LabelSelector};

use super::{ApiError, ApiResult};
use crate::{
    resources::Strategy,
    storage::cache::{FieldRequirement, LabelMatcher, Labels, Selection},
};

/// Compiles a label selector; `None` when it selects everything.
///
/// # Errors
/// 400 with upstream's text.
pub fn labels(text: &str) -> ApiResult<Option<LabelMatcher>> {
    let selector = LabelSelector::parse(text).map_err(ApiError::bad_request)?;
    if selector.is_everything() {
        return Ok(None);
    }
    Ok(Some(Arc::new(move |labels: &Labels| selector.matches_with(|key| labels.get(key)))))
}

/// Compiles a field selector. `stored` gives the stored form's name of a field of the request's version, or `None` when
/// that version does not have it.
///
/// # Errors
/// 400 for malformed terms and for fields that the kind does not offer.
pub fn fields(
    text: &str,
    strategy: &dyn Strategy,
    stored: impl Fn(&str) -> Option<String>,
) -> ApiResult<Vec<FieldRequirement>> {
    let known = strategy.field_labels();
    let selector = FieldSelector::parse(text).map_err(ApiError::bad_request)?;
    let compile = |term: common::meta::selector::FieldTerm| {
        let Some(field) = stored(&term.path).filter(|label| known.contains(&label.as_str())) else {
            // Kinds with fields of their own have words of their own.
            let plain = known.iter().all(|label| matches!(*label, "metadata.name" | "metadata.namespace"));
            return Err(ApiError::bad_request(match strategy.kind() {
                "Job" => format!("field label {:?} not supported for Job", term.path),
                kind if plain || kind == "PersistentVolumeClaim" => format!(
                    "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                    term.path
                ),
                _ => format!("field label not supported: {}", term.path),
            }));
        };
        Ok(FieldRequirement { field, value: term.value, equal: term.equal })
    };
    selector.terms.into_iter().map(compile).collect()
}

/// Everything that a list or watch selects by; `stored` as for [`fields`].
///
/// # Errors
/// 400.
pub fn selection(
    namespace: &str,
    label_selector: &str,
    field_selector: &str,
    strategy: &dyn Strategy,
    stored: impl Fn(&str) -> Option<String>,
) -> ApiResult<Selection> {
    let mut fields = fields(field_selector, strategy, stored)?;
    let name = fields.iter().position(|t| t.equal && t.field == "metadata.name").map(|at| fields.remove(at).value);
    Ok(Selection {
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        name,
        labels: labels(label_selector)?,
        fields,
    })
}
