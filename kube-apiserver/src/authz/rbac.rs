//! The RBAC authorizer: roles and bindings, indexed by subject and kept current from the watch caches.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Attributes,
    rules::{Rule, go_list, missing},
};
use crate::{authn::User, resources::field::go_quote};

/// Sees each binding that applies, the subject key it applies by, and its rules; false ends the visit.
type Visitor<'v> = dyn FnMut(&Binding, &str, Result<&Arc<Vec<Rule>>, String>) -> bool + 'v;

/// The RBAC resources that the authorizer follows.
pub const RESOURCES: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Debug)]
struct Binding {
    namespace: String,
    name: String,
    role: RoleRef,
    /// (index key, upstream's description)
    subjects: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct ClusterRole {
    rules: Vec<Rule>,
    labels: BTreeMap<String, String>,
    /// `matchLabels` of every aggregation selector.
    aggregates: Vec<BTreeMap<String, String>>,
}

#[derive(Default)]
struct State {
    cluster_roles: HashMap<String, ClusterRole>,
    /// Own rules plus aggregated ones.
    effective: HashMap<String, Arc<Vec<Rule>>>,
    roles: HashMap<(String, String), Arc<Vec<Rule>>>,
    /// Namespace (empty: cluster) -> subject key -> bindings.
    index: HashMap<String, HashMap<String, Vec<Arc<Binding>>>>,
}

/// Roles and bindings of the cluster.
#[derive(Default)]
pub struct Rbac(RwLock<State>);

/// The outcome of an RBAC decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Allowed.
    pub allowed: bool,
    /// Who allows, or what went wrong while looking.
    pub reason: String,
}

impl Rbac {
    /// Takes over the current state of an object; `None` when it is gone.
    pub fn apply(&self, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let mut state = self.0.write();
        match resource {
            "clusterroles" => {
                match object {
                    Some(object) => state.cluster_roles.insert(name.to_owned(), cluster_role(object)),
                    None => state.cluster_roles.remove(name),
                };
                state.settle(name);
            }
            "roles" => {
                let key = (namespace.to_owned(), name.to_owned());
                match object {
                    Some(object) => state.roles.insert(key, Arc::new(rules_of(object))),
                    None => state.roles.remove(&key),
                };
            }
            _ => state.bind(namespace, name, object),
        }
    }

    /// Decides; a denial is only "no opinion" for the chain.
    #[must_use]
    pub fn authorize(&self, request: &Attributes<'_>) -> Verdict {
        let mut errors = Vec::new();
        let mut reason = None;
        self.0.read().visit(request.user, request.namespace, &mut |binding, subject, rules| match rules {
            Ok(rules) if rules.iter().any(|r| r.allows(request)) => {
                reason = Some(describe(binding, subject));
                false
            }
            Ok(_) => true,
            Err(error) => {
                errors.push(error);
                true
            }
        });
        match reason {
            Some(reason) => Verdict { allowed: true, reason: format!("RBAC: allowed by {reason}") },
            None if errors.is_empty() => Verdict { allowed: false, reason: String::new() },
            None => {
                errors.dedup();
                let text = if errors.len() == 1 { errors.remove(0) } else { format!("[{}]", errors.join(", ")) };
                Verdict { allowed: false, reason: format!("RBAC: {text}") }
            }
        }
    }

    /// All rules that apply to a user in a namespace, cluster-wide ones included.
    #[must_use]
    pub fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut all = Vec::new();
        self.0.read().visit(user, namespace, &mut |_, _, rules| {
            all.extend(rules.into_iter().flat_map(|r| r.iter().cloned().collect::<Vec<_>>()));
            true
        });
        all
    }

    /// The rules of a role reference made in `namespace`.
    ///
    /// # Errors
    /// Upstream's text when the role does not exist.
    pub fn role_rules(&self, kind: &str, name: &str, namespace: &str) -> Result<Vec<Rule>, String> {
        let role = RoleRef { kind: kind.to_owned(), name: name.to_owned() };
        self.0.read().resolve(&role, namespace).map(|rules| rules.to_vec())
    }

    /// Refuses when `wanted` holds more than the user already may do.
    ///
    /// # Errors
    /// Upstream's text of the attempted escalation.
    pub fn confirm_no_escalation(&self, user: &User, namespace: &str, wanted: &[Rule]) -> Result<(), String> {
        let missing = missing(&self.rules_for(user, namespace), wanted);
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            go_quote(&user.name),
            go_list(&user.groups),
            missing.join("\n")
        ))
    }
}

