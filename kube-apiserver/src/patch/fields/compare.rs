//! What differs between two states of an object, as sets of paths. One walk; nothing is allocated for what is equal.

use serde_json::{Map, Value};

use super::element::{Element, equal};
use super::set::{Node, Set};
use super::typed::{Associative, Atom, Members, Place};

/// What became of an object.
#[derive(Debug, Default)]
pub(super) struct Comparison<'v> {
    /// Paths that were added or have another value.
    pub changed: Set<'v>,
    /// Paths that are gone.
    pub removed: Set<'v>,
}

impl Comparison<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// What of an object no manager owns, and what is never compared.
const SYSTEM: [&str; 2] = ["apiVersion", "kind"];
const SYSTEM_METADATA: [&str; 9] = [
    "clusterName",
    "creationTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Takes from a set what no manager ever owns.
pub(super) fn without_system<'a>(set: &Set<'a>) -> Set<'a> {
    let mut system: Vec<Vec<&str>> = SYSTEM.iter().map(|name| vec![*name]).collect();
    system.push(vec!["metadata"]);
    system.extend(SYSTEM_METADATA.iter().map(|name| vec!["metadata", *name]));
    let paths: Vec<&[&str]> = system.iter().map(Vec::as_slice).collect();
    set.difference(&Set::of_fields(&paths))
}

/// What the new state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum New {
    /// An object as the server keeps it: without the zero values that Go's structs leave out.
    Typed,
    /// The outcome of a merge, with all that the configuration says.
    Merged,
}

/// Compares two states of an object. Metadata that only the server writes is left out.
///
/// # Errors
/// Elements of a list cannot be told apart.
pub(super) fn compare<'v>(
    root: Place<'v>,
    old: &'v Value,
    new: &'v Value,
    form: New,
) -> Result<Comparison<'v>, String> {
    let mut found = Comparison::default();
    let (Atom::Object(members), Value::Object(old), Value::Object(new)) = (root.atom(Some(new)), old, new) else {
        return Ok(found);
    };
    let mut walk = Walk { found: &mut found, skipped: &SYSTEM, form };
    walk.members(members, Some(old), Some(new))?;
    // Nobody owns the metadata as such.
    for set in [&mut found.changed, &mut found.removed] {
        set.nodes
            .iter_mut()
            .filter(|node| node.element == Element::field("metadata"))
            .for_each(|node| node.member = false);
        set.nodes.retain(|node| node.member || !node.below.is_empty());
    }
    Ok(found)
}

/// Compares one level.
struct Walk<'f, 'v> {
    found: &'f mut Comparison<'v>,
    /// Members that are left out.
    skipped: &'static [&'static str],
    form: New,
}

/// What was found at a place itself.
#[derive(Clone, Copy, PartialEq)]
enum Here {
    Same,
    Changed,
    Removed,
}

fn presence(old: Option<&Value>, new: Option<&Value>) -> Here {
    match (old, new) {
        (None, Some(_)) => Here::Changed,
        (Some(_), None) => Here::Removed,
        _ => Here::Same,
    }
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Here {
    match (old, new) {
        (Some(old), Some(new)) if !equal(old, new) => Here::Changed,
        _ => presence(old, new),
    }
}

/// Compares what is at a place, writing what is found below it into `below`.
fn visit<'v>(
    place: Place<'v>,
    old: Option<&'v Value>,
    new: Option<&'v Value>,
    below: &mut Comparison<'v>,
    (skipped, form): (&'static [&'static str], New),
) -> Result<Here, String> {
    let mut walk = Walk { found: below, skipped, form };
    match (place.atom(new.or(old)), place.atom(old.or(new))) {
        (Atom::Object(members), Atom::Object(_)) if !members.atomic => {
            let (from, to) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            if from.is_none_or(Map::is_empty) && to.is_none_or(Map::is_empty) && !implies(members, old, new) {
                return Ok(leaf(old, new));
            }
            walk.members(members, from, to)?;
            Ok(presence(old, new))
        }
        (Atom::Associative(list), Atom::Associative(_)) => {
            let (from, to) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
            let (from, to) = (from.map_or(&[][..], Vec::as_slice), to.map_or(&[][..], Vec::as_slice));
            if from.is_empty() && to.is_empty() {
                return Ok(leaf(old, new));
            }
            walk.elements(list, from, to)?;
            Ok(presence(old, new))
        }
        // Values without a type that became something else altogether.
        (to, from) => {
            if old.is_some() && new.is_some() {
                if let (Atom::Object(members), Some(object)) = (to, new.and_then(Value::as_object)) {
                    walk.turned(members, None, Some(object))?;
                }
                if let (Atom::Object(members), Some(object)) = (from, old.and_then(Value::as_object)) {
                    walk.turned(members, Some(object), None)?;
                }
            }
            Ok(leaf(old, new))
        }
    }
}

/// Whether an empty object still has members that Go's structs always have and that only one side has.
fn implies(members: Members<'_>, old: Option<&Value>, new: Option<&Value>) -> bool {
    old.is_some() != new.is_some() && members.all_implied().next().is_some()
}

