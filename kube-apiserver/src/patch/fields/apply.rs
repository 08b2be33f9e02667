//! Server-side apply: merges a configuration into an object. The applier owns what it names, and gives up what it named
//! before and no longer does; what nobody else owns then goes.

use std::borrow::Cow;

use common::schema::Type;
use serde_json::Value;

use super::collect::collect;
use super::compare::{New, without_system};
use super::conflict::{self, Cause, Conflict};
use super::element::equal;
use super::managers::{self, Entry};
use super::remove::{remove, with_parents};
use super::set::Set;
use super::settle::{self, Others};
use super::typed::Place;
use super::{Operation, Write, last_applied, managed_fields, merge, put_managed_fields, take_managed_fields, validate};

/// Owns what was there before anybody applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Why a configuration was not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyError {
    /// The configuration is not for this object: 400.
    BadRequest(String),
    /// Other managers own fields with other values: 409.
    Conflict {
        /// All of it.
        message: String,
        /// Field by field.
        causes: Vec<Cause>,
    },
    /// The configuration does not fit its type: 500, as upstream answers.
    Unfit(String),
}

/// `live` (for a new object: `{}`) with what `config` says, and who owns what. Both are in the version of the write.
///
/// # Errors
/// See [`ApplyError`].
pub fn apply(write: &Write<'_>, live: &Value, config: &Value, force: bool) -> Result<Value, ApplyError> {
    check(write, config)?;
    let root = Place::root(write.ty);
    validate::validate(root, config).map_err(|error| {
        ApplyError::Unfit(format!("failed to create typed patch object ({}): {error}", named(write, config)))
    })?;
    let attempt = Attempt { write, live, config };
    let mut applied = match attempt.run(force, &|conflicts| conflicts)? {
        Applied::Done(object) => object,
        Applied::Conflicts(message, causes) => {
            if write.manager != last_applied::MANAGER {
                return Err(ApplyError::Conflict { message, causes });
            }
            attempt.upgrade(message, causes)?
        }
    };
    if write.manager == last_applied::MANAGER {
        last_applied::refresh(&mut applied, config);
    }
    Ok(applied)
}

fn check(write: &Write<'_>, config: &Value) -> Result<(), ApplyError> {
    let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version != write.api_version || kind != write.kind {
        let (group, version) = common::api::catalog::split_api_version(api_version);
        return Err(ApplyError::BadRequest(format!("invalid object type: {group}/{version}, Kind={kind}")));
    }
    if managed_fields(config).is_some_and(Value::is_array) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    Ok(())
}

/// `namespace/name; group/version, Kind=kind`
fn named(write: &Write<'_>, object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    let (group, version) = common::api::catalog::split_api_version(write.api_version);
    format!("{}/{}; {group}/{version}, Kind={}", text("namespace"), text("name"), write.kind)
}

struct Attempt<'a> {
    write: &'a Write<'a>,
    live: &'a Value,
    config: &'a Value,
}

enum Applied {
    Done(Value),
    Conflicts(String, Vec<Cause>),
}

impl Attempt<'_> {
    /// Applies once. `reduce` may take from the conflicts before they count.
    fn run(
        &self,
        force: bool,
        reduce: &dyn for<'c> Fn(Vec<Conflict<'c>>) -> Vec<Conflict<'c>>,
    ) -> Result<Applied, ApplyError> {
        let write = self.write;
        let internal = |what: &'static str| move |error| ApplyError::Unfit(format!("{what}: {error}"));
        let root = Place::root(write.ty);
        let mut entries = self.entries()?;
        settle::reconcile(write, self.live, &mut entries).map_err(internal("failed to decode managed fields"))?;

        let merged = merge::merge(root, self.live, self.config).map_err(internal("failed to merge config"))?;
        let named = collect(root, self.config).map_err(internal("failed to get field set"))?;
        let applier = write.manager(write.manager, Operation::Apply);
        let last = entries.iter().position(|entry| entry.manager == applier).map(|at| entries.remove(at));
        let (mut time, mut pruned) = (None, merged);
        entries.push(Entry::new(applier.clone(), Cow::Borrowed(write.api_version), write.reset.filter(named)));
        if let Some(mut last) = last {
            time = last.time.take();
            pruned = prune(write, pruned, &mut entries, &mut last).map_err(internal("failed to prune fields"))?;
        }
        let own = settle::changes(write, root, self.live, &pruned, New::Merged)
            .map_err(internal("failed to compare objects"))?;
        let others = Others::new(write, &entries, self.live, &pruned);
        let conflicts = settle::settle(write, &mut entries, Some(&applier), &own, &others)
            .map_err(internal("failed to compare objects"))?;
        let conflicts = reduce(conflicts);
        if !force && !conflicts.is_empty() {
            let (message, causes) = conflict::explain(&conflicts);
            return Ok(Applied::Conflicts(message, causes));
        }
        if let Some(entry) = entries.iter_mut().find(|entry| entry.manager == applier) {
            let owned = without_system(entry.set().map_err(internal("failed to get field set"))?);
            entry.set_fields(owned);
            // An applier that changes nothing leaves no time.
            entry.time = if equal(self.live, &pruned) { time } else { Some(Cow::Owned(write.time())) };
        }
        let fields = managers::encode(entries);
        drop(own);
        take_managed_fields(&mut pruned);
        put_managed_fields(&mut pruned, fields);
        Ok(Applied::Done(pruned))
    }

    /// The entries before this apply. What an object without any has belongs to an entry of its own.
    fn entries(&self) -> Result<Vec<Entry<'_>>, ApplyError> {
        let failed = |error| ApplyError::Unfit(format!("failed to decode managed fields: {error}"));
        let mut entries = managers::decode(managed_fields(self.live), true).map_err(failed)?;
        if entries.is_empty() {
            let failed = |error| ApplyError::Unfit(format!("failed to create manager for existing fields: {error}"));
            let root = Place::root(self.write.ty);
            let own = settle::changes(self.write, root, &EMPTY, self.live, New::Typed).map_err(failed)?;
            settle::claim(self.write, &mut entries, BEFORE_FIRST_APPLY, &own.changed).map_err(failed)?;
        }
        Ok(entries)
    }

    /// Fields that client-side apply wrote, and that are still as it wrote them, may be taken over by `kubectl`.
    fn upgrade(&self, message: String, causes: Vec<Cause>) -> Result<Value, ApplyError> {
        let refused = Err(ApplyError::Conflict { message, causes });
        let Some(config) = last_applied::configuration(self.live, self.write.api_version) else { return refused };
        let Some(allowed) = last_applied::unchanged(self.write, &config, self.live) else { return refused };
        match self.run(false, &|conflicts| conflict::without(conflicts, &allowed))? {
            Applied::Done(object) => Ok(object),
            Applied::Conflicts(message, causes) => Err(ApplyError::Conflict { message, causes }),
        }
    }
}

