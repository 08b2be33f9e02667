//! `--audit-policy-file`: which requests are recorded, and how much of them.

use std::path::Path;

use common::wire::yaml;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{authz::Attributes, resources::names};

/// How much of a request is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who did what, when.
    Metadata,
    /// Its body too.
    Request,
    /// The answer's body too.
    RequestResponse,
}

impl Level {
    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When something is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Stage {
    /// The request is there.
    RequestReceived,
    /// The header of the answer is sent; of requests that last.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The handler panicked.
    Panic,
}

const STAGES: [(&str, Stage); 4] = [
    ("RequestReceived", Stage::RequestReceived),
    ("ResponseStarted", Stage::ResponseStarted),
    ("ResponseComplete", Stage::ResponseComplete),
    ("Panic", Stage::Panic),
];

/// What the policy says about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How much.
    pub level: Level,
    /// Not then.
    pub omit_stages: Vec<Stage>,
    /// Not who owns which fields.
    pub omit_managed_fields: bool,
}

/// The rules, of which the first that matches decides.
#[derive(Debug, Clone, Default)]
pub struct Policy(Vec<(Rule, Verdict)>);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    api_version: String,
    kind: String,
    #[serde(rename = "metadata")]
    _metadata: Value,
    rules: Vec<Rule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Policy {
    /// Reads a file.
    ///
    /// # Errors
    /// Upstream's texts; unknown fields are only warned of.
    pub fn load(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path)
            .map_err(|e| format!("loading audit policy file: failed to read file path {:?}: {e}", path.display()))?;
        Self::parse(&bytes).map_err(|e| format!("loading audit policy file: {e}: from file {}", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document = yaml::read(bytes).map_err(|e| format!("failed decoding: {e}"))?;
        let file = File::deserialize(document.value).map_err(|e| format!("failed decoding: {e}"))?;
        if file.api_version != "audit.k8s.io/v1" || file.kind != "Policy" {
            let (said, kind) = (file.api_version, file.kind);
            return Err(format!("unknown group version field {said}, Kind={kind} in policy"));
        }
        for field in file.unknown_fields() {
            tracing::warn!("Audit policy contains errors, falling back to lenient decoding: unknown field {field:?}");
        }
        let complaints = file.complaints();
        match complaints.as_slice() {
            [] if file.rules.is_empty() => Err("loaded illegal policy with 0 rules".to_owned()),
            [] => Ok(Self::of(file)),
            [one] => Err(one.clone()),
            more => Err(format!("[{}]", more.join(", "))),
        }
    }

    fn of(file: File) -> Self {
        let verdict = |rule: &Rule| Verdict {
            level: level(&rule.level).unwrap_or(Level::None),
            omit_stages: file.omit_stages.iter().chain(&rule.omit_stages).filter_map(|name| stage(name)).collect(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(file.omit_managed_fields),
        };
        Self(file.rules.iter().map(|rule| (rule.clone(), verdict(rule))).collect())
    }

    /// What to record of a request; `None` for nothing.
    #[must_use]
    pub fn evaluate(&self, request: &Attributes<'_>) -> Option<&Verdict> {
        let (_, verdict) = self.0.iter().find(|(rule, _)| rule.matches(request))?;
        (verdict.level > Level::None).then_some(verdict)
    }
}

fn level(name: &str) -> Option<Level> {
    [Level::None, Level::Metadata, Level::Request, Level::RequestResponse].into_iter().find(|l| l.as_str() == name)
}

fn stage(name: &str) -> Option<Stage> {
    STAGES.iter().find(|(known, _)| *known == name).map(|(_, stage)| *stage)
}

impl File {
    fn unknown_fields(&self) -> Vec<String> {
        let mut found: Vec<String> = self.unknown.keys().cloned().collect();
        for (i, rule) in self.rules.iter().enumerate() {
            found.extend(rule.unknown.keys().map(|key| format!("rules[{i}].{key}")));
            for (j, resources) in rule.resources.iter().enumerate() {
                found.extend(resources.unknown.keys().map(|key| format!("rules[{i}].resources[{j}].{key}")));
            }
        }
        found
    }

    fn complaints(&self) -> Vec<String> {
        let mut complaints = stage_complaints(&self.omit_stages, "omitStages");
        for (i, rule) in self.rules.iter().enumerate() {
            rule.complain(&format!("rules[{i}]"), &mut complaints);
        }
        complaints
    }
}

fn stage_complaints(stages: &[String], path: &str) -> Vec<String> {
    let allowed = STAGES.map(|(name, _)| name).join(",");
    let bad = stages.iter().enumerate().filter(|(_, name)| stage(name).is_none());
    bad.map(|(i, name)| format!("{path}[{i}]: Invalid value: {name:?}: allowed stages are {allowed}")).collect()
}

impl Rule {
    fn complain(&self, path: &str, complaints: &mut Vec<String>) {
        if self.level.is_empty() {
            complaints.push(format!("{path}.level: Required value"));
        } else if level(&self.level).is_none() {
            let known = "\"None\", \"Metadata\", \"Request\", \"RequestResponse\"";
            complaints.push(format!("{path}.level: Unsupported value: {:?}: supported values: {known}", self.level));
        }
        for (i, url) in self.urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            let at = format!("{path}.nonResourceURLs[{i}]: Invalid value: {url:?}");
            if !url.starts_with('/') {
                complaints.push(format!("{at}: non-resource URL rules must begin with a '/' character"));
            }
            if url.char_indices().any(|(at, c)| c == '*' && at + 1 < url.len()) {
                let text = "non-resource URL wildcards '*' must be the final character of the rule";
                complaints.push(format!("{at}: {text}"));
            }
        }
        for resources in &self.resources {
            let group = &resources.group;
            if !group.is_empty() && group != "*" {
                let texts = names::dns1123_subdomain(group);
                if !texts.is_empty() {
                    let texts = texts.join(",");
                    complaints.push(format!("{path}.resources.group: Invalid value: {group:?}: {texts}"));
                }
            }
            if !resources.resource_names.is_empty() && resources.resources.is_empty() {
                let names = serde_json::json!(resources.resource_names);
                complaints.push(format!(
                    "{path}.resources.resourceNames: Invalid value: {names}: using resourceNames requires at least one resource"
                ));
            }
        }
        complaints.extend(stage_complaints(&self.omit_stages, &format!("{path}.omitStages")));
        let about_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if about_resources && !self.urls.is_empty() {
            let urls = serde_json::json!(self.urls);
            complaints.push(format!(
                "{path}.nonResourceURLs: Invalid value: {urls}: rules cannot apply to both regular resources and non-resource URLs"
            ));
        }
    }

    fn matches(&self, request: &Attributes<'_>) -> bool {
        let among = |list: &[String], value: &str| list.is_empty() || list.iter().any(|item| item == value);
        let groups = || request.user.groups.iter().any(|group| self.user_groups.contains(group));
        if !among(&self.users, &request.user.name) || !self.user_groups.is_empty() && !groups() {
            return false;
        }
        if !among(&self.verbs, request.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return request.is_resource
                && among(&self.namespaces, request.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|resources| resources.matches(request)));
        }
        self.urls.is_empty() || !request.is_resource && self.urls.iter().any(|url| covers(url, request.path))
    }
}

