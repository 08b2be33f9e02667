//! The difference between two renderings of some Services, and the script that makes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{
    claims::Claims,
    element::{Key, Value},
    render::Fragment,
};
use crate::model::ServiceKey;

/// Everything that one transaction does. Order is in [`Changes::script`].
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Chains that are new or have other rules.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Chains to empty; they are deleted later.
    pub stale: BTreeSet<String>,
    pub new_sets: BTreeMap<String, u32>,
    pub old_sets: BTreeSet<String>,
    pub delete: BTreeSet<Key>,
    pub add: BTreeMap<Key, Value>,
}

impl Changes {
    /// Whether elements are all that changes.
    pub(super) fn only_elements(&self) -> bool {
        self.chains.is_empty() && self.stale.is_empty() && self.new_sets.is_empty() && self.old_sets.is_empty()
    }

    /// Adds what turns `old` into `new`, for several Services: all that is let go of first, since another may take it.
    pub(super) fn services(&mut self, services: &[(ServiceKey, Fragment, Fragment)], claims: &mut Claims) {
        for (owner, old, new) in services {
            for key in old.elements.keys().filter(|key| !new.elements.contains_key(key)) {
                self.release(*key, owner, claims);
            }
        }
        for (owner, old, new) in services {
            for (key, value) in &new.elements {
                let known = old.elements.get(key);
                let ours = key.is_exclusive() || claims.acquire(*key, owner, value);
                if known == Some(value) || !ours {
                    continue;
                }
                if known.is_some() {
                    self.delete.insert(*key);
                }
                self.add.insert(*key, value.clone());
            }
            self.own_chains(old, new);
        }
    }

    fn release(&mut self, key: Key, owner: &ServiceKey, claims: &mut Claims) {
        let next = if key.is_exclusive() { Some(None) } else { claims.release(&key, owner) };
        let Some(next) = next else { return };
        // Another one may have let go of it before, in this transaction, in favour of this one.
        if self.add.remove(&key).is_none() {
            self.delete.insert(key);
        }
        if let Some(value) = next {
            self.add.insert(key, value);
        }
    }

    fn own_chains(&mut self, old: &Fragment, new: &Fragment) {
        let resized: BTreeSet<&String> = old
            .affinity
            .iter()
            .filter(|(set, seconds)| new.affinity.get(*set) != Some(seconds))
            .map(|(set, _)| set)
            .collect();
        for (set, seconds) in new.affinity.iter().filter(|(set, seconds)| old.affinity.get(*set) != Some(seconds)) {
            self.new_sets.insert(set.clone(), *seconds);
        }
        self.old_sets.extend(resized.iter().map(|set| (*set).clone()));
        // A set can only be made anew when no rule holds it: such chains are written again.
        let touched = |rules: &[String]| rules.iter().any(|rule| resized.iter().any(|set| rule.contains(set.as_str())));
        for (name, rules) in &new.chains {
            if old.chains.get(name) != Some(rules) || touched(rules) {
                self.chains.insert(name.clone(), rules.clone());
            }
        }
        self.stale.extend(old.chains.keys().filter(|name| !new.chains.contains_key(*name)).cloned());
    }

    /// Whatever is referred to exists before and goes after its referrers.
    pub(super) fn script(&self, table: &str, address_type: &str) -> String {
        let mut script = String::new();
        for name in self.chains.keys() {
            let _ = writeln!(script, "add chain {table} {name}");
        }
        for name in self.chains.keys().chain(&self.stale) {
            let _ = writeln!(script, "flush chain {table} {name}");
        }
        for name in &self.old_sets {
            let _ = writeln!(script, "delete set {table} {name}");
        }
        for (name, seconds) in &self.new_sets {
            let _ = writeln!(script, "{}", affinity_set(table, name, address_type, *seconds));
        }
        elements(&mut script, "delete", table, self.delete.iter().map(|key| (key, key.to_string())));
        let added = self.add.iter().map(|(key, value)| match value {
            Value::None => (key, key.to_string()),
            value => (key, format!("{key} : {value}")),
        });
        elements(&mut script, "add", table, added);
        for (name, rules) in &self.chains {
            for rule in rules {
                let _ = writeln!(script, "add rule {table} {name} {rule}");
            }
        }
        script
    }
}

/// The declaration of a set of clients.
pub(super) fn affinity_set(table: &str, name: &str, address_type: &str, seconds: u32) -> String {
    format!("add set {table} {name} {{ type {address_type}; flags dynamic,timeout; timeout {seconds}s; }}")
}

/// Elements in groups, so that no line grows without bound.
fn elements<'a>(script: &mut String, verb: &str, table: &str, all: impl Iterator<Item = (&'a Key, String)>) {
    let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, text) in all {
        groups.entry(key.container().name).or_default().push(text);
    }
    for (container, texts) in groups {
        for group in texts.chunks(256) {
            let _ = writeln!(script, "{verb} element {table} {container} {{ {} }}", group.join(", "));
        }
    }
}