static EMPTY: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| Value::Object(serde_json::Map::new()));

/// Removes from `merged` what the applier's last configuration named, this one does not, and nobody else owns.
fn prune(write: &Write<'_>, merged: Value, entries: &mut [Entry<'_>], last: &mut Entry<'_>) -> Result<Value, String> {
    let version = last.api_version.clone().into_owned();
    let last = last.set()?;
    let covered = match entries.last_mut() {
        Some(own) if own.api_version == version => last.difference(own.set()?).is_empty(),
        _ => false,
    };
    if covered {
        return Ok(merged);
    }
    let Some((merged_then, ty)) = in_version(write, &merged, &version) else { return Ok(merged) };
    let place = Place::root(ty);
    let last = with_parents(Some(place), last);
    let pruned = remove(place, &merged_then, &last);
    let (merged_then, pruned) = add_back_owned(write, merged_then, pruned, &version, entries)?;

    // What was left out but was never named stays.
    let Some((pruned, _)) = in_version(write, &pruned, &version) else { return Ok(merged) };
    let Some((merged_then, _)) = in_version(write, &merged_then, &version) else { return Ok(merged) };
    let (had, has) = (collect(place, &merged_then)?, collect(place, &pruned)?);
    let (had, has) = (with_parents(Some(place), &had), with_parents(Some(place), &has));
    let left = remove(place, &merged_then, &had.difference(&has).intersection(&last));
    Ok(in_version(write, &left, write.api_version).map_or(left, |(object, _)| object))
}

/// Adds back to `pruned` what of `merged` managers own, version by version.
fn add_back_owned(
    write: &Write<'_>,
    mut merged: Value,
    mut pruned: Value,
    first: &str,
    entries: &mut [Entry<'_>],
) -> Result<(Value, Value), String> {
    let mut versions = vec![first.to_owned()];
    for entry in entries.iter() {
        if !versions.iter().any(|version| *version == entry.api_version) {
            versions.push(entry.api_version.to_string());
        }
    }
    for version in versions {
        let mut owned = Set::default();
        for entry in entries.iter_mut().filter(|entry| entry.api_version == version) {
            owned = owned.union(entry.set()?);
        }
        let Some((then, ty)) = in_version(write, &merged, &version) else { continue };
        let Some((left, _)) = in_version(write, &pruned, &version) else { continue };
        let place = Place::root(ty);
        let parents = |set: &Set<'_>| with_parents(Some(place), set).encode();
        let (had, has, owned) = (parents(&collect(place, &then)?), parents(&collect(place, &left)?), parents(&owned));
        let keep = Set::decode(&has)?.union(&Set::decode(&owned)?).encode();
        let gone = Set::decode(&had)?.difference(&Set::decode(&keep)?).encode();
        pruned = remove(place, &then, &Set::decode(&gone)?);
        merged = then;
    }
    Ok((merged, pruned))
}

/// An object in another version, with its type there.
fn in_version<'w>(write: &'w Write<'_>, object: &Value, version: &str) -> Option<(Value, Type<'w>)> {
    if object.get("apiVersion").and_then(Value::as_str).is_some_and(|own| own == version) {
        let ty = if version == write.api_version {
            Some(write.ty)
        } else {
            write.versions.convert(object, version).map(|(_, ty)| ty)
        };
        return ty.map(|ty| (object.clone(), ty));
    }
    write.versions.convert(object, version)
}
