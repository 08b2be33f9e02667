//! Validation of pod templates.

use serde_json::Value;

use crate::resources::field::{ErrorList, Path};

pub(crate) fn validate(_owner: &Value, _at: &str, _path: &Path<'_>, _errs: &mut ErrorList) {}
