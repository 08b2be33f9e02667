//! The conditions of status as most kinds have them (`metav1.Condition`).

use serde_json::Value;

use super::{
    checks,
    field::{ErrorList, Path},
    value::{int_at, is_set, list_at, str_at},
};

const LONGEST_REASON: usize = 1024;
const LONGEST_MESSAGE: usize = 32 * 1024;

/// Each type once, every member present and well formed.
pub(crate) fn validate(conditions: &[Value], root: &Path<'_>, errs: &mut ErrorList) {
    let repeated = checks::repeats(conditions, |item| str_at(item, "type"));
    for (i, condition) in conditions.iter().enumerate() {
        let (path, kind) = (root.index(i), str_at(condition, "type"));
        if repeated[i] {
            errs.duplicate(&path.child("type"), kind);
        }
        checks::qualified(kind, &path.child("type"), errs);
        let status = str_at(condition, "status");
        if !matches!(status, "True" | "False" | "Unknown") {
            errs.not_supported(&path.child("status"), status, &["False", "True", "Unknown"]);
        }
        if let Some(generation) = int_at(condition, "observedGeneration").filter(|g| *g < 0) {
            let text = "must be greater than or equal to zero";
            errs.invalid(&path.child("observedGeneration"), generation, text);
        }
        if !is_set(condition, "lastTransitionTime") {
            errs.required(&path.child("lastTransitionTime"), "");
        }
        reason(str_at(condition, "reason"), &path.child("reason"), errs);
        if str_at(condition, "message").len() > LONGEST_MESSAGE {
            errs.too_long(&path.child("message"), LONGEST_MESSAGE);
        }
    }
}

fn reason(reason: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if reason.is_empty() {
        return errs.required(path, "");
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b':');
    let starts = reason.starts_with(|c: char| c.is_ascii_alphabetic());
    let ends = reason.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if !starts || !ends || !reason.bytes().all(inner) {
        errs.invalid(path, reason, "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')");
    }
    if reason.len() > LONGEST_REASON {
        errs.too_long(path, LONGEST_REASON);
    }
}

/// Whether a condition of this type is true.
pub(crate) fn is_true(obj: &Value, kind: &str) -> bool {
    let conditions = list_at(obj, "status.conditions");
    conditions.iter().any(|c| str_at(c, "type") == kind && str_at(c, "status") == "True")
}
