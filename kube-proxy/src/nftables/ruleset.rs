//! A table's content as data, and the script that turns one content into another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

/// Everything of ours in one table. Equal rulesets need no transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
}

/// A chain: its hook, when it is a base chain, and its rules in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub hook: Option<String>,
    pub rules: Vec<String>,
}

/// A set, or a map when elements have values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set {
    /// `set` or `map`.
    pub kind: &'static str,
    /// Declaration: type, flags, timeout.
    pub declaration: String,
    /// Key to value; values are empty in a set.
    pub elements: BTreeMap<String, String>,
    /// The kernel fills it: elements are never compared.
    pub dynamic: bool,
}

impl Ruleset {
    pub(crate) fn chain(&mut self, name: impl Into<String>) -> &mut Chain {
        self.chains.entry(name.into()).or_default()
    }

    pub(crate) fn base(&mut self, name: &str, hook: &str) -> &mut Chain {
        let chain = self.chain(name);
        chain.hook = Some(hook.to_owned());
        chain
    }

    pub(crate) fn set(
        &mut self,
        name: impl Into<String>,
        kind: &'static str,
        declaration: impl Into<String>,
    ) -> &mut Set {
        let set = self.sets.entry(name.into()).or_default();
        set.kind = kind;
        set.declaration = declaration.into();
        set
    }
}

impl Chain {
    pub(crate) fn rule(&mut self, text: impl Into<String>) -> &mut Self {
        self.rules.push(text.into());
        self
    }
}

/// The script that makes the whole table anew.
pub(crate) fn replace(table: &str, new: &Ruleset) -> String {
    let mut script = format!("add table {table}\ndelete table {table}\nadd table {table}\n");
    write_changes(&mut script, table, &Ruleset::default(), new);
    script
}

/// The script that turns `old` into `new`; empty when they are equal.
pub(crate) fn difference(table: &str, old: &Ruleset, new: &Ruleset) -> String {
    let mut script = String::new();
    write_changes(&mut script, table, old, new);
    script
}

/// Order matters to the kernel: whatever is referred to exists before and is removed after its referrers.
fn write_changes(script: &mut String, table: &str, old: &Ruleset, new: &Ruleset) {
    let redeclared: BTreeSet<&String> = new
        .sets
        .iter()
        .filter(|(name, set)| old.sets.get(*name).is_some_and(|old| old.declaration != set.declaration))
        .map(|(name, _)| name)
        .collect();
    for (name, chain) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
        let hook = chain.hook.as_ref().map(|hook| format!(" {{ {hook} }}")).unwrap_or_default();
        let _ = writeln!(script, "add chain {table} {name}{hook}");
    }
    for (name, set) in new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
        let _ = writeln!(script, "add {} {table} {name} {{ {} }}", set.kind, set.declaration);
    }
    // Rules that change or go, first: they may refer to elements, sets and chains that go.
    let touches =
        |chain: &Chain| redeclared.iter().any(|set| chain.rules.iter().any(|rule| rule.contains(&format!("@{set}"))));
    let changed = |name: &String, chain: &Chain| {
        old.chains.get(name).is_none_or(|old| old.rules != chain.rules) || touches(chain)
    };
    for (name, chain) in &old.chains {
        if !chain.rules.is_empty() && new.chains.get(name).is_none_or(|new| changed(name, new)) {
            let _ = writeln!(script, "flush chain {table} {name}");
        }
    }
    for name in &redeclared {
        let set = &new.sets[*name];
        let _ = writeln!(script, "delete {} {table} {name}", set.kind);
        let _ = writeln!(script, "add {} {table} {name} {{ {} }}", set.kind, set.declaration);
    }
    let nothing = BTreeMap::new();
    let old_elements = |name: &String| {
        if redeclared.contains(name) { &nothing } else { old.sets.get(name).map_or(&nothing, |set| &set.elements) }
    };
    for (name, set) in new.sets.iter().filter(|(_, set)| !set.dynamic) {
        let gone = old_elements(name)
            .iter()
            .filter(|(key, value)| set.elements.get(*key) != Some(value))
            .map(|(key, _)| key.clone());
        write_elements(script, "delete", table, name, gone);
    }
    for (name, set) in old.sets.iter().filter(|(name, set)| !new.sets.contains_key(*name) && !set.dynamic) {
        write_elements(script, "delete", table, name, set.elements.keys().cloned());
    }
    for (name, set) in new.sets.iter().filter(|(_, set)| !set.dynamic) {
        let old = old_elements(name);
        let added = set.elements.iter().filter(|(key, value)| old.get(*key) != Some(value));
        let added = added.map(|(key, value)| if value.is_empty() { key.clone() } else { format!("{key} : {value}") });
        write_elements(script, "add", table, name, added);
    }
    for (name, chain) in new.chains.iter().filter(|(name, chain)| changed(name, chain)) {
        for rule in &chain.rules {
            let _ = writeln!(script, "add rule {table} {name} {rule}");
        }
    }
    for (name, set) in old.sets.iter().filter(|(name, _)| !new.sets.contains_key(*name)) {
        let _ = writeln!(script, "delete {} {table} {name}", set.kind);
    }
    for name in old.chains.keys().filter(|name| !new.chains.contains_key(*name)) {
        let _ = writeln!(script, "delete chain {table} {name}");
    }
}

/// Elements in groups, so that no line grows without bound.
fn write_elements(script: &mut String, verb: &str, table: &str, set: &str, elements: impl Iterator<Item = String>) {
    let elements: Vec<String> = elements.collect();
    for group in elements.chunks(256) {
        let _ = writeln!(script, "{verb} element {table} {set} {{ {} }}", group.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: &str) -> Ruleset {
        let mut rules = Ruleset::default();
        rules.chain("a").rule(format!("rule {value}"));
        rules.set("m", "map", "type x : verdict").elements.insert("k".into(), format!("goto {value}"));
        rules
    }

    #[test]
    fn equal_rulesets_need_nothing() {
        assert_eq!(difference("ip t", &sample("one"), &sample("one")), "");
    }

    #[test]
    fn a_changed_element_is_deleted_before_it_is_added() {
        let script = difference("ip t", &sample("one"), &sample("two"));
        assert_eq!(
            script,
            "flush chain ip t a\ndelete element ip t m { k }\nadd element ip t m { k : goto two }\nadd rule ip t a rule two\n"
        );
    }

    #[test]
    fn what_goes_is_emptied_first() {
        let script = difference("ip t", &sample("one"), &Ruleset::default());
        assert_eq!(script, "flush chain ip t a\ndelete element ip t m { k }\ndelete map ip t m\ndelete chain ip t a\n");
    }

    #[test]
    fn a_new_table_replaces_whatever_was_there() {
        let script = replace("ip t", &sample("one"));
        assert!(
            script.starts_with("add table ip t\ndelete table ip t\nadd table ip t\nadd chain ip t a\n"),
            "{script}"
        );
    }
}
