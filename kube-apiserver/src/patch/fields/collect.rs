//! Which paths an object has: what its applier owns.

use serde_json::Value;

use super::element::Element;
use super::set::{Node, Set};
use super::typed::{Associative, Atom, Members, Place};

/// The paths of an object.
///
/// # Errors
/// Elements of a list cannot be told apart.
pub(super) fn collect<'v>(root: Place<'v>, object: &'v Value) -> Result<Set<'v>, String> {
    Ok(visit(root, object)?.1)
}

/// Whether the place itself belongs to the set, and what does below it.
fn visit<'v>(place: Place<'v>, value: &'v Value) -> Result<(bool, Set<'v>), String> {
    match place.atom(Some(value)) {
        Atom::Object(members) if !members.atomic => Ok((false, object(members, value)?)),
        Atom::Associative(list) => Ok((false, elements(list, value)?)),
        _ => Ok((true, Set::default())),
    }
}

fn object<'v>(members: Members<'v>, value: &'v Value) -> Result<Set<'v>, String> {
    let mut set = Set::default();
    for (name, value) in value.as_object().into_iter().flatten() {
        let Some(place) = members.place(name) else { continue };
        let (here, below) = visit(place, value)?;
        let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
        set.push(Node { element: Element::field(name), member: here || empty || !members.declares(name), below });
    }
    Ok(set)
}

fn elements<'v>(list: Associative<'v>, value: &'v Value) -> Result<Set<'v>, String> {
    let mut elements = list.index(value.as_array().map_or(&[], Vec::as_slice))?;
    elements.sort_by(|a, b| a.0.cmp(&b.0));
    let mut set = Set::default();
    for same in elements.chunk_by(|a, b| a.0 == b.0) {
        let below = match same {
            [(_, value)] => visit(list.element, value)?.1,
            _ => Set::default(),
        };
        set.push(Node { element: same[0].0.clone(), member: true, below });
    }
    Ok(set)
}
