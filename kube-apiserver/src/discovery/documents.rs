//! The documents, as JSON trees.

use common::api::{GroupVersion, Resource, Subresource};
use serde_json::{Map, Value, json};

/// Which root document: /api or /apis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aggregated {
    Core,
    Groups,
}

pub(super) fn core_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

pub(super) fn group_list<'g>(groups: impl Iterator<Item = (&'g str, Vec<&'g GroupVersion>)>) -> Value {
    let groups: Vec<Value> = groups.filter_map(|(name, versions)| group_entry(name, &versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

pub(super) fn group(name: &str, versions: &[&GroupVersion]) -> Option<Value> {
    let mut entry = group_entry(name, versions)?;
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

fn group_entry(name: &str, versions: &[&GroupVersion]) -> Option<Value> {
    let entry = |version: &GroupVersion| json!({"groupVersion": version.api_version(), "version": version.version});
    let versions: Vec<Value> = versions.iter().map(|version| entry(version)).collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": name, "versions": versions, "preferredVersion": preferred}))
}

pub(super) fn resource_list(version: &GroupVersion, served: &dyn Fn(&Resource) -> bool) -> Value {
    let mut entries = Vec::new();
    for resource in version.resources.iter().filter(|resource| served(resource)) {
        entries.push(resource_entry(resource));
        entries.extend(resource.subresources.iter().map(|sub| subresource_entry(resource, sub)));
    }
    let mut list = json!({"kind": "APIResourceList", "groupVersion": version.api_version(), "resources": entries});
    if !version.group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list
}

fn resource_entry(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    names(&mut entry, resource);
    if let Some(storage) = &resource.storage {
        entry["storageVersionHash"] = storage.hash.into();
    }
    entry
}

fn names(entry: &mut Value, resource: &Resource) {
    for (key, names) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !names.is_empty() {
            entry[key] = json!(names);
        }
    }
}

fn subresource_entry(resource: &Resource, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if sub.foreign {
        entry["group"] = sub.group.into();
        entry["version"] = sub.version.into();
    }
    entry
}

/// The aggregated form (without `apiVersion`: it is the same for both versions).
pub(super) fn aggregated<'g>(
    groups: impl Iterator<Item = (&'g str, Vec<&'g GroupVersion>)>,
    served: &dyn Fn(&Resource) -> bool,
) -> Value {
    let items: Vec<Value> = groups
        .filter(|(_, versions)| !versions.is_empty())
        .map(|(name, versions)| {
            let metadata = if name.is_empty() { Map::new() } else { Map::from_iter([("name".into(), name.into())]) };
            let versions: Vec<Value> =
                versions.into_iter().map(|version| aggregated_version(version, served)).collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "metadata": {}, "items": items})
}

fn aggregated_version(version: &GroupVersion, served: &dyn Fn(&Resource) -> bool) -> Value {
    let resources = version.resources.iter().filter(|resource| served(resource)).map(aggregated_resource);
    json!({"version": version.version, "freshness": "Current", "resources": resources.collect::<Vec<_>>()})
}

fn aggregated_resource(resource: &Resource) -> Value {
    // Group and version are told only where they differ from what they stand in.
    let own_kind = |kind: &str| json!({"group": "", "version": "", "kind": kind});
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": own_kind(resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    names(&mut entry, resource);
    if !resource.subresources.is_empty() {
        let subresources = resource.subresources.iter().map(|sub| {
            let kind = match sub.foreign {
                true => json!({"group": sub.group, "version": sub.version, "kind": sub.kind}),
                false => own_kind(sub.kind),
            };
            json!({"subresource": sub.name, "responseKind": kind, "verbs": sub.verbs})
        });
        entry["subresources"] = subresources.collect();
    }
    entry
}
