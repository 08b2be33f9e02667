//! Upstream's golden serializations, and what no serialization may do to the decoders.

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::schema::{self, Type};

/// The golden pairs, every field filled: name, type, protobuf, JSON. None when the machine has no such folder.
fn fixtures() -> Vec<(String, Type<'static>, Vec<u8>, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/api-fixtures");
    let Ok(files) = std::fs::read_dir(&dir) else {
        eprintln!("skipped: no fixtures at {}", dir.display());
        return Vec::new();
    };
    let paths = files.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "pb"));
    let mut found: Vec<_> = paths
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let (group_version, kind) = name.rsplit_once('.').unwrap();
            let (group, version) = group_version.rsplit_once('.').unwrap();
            let ty = schema::lookup(if group == "core" { "" } else { group }, version, kind);
            let ty = ty.unwrap_or_else(|| panic!("no type for {name}"));
            (name, ty, std::fs::read(&path).unwrap(), std::fs::read(path.with_extension("json")).unwrap())
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(found.len() > 150, "{} fixtures", found.len());
    found
}

fn to_json(ty: Type<'_>, bytes: &[u8]) -> Result<Vec<u8>, WireError> {
    let envelope = open(bytes)?;
    let mut out = Vec::new();
    let meta = (!envelope.kind.is_empty()).then_some((envelope.api_version, envelope.kind));
    protobuf_to_json(ty, envelope.raw, meta, &mut out)?;
    Ok(out)
}

fn to_protobuf(ty: Type<'_>, json: &[u8]) -> Result<Vec<u8>, WireError> {
    let tree: Value = serde_json::from_slice(json).unwrap();
    let text = |name: &str| tree[name].as_str().unwrap_or_default().to_owned();
    let mut raw = Vec::new();
    json_to_protobuf(ty, json, &mut raw)?;
    Ok(seal(&text("apiVersion"), &text("kind"), &raw))
}

