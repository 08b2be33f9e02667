//! What a change means for everybody's ownership: who changes a field takes it from the others.

use std::borrow::Cow;

use serde_json::Value;

use super::compare::{Comparison, New, compare};
use super::conflict::Conflict;
use super::managers::{Entry, Manager};
use super::set::Set;
use super::typed::Place;
use super::{Operation, Write};

/// What differs between two states of an object, as far as the write may change it.
///
/// # Errors
/// Elements of a list cannot be told apart.
pub(super) fn changes<'v>(
    write: &Write<'_>,
    place: Place<'v>,
    old: &'v Value,
    new: &'v Value,
    form: New,
) -> Result<Comparison<'v>, String> {
    let found = compare(place, old, new, form)?;
    Ok(Comparison { changed: write.reset.filter(found.changed), removed: write.reset.filter(found.removed) })
}

/// Two states of an object in the versions that managers speak beside that of the write.
pub(super) struct Others<'w> {
    states: Vec<State<'w>>,
}

struct State<'w> {
    api_version: String,
    /// `None` for versions that are not known.
    known: Option<(Place<'w>, Value, Value)>,
}

impl<'w> Others<'w> {
    /// Converts both states, which are in the version of the write, to every other version that an entry names.
    pub(super) fn new(write: &'w Write<'_>, entries: &[Entry<'_>], old: &Value, new: &Value) -> Self {
        let mut states: Vec<State<'w>> = Vec::new();
        for entry in entries {
            let version = entry.api_version.as_ref();
            if version == write.api_version || states.iter().any(|state| state.api_version == version) {
                continue;
            }
            let known = write.versions.convert(old, version).and_then(|(old, ty)| {
                let (new, _) = write.versions.convert(new, version)?;
                Some((Place::root(ty), old, new))
            });
            states.push(State { api_version: version.to_owned(), known });
        }
        Self { states }
    }
}

/// Takes from all entries but `writer`'s what changed or went; answers what they owned of the changes. Entries of unknown
/// versions are dropped. `own` is what changed in the version of the write.
///
/// # Errors
/// A field set is malformed, or elements of a list cannot be told apart.
pub(super) fn settle<'s>(
    write: &Write<'_>,
    entries: &mut Vec<Entry<'s>>,
    writer: Option<&Manager<'_>>,
    own: &Comparison<'s>,
    others: &'s Others<'_>,
) -> Result<Vec<Conflict<'s>>, String> {
    let mut compared = Vec::with_capacity(others.states.len());
    for state in &others.states {
        let known = state.known.as_ref().map(|(place, old, new)| changes(write, *place, old, new, New::Typed));
        compared.push((state.api_version.as_str(), known.transpose()?));
    }
    let mut conflicts = Vec::new();
    let mut kept = Vec::with_capacity(entries.len());
    for mut entry in std::mem::take(entries) {
        let change = if writer == Some(&entry.manager) {
            None
        } else if entry.api_version == write.api_version {
            Some(own)
        } else {
            match compared.iter().find(|(version, _)| *version == entry.api_version) {
                Some((_, Some(change))) => Some(change),
                _ => continue,
            }
        };
        if let Some(change) = change.filter(|change| !change.is_empty()) {
            conflicts.extend(give_up(&mut entry, change)?);
        }
        kept.push(entry);
    }
    *entries = kept;
    conflicts.sort_by(|a: &Conflict<'_>, b| a.manager.cmp(&b.manager));
    Ok(conflicts)
}

/// Takes from an entry what changed or went.
fn give_up<'s>(entry: &mut Entry<'s>, change: &Comparison<'s>) -> Result<Option<Conflict<'s>>, String> {
    let set = entry.set()?;
    if set.is_disjoint(&change.changed) && set.is_disjoint(&change.removed) {
        return Ok(None);
    }
    let taken = set.intersection(&change.changed);
    let left = set.difference(&taken).difference(&change.removed);
    entry.set_fields(left);
    if taken.is_empty() {
        return Ok(None);
    }
    Ok(Some(Conflict { manager: entry.manager.clone(), api_version: entry.api_version.to_string(), fields: taken }))
}

/// Gives the writer of an update what it changed, beside what it owned already.
///
/// # Errors
/// A field set is malformed.
pub(super) fn claim<'s>(
    write: &'s Write<'_>,
    entries: &mut Vec<Entry<'s>>,
    name: &'s str,
    changed: &Set<'s>,
) -> Result<(), String> {
    if changed.is_empty() {
        return Ok(());
    }
    let manager = write.manager(name, Operation::Update);
    let time = Some(Cow::Owned(write.time()));
    match entries.iter_mut().find(|entry| entry.manager == manager) {
        Some(entry) => {
            let union = changed.union(entry.set()?);
            entry.set_fields(union);
            entry.time = time;
        }
        None => {
            let mut entry = Entry::new(manager, Cow::Borrowed(write.api_version), changed.clone());
            entry.time = time;
            entries.push(entry);
        }
    }
    Ok(())
}

/// Brings what entries own in line with their types.
///
/// # Errors
/// A field set is malformed.
pub(super) fn reconcile(write: &Write<'_>, live: &Value, entries: &mut [Entry<'_>]) -> Result<(), String> {
    for entry in entries {
        let ty = if entry.api_version == write.api_version {
            Some(write.ty)
        } else {
            write.versions.convert(live, &entry.api_version).map(|(_, ty)| ty)
        };
        let Some(ty) = ty else { continue };
        let reconciled = match super::remove::reconcile(Place::root(ty), entry.set()?) {
            Cow::Owned(reconciled) => reconciled,
            Cow::Borrowed(_) => continue,
        };
        entry.set_fields(reconciled);
    }
    Ok(())
}