fn covers(url: &str, path: &str) -> bool {
    url == "*" || url == path || url.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

impl GroupResources {
    fn matches(&self, request: &Attributes<'_>) -> bool {
        if self.group != request.group && self.group != "*" {
            return false;
        }
        if !self.resource_names.is_empty() && !self.resource_names.iter().any(|name| name == request.name) {
            return self.resources.is_empty();
        }
        let is_it = |wanted: &String| match wanted.split_once('/') {
            None => wanted == "*" || wanted == request.resource && request.subresource.is_empty(),
            Some(("*", sub)) => sub == request.subresource && !sub.is_empty(),
            Some((resource, sub)) => resource == request.resource && (sub == "*" || sub == request.subresource),
        };
        self.resources.is_empty() || self.resources.iter().any(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authn::User,
        request::{Query, RequestInfo},
    };

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  users: [system:kube-proxy]
  verbs: [watch]
  resources: [{group: '', resources: [endpoints, services]}]
- level: None
  userGroups: [system:authenticated]
  nonResourceURLs: ['/api*', /version]
- level: Request
  resources: [{group: '', resources: [configmaps], resourceNames: [controller-leader]}]
  omitManagedFields: false
- level: RequestResponse
  namespaces: [kube-system]
  resources: [{group: apps}, {group: '', resources: ['pods/*', '*/status']}]
- level: Metadata
  omitStages: [Panic]
";

    fn level_of(policy: &Policy, user: &str, method: &str, url: &str) -> Level {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let info = RequestInfo::parse(method, path, &Query::parse(query)).unwrap();
        let user = User { name: user.into(), groups: vec!["system:authenticated".into()], ..User::default() };
        policy.evaluate(&Attributes::of(&user, &info)).map_or(Level::None, |verdict| verdict.level)
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = Policy::parse(POLICY.as_bytes()).unwrap();
        for (user, method, url, want) in [
            ("system:kube-proxy", "GET", "/api/v1/services?watch=1", Level::None),
            ("system:kube-proxy", "GET", "/api/v1/services", Level::Metadata),
            ("u", "GET", "/version", Level::None),
            ("u", "GET", "/apis/apps", Level::None),
            ("u", "GET", "/healthz", Level::Metadata),
            ("u", "GET", "/api/v1/namespaces/a/configmaps/controller-leader", Level::Request),
            ("u", "GET", "/api/v1/namespaces/a/configmaps/other", Level::Metadata),
            ("u", "GET", "/apis/apps/v1/namespaces/kube-system/deployments", Level::RequestResponse),
            ("u", "GET", "/apis/apps/v1/namespaces/a/deployments", Level::Metadata),
            ("u", "PUT", "/api/v1/namespaces/kube-system/services/a/status", Level::RequestResponse),
            ("u", "GET", "/api/v1/namespaces/kube-system/pods/a", Level::RequestResponse),
            ("u", "GET", "/api/v1/namespaces/kube-system/pods/a/log", Level::RequestResponse),
        ] {
            assert_eq!(level_of(&policy, user, method, url), want, "{user} {method} {url}");
        }
        let (_, verdict) = &policy.0[4];
        assert_eq!(verdict.omit_stages, [Stage::RequestReceived, Stage::Panic]);
        assert!(verdict.omit_managed_fields && !policy.0[2].1.omit_managed_fields);
    }

    #[test]
    fn what_is_wrong_is_told_and_unknown_fields_are_not() {
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        for (text, want) in [
            ("rules: []\n", "loaded illegal policy with 0 rules"),
            (
                "rules: [{level: Some}]\n",
                "rules[0].level: Unsupported value: \"Some\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\"",
            ),
            (
                "rules: [{level: None, nonResourceURLs: [x]}]\n",
                "rules[0].nonResourceURLs[0]: Invalid value: \"x\": non-resource URL rules must begin with a '/' character",
            ),
            (
                "omitStages: [x]\nrules: [{}]\n",
                "[omitStages[0]: Invalid value: \"x\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic, rules[0].level: Required value]",
            ),
        ] {
            assert_eq!(Policy::parse(format!("{head}{text}").as_bytes()).unwrap_err(), want);
        }
        assert!(Policy::parse(format!("{head}rules: [{{level: None, nonsense: 1}}]\n").as_bytes()).is_ok());
        assert!(
            Policy::parse(b"kind: Policy\nrules: [{level: None}]\n").unwrap_err().contains("unknown group version")
        );
    }
}