#[test]
fn golden_protobuf_becomes_its_json() {
    let mut wrong = Vec::new();
    for (name, ty, protobuf, json) in fixtures() {
        let want: Value = serde_json::from_slice(&json).unwrap();
        match to_json(ty, &protobuf) {
            Ok(got) => {
                let got: Value = serde_json::from_slice(&got).unwrap();
                if got != want {
                    wrong.push(format!("{name}: {}", first_difference(&got, &want, "")));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn golden_json_becomes_its_protobuf() {
    let mut wrong = Vec::new();
    for (name, ty, protobuf, json) in fixtures() {
        match to_protobuf(ty, &json) {
            Ok(got) if got == protobuf => {}
            Ok(got) => {
                let at = got.iter().zip(&protobuf).take_while(|(a, b)| a == b).count();
                let around = |b: &[u8]| {
                    String::from_utf8_lossy(&b[at.saturating_sub(40).min(b.len())..b.len().min(at + 20)]).into_owned()
                };
                wrong.push(format!("{name} at {at}: got {:?}, want {:?}", around(&got), around(&protobuf)));
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
        // A tree is read like text, but for the order of members in free-form JSON.
        let tree: Value = serde_json::from_slice(&json).unwrap();
        let mut from_tree = Vec::new();
        tree_to_protobuf(ty, &tree, &mut from_tree).unwrap();
        if from_tree.len() != open(&protobuf).unwrap().raw.len() {
            wrong.push(format!("{name}: tree"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn first_difference(got: &Value, want: &Value, path: &str) -> String {
    match (got, want) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys());
            let found = keys.map(|k| (k, a.get(k).unwrap_or(&Value::Null), b.get(k).unwrap_or(&Value::Null)));
            let found = found.into_iter().find(|(_, x, y)| x != y);
            found.map_or_else(|| path.to_owned(), |(k, x, y)| first_difference(x, y, &format!("{path}.{k}")))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let found = a.iter().zip(b).enumerate().find(|(_, (x, y))| x != y);
            found.map_or_else(|| path.to_owned(), |(i, (x, y))| first_difference(x, y, &format!("{path}[{i}]")))
        }
        _ => format!("{path}: got {got}, want {want}"),
    }
}

fn pod() -> Type<'static> {
    schema::lookup("", "v1", "Pod").unwrap()
}

fn decoded(ty: Type<'_>, raw: &[u8]) -> Result<Value, WireError> {
    let mut out = Vec::new();
    protobuf_to_json(ty, raw, None, &mut out)?;
    Ok(serde_json::from_slice(&out).unwrap())
}

fn encoded(ty: Type<'_>, json: &Value) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    json_to_protobuf(ty, json.to_string().as_bytes(), &mut out)?;
    Ok(out)
}

#[test]
fn zero_values_are_shown_or_left_out_as_go_does() {
    // Nothing on the wire, as an older writer may have it.
    assert_eq!(decoded(pod(), b"").unwrap(), json!({"metadata": {}, "spec": {"containers": null}, "status": {}}));
    let deployment = schema::lookup("apps", "v1", "Deployment").unwrap();
    let bytes = encoded(deployment, &json!({"spec": {"replicas": 0, "selector": null}})).unwrap();
    let got = decoded(deployment, &bytes).unwrap();
    assert_eq!(got["spec"]["replicas"], 0);
    assert_eq!(got["spec"].get("selector"), Some(&Value::Null));
    assert_eq!(got["spec"]["template"], json!({"metadata": {}, "spec": {"containers": null}}));
    assert!(got["spec"].get("paused").is_none() && got["spec"].get("minReadySeconds").is_none());
}

#[test]
fn fields_out_of_order_and_messages_in_pieces_are_put_together() {
    let meta = |json: Value| {
        let ty = schema::definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap();
        let raw = encoded(ty, &json).unwrap();
        [element_head(1, raw.len()), raw].concat()
    };
    let mut raw = [18, 0].to_vec();
    raw.extend(meta(json!({"namespace": "first", "labels": {"a": "1"}})));
    raw.extend([10, 3, 26, 1, b'n']);
    raw.extend([10, 9, 90, 7, 18, 1, b'2', 10, 2, b'b', b'b']);
    let got = decoded(pod(), &raw).unwrap();
    assert_eq!(got["metadata"], json!({"namespace": "n", "labels": {"a": "1", "bb": "2"}}));
}

#[test]
fn custom_resource_definitions_keep_their_schemas() {
    let ty = schema::lookup("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    let properties = json!({
        "flag": {"type": "boolean", "default": false, "enum": [true, null, "x"]},
        "list": {"type": "array", "items": {"type": "string", "maxLength": 0}},
        "tuple": {"items": [{"type": "integer", "minimum": 1.5}, {"type": "string"}]},
        "any": {"type": "object", "additionalProperties": true, "x-kubernetes-preserve-unknown-fields": true},
        "none": {"type": "object", "additionalProperties": false},
        "typed": {"type": "object", "additionalProperties": {"type": "string"}},
        "depends": {"dependencies": {"a": ["b", "c"], "d": {"type": "object"}}},
    });
    let versions = json!([{
        "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
    }]);
    let names = json!({"plural": "things", "kind": "Thing"});
    let crd = json!({
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "names": names, "scope": "Namespaced", "versions": versions},
        "status": {"acceptedNames": {"plural": "", "kind": ""}, "conditions": null, "storedVersions": null},
    });
    assert_eq!(decoded(ty, &encoded(ty, &crd).unwrap()).unwrap(), crd);
}

#[test]
fn empty_lists_in_messages_of_their_own_are_null() {
    let ty = schema::lookup("authentication.k8s.io", "v1", "TokenReview").unwrap();
    let user = json!({"username": "a", "extra": {"none": [], "one": ["x"], "null": null}});
    let got = decoded(ty, &encoded(ty, &json!({"status": {"user": user}})).unwrap()).unwrap();
    assert_eq!(got["status"]["user"]["extra"], json!({"none": null, "one": ["x"], "null": null}));
}

#[test]
fn types_without_a_protobuf_form_are_refused() {
    let table = schema::lookup("meta.k8s.io", "v1", "Table").unwrap();
    assert!(matches!(encoded(table, &json!({"rows": []})), Err(WireError::NotMarshalable(_))));
    assert!(matches!(decoded(table, b""), Err(WireError::NotMarshalable(_))));
    assert!(matches!(encoded(pod(), &json!([])), Err(WireError::Json(_))));
}

#[test]
fn hostile_bytes_are_refused() {
    let malformed = |raw: &[u8]| matches!(decoded(pod(), raw), Err(WireError::Malformed(_) | WireError::Truncated));
    // A length beyond the end, one of 2^64-1, a varint of eleven bytes, field 0, a group, a string as a number.
    for raw in [
        &[10, 5, 1][..],
        &[10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        &[2, 0],
        &[11],
        &[10, 2, 8, 1],
    ] {
        assert!(malformed(raw), "{raw:?}");
    }
    // Not UTF-8: as Go writes it.
    assert_eq!(decoded(pod(), &[10, 3, 10, 1, 0xff]).unwrap()["metadata"]["name"], "\u{fffd}");
    let ty = schema::definition("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    let mut deep = Vec::new();
    for _ in 0..10_000 {
        deep = [&element_head(28, deep.len())[..], &deep].concat();
    }
    assert_eq!(decoded(ty, &deep), Err(WireError::TooDeep));
    let disordered = [&deep[..], &[10, 0]].concat();
    assert_eq!(decoded(ty, &disordered), Err(WireError::TooDeep));
    let json = format!("{}{}", "{\"not\":".repeat(10_000), "}".repeat(10_000));
    assert!(matches!(json_to_protobuf(ty, json.as_bytes(), &mut Vec::new()), Err(WireError::Json(_))));
    for envelope in [&b""[..], b"k8s\0", b"k8s\0\x0a\x7f", b"{}"] {
        assert!(open(envelope).is_err());
    }
}

#[test]
fn frames_of_watches_are_length_delimited() {
    let sealed = seal("v1", "Pod", b"raw");
    let frame = [frame_head("ADDED", sealed.len()), sealed.clone()].concat();
    assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
    let mut reader = super::bytes::Reader(&frame[4..]);
    assert_eq!((reader.tag().unwrap(), reader.bytes().unwrap()), (Some((1, 2)), &b"ADDED"[..]));
    assert_eq!(reader.tag().unwrap(), Some((2, 2)));
    let mut object = super::bytes::Reader(reader.bytes().unwrap());
    assert!(reader.0.is_empty());
    assert_eq!(object.tag().unwrap(), Some((1, 2)));
    let envelope = open(object.bytes().unwrap()).unwrap();
    assert_eq!((envelope.api_version, envelope.kind, envelope.raw), ("v1", "Pod", &b"raw"[..]));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..1200) {
        let _ = open(&[&MAGIC[..], &bytes].concat());
        let ty = schema::table().definitions().nth(at).unwrap_or_else(pod);
        let mut out = Vec::new();
        if protobuf_to_json(ty, &bytes, None, &mut out).is_ok() {
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&out).is_ok());
        }
    }

    #[test]
    fn damaged_objects_are_survived(at in 0usize..13_000, byte: u8) {
        let Some((_, ty, mut protobuf, _)) = fixtures().into_iter().find(|f| f.0 == "core.v1.Pod") else { return Ok(()) };
        let length = protobuf.len();
        protobuf[at % length] = byte;
        if let Ok(json) = to_json(ty, &protobuf) {
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&json).is_ok());
        }
    }
}
