//! JSON patch (RFC 6902).

use common::schema::{self, Problem};
use json_patch::{PatchOperation, jsonptr::PointerBuf};
use serde_json::Value;

use super::PatchError;
use super::merge::decoding;

/// Upstream's limit on operations in one patch.
const MAX_OPERATIONS: usize = 10_000;

/// Upstream's limit on what `copy` operations may add up to: repeated copies grow exponentially.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Deeper documents could not be read again; upstream's decoder has such a limit too.
const MAX_DEPTH: usize = 120;

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
    let mut bounds = Bounds { copied: 0, depth: depth(original) };
    for operation in operations {
        step(&mut patched, operation, &mut bounds)?;
    }
    Ok(patched)
}

/// What a strict decoder finds in a patch: unknown fields of its operations, and `duplicates`, in the patch's order.
pub(super) fn doubts(patch: &[u8], duplicates: Vec<Problem>) -> Vec<Problem> {
    let operations: Vec<Value> = serde_json::from_slice(patch).unwrap_or_default();
    let mut found: Vec<(usize, Problem)> = Vec::new();
    for (at, operation) in operations.iter().enumerate() {
        let unknown = operation.as_object().into_iter().flatten().map(|(name, _)| name);
        let unknown = unknown.filter(|name| !["op", "path", "from", "value"].contains(&name.as_str()));
        found.extend(unknown.map(|name| (at, Problem::UnknownField(format!("[{at}].{name}")))));
    }
    for problem in duplicates {
        let path = problem.to_string();
        let at = path.split(['[', ']']).nth(1).and_then(|at| at.parse().ok()).unwrap_or(usize::MAX);
        found.push((at, problem));
    }
    found.sort_by_key(|(at, _)| *at);
    // Upstream says in which language the path is to be read.
    found.into_iter().map(|(_, problem)| Problem::Other(format!("json patch {problem}"))).collect()
}

/// What grows while operations are applied.
struct Bounds {
    /// Bytes copied so far.
    copied: usize,
    /// The document is at most this deep.
    depth: usize,
}

impl Bounds {
    /// Accounts for a value being put at `path`: `estimate` is at least its depth, `value` the value itself.
    fn put(&mut self, document: &Value, path: &str, estimate: usize, value: Option<&Value>) -> Result<(), PatchError> {
        let level = path.matches('/').count();
        self.depth = self.depth.max(level + estimate);
        if self.depth > MAX_DEPTH {
            // Estimates only grow: look before refusing.
            self.depth = depth(document).max(level + value.map_or(1, depth));
        }
        if self.depth > MAX_DEPTH { Err(rejected(&"exceeded max depth")) } else { Ok(()) }
    }
}

fn depth(value: &Value) -> usize {
    let children: &mut dyn Iterator<Item = &Value> = match value {
        Value::Array(list) => &mut list.iter(),
        Value::Object(object) => &mut object.values(),
        _ => return 1,
    };
    1 + children.map(depth).max().unwrap_or(0)
}

fn rejected(error: &dyn std::fmt::Display) -> PatchError {
    PatchError::Unprocessable(error.to_string())
}

fn step(document: &mut Value, mut operation: Value, bounds: &mut Bounds) -> Result<(), PatchError> {
    for pointer in ["path", "from"] {
        if let Some(Value::String(path)) = operation.get_mut(pointer) {
            *path = count_from_end(document, path);
        }
    }
    let operation: PatchOperation = serde_json::from_value(operation).map_err(|error| rejected(&error))?;
    match &operation {
        PatchOperation::Copy(copy) => {
            let value = document.pointer(copy.from.as_str());
            bounds.copied += value.map_or(0, |value| value.to_string().len());
            if bounds.copied > MAX_COPIED_BYTES {
                return Err(PatchError::TooLarge(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {}, exceeding the limit {MAX_COPIED_BYTES}",
                    bounds.copied
                )));
            }
            bounds.put(document, copy.path.as_str(), value.map_or(1, depth), value)?;
        }
        PatchOperation::Move(moved) => {
            // The depth of what moves, from above, without walking it.
            let estimate = bounds.depth.saturating_sub(moved.from.as_str().matches('/').count());
            bounds.put(document, moved.path.as_str(), estimate, document.pointer(moved.from.as_str()))?;
        }
        PatchOperation::Add(add) => bounds.put(document, add.path.as_str(), depth(&add.value), Some(&add.value))?,
        PatchOperation::Replace(replace) => {
            bounds.put(document, replace.path.as_str(), depth(&replace.value), Some(&replace.value))?
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
    fn bounds_the_depth() {
        let deeper = |_| {
            [
                json!({"op": "add", "path": "/x", "value": {}}),
                json!({"op": "move", "from": "/a", "path": "/x/a"}),
                json!({"op": "move", "from": "/x", "path": "/a"}),
            ]
        };
        assert!(patched(&(0..100).flat_map(deeper).collect()).is_ok());
        assert_eq!(patched(&(0..200).flat_map(deeper).collect()).unwrap_err().code(), 422);
        let shuffle = |_| {
            [json!({"op": "move", "from": "/a", "path": "/y/z"}), json!({"op": "move", "from": "/y/z", "path": "/a"})]
        };
        let add = json!({"op": "add", "path": "/y", "value": {}});
        assert!(patched(&std::iter::once(add).chain((0..500).flat_map(shuffle)).collect()).is_ok());
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
