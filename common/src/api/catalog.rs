//! The catalog: every built-in resource once, with what discovery, routing and storage need to know about it.
//!
//! The facts are data (`catalog.txt`, written by `hack/gen-catalog.py`), parsed at first use; all strings are slices of it.

use std::sync::LazyLock;

/// A built-in resource in one group version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for core.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// Plural name, as in the URL.
    pub plural: &'static str,
    /// Singular name.
    pub singular: &'static str,
    /// Kind of the objects.
    pub kind: &'static str,
    /// Names kubectl accepts instead of the plural.
    pub short_names: Vec<&'static str>,
    /// Groups of resources, such as `all`.
    pub categories: Vec<&'static str>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// What clients may do, in upstream's (alphabetical) order.
    pub verbs: Vec<&'static str>,
    /// Subresources, in alphabetical order.
    pub subresources: Vec<Subresource>,
    /// Where and how objects are stored; `None` for kinds that are never stored (reviews, bindings).
    pub storage: Option<Storage>,
}

/// How a resource is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Hash of the storage version that discovery publishes.
    pub hash: &'static str,
    /// Group of the stored form (differs from the served one for `events.k8s.io`).
    pub group: &'static str,
    /// Version of the stored form.
    pub version: &'static str,
    /// Key prefix below `/registry/`, such as `services/specs`.
    pub prefix: &'static str,
}

/// A subresource of a [`Resource`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// Name, as in the URL (`status`, `scale`, ...).
    pub name: &'static str,
    /// Group of the kind; equal to the resource's unless discovery says otherwise.
    pub group: &'static str,
    /// Version of the kind.
    pub version: &'static str,
    /// Kind that is read or written.
    pub kind: &'static str,
    /// Whether the kind's group version differs and hence is spelled out in discovery.
    pub foreign: bool,
    /// What clients may do.
    pub verbs: Vec<&'static str>,
}

impl Resource {
    /// `group/version`, or just the version for core.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// The kind of a list of this resource.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// Whether clients may use `verb`.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether DELETE answers with the deleted object; most kinds answer with a `Status`.
    pub fn returns_deleted(&self) -> bool {
        match self.group {
            "" => matches!(
                self.plural,
                "persistentvolumeclaims"
                    | "persistentvolumes"
                    | "pods"
                    | "podtemplates"
                    | "resourcequotas"
                    | "serviceaccounts"
                    | "services"
            ),
            "resource.k8s.io" => true,
            "storage.k8s.io" => self.plural != "csistoragecapacities",
            _ => false,
        }
    }

    /// The subresource called `name`.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// The etcd key prefix, such as `/registry/services/specs`; `None` for kinds that are never stored.
    pub fn registry_prefix(&self) -> Option<String> {
        self.storage.as_ref().map(|s| format!("/registry/{}", s.prefix))
    }
}

impl Subresource {
    /// `group/version` of the kind, or just the version for core.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// Whether clients may use `verb`.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}

/// `group/version`, or just the version for the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Splits an `apiVersion` into group and version.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// One version of a group and its resources.
#[derive(Debug)]
pub struct GroupVersion {
    /// API group; empty for core.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// Whether it is served without `--runtime-config` asking for it (all GA versions are).
    pub on_by_default: bool,
    /// Its resources, alphabetically.
    pub resources: Vec<Resource>,
}

impl GroupVersion {
    /// `group/version`, or just the version for core.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }
}

/// An API group.
#[derive(Debug)]
pub struct Group {
    /// Its name; empty for core.
    pub name: &'static str,
    /// Versions, most preferred first.
    pub versions: Vec<GroupVersion>,
}

/// All groups, in upstream's order of priority, core first.
#[derive(Debug)]
pub struct Catalog {
    /// The groups.
    pub groups: Vec<Group>,
}

impl Catalog {
    /// The group called `name` (empty for core).
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.name == name)
    }

    /// Every group version, most preferred first within a group.
    pub fn group_versions(&self) -> impl Iterator<Item = &GroupVersion> {
        self.groups.iter().flat_map(|g| &g.versions)
    }

    /// One group version.
    pub fn group_version(&self, group: &str, version: &str) -> Option<&GroupVersion> {
        self.group(group)?.versions.iter().find(|v| v.version == version)
    }

    /// Every resource of every group version.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.group_versions().flat_map(|v| &v.resources)
    }

    /// The resource at a URL.
    pub fn by_plural(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        let resources = &self.group_version(group, version)?.resources;
        resources.binary_search_by_key(&plural, |r| r.plural).ok().map(|i| &resources[i])
    }

    /// The resource whose objects are of a kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Resource> {
        self.group_version(group, version)?.resources.iter().find(|r| r.kind == kind)
    }

    /// The most preferred version of a resource, whatever version it is asked for in.
    pub fn preferred(&self, group: &str, plural: &str) -> Option<&Resource> {
        self.group(group)?.versions.iter().flat_map(|v| &v.resources).find(|r| r.plural == plural)
    }
}

/// The catalog of the built-in resources.
pub fn catalog() -> &'static Catalog {
    static CATALOG: LazyLock<Catalog> = LazyLock::new(|| super::load::parse(include_str!("catalog.txt")));
    &CATALOG
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_resources_by_url_and_by_kind() {
        let deployment = catalog().by_plural("apps", "v1", "deployments").unwrap();
        assert_eq!((deployment.kind, deployment.singular, deployment.namespaced), ("Deployment", "deployment", true));
        assert_eq!(deployment.short_names, ["deploy"]);
        assert_eq!(deployment.list_kind(), "DeploymentList");
        assert!(std::ptr::eq(deployment, catalog().by_kind("apps", "v1", "Deployment").unwrap()));
        let scale = deployment.subresource("scale").unwrap();
        assert_eq!((scale.api_version().as_str(), scale.kind, scale.foreign), ("autoscaling/v1", "Scale", true));
        assert!(catalog().by_plural("apps", "v1", "pods").is_none());
        assert!(catalog().by_plural("apps", "v2", "deployments").is_none());
    }

    #[test]
    fn knows_where_upstream_stores_things() {
        for (group, version, plural, prefix, stored) in [
            ("", "v1", "services", "/registry/services/specs", ("", "v1")),
            ("", "v1", "endpoints", "/registry/services/endpoints", ("", "v1")),
            ("", "v1", "nodes", "/registry/minions", ("", "v1")),
            ("events.k8s.io", "v1", "events", "/registry/events", ("", "v1")),
            ("networking.k8s.io", "v1", "ingresses", "/registry/ingress", ("networking.k8s.io", "v1")),
            (
                "autoscaling",
                "v1",
                "horizontalpodautoscalers",
                "/registry/horizontalpodautoscalers",
                ("autoscaling", "v2"),
            ),
        ] {
            let resource = catalog().by_plural(group, version, plural).unwrap();
            assert_eq!(resource.registry_prefix().as_deref(), Some(prefix));
            let storage = resource.storage.as_ref().unwrap();
            assert_eq!((storage.group, storage.version), stored);
        }
        assert!(catalog().by_plural("", "v1", "bindings").unwrap().storage.is_none());
    }

    #[test]
    fn is_sorted_for_binary_search_and_starts_with_core() {
        assert_eq!(catalog().groups[0].name, "");
        for version in catalog().group_versions() {
            assert!(version.resources.is_sorted_by_key(|r| r.plural), "{}", version.api_version());
        }
    }
}
