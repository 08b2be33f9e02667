//! JSON patch (RFC 6902), with the liberties of upstream's library: negative indices count from a list's end, `replace` and
//! `copy` take what is not there for null, and what stands before a pointer's first slash is ignored.

use common::schema::{self, Problem};
use serde_json::{Map, Value};

use super::PatchError;
use super::merge::decoding;

/// Upstream's limit on operations in one patch.
const MAX_OPERATIONS: usize = 10_000;

/// Upstream's limit on what `copy` operations may add up to: repeated copies grow exponentially.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Deeper documents could not be read again; upstream's decoder has such a limit too.
const MAX_DEPTH: usize = 120;

pub(super) fn apply(original: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let operations = operations(patch)?;
    let mut patched = original.clone();
    let mut bounds = Bounds { copied: 0, depth: depth(original) };
    for operation in operations {
        step(&mut patched, operation, &mut bounds)?;
    }
    Ok(patched)
}

/// The operations of a patch; null is none.
pub(super) fn operations(patch: &[u8]) -> Result<Vec<Operation>, PatchError> {
    let patch: Value = serde_json::from_slice(patch).map_err(|error| decoding(&schema::syntax_error(patch, &error)))?;
    let operations = match patch {
        Value::Null => Vec::new(),
        Value::Array(operations) => operations,
        other => return Err(decoding(&super::wrong_shape(&other, "[]handlers.jsonPatchOp"))),
    };
    let operations = operations.into_iter().map(Operation::read).collect::<Result<Vec<_>, _>>()?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    Ok(operations)
}

/// One operation as sent.
pub(super) struct Operation {
    kind: String,
    pub path: Option<String>,
    pub from: Option<String>,
    value: Option<Value>,
}

impl Operation {
    fn read(operation: Value) -> Result<Self, PatchError> {
        let mut members = match operation {
            Value::Object(members) => members,
            Value::Null => Map::new(),
            other => return Err(decoding(&super::wrong_shape(&other, "handlers.jsonPatchOp"))),
        };
        let value = members.remove("value");
        let mut text = |name: &str| match members.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                let shape = super::wrong_shape(&other, "string")
                    .replace("Go value", &format!("Go struct field jsonPatchOp.{name}"));
                Err(decoding(&shape))
            }
        };
        Ok(Self { kind: text("op")?.unwrap_or_default(), path: text("path")?, from: text("from")?, value })
    }
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

fn missing(pointer: &str) -> PatchError {
    rejected(&format!("nothing is at {pointer:?}"))
}

fn step(document: &mut Value, operation: Operation, bounds: &mut Bounds) -> Result<(), PatchError> {
    let Operation { kind, path, from, value } = operation;
    let path = path.ok_or_else(|| rejected(&"an operation has no path"))?;
    let source = || from.as_deref().ok_or_else(|| rejected(&"an operation has no from"));
    match kind.as_str() {
        "add" => {
            let value = value.unwrap_or_default();
            bounds.put(document, &path, depth(&value), Some(&value))?;
            add(document, &path, value)
        }
        "remove" => remove(document, &path).map(drop),
        "replace" => {
            let value = value.unwrap_or_default();
            bounds.put(document, &path, depth(&value), Some(&value))?;
            replace(document, &path, value)
        }
        "move" => {
            let from = source()?;
            // The depth of what moves, from above, without walking it.
            let estimate = bounds.depth.saturating_sub(from.matches('/').count());
            bounds.put(document, &path, estimate, get(document, from)?)?;
            let value = remove(document, from)?;
            add(document, &path, value)
        }
        "copy" => {
            let value = get(document, source()?)?.cloned().unwrap_or_default();
            bounds.copied += if value.is_null() { 0 } else { value.to_string().len() };
            if bounds.copied > MAX_COPIED_BYTES {
                return Err(rejected(&"what is copied adds up to too much"));
            }
            bounds.put(document, &path, depth(&value), Some(&value))?;
            add(document, &path, value)
        }
        "test" => test(document, &path, value.as_ref()),
        other => Err(rejected(&format!("unknown operation {other:?}"))),
    }
}

