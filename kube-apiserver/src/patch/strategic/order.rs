//! The order of merged lists: the patch's elements in the patch's order, the server's own in theirs, and the two
//! interleaved as far as the server's order relates them.

use std::collections::{HashMap, VecDeque};

use common::schema::Type;
use serde_json::Value;

use super::lists::{self, holds_objects, identity};
use super::object::{ListField, not_a_list};
use super::{DIRECTIVE, Object, SET_ELEMENT_ORDER, target, without_directives};
use crate::patch::PatchError;
use crate::patch::gotext::go_text;

/// Obeys every `$setElementOrder/<list>` of a patch, and removes it and its list from the patch.
pub(super) fn apply_directives(
    original: &mut Object,
    patch: &mut Object,
    ty: Option<Type<'_>>,
) -> Result<(), PatchError> {
    let keys: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ELEMENT_ORDER)).cloned().collect();
    for key in keys {
        let Some(order) = patch.remove(&key) else { continue };
        let Value::Array(order) = order else { return Err(not_a_list(&order)) };
        if let Some(name) = target(&key, SET_ELEMENT_ORDER) {
            apply_order(original, patch, name?, &order, ty)?;
        }
    }
    Ok(())
}

fn apply_order(
    original: &mut Object,
    patch: &mut Object,
    name: &str,
    order: &[Value],
    ty: Option<Type<'_>>,
) -> Result<(), PatchError> {
    let old = original.get(name).map(as_list).transpose()?.cloned();
    let new = patch.get(name).map(as_list).transpose()?.cloned();
    let field = ListField::find(ty, name)?;
    check(new.as_deref().unwrap_or(&[]), order, field.key)?;
    let server_order = old.clone().unwrap_or_default();
    let merged = match (old, new) {
        (None, None) => return Ok(()),
        (Some(old), None) => old,
        (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
        (Some(old), Some(new)) if field.merges => lists::merge(old, new, &field)?,
        (Some(_), Some(new)) => new,
    };
    if !merged.is_empty() {
        holds_objects(&merged, &[])?;
    }
    if let Some(key) = field.key {
        for element in &merged {
            identity(element, key)?;
        }
        if let (Some(at), false) = (order.iter().position(|listed| !listed.is_object()), merged.is_empty()) {
            return Err(PatchError::Internal(format!("value for key {at} is not a map")));
        }
    }
    original.insert(name.to_owned(), Value::Array(arrange(merged, order, &server_order, field.key)));
    patch.remove(name);
    Ok(())
}

fn as_list(value: &Value) -> Result<&Vec<Value>, PatchError> {
    value.as_array().ok_or_else(|| not_a_list(value))
}

/// The patch's elements must stand in the order that the directive lists.
fn check(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for element in patch.iter().filter(|element| element.get(DIRECTIVE).is_none()) {
        if let Some(key) = key {
            identity(element, key)?;
        }
        if !rest.any(|listed| same(listed, element, key)) {
            return Err(PatchError::Internal(format!(
                "The order in patch list:\n{}\n doesn't match {SET_ELEMENT_ORDER} list:\n{}\n",
                go_text(&Value::Array(patch.to_vec())),
                go_text(&Value::Array(order.to_vec()))
            )));
        }
    }
    Ok(())
}

/// Arranges `merged`: elements named by `wanted` in its order, the others in that of `server`.
pub(super) fn arrange(merged: Vec<Value>, wanted: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let (wanted, server) = (Places::of(wanted, key), Places::of(server, key));
    let placed = merged.into_iter().map(|value| (wanted.find(&value), server.find(&value), value));
    let (mut ordered, mut others): (Vec<_>, Vec<_>) = placed.partition(|(wanted, ..)| wanted.is_some());
    ordered.sort_by_key(|(wanted, ..)| *wanted);
    others.sort_by_key(|(_, server, _)| server.unwrap_or(usize::MAX));

    let (mut ordered, mut others) = (VecDeque::from(ordered), VecDeque::from(others));
    let mut result = Vec::with_capacity(ordered.len() + others.len());
    while let (Some((_, left, _)), Some((_, right, _))) = (others.front(), ordered.front()) {
        let before = matches!((left, right), (Some(l), Some(r)) if l < r);
        result.extend(if before { others.pop_front() } else { ordered.pop_front() });
    }
    result.extend(ordered);
    result.extend(others);
    result.into_iter().map(|(_, _, value)| value).collect()
}

/// Where elements of a list are, by their merge key or, without one, by themselves.
pub(super) struct Places<'k> {
    first: HashMap<String, usize>,
    key: Option<&'k str>,
}

impl<'k> Places<'k> {
    pub(super) fn of(list: &[Value], key: Option<&'k str>) -> Self {
        let mut places = Self { first: HashMap::with_capacity(list.len()), key };
        list.iter().enumerate().for_each(|(at, value)| places.add(value, at));
        places
    }

    /// Notes where an element is, unless an equal one was noted before.
    pub(super) fn add(&mut self, value: &Value, at: usize) {
        self.first.entry(self.name(value)).or_insert(at);
    }

    /// Where the first of the elements equal to `value` is.
    pub(super) fn find(&self, value: &Value) -> Option<usize> {
        self.first.get(&self.name(value)).copied()
    }

    /// JSON text: what is equal has the same.
    fn name(&self, value: &Value) -> String {
        match self.key {
            Some(key) => value.get(key).map(Value::to_string).unwrap_or_default(),
            None => value.to_string(),
        }
    }
}

fn same(left: &Value, right: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => left.get(key) == right.get(key),
        None => left == right,
    }
}