impl State {
    /// Recomputes what depends on cluster role `changed`.
    fn settle(&mut self, changed: &str) {
        let concerned: Vec<String> = self
            .cluster_roles
            .iter()
            .filter(|(name, role)| name.as_str() == changed || !role.aggregates.is_empty())
            .map(|(name, _)| name.clone())
            .collect();
        if !self.cluster_roles.contains_key(changed) {
            self.effective.remove(changed);
        }
        for name in concerned {
            let mut rules = Vec::new();
            self.collect(&name, &mut Vec::new(), &mut rules);
            self.effective.insert(name, Arc::new(rules));
        }
    }

    /// Own rules, then those of aggregated roles (which may aggregate again), each role once.
    fn collect<'a>(&'a self, name: &'a str, seen: &mut Vec<&'a str>, rules: &mut Vec<Rule>) {
        let Some(role) = self.cluster_roles.get(name).filter(|_| !seen.contains(&name)) else { return };
        seen.push(name);
        rules.extend(role.rules.iter().cloned());
        for wanted in &role.aggregates {
            for (other, candidate) in &self.cluster_roles {
                if wanted.iter().all(|(k, v)| candidate.labels.get(k) == Some(v)) {
                    self.collect(other, seen, rules);
                }
            }
        }
    }

    fn bind(&mut self, namespace: &str, name: &str, object: Option<&Value>) {
        let index = self.index.entry(namespace.to_owned()).or_default();
        index.retain(|_, bindings| {
            bindings.retain(|b| b.name != name);
            !bindings.is_empty()
        });
        let Some(object) = object else { return };
        let role: RoleRef = serde_json::from_value(object["roleRef"].clone()).unwrap_or_default();
        let subjects: Vec<Subject> = serde_json::from_value(object["subjects"].clone()).unwrap_or_default();
        let subjects = subjects.iter().filter_map(|s| subject_key(s, namespace)).collect::<Vec<_>>();
        let binding = Arc::new(Binding { namespace: namespace.to_owned(), name: name.to_owned(), role, subjects });
        for (key, _) in &binding.subjects {
            index.entry(key.clone()).or_default().push(Arc::clone(&binding));
        }
    }

    fn resolve(&self, role: &RoleRef, namespace: &str) -> Result<&Arc<Vec<Rule>>, String> {
        match role.kind.as_str() {
            "Role" => self
                .roles
                .get(&(namespace.to_owned(), role.name.clone()))
                .ok_or_else(|| format!("role.rbac.authorization.k8s.io {} not found", go_quote(&role.name))),
            "ClusterRole" => self
                .effective
                .get(&role.name)
                .ok_or_else(|| format!("clusterrole.rbac.authorization.k8s.io {} not found", go_quote(&role.name))),
            kind => Err(format!("unsupported role reference kind: {}", go_quote(kind))),
        }
    }

    /// Calls `visitor` with the rules of each binding that applies, until it returns false.
    fn visit(&self, user: &User, namespace: &str, visitor: &mut Visitor<'_>) {
        let keys: Vec<String> =
            std::iter::once(format!("u:{}", user.name)).chain(user.groups.iter().map(|g| format!("g:{g}"))).collect();
        let scopes = if namespace.is_empty() { &[""][..] } else { &["", namespace][..] };
        for scope in scopes {
            let Some(index) = self.index.get(*scope) else { continue };
            for key in &keys {
                for binding in index.get(key).into_iter().flatten() {
                    if !visitor(binding, key, self.resolve(&binding.role, &binding.namespace)) {
                        return;
                    }
                }
            }
        }
    }
}

fn cluster_role(object: &Value) -> ClusterRole {
    let labels = |v: &Value| serde_json::from_value(v.clone()).unwrap_or_default();
    let selectors = object["aggregationRule"]["clusterRoleSelectors"].as_array();
    ClusterRole {
        rules: rules_of(object),
        labels: labels(&object["metadata"]["labels"]),
        aggregates: selectors.into_iter().flatten().map(|s| labels(&s["matchLabels"])).collect(),
    }
}

