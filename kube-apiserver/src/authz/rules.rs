//! RBAC policy rules: does a rule allow a request, does one set of rules cover another. Pure.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::Attributes;

/// A `PolicyRule`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Verbs or `*`.
    pub verbs: Vec<String>,
    /// Groups or `*`.
    pub api_groups: Vec<String>,
    /// Resources, `resource/subresource`, `*/subresource` or `*`.
    pub resources: Vec<String>,
    /// Names; empty allows all.
    pub resource_names: Vec<String>,
    /// Paths, possibly ending in `*`.
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

fn has(set: &[String], wanted: &str) -> bool {
    set.iter().any(|s| s == "*" || s == wanted)
}

impl Rule {
    /// Whether the rule alone allows the request.
    #[must_use]
    pub fn allows(&self, request: &Attributes<'_>) -> bool {
        if !has(&self.verbs, request.verb) {
            return false;
        }
        if !request.is_resource {
            return self.non_resource_urls.iter().any(|owner| covers_url(owner, request.path));
        }
        has(&self.api_groups, request.group)
            && self.resources.iter().any(|r| matches_resource(r, request))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == request.name))
    }

    /// Splits into rules with one verb, one group, one resource and at most one name each.
    fn break_down(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        let one = |s: &String| vec![s.clone()];
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let rule =
                        Rule { api_groups: one(group), resources: one(resource), verbs: one(verb), ..Rule::default() };
                    if self.resource_names.is_empty() {
                        out.push(rule);
                        continue;
                    }
                    out.extend(self.resource_names.iter().map(|n| Rule { resource_names: one(n), ..rule.clone() }));
                }
            }
        }
        for url in &self.non_resource_urls {
            out.extend(self.verbs.iter().map(|v| Rule {
                non_resource_urls: one(url),
                verbs: one(v),
                ..Rule::default()
            }));
        }
        out
    }

    /// Whether this rule covers a broken-down one.
    fn covers(&self, sub: &Rule) -> bool {
        let all = |owner: &[String], wanted: &[String]| wanted.iter().all(|w| has(owner, w));
        let resources = sub.resources.iter().all(|path| {
            has(&self.resources, path)
                || path.split_once('/').is_some_and(|(_, s)| self.resources.contains(&format!("*/{s}")))
        });
        let names = self.resource_names.is_empty()
            || (!sub.resource_names.is_empty() && sub.resource_names.iter().all(|n| self.resource_names.contains(n)));
        all(&self.verbs, &sub.verbs)
            && all(&self.api_groups, &sub.api_groups)
            && resources
            && names
            && sub.non_resource_urls.iter().all(|u| self.non_resource_urls.iter().any(|o| covers_url(o, u)))
    }

    /// Upstream's one-line form for escalation errors.
    fn compact(&self) -> String {
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| format!("{name}:{}", go_list(values)))
        .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// A list of strings as Go's `%q` prints it.
#[must_use]
pub fn go_list(values: &[String]) -> String {
    let quoted: Vec<String> = values.iter().map(|v| crate::resources::field::go_quote(v)).collect();
    format!("[{}]", quoted.join(" "))
}

fn matches_resource(rule: &str, request: &Attributes<'_>) -> bool {
    if rule == "*" {
        return true;
    }
    if request.subresource.is_empty() {
        return rule == request.resource;
    }
    match rule.split_once('/') {
        Some((resource, sub)) => sub == request.subresource && (resource == "*" || resource == request.resource),
        None => false,
    }
}

fn covers_url(owner: &str, path: &str) -> bool {
    owner == "*" || owner == path || owner.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// Whether `owned` leaves anything of `wanted` out.
#[must_use]
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> bool {
    wanted.iter().flat_map(Rule::break_down).any(|sub| !owned.iter().any(|rule| rule.covers(&sub)))
}

/// What of `wanted` the `owned` rules do not cover, one text per (compacted) rule, sorted.
#[must_use]
pub fn missing(owned: &[Rule], wanted: &[Rule]) -> Vec<String> {
    let uncovered: Vec<Rule> =
        wanted.iter().flat_map(Rule::break_down).filter(|sub| !owned.iter().any(|rule| rule.covers(sub))).collect();
    let mut compacted: Vec<Rule> = Vec::new();
    for rule in uncovered {
        let same = |other: &&mut Rule| {
            other.api_groups == rule.api_groups
                && other.resources == rule.resources
                && other.resource_names == rule.resource_names
                && other.non_resource_urls == rule.non_resource_urls
                && rule.non_resource_urls.is_empty()
        };
        match compacted.iter_mut().find(same) {
            Some(other) => other.verbs.extend(rule.verbs),
            None => compacted.push(rule),
        }
    }
    compacted.iter().map(Rule::compact).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::User;

    fn rule(groups: &[&str], resources: &[&str], verbs: &[&str], names: &[&str]) -> Rule {
        let own = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect();
        Rule {
            api_groups: own(groups),
            resources: own(resources),
            verbs: own(verbs),
            resource_names: own(names),
            ..Rule::default()
        }
    }

    fn allowed(rule: &Rule, verb: &str, resource: &str, sub: &str, name: &str) -> bool {
        let user = User::default();
        let mut attributes = Attributes::resource(&user, verb, ("", resource), "", name);
        attributes.subresource = sub;
        rule.allows(&attributes)
    }

    #[test]
    fn rules_match_as_upstream() {
        let pods = rule(&[""], &["pods"], &["get"], &[]);
        assert!(allowed(&pods, "get", "pods", "", "x"));
        assert!(!allowed(&pods, "get", "pods", "log", "x"));
        assert!(!allowed(&pods, "list", "pods", "", ""));
        assert!(allowed(&rule(&["*"], &["*"], &["*"], &[]), "get", "pods", "log", "x"));
        assert!(allowed(&rule(&[""], &["*/scale"], &["get"], &[]), "get", "rc", "scale", "x"));
        let named = rule(&[""], &["pods"], &["get", "create"], &["x"]);
        assert!(allowed(&named, "get", "pods", "", "x"));
        assert!(!allowed(&named, "create", "pods", "", ""));
        let urls = Rule { non_resource_urls: vec!["/healthz/*".into()], verbs: vec!["get".into()], ..Rule::default() };
        let user = User::default();
        let mut request = Attributes::resource(&user, "get", ("", ""), "", "");
        (request.is_resource, request.path) = (false, "/healthz/etcd");
        assert!(urls.allows(&request));
        request.path = "/healthz";
        assert!(!urls.allows(&request));
    }

    #[test]
    fn missing_rights_are_listed() {
        let owned = [rule(&[""], &["pods"], &["get"], &[])];
        assert!(missing(&owned, &[rule(&[""], &["pods"], &["get"], &["a"])]).is_empty());
        assert_eq!(
            missing(&owned, &[rule(&[""], &["pods"], &["get", "list", "watch"], &[])]),
            [r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#]
        );
        assert!(missing(&[rule(&["*"], &["*"], &["*"], &[])], &owned).is_empty());
    }
}
