//! Reads the catalog's text form. The text is compiled in and covered by a test, so a malformed line is a bug of the
//! generator; such lines are skipped rather than allowed to panic.

use super::catalog::{Catalog, Group, GroupVersion, Resource, Storage, Subresource, split_api_version};

pub(super) fn parse(text: &'static str) -> Catalog {
    let mut groups: Vec<Group> = Vec::new();
    for line in text.lines() {
        let (tag, rest) = line.split_once(' ').unwrap_or((line, ""));
        match tag {
            "g" => groups.push(Group { name: rest, versions: Vec::new() }),
            "v" => {
                if let (Some(group), Some((version, on))) = (groups.last_mut(), rest.split_once(' ')) {
                    let on_by_default = on == "on";
                    let resources = Vec::new();
                    group.versions.push(GroupVersion { group: group.name, version, on_by_default, resources });
                }
            }
            "r" => {
                if let Some(version) = groups.last_mut().and_then(|g| g.versions.last_mut()) {
                    version.resources.extend(resource(version.group, version.version, rest));
                }
            }
            "s" => {
                let version = groups.last_mut().and_then(|g| g.versions.last_mut());
                if let Some(owner) = version.and_then(|v| v.resources.last_mut()) {
                    owner.subresources.extend(subresource(owner.group, owner.version, rest));
                }
            }
            _ => {}
        }
    }
    Catalog { groups }
}

fn resource(group: &'static str, version: &'static str, line: &'static str) -> Option<Resource> {
    let mut words = line.split(' ');
    let (plural, singular, kind) = (words.next()?, words.next()?, words.next()?);
    let (scope, letters) = (words.next()?, words.next()?);
    let mut resource = Resource {
        group,
        version,
        plural,
        singular,
        kind,
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: scope == "ns",
        verbs: verbs(letters),
        subresources: Vec::new(),
        storage: None,
    };
    let mut storage = Storage { hash: "", group, version, prefix: plural };
    for word in words {
        match word.split_once('=')? {
            ("short", names) => resource.short_names = names.split(',').collect(),
            ("categories", names) => resource.categories = names.split(',').collect(),
            // The hash itself ends in '='; split_once leaves that alone.
            ("hash", hash) => storage.hash = hash,
            ("stored", api_version) => (storage.group, storage.version) = split_api_version(api_version),
            ("prefix", prefix) => storage.prefix = prefix,
            _ => {}
        }
    }
    if !storage.hash.is_empty() {
        resource.storage = Some(storage);
    }
    Some(resource)
}

fn subresource(group: &'static str, version: &'static str, line: &'static str) -> Option<Subresource> {
    let mut words = line.split(' ');
    let (name, kind, letters) = (words.next()?, words.next()?, words.next()?);
    let foreign = words.next().and_then(|w| w.strip_prefix("gv=")).map(split_api_version);
    let (group, version) = foreign.unwrap_or((group, version));
    Some(Subresource { name, group, version, kind, foreign: foreign.is_some(), verbs: verbs(letters) })
}

fn verbs(letters: &str) -> Vec<&'static str> {
    letters
        .chars()
        .filter_map(|letter| {
            Some(match letter {
                'c' => "create",
                'd' => "delete",
                'D' => "deletecollection",
                'g' => "get",
                'l' => "list",
                'p' => "patch",
                'u' => "update",
                'w' => "watch",
                _ => return None,
            })
        })
        .collect()
}
