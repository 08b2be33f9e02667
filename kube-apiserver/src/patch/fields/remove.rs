//! Takes from an object what a set names.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::element::Element;
use super::set::{Node, Set};
use super::typed::{Associative, Atom, Members, Place};

/// The object without what is in the set.
pub(super) fn remove(root: Place<'_>, object: &Value, set: &Set<'_>) -> Value {
    visit(root, object, set).unwrap_or_default()
}

/// `None` when nothing is left that is worth keeping.
fn visit(place: Place<'_>, value: &Value, set: &Set<'_>) -> Option<Value> {
    match (place.atom(Some(value)), value) {
        (Atom::Object(members), Value::Object(object)) if !members.atomic => remove_members(members, object, set),
        (Atom::Associative(list), Value::Array(elements)) => remove_elements(list, elements, set),
        // Parts of what is replaced as a whole cannot be removed.
        (Atom::Object(_) | Atom::Associative(_) | Atom::Whole(_), _) => None,
        (Atom::Scalar(_) | Atom::Untyped, scalar) => Some(scalar.clone()),
    }
}

/// What is left of a value below which something is removed: it stays, if empty.
fn reduced(place: Option<Place<'_>>, value: &Value, set: &Set<'_>) -> Value {
    let left = place.and_then(|place| visit(place, value, set));
    left.unwrap_or_else(|| match value {
        Value::Object(_) => Value::Object(Map::new()),
        Value::Array(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    })
}

fn remove_members(members: Members<'_>, object: &Map<String, Value>, set: &Set<'_>) -> Option<Value> {
    let mut left = Map::new();
    let mut matched = false;
    for (name, value) in object {
        let value = match set.get(&Element::field(name)) {
            Some(node) if node.member => continue,
            Some(node) => {
                matched = true;
                reduced(members.place(name), value, &node.below)
            }
            None => value.clone(),
        };
        left.insert(name.clone(), value);
    }
    (matched || !left.is_empty()).then_some(Value::Object(left))
}

fn remove_elements(list: Associative<'_>, elements: &[Value], set: &Set<'_>) -> Option<Value> {
    let mut left = Vec::with_capacity(elements.len());
    let mut matched = false;
    for value in elements {
        let node = list.identify(value).ok().and_then(|element| set.get(&element));
        match node {
            Some(node) if node.member => continue,
            Some(node) => {
                matched = true;
                left.push(reduced(Some(list.element), value, &node.below));
            }
            None => left.push(value.clone()),
        }
    }
    (matched || !left.is_empty()).then_some(Value::Array(left))
}

/// The set, with every declared field below which it has something.
pub(super) fn with_parents<'a>(place: Option<Place<'_>>, set: &Set<'a>) -> Set<'a> {
    let nodes = set.nodes.iter().map(|node| {
        let declared = match (place.map(|place| place.atom(None)), &node.element) {
            (Some(Atom::Object(members)), Element::Field(name)) => members.declares(name),
            _ => false,
        };
        let below = place.and_then(|place| place.descend(&node.element));
        Node {
            element: node.element.clone(),
            member: node.member || declared && !node.below.is_empty(),
            below: with_parents(below, &node.below),
        }
    });
    Set { nodes: nodes.collect() }
}

/// Brings a set in line with its type: what is replaced as a whole is owned as a whole.
pub(super) fn reconcile<'s, 'a>(place: Place<'_>, set: &'s Set<'a>) -> Cow<'s, Set<'a>> {
    if !outdated(place, set) {
        return Cow::Borrowed(set);
    }
    let nodes = set.nodes.iter().map(|node| match place.descend(&node.element) {
        Some(place) if is_whole(place) && !node.below.is_empty() => Node::leaf(node.element.clone()),
        Some(place) => {
            let below = reconcile(place, &node.below).into_owned();
            Node { element: node.element.clone(), member: node.member, below }
        }
        None => node.clone(),
    });
    Cow::Owned(Set { nodes: nodes.collect() })
}

fn outdated(place: Place<'_>, set: &Set<'_>) -> bool {
    set.nodes
        .iter()
        .filter(|node| !node.below.is_empty())
        .any(|node| place.descend(&node.element).is_some_and(|place| is_whole(place) || outdated(place, &node.below)))
}

fn is_whole(place: Place<'_>) -> bool {
    match place.atom(None) {
        Atom::Object(members) => members.atomic,
        Atom::Whole(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::schema;
    use serde_json::json;

    fn pod() -> Place<'static> {
        Place::root(schema::lookup("", "v1", "Pod").unwrap())
    }

    #[test]
    fn what_is_named_goes_and_containers_of_it_stay() {
        let object = json!({"metadata": {"labels": {"a": "1"}, "name": "p"}, "spec": {"containers": [
            {"name": "x", "image": "i", "ports": [{"containerPort": 80}]}, {"name": "y"}]}});
        let fields = json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": {
            r#"k:{"name":"x"}"#: {"f:image": {}, "f:ports": {r#"k:{"containerPort":80,"protocol":"TCP"}"#: {}}},
            r#"k:{"name":"y"}"#: {}}}});
        assert_eq!(
            remove(pod(), &object, &Set::decode(&fields).unwrap()),
            json!({"metadata": {"labels": {}, "name": "p"}, "spec": {"containers": [{"name": "x", "ports": []}]}})
        );
    }

    #[test]
    fn declared_parents_become_members() {
        let fields = json!({"f:metadata": {"f:labels": {"f:a": {}}}});
        assert_eq!(
            with_parents(Some(pod()), &Set::decode(&fields).unwrap()).encode(),
            json!({"f:metadata": {".": {}, "f:labels": {".": {}, "f:a": {}}}})
        );
    }

    #[test]
    fn ownership_of_parts_becomes_ownership_of_the_whole() {
        let fields = json!({"f:spec": {"f:nodeSelector": {"f:a": {}}, "f:restartPolicy": {}}});
        let set = Set::decode(&fields).unwrap();
        let reconciled = reconcile(pod(), &set);
        assert_eq!(reconciled.encode(), json!({"f:spec": {"f:nodeSelector": {}, "f:restartPolicy": {}}}));
        assert!(matches!(reconcile(pod(), &reconciled), Cow::Borrowed(_)));
    }
}
