//! FlowSchemas, made ready for matching: which requests a schema is for, and which flow of it a request belongs to.

use serde::Deserialize;
use serde_json::Value;

use crate::{authn::User, request::RequestInfo};

/// Stands for everything in a rule.
const ALL: &str = "*";

/// What of a FlowSchema's spec matters here.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Where matching requests go.
    pub priority_level_configuration: Reference,
    /// Lower is asked first.
    pub matching_precedence: i64,
    /// What tells flows of this schema apart.
    pub distinguisher_method: Option<Distinguisher>,
    /// Any of them has to match.
    pub rules: Vec<Rule>,
}

/// A priority level by name.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Reference {
    /// Its name.
    pub name: String,
}

/// What tells flows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "type")]
pub enum Distinguisher {
    /// The user.
    ByUser,
    /// The namespace.
    ByNamespace,
}

/// Subjects, and what of theirs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<UrlRule>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind")]
enum Subject {
    User {
        user: Reference,
    },
    Group {
        group: Reference,
    },
    #[serde(rename_all = "camelCase")]
    ServiceAccount {
        service_account: Account,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Account {
    namespace: String,
    name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct UrlRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
}

impl Spec {
    /// Reads a FlowSchema; `None` when it is broken.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        Self::deserialize(object.get("spec")?).ok()
    }

    /// Whether a request belongs to this schema.
    #[must_use]
    pub fn matches(&self, info: &RequestInfo, user: &User) -> bool {
        self.rules.iter().any(|rule| rule.matches(info, user))
    }

    /// What tells the request's flow from others of this schema.
    #[must_use]
    pub fn flow<'a>(&self, info: &'a RequestInfo, user: &'a User) -> &'a str {
        match self.distinguisher_method {
            None => "",
            Some(Distinguisher::ByUser) => &user.name,
            Some(Distinguisher::ByNamespace) => &info.namespace,
        }
    }
}

impl Rule {
    fn matches(&self, info: &RequestInfo, user: &User) -> bool {
        self.subjects.iter().any(|subject| subject.matches(user))
            && if info.is_resource {
                self.resource_rules.iter().any(|rule| rule.matches(info))
            } else {
                self.non_resource_rules.iter().any(|rule| rule.matches(info))
            }
    }
}

impl Subject {
    fn matches(&self, user: &User) -> bool {
        match self {
            Self::User { user: wanted } => wanted.name == ALL || wanted.name == user.name,
            Self::Group { group } => group.name == ALL || user.groups.contains(&group.name),
            Self::ServiceAccount { service_account: wanted } => {
                crate::authn::service_account::split_user_name(&user.name).is_some_and(|(namespace, name)| {
                    namespace == wanted.namespace && (wanted.name == ALL || wanted.name == name)
                })
            }
        }
    }
}

/// `wanted` is among `list`, or the list is the wildcard alone.
fn covers(list: &[String], wanted: &str) -> bool {
    matches!(list, [only] if only == ALL) || list.iter().any(|item| item == wanted)
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        covers(&self.verbs, &info.verb)
            && self.covers_resource(info)
            && covers(&self.api_groups, &info.group)
            && if info.namespace.is_empty() { self.cluster_scope } else { covers(&self.namespaces, &info.namespace) }
    }

    fn covers_resource(&self, info: &RequestInfo) -> bool {
        if info.subresource.is_empty() {
            return covers(&self.resources, &info.resource);
        }
        let is_it = |item: &String| {
            item.split_once('/').is_some_and(|(main, sub)| main == info.resource && sub == info.subresource)
        };
        matches!(self.resources.as_slice(), [only] if only == ALL) || self.resources.iter().any(is_it)
    }
}

impl UrlRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        covers(&self.verbs, &info.verb) && self.urls.iter().any(|url| covers_path(url, &info.path))
    }
}

/// `/a/*` and `/a` cover `/a/b`; the latter covers `/a` too.
fn covers_path(url: &str, path: &str) -> bool {
    if url == ALL || url == path {
        return true;
    }
    let prefix = url.strip_suffix('*').unwrap_or(url);
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::Query;

    fn spec(subjects: &Value, resources: &Value, urls: &Value) -> Spec {
        let rule = json!({"subjects": subjects, "resourceRules": resources, "nonResourceRules": urls});
        Spec::of(&json!({"spec": {"matchingPrecedence": 7, "priorityLevelConfiguration": {"name": "l"},
            "distinguisherMethod": {"type": "ByNamespace"}, "rules": [rule]}}))
        .unwrap()
    }

    fn user(name: &str) -> User {
        User { name: name.into(), groups: vec!["g".into()], ..User::default() }
    }

    fn info(method: &str, url: &str) -> RequestInfo {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        RequestInfo::parse(method, path, &Query::parse(query)).unwrap()
    }

    #[test]
    fn subjects() {
        let all = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        let account = "system:serviceaccount:ns:sa";
        for (subject, who, want) in [
            (json!({"kind": "User", "user": {"name": "*"}}), "a", true),
            (json!({"kind": "User", "user": {"name": "b"}}), "a", false),
            (json!({"kind": "Group", "group": {"name": "g"}}), "a", true),
            (json!({"kind": "Group", "group": {"name": "h"}}), "a", false),
            (json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "ns", "name": "*"}}), account, true),
            (json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "ns", "name": "sa"}}), account, true),
            (json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "n", "name": "*"}}), account, false),
            (json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "ns", "name": "*"}}), "ns", false),
        ] {
            let spec = spec(&json!([subject]), &json!([]), &all);
            assert_eq!(spec.matches(&info("GET", "/x"), &user(who)), want, "{subject} {who}");
        }
    }

    #[test]
    fn resources_and_paths() {
        let anyone = json!([{"kind": "User", "user": {"name": "*"}}]);
        let rules = json!([{"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods", "nodes/status"],
            "namespaces": ["a"], "clusterScope": false}, {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}]);
        let urls = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}]);
        let spec = spec(&anyone, &rules, &urls);
        for (method, url, want) in [
            ("GET", "/api/v1/namespaces/a/pods", true),
            ("GET", "/api/v1/namespaces/b/pods", false),
            ("GET", "/api/v1/namespaces/a/pods/x/status", false),
            ("DELETE", "/api/v1/namespaces/a/pods/x", false),
            ("PUT", "/api/v1/nodes/n/status", true),
            ("GET", "/healthz", true),
            ("GET", "/healthz/etcd", true),
            ("GET", "/healthzz", false),
            ("GET", "/api/v1", true),
            ("GET", "/api", false),
            ("POST", "/healthz", false),
        ] {
            assert_eq!(spec.matches(&info(method, url), &user("u")), want, "{method} {url}");
        }
        assert_eq!(spec.flow(&info("GET", "/api/v1/namespaces/a/pods"), &user("u")), "a");
    }
}