impl<'v> Walk<'_, 'v> {
    /// Compares the members of two objects; `None` for an object that is not there.
    fn members(
        &mut self,
        members: Members<'v>,
        old: Option<&'v Map<String, Value>>,
        new: Option<&'v Map<String, Value>>,
    ) -> Result<(), String> {
        let (mut left, mut right) = (sorted(old).peekable(), sorted(new).peekable());
        loop {
            let (name, from, to) = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some((a, _)), Some((b, _))) if a == b => (*a, left.next(), right.next()),
                (Some((a, _)), Some((b, _))) if a < b => (*a, left.next(), None),
                (Some((a, _)), None) => (*a, left.next(), None),
                (_, Some((b, _))) => (*b, None, right.next()),
            };
            let (from, to) = (from.map(|(_, value)| value), to.map(|(_, value)| value));
            // Most of an object stays as it is, and this is far cheaper than a walk along its type.
            if from == to || self.skipped.contains(&name) {
                continue;
            }
            let from = members.settled(name, old, from, true);
            let to = members.settled(name, new, to, self.form == New::Typed);
            self.member(members, name, from, to)?;
        }
        // An object that came or went brought or took what it implies.
        if old.is_some() != new.is_some() {
            for (name, value) in members.all_implied() {
                if old.or(new).is_some_and(|object| !object.contains_key(name)) {
                    self.member(members, name, old.map(|_| value), new.map(|_| value))?;
                }
            }
        }
        Ok(())
    }

    fn member(
        &mut self,
        members: Members<'v>,
        name: &'v str,
        old: Option<&'v Value>,
        new: Option<&'v Value>,
    ) -> Result<(), String> {
        if old.is_none() && new.is_none() {
            return Ok(());
        }
        // What is not declared cannot be compared: the decoder has dropped it already.
        let Some(place) = members.place(name) else { return Ok(()) };
        let skipped: &[&str] = if name == "metadata" && !self.skipped.is_empty() { &SYSTEM_METADATA } else { &[] };
        let form = self.form;
        self.child(Element::field(name), |below| visit(place, old, new, below, (skipped, form)))
    }

    fn child(
        &mut self,
        element: Element<'v>,
        visit: impl FnOnce(&mut Comparison<'v>) -> Result<Here, String>,
    ) -> Result<(), String> {
        let mut below = Comparison::default();
        let here = visit(&mut below)?;
        let (changed, removed) = (here == Here::Changed, here == Here::Removed);
        if removed || !below.removed.is_empty() {
            self.found.removed.push(Node { element: element.clone(), member: removed, below: below.removed });
        }
        if changed || !below.changed.is_empty() {
            self.found.changed.push(Node { element, member: changed, below: below.changed });
        }
        Ok(())
    }

    /// The members of an object that was, or has become, something else.
    fn turned(
        &mut self,
        members: Members<'v>,
        old: Option<&'v Map<String, Value>>,
        new: Option<&'v Map<String, Value>>,
    ) -> Result<(), String> {
        if members.atomic { Ok(()) } else { self.members(members, old, new) }
    }

    /// Compares the elements of two lists. Elements with one identity are compared as one.
    fn elements(&mut self, list: Associative<'v>, old: &'v [Value], new: &'v [Value]) -> Result<(), String> {
        let (mut old, mut new) = (list.index(old)?, list.index(new)?);
        old.sort_by(|a, b| a.0.cmp(&b.0));
        new.sort_by(|a, b| a.0.cmp(&b.0));
        let (mut old, mut new) = (old.as_slice(), new.as_slice());
        while let Some(element) = first(old, new).cloned() {
            let (from, to) = (take(&mut old, &element), take(&mut new, &element));
            self.element(list, element, from, to)?;
        }
        Ok(())
    }

    fn element(
        &mut self,
        list: Associative<'v>,
        element: Element<'v>,
        old: &[(Element<'v>, &'v Value)],
        new: &[(Element<'v>, &'v Value)],
    ) -> Result<(), String> {
        let one = |found: &[(Element<'v>, &'v Value)]| found.first().map(|(_, value)| *value);
        let (place, form) = (list.element, self.form);
        match (old.len() > 1, new.len() > 1) {
            (false, false) if one(old) == one(new) => Ok(()),
            (false, false) => self.child(element, |below| visit(place, one(old), one(new), below, (&[], form))),
            // Several with one identity are like one atomic value.
            (true, true) => {
                let same = old.len() == new.len() && old.iter().zip(new).all(|(a, b)| equal(a.1, b.1));
                self.child(element, |_| Ok(if same { Here::Same } else { Here::Changed }))
            }
            (true, false) => {
                if let Some(value) = one(new) {
                    self.child(element.clone(), |below| visit(place, None, Some(value), below, (&[], form)))?;
                }
                self.child(element, |_| Ok(Here::Removed))
            }
            (false, true) => {
                if let Some(value) = one(old) {
                    self.child(element.clone(), |below| visit(place, Some(value), None, below, (&[], form)))?;
                }
                self.child(element, |_| Ok(Here::Changed))
            }
        }
    }
}

fn sorted(object: Option<&Map<String, Value>>) -> impl Iterator<Item = (&str, &Value)> {
    object.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn first<'s, 'v>(old: &'s [(Element<'v>, &Value)], new: &'s [(Element<'v>, &Value)]) -> Option<&'s Element<'v>> {
    match (old.first(), new.first()) {
        (Some(old), Some(new)) => Some((&old.0).min(&new.0)),
        (one, None) | (None, one) => one.map(|(element, _)| element),
    }
}

/// The leading entries with this identity.
fn take<'s, 'v>(list: &mut &'s [(Element<'v>, &'v Value)], element: &Element<'v>) -> &'s [(Element<'v>, &'v Value)] {
    let count = list.iter().take_while(|(other, _)| other == element).count();
    let (taken, rest) = list.split_at(count);
    *list = rest;
    taken
}
