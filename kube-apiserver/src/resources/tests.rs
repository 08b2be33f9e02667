//! Properties that hold for every kind: columns match cells, selectable fields are declared, odd shapes do no harm.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

fn context(user: &User) -> Ctx<'_> {
    Ctx { namespace: "default", user, now: Timestamp::UNIX_EPOCH }
}

/// Every hook of a strategy on one object.
fn exercise(strategy: &dyn Strategy, object: &Value) {
    let user = User::default();
    let mut new = object.clone();
    strategy.default(&mut new);
    let mut again = new.clone();
    strategy.default(&mut again);
    assert_eq!(again, new, "{}: defaults must be idempotent", strategy.kind());
    strategy.prepare_create(&mut new, &context(&user));
    strategy.validate_create(&new);
    for sub in [None, Some("status"), Some("resize"), Some("ephemeralcontainers"), Some("approval"), Some("finalize")] {
        let mut changed = object.clone();
        strategy.prepare_update(&mut changed, &new, sub, &context(&user));
        strategy.validate_update(&changed, &new, sub);
        strategy.validate_update(&new, &changed, sub);
    }
    for (label, _) in strategy.fields(object) {
        let declared = strategy.field_labels().contains(&label) || label == "spec.parentRef";
        assert!(declared || strategy.kind().is_empty(), "{}: {label}", strategy.kind());
    }
    assert_eq!(strategy.row(object, Timestamp::UNIX_EPOCH).len(), strategy.columns().len(), "{}", strategy.kind());
    strategy.graceful_delete(object, None);
    strategy.warnings(object, None, None);
}

/// The object with every leaf, or every container, replaced by something of the wrong type.
fn mangled(value: &Value, wrong: &Value, leaves: bool) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), mangled(v, wrong, leaves))).collect()),
        Value::Array(list) if leaves => list.iter().map(|v| mangled(v, wrong, leaves)).collect(),
        Value::Array(_) => wrong.clone(),
        _ if leaves => wrong.clone(),
        other => other.clone(),
    }
}

fn all() -> impl Iterator<Item = &'static rules::Rules> {
    ALL.iter().copied().flatten().copied().flatten()
}

#[test]
fn every_kind_survives_empty_and_wrong_objects() {
    for rules in all() {
        for object in [json!({}), json!({"metadata": 1, "spec": [], "status": "x"}), json!({"spec": {}, "status": {}})]
        {
            exercise(rules, &object);
        }
    }
}

#[test]
fn no_resource_is_listed_twice() {
    let mut seen = BTreeMap::new();
    for rules in all() {
        assert!(seen.insert((rules.group, rules.resource), rules.kind).is_none(), "{}", rules.resource);
    }
}

#[test]
fn every_kind_survives_upstreams_full_objects() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/api-fixtures");
    let by_kind: BTreeMap<(&str, &str), &rules::Rules> = all().map(|r| ((r.group, r.kind), r)).collect();
    let Ok(files) = std::fs::read_dir(folder) else {
        println!("no fixtures beside the repository; skipped");
        return;
    };
    for file in files.flatten().filter(|file| file.path().extension().is_some_and(|e| e == "json")) {
        let Ok(object) = serde_json::from_slice::<Value>(&std::fs::read(file.path()).unwrap()) else { continue };
        let version = object["apiVersion"].as_str().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let Some(rules) = by_kind.get(&(group, object["kind"].as_str().unwrap_or_default())) else { continue };
        exercise(*rules, &object);
        for wrong in [json!("x"), json!(-1), json!([]), json!({}), json!(null), json!(true)] {
            for leaves in [true, false] {
                exercise(*rules, &mangled(&object, &wrong, leaves));
            }
        }
    }
}

mod admission_kinds;
mod networking;
mod others;
mod workloads;

/// The object as a create or update sees it: named, in a namespace where its kind has one.
fn stored(strategy: &dyn Strategy, mut object: Value) -> Value {
    strategy.default(&mut object);
    let meta = common::meta::value::member(&mut object, "metadata").unwrap();
    for (field, value) in
        [("name", "n"), ("uid", "u"), ("creationTimestamp", "2026-01-01T00:00:00Z"), ("resourceVersion", "1")]
    {
        common::meta::value::set_default(meta, field, value);
    }
    if strategy.namespaced() {
        common::meta::value::set_default(meta, "namespace", "default");
    }
    object
}

fn ctx<'a>(strategy: &dyn Strategy, user: &'a User) -> Ctx<'a> {
    Ctx { namespace: if strategy.namespaced() { "default" } else { "" }, user, now: Timestamp::UNIX_EPOCH }
}

/// What a create of the object is told, in order.
fn create(group: &str, resource: &str, object: Value) -> Vec<String> {
    let strategy = strategy(group, resource);
    assert!(!strategy.kind().is_empty(), "{resource}");
    let mut object = stored(strategy, object);
    strategy.prepare_create(&mut object, &ctx(strategy, &User::default()));
    strategy.validate_create(&object).iter().map(ToString::to_string).collect()
}

/// What an update from `old` to `new` is told, and what it would store.
fn update(group: &str, resource: &str, sub: Option<&str>, old: &Value, new: &Value) -> (Vec<String>, Value) {
    let strategy = strategy(group, resource);
    let (old, mut new) = (stored(strategy, old.clone()), stored(strategy, new.clone()));
    strategy.prepare_update(&mut new, &old, sub, &ctx(strategy, &User::default()));
    let errors = strategy.validate_update(&new, &old, sub);
    (errors.iter().map(ToString::to_string).collect(), new)
}

/// Rows of: the object changed at a JSON pointer to a value, and the complaints.
fn check_rows(group: &str, resource: &str, base: &Value, rows: &[(&str, Value, &[&str])]) {
    assert_eq!(create(group, resource, base.clone()), Vec::<String>::new(), "{resource}: the base is valid");
    for (pointer, value, want) in rows {
        assert_eq!(create(group, resource, with(base, pointer, value)), *want, "{resource} {pointer} = {value}");
    }
}

/// A copy with the value at a JSON pointer replaced (null removes it); members on the way are made.
fn with(base: &Value, pointer: &str, value: &Value) -> Value {
    let mut object = base.clone();
    let mut at = &mut object;
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/");
        at = match at {
            Value::Array(list) => &mut list[part.parse::<usize>().unwrap()],
            other => {
                if !other.is_object() {
                    *other = json!({});
                }
                other.as_object_mut().unwrap().entry(part).or_insert(Value::Null)
            }
        };
    }
    *at = value.clone();
    object
}