fn test(document: &Value, path: &str, wanted: Option<&Value>) -> Result<(), PatchError> {
    let found = if path.is_empty() { Some(document) } else { get(document, path)? };
    // Nothing, no value and null are one.
    let [found, wanted] = [found, wanted].map(|value| value.filter(|value| !value.is_null()));
    if found == wanted { Ok(()) } else { Err(rejected(&format!("the test of {path:?} failed"))) }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        if !(value.is_object() || value.is_array()) {
            return Err(rejected(&"a document is an object or a list"));
        }
        *document = value;
        return Ok(());
    }
    let (container, key) = find(document, path)?;
    match container {
        Value::Object(object) => drop(object.insert(key, value)),
        Value::Array(list) => {
            let at = index(&key, list.len()).ok_or_else(|| missing(path))?;
            *list.get_mut(at).ok_or_else(|| missing(path))? = value;
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    let (container, key) = find(document, path)?;
    match container {
        Value::Object(object) => drop(object.insert(key, value)),
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => {
            // Of the list that it will be: -1 is its end.
            let at = index(&key, list.len() + 1).filter(|at| *at <= list.len()).ok_or_else(|| missing(path))?;
            list.insert(at, value);
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, PatchError> {
    let (container, key) = find(document, path)?;
    let removed = match container {
        Value::Object(object) => object.remove(&key),
        Value::Array(list) => index(&key, list.len()).filter(|at| *at < list.len()).map(|at| list.remove(at)),
        _ => None,
    };
    removed.ok_or_else(|| missing(path))
}

/// The value at a pointer; an object has nothing under every name that it does not have.
fn get<'v>(document: &'v Value, path: &str) -> Result<Option<&'v Value>, PatchError> {
    let (parents, key) = split(path)?;
    let container = { parents }.try_fold(document, |container, part| child(container, &part));
    let container = container.ok_or_else(|| missing(path))?;
    match container {
        Value::Object(object) => Ok(object.get(&key)),
        Value::Array(list) => {
            index(&key, list.len()).and_then(|at| list.get(at)).map(Some).ok_or_else(|| missing(path))
        }
        _ => Err(missing(path)),
    }
}

/// The container that holds what a pointer leads to, and its key there.
fn find<'v>(document: &'v mut Value, path: &str) -> Result<(&'v mut Value, String), PatchError> {
    let (parents, key) = split(path)?;
    let container = { parents }.try_fold(document, |container, part| match container {
        Value::Object(object) => object.get_mut(&part),
        Value::Array(list) => index(&part, list.len()).and_then(|at| list.get_mut(at)),
        _ => None,
    });
    Ok((container.ok_or_else(|| missing(path))?, key))
}

fn child<'v>(container: &'v Value, part: &str) -> Option<&'v Value> {
    match container {
        Value::Object(object) => object.get(part),
        Value::Array(list) => index(part, list.len()).and_then(|at| list.get(at)),
        _ => None,
    }
}

/// The keys of the containers on the way, and the last key.
fn split(path: &str) -> Result<(impl Iterator<Item = String>, String), PatchError> {
    let (_, pointer) = path.split_once('/').ok_or_else(|| missing(path))?;
    let (parents, key) = pointer.rsplit_once('/').map_or((None, pointer), |(parents, key)| (Some(parents), key));
    Ok((parents.into_iter().flat_map(|parents| parents.split('/')).map(unescape), unescape(key)))
}

/// `~1` is a slash, `~0` a tilde.
pub(super) fn unescape(key: &str) -> String {
    key.replace("~1", "/").replace("~0", "~")
}

fn index(key: &str, len: usize) -> Option<usize> {
    let at: i64 = key.parse().ok()?;
    if at < 0 { len.checked_sub(usize::try_from(at.unsigned_abs()).ok()?) } else { usize::try_from(at).ok() }
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
    fn takes_the_liberties_of_upstreams_library() {
        let patch = json!([
            {"op": "add", "path": "/l/-1", "value": "end"},
            {"op": "replace", "path": "/l/-2", "value": "Y"},
            {"op": "replace", "path": "/new", "value": 1},
            {"op": "copy", "from": "/none", "path": "/copied"},
            {"op": "add", "path": "/added"},
            {"op": "add", "path": "ignored/~2", "value": 2},
            {"op": "test", "path": "/added"},
        ]);
        let want =
            json!({"a": {"b": 1}, "l": ["x", "Y", "end"], "s/t": 1, "new": 1, "copied": null, "added": null, "~2": 2});
        assert_eq!(patched(&patch).unwrap(), want);
        for refused in [
            json!([{"op": "add", "path": "", "value": {}}]),
            json!([{"op": "replace", "path": "", "value": 1}]),
            json!([{"op": "replace", "path": "/l/7", "value": 1}]),
            json!([{"op": "add", "path": "/l/4", "value": 1}]),
            json!([{"op": "add", "path": "/a/b/c", "value": 1}]),
            json!([{"op": "add", "value": 1}]),
            json!([null]),
        ] {
            assert_eq!(patched(&refused).unwrap_err().code(), 422, "{refused}");
        }
        assert!(patched(&Value::Null).is_ok());
        assert_eq!(
            patched(&json!([{"op": 1}])).unwrap_err().to_string(),
            "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"
        );
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
                "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
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
        assert_eq!(patched(&(0..60).flat_map(double).collect()).unwrap_err().code(), 422);
    }
}