/// The rules of a Role or ClusterRole.
#[must_use]
pub fn rules_of(object: &Value) -> Vec<Rule> {
    serde_json::from_value(object["rules"].clone()).unwrap_or_default()
}

fn subject_key(subject: &Subject, binding_namespace: &str) -> Option<(String, String)> {
    let plain = || format!("{} {}", subject.kind, go_quote(&subject.name));
    match subject.kind.as_str() {
        "User" => Some((format!("u:{}", subject.name), plain())),
        "Group" => Some((format!("g:{}", subject.name), plain())),
        "ServiceAccount" => {
            let namespace = if subject.namespace.is_empty() { binding_namespace } else { &subject.namespace };
            let description = format!("ServiceAccount {}", go_quote(&format!("{}/{namespace}", subject.name)));
            (!namespace.is_empty())
                .then(|| (format!("u:system:serviceaccount:{namespace}:{}", subject.name), description))
        }
        _ => None,
    }
}

fn describe(binding: &Binding, key: &str) -> String {
    let subject = binding.subjects.iter().find(|(k, _)| k == key).map(|(_, d)| d.as_str()).unwrap_or_default();
    let role = format!("{} {}", binding.role.kind, go_quote(&binding.role.name));
    if binding.namespace.is_empty() {
        format!("ClusterRoleBinding {} of {role} to {subject}", go_quote(&binding.name))
    } else {
        let name = format!("{}/{}", binding.name, binding.namespace);
        format!("RoleBinding {} of {role} to {subject}", go_quote(&name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn user(name: &str, groups: &[&str]) -> User {
        User { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..User::default() }
    }

    fn rbac() -> Rbac {
        let rbac = Rbac::default();
        let pods = json!({"metadata": {"labels": {"agg": "true"}},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        rbac.apply("clusterroles", "", "pods", Some(&pods));
        let view =
            json!({"metadata": {}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"agg": "true"}}]}});
        rbac.apply("clusterroles", "", "view", Some(&view));
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "ServiceAccount", "name": "sa"}, {"kind": "Group", "name": "devs"}]});
        rbac.apply("rolebindings", "ns", "b", Some(&binding));
        rbac
    }

    #[test]
    fn bindings_grant_in_their_namespace() {
        let rbac = rbac();
        let dev = user("jane", &["devs"]);
        let ask = |user: &User, namespace: &str| {
            rbac.authorize(&Attributes::resource(user, "get", ("", "pods"), namespace, "x"))
        };
        assert_eq!(
            ask(&dev, "ns").reason,
            r#"RBAC: allowed by RoleBinding "b/ns" of ClusterRole "view" to Group "devs""#
        );
        assert!(!ask(&dev, "other").allowed);
        assert!(!ask(&dev, "").allowed);
        assert!(ask(&user("system:serviceaccount:ns:sa", &[]), "ns").allowed);
        rbac.apply("rolebindings", "ns", "b", None);
        assert!(!ask(&dev, "ns").allowed);
    }

    #[test]
    fn aggregated_roles_follow_their_parts() {
        let rbac = rbac();
        let services = json!({"metadata": {"labels": {"agg": "true"}},
            "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["services"]}]});
        rbac.apply("clusterroles", "", "services", Some(&services));
        assert_eq!(rbac.role_rules("ClusterRole", "view", "").unwrap().len(), 2);
        rbac.apply("clusterroles", "", "services", None);
        assert_eq!(rbac.role_rules("ClusterRole", "view", "").unwrap().len(), 1);
        assert_eq!(rbac.role_rules("Role", "x", "ns").unwrap_err(), "role.rbac.authorization.k8s.io \"x\" not found");
    }

    #[test]
    fn nobody_grants_more_than_he_has() {
        let rbac = rbac();
        let wanted = rules_of(&json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}));
        let error = rbac.confirm_no_escalation(&user("jane", &["devs"]), "ns", &wanted).unwrap_err();
        assert_eq!(
            error,
            "user \"jane\" (groups=[\"devs\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}"
        );
    }
}
