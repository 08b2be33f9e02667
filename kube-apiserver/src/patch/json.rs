//! JSON patch (RFC 6902).

use common::schema;
use json_patch::{PatchOperation, jsonptr::PointerBuf};
use serde_json::Value;

use super::PatchError;
use super::merge::decoding;

/// Upstream's limit on operations in one patch.
const MAX_OPERATIONS: usize = 10_000;

/// Upstream's limit on what `copy` operations may add up to: repeated copies grow exponentially.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

pub(super) fn apply(original: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let patch: Value = serde_json::from_slice(patch).map_err(|error| decoding(&schema::syntax_error(patch, &error)))?;
    let Value::Array(operations) = patch else {
        return Err(decoding(&super::wrong_shape(&patch, "[]handlers.jsonPatchOp")));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut patched = original.clone();
    let mut copied = 0;
    for operation in operations {
        step(&mut patched, operation, &mut copied)?;
    }
    Ok(patched)
}

fn step(document: &mut Value, mut operation: Value, copied: &mut usize) -> Result<(), PatchError> {
    let rejected = |error: &dyn std::fmt::Display| PatchError::Unprocessable(error.to_string());
    for pointer in ["path", "from"] {
        if let Some(Value::String(path)) = operation.get_mut(pointer) {
            *path = count_from_end(document, path);
        }
    }
    let operation: PatchOperation = serde_json::from_value(operation).map_err(|error| rejected(&error))?;
    match &operation {
        PatchOperation::Copy(copy) => {
            *copied += document.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if *copied > MAX_COPIED_BYTES {
                return Err(PatchError::TooLarge(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED_BYTES}"
                )));
            }
        }
        // A test for null also passes where there is nothing.
        PatchOperation::Test(test) if test.value.is_null() && document.pointer(test.path.as_str()).is_none() => {
            return Ok(());
        }
        _ => {}
    }
    json_patch::patch(document, &[operation]).map_err(|error| rejected(&error))
}

/// Upstream's library also takes negative indices, which count from a list's end.
fn count_from_end(document: &Value, path: &str) -> String {
    let Some((parent, last)) = path.rsplit_once('/') else { return path.to_owned() };
    let Some(back) = last.strip_prefix('-').and_then(|digits| digits.parse::<usize>().ok()) else {
        return path.to_owned();
    };
    match document.pointer(parent).and_then(Value::as_array) {
        Some(list) if (1..=list.len()).contains(&back) => {
            let mut pointer = PointerBuf::parse(parent.to_owned()).unwrap_or_default();
            pointer.push_back(list.len() - back);
            pointer.to_string()
        }
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(patch: &Value) -> Result<Value, PatchError> {
        apply(&json!({"a": {"b": 1}, "l": ["x", "y"], "s/t": 1}), patch.to_string().as_bytes())
    }

    #[test]
    fn applies_operations_in_order() {
        let patch = json!([
            {"op": "test", "path": "/a/b", "value": 1},
            {"op": "replace", "path": "/a/b", "value": 2},
            {"op": "add", "path": "/l/-", "value": "z"},
            {"op": "remove", "path": "/l/0"},
            {"op": "remove", "path": "/l/-1"},
            {"op": "copy", "from": "/a", "path": "/c"},
            {"op": "move", "from": "/s~1t", "path": "/d"},
            {"op": "test", "path": "/nothing", "value": null},
        ]);
        assert_eq!(patched(&patch).unwrap(), json!({"a": {"b": 2}, "l": ["y"], "c": {"b": 2}, "d": 1}));
    }

    #[test]
    fn refuses_with_upstreams_code_and_text() {
        for (patch, code, text) in [
            (
                json!([{"op": "test", "path": "/a/b", "value": 2}]),
                422,
                "the server rejected our request due to an error in our request",
            ),
            (
                json!([{"op": "remove", "path": "/absent"}]),
                422,
                "the server rejected our request due to an error in our request",
            ),
            (
                json!([{"op": "fly", "path": "/a"}]),
                422,
                "the server rejected our request due to an error in our request",
            ),
            (
                json!({"op": "remove"}),
                400,
                "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
            ),
            (
                Value::Array(vec![json!({"op": "test", "path": "/a/b", "value": 1}); 10_001]),
                413,
                "The allowed maximum operations in a JSON patch is 10000, got 10001",
            ),
        ] {
            let refused = patched(&patch).unwrap_err();
            assert_eq!((refused.code(), refused.to_string().as_str()), (code, text));
        }
    }

    #[test]
    fn bounds_what_copies_add_up_to() {
        let double = |i: usize| {
            [
                json!({"op": "copy", "from": "/a", "path": "/t"}),
                json!({"op": "copy", "from": "/t", "path": format!("/a/{i}")}),
            ]
        };
        assert_eq!(patched(&(0..60).flat_map(double).collect()).unwrap_err().code(), 413);
    }
}
