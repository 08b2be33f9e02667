//! Merges an applied configuration into an object: members and told-apart elements one by one, everything else whole.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::Element;
use super::typed::{Associative, Atom, Members, Place};

/// `live` with what `config` says.
///
/// # Errors
/// Elements of a list cannot be told apart.
pub(super) fn merge(root: Place<'_>, live: &Value, config: &Value) -> Result<Value, String> {
    Ok(visit(root, Some(live), Some(config))?.unwrap_or_default())
}

fn visit(place: Place<'_>, live: Option<&Value>, config: Option<&Value>) -> Result<Option<Value>, String> {
    match (place.atom(config.or(live)), place.atom(live.or(config))) {
        (Atom::Object(members), Atom::Object(_)) if !members.atomic => {
            let (left, right) = (live.and_then(Value::as_object), config.and_then(Value::as_object));
            if left.is_none_or(Map::is_empty) && right.is_none_or(Map::is_empty) {
                return Ok(config.or(live).cloned());
            }
            let merged = object(members, left, right)?;
            Ok((!merged.is_empty()).then_some(Value::Object(merged)))
        }
        (Atom::Associative(list), Atom::Associative(_)) => {
            let (left, right) = (live.and_then(Value::as_array), config.and_then(Value::as_array));
            if left.is_none_or(Vec::is_empty) && right.is_none_or(Vec::is_empty) {
                return Ok(config.or(live).cloned());
            }
            let merged = elements(list, left.map_or(&[], Vec::as_slice), right.map_or(&[], Vec::as_slice))?;
            Ok((!merged.is_empty()).then_some(Value::Array(merged)))
        }
        _ => Ok(config.or(live).cloned()),
    }
}

fn object(
    members: Members<'_>,
    live: Option<&Map<String, Value>>,
    config: Option<&Map<String, Value>>,
) -> Result<Map<String, Value>, String> {
    // What is only live stays as it is.
    let mut merged = live.cloned().unwrap_or_default();
    for (name, wanted) in config.into_iter().flatten() {
        let Some(place) = members.place(name) else { continue };
        match visit(place, live.and_then(|live| live.get(name)), Some(wanted))? {
            Some(value) => merged.insert(name.clone(), value),
            None => merged.remove(name),
        };
    }
    Ok(merged)
}

/// Merges two lists. Elements of both stand in the configuration's order; those of one keep their places around them.
fn elements(list: Associative<'_>, live: &[Value], config: &[Value]) -> Result<Vec<Value>, String> {
    let (live, config) = (list.index(live)?, list.index(config)?);
    let mut wanted: BTreeMap<&Element<'_>, usize> = BTreeMap::new();
    for (at, (element, _)) in config.iter().enumerate() {
        if wanted.insert(element, at).is_some() {
            return Err(format!("duplicate entries for key {element}"));
        }
    }
    let place_in_config: Vec<Option<usize>> = live.iter().map(|(element, _)| wanted.get(element).copied()).collect();
    // By place in the configuration: how often the element is live, and the first.
    let mut known: Vec<(usize, Option<&Value>)> = vec![(0, None); config.len()];
    for (at, (_, value)) in place_in_config.iter().zip(&live) {
        if let Some(at) = *at {
            known[at] = (known[at].0 + 1, known[at].1.or(Some(value)));
        }
    }
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    for step in order(&place_in_config, config.len()) {
        match step {
            Step::Live(at) => merged.push(live[at].1.clone()),
            Step::Config(at) => {
                // An element that is live more than once is not merged but replaced.
                let live = known[at].1.filter(|_| known[at].0 == 1);
                merged.extend(visit(list.element, live, Some(config[at].1))?);
            }
        }
    }
    Ok(merged)
}

/// Which element comes next.
#[derive(Debug, PartialEq)]
enum Step {
    /// One that is only live, by its place there.
    Live(usize),
    /// One of the configuration, by its place there.
    Config(usize),
}

