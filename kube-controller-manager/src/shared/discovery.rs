//! What the server serves: every resource once, in the version its group prefers.

use std::collections::BTreeSet;

use kube::Client;
use kube::core::ApiResource;
use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList, APIResourceDiscovery};

/// One listable or deletable resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Served {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
    /// Has the scale subresource.
    pub(crate) scalable: bool,
    pub(crate) verbs: BTreeSet<String>,
}

impl Served {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    pub(crate) fn api_resource(&self) -> ApiResource {
        ApiResource {
            group: self.group.clone(),
            version: self.version.clone(),
            api_version: self.api_version(),
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        }
    }

    pub(crate) fn has(&self, verb: &str) -> bool {
        self.verbs.contains(verb)
    }
}

/// What is known, and the group versions whose server does not answer.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    pub(crate) resources: Vec<Served>,
    pub(crate) failed: Vec<String>,
}

impl Discovered {
    /// The text of upstream's error for groups that could not be discovered.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.failed.is_empty() {
            return None;
        }
        let list: Vec<String> =
            self.failed.iter().map(|gv| format!("{gv}: stale GroupVersion discovery: {gv}")).collect();
        Some(format!("unable to retrieve the complete list of server APIs: {}", list.join(", ")))
    }
}

/// Asks the server.
pub(crate) async fn discover(client: &Client) -> Result<Discovered, kube::Error> {
    let mut found = Discovered::default();
    let core = client.list_core_api_versions_aggregated().await?;
    let groups = client.list_api_groups_aggregated().await?;
    add(&mut found, core);
    add(&mut found, groups);
    Ok(found)
}

fn add(found: &mut Discovered, list: APIGroupDiscoveryList) {
    for group in list.items {
        add_group(found, group);
    }
}

fn add_group(found: &mut Discovered, group: APIGroupDiscovery) {
    let name = group.metadata.and_then(|m| m.name).unwrap_or_default();
    let mut seen = BTreeSet::new();
    for version in group.versions {
        let number = version.version.unwrap_or_default();
        if version.freshness.as_deref() == Some("Stale") {
            found.failed.push(if name.is_empty() { number.clone() } else { format!("{name}/{number}") });
        }
        for resource in version.resources {
            let Some(served) = served(&name, &number, resource) else { continue };
            if seen.insert(served.plural.clone()) {
                found.resources.push(served);
            }
        }
    }
}

fn served(group: &str, version: &str, resource: APIResourceDiscovery) -> Option<Served> {
    Some(Served {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: resource.response_kind.and_then(|k| k.kind)?,
        plural: resource.resource?,
        namespaced: resource.scope.as_deref() == Some("Namespaced"),
        scalable: resource.subresources.iter().any(|s| s.subresource.as_deref() == Some("scale")),
        verbs: resource.verbs.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_resource_once_in_the_preferred_version() {
        let list: APIGroupDiscoveryList =
            serde_json::from_value(json!({"items": [{"metadata": {"name": "apps"}, "versions": [
            {"version": "v1", "freshness": "Current", "resources": [{"resource": "deployments", "scope": "Namespaced",
                "responseKind": {"group": "", "version": "", "kind": "Deployment"}, "verbs": ["list", "delete"]}]},
            {"version": "v1beta1", "freshness": "Stale", "resources": [
                {"resource": "deployments", "scope": "Namespaced", "responseKind": {"kind": "Deployment"}, "verbs": []},
                {"resource": "olds", "scope": "Cluster", "responseKind": {"kind": "Old"}, "verbs": ["get"]}]}]}]}))
            .unwrap();
        let mut found = Discovered::default();
        add(&mut found, list);
        let names: Vec<_> = found.resources.iter().map(|r| format!("{} {}", r.api_version(), r.plural)).collect();
        assert_eq!(names, ["apps/v1 deployments", "apps/v1beta1 olds"]);
        assert!(found.resources[0].namespaced && found.resources[0].has("list") && !found.resources[1].namespaced);
        assert_eq!(found.failed, ["apps/v1beta1"]);
        assert!(found.failure().unwrap().contains("apps/v1beta1: stale GroupVersion discovery"));
    }
}
