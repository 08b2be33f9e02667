//! Validation of pod updates.

use serde_json::Value;

use crate::resources::field::ErrorList;

pub(crate) fn validate(_new: &Value, _old: &Value, _sub: Option<&str>, _errs: &mut ErrorList) {}