/// The order of a merged list. `shared` tells for each live element its place in the configuration, if it is there.
fn order(shared: &[Option<usize>], wanted: usize) -> Vec<Step> {
    let mut steps = Vec::with_capacity(shared.len().max(wanted));
    let mut is_shared = vec![false; wanted];
    shared.iter().flatten().for_each(|at| is_shared[*at] = true);
    // The configuration's elements come in its order: those before `config` had their turn.
    let (mut live, mut config, mut next) = (0, 0, 0);
    while live < shared.len() || config < wanted {
        next = (next.max(config)..wanted).find(|at| is_shared[*at]).unwrap_or(wanted);
        match shared.get(live) {
            Some(None) => {
                steps.push(Step::Live(live));
                live += 1;
                continue;
            }
            // Another element of both has its turn before this one, or this one had its own.
            Some(Some(at)) if next < wanted && *at != next => {
                live += 1;
                continue;
            }
            Some(Some(at)) if *at <= config => live += 1,
            _ => {}
        }
        if config < wanted {
            steps.push(Step::Config(config));
            config += 1;
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::schema;
    use serde_json::json;

    fn ports(live: &Value, config: &Value) -> Value {
        let service = |ports: &Value| json!({"spec": {"ports": ports}});
        let root = Place::root(schema::lookup("", "v1", "Service").unwrap());
        merge(root, &service(live), &service(config)).unwrap()["spec"]["ports"].clone()
    }

    fn finalizers(live: &[&str], config: &[&str]) -> Vec<String> {
        let object = |list: &[&str]| json!({"metadata": {"finalizers": list}});
        let root = Place::root(schema::lookup("", "v1", "Pod").unwrap());
        let merged = merge(root, &object(live), &object(config)).unwrap();
        merged["metadata"]["finalizers"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn shared_elements_take_the_configurations_order() {
        for (live, config, merged) in [
            (&["a", "b", "c"][..], &["c", "a"][..], &["b", "c", "a"][..]),
            (&["a", "b"], &["x", "b", "y"], &["a", "x", "b", "y"]),
            (&["1", "2", "3"], &["4", "5"], &["1", "2", "3", "4", "5"]),
            (&["a", "b", "c", "d", "e"], &["e", "c", "a"], &["b", "d", "e", "c", "a"]),
            (&[], &["a"], &["a"]),
            (&["a"], &[], &["a"]),
            (&["a", "b", "c", "d"], &["1", "a", "2", "c", "3"], &["1", "a", "b", "2", "c", "d", "3"]),
        ] {
            assert_eq!(finalizers(live, config), merged, "{live:?} {config:?}");
        }
    }

    #[test]
    fn elements_merge_by_key_with_defaults() {
        let merged = ports(
            &json!([{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 443, "protocol": "TCP"}]),
            &json!([{"port": 80, "name": "http"}, {"port": 80, "protocol": "UDP"}]),
        );
        assert_eq!(
            merged,
            json!([
                {"port": 80, "protocol": "TCP", "nodePort": 30080, "name": "http"},
                {"port": 443, "protocol": "TCP"},
                {"port": 80, "protocol": "UDP"},
            ])
        );
    }

    #[test]
    fn atomic_values_are_replaced_and_nothing_is_deleted_by_omission() {
        let root = Place::root(schema::lookup("apps", "v1", "Deployment").unwrap());
        let live = json!({"spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}}, "metadata": {"labels": {"x": "y"}}});
        let config = json!({"spec": {"selector": {"matchLabels": {"c": "d"}}}, "metadata": {"labels": {"z": "w"}, "annotations": {}}});
        assert_eq!(
            merge(root, &live, &config).unwrap(),
            json!({"spec": {"replicas": 3, "selector": {"matchLabels": {"c": "d"}}},
                "metadata": {"labels": {"x": "y", "z": "w"}, "annotations": {}}})
        );
    }
}
