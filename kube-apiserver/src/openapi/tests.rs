//! The documents against upstream's own: same structure, prose aside.

use std::path::{Path, PathBuf};

use common::api::catalog;
use serde_json::Value;

use super::*;

fn fixtures() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/openapi-v3");
    if !folder.is_dir() {
        println!("skipped: no fixtures at {}", folder.display());
        return None;
    }
    Some(folder)
}

/// Removes prose and puts lists whose order means nothing in order.
fn structure(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|key, value| key != "description" || !value.is_string());
            for (key, value) in object.iter_mut() {
                structure(value);
                if let (true, Value::Array(list)) = (matches!(key.as_str(), "required" | "parameters"), value) {
                    list.sort_by_key(Value::to_string);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(structure),
        _ => {}
    }
}

fn differences(ours: &Value, theirs: &Value, at: &str, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(left), Value::Object(right)) => {
            for key in left.keys().chain(right.keys().filter(|key| !left.contains_key(*key))) {
                let null = Value::Null;
                let (left, right) = (left.get(key).unwrap_or(&null), right.get(key).unwrap_or(&null));
                differences(left, right, &format!("{at}|{key}"), found);
            }
        }
        (left, right) if left != right => {
            let (left, right) = (left.to_string(), right.to_string());
            found.push(format!("{at}: ours {left:.200} theirs {right:.200}"));
        }
        _ => {}
    }
}

#[test]
fn has_upstreams_structure() {
    let Some(folder) = fixtures() else { return };
    let mut found = Vec::new();
    for version in catalog().group_versions() {
        let name = match version.group {
            "" => format!("api__{}_openapi.json", version.version),
            group => format!("apis__{group}__{}_openapi.json", version.version),
        };
        let mut theirs: Value = serde_json::from_slice(&std::fs::read(folder.join(&name)).unwrap()).unwrap();
        let mut ours = v3::group_version(version);
        structure(&mut theirs);
        structure(&mut ours);
        differences(&ours, &theirs, &name, &mut found);
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found[..found.len().min(40)].join("\n"));
}
