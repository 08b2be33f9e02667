//! PodSecurity: the Pod Security Standards that a namespace's labels ask for, enforced or warned about.

mod baseline;
mod checks;
mod configuration;
mod policy;
mod restricted;

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;

use self::{
    checks::Violations,
    configuration::Configuration,
    policy::{LevelVersion, Policy, evaluate},
};
use super::{Attributes, Operation, Plugin};
use crate::{
    request::{ApiError, ApiResult},
    resources::{
        field::go_quote,
        value::{at, list_at, str_at},
    },
};

/// Pods that are looked at when a namespace gets stricter.
const MAX_PODS: usize = 3000;
const HARMLESS: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

pub(super) struct PodSecurity(Configuration);

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(object) = object.filter(|_| request.operation != Operation::Delete) else { return Ok(()) };
        match (request.group, request.resource) {
            ("", "namespaces") if request.subresource.is_empty() => self.namespace(request, object).await,
            _ if self.is_exempt(request) => Ok(()),
            ("", "pods") if !HARMLESS.contains(&request.subresource) => {
                if request.old.is_none_or(|old| is_significant(object, old)) {
                    self.enforce(request, object).await?;
                }
                Ok(())
            }
            _ if request.subresource.is_empty() => match template_of(request, object) {
                Some(template) => {
                    let policy = self.policy(request).await?;
                    self.audit(request, &policy, template);
                    self.warn(request, &policy, template)
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl PodSecurity {
    pub(super) fn new(text: Option<&str>) -> Result<Self, String> {
        text.map(Configuration::parse).transpose().map(|configuration| Self(configuration.unwrap_or_default()))
    }

    fn is_exempt(&self, request: &Attributes<'_>) -> bool {
        let exemptions = &self.0.exemptions;
        exemptions.namespaces.iter().any(|name| name == request.namespace)
            || exemptions.usernames.contains(&request.call.user.name)
    }

    /// What a pod does that the level does not allow; nothing where its runtime class is exempt.
    fn evaluate(&self, wanted: LevelVersion, pod: &Value) -> Violations {
        let class = str_at(pod, "spec.runtimeClassName");
        if !class.is_empty() && self.0.exemptions.runtime_classes.iter().any(|name| name == class) {
            return Violations::default();
        }
        evaluate(wanted, pod)
    }

    /// The policy of the request's namespace.
    async fn policy(&self, request: &Attributes<'_>) -> ApiResult<Policy> {
        let store = request.call.registry.core("namespaces")?;
        let found = store.glance("", request.namespace).await?;
        Ok(Policy::of(found.as_ref().map_or(&Value::Null, |n| &n.object), &self.0.defaults).0)
    }

    async fn enforce(&self, request: &Attributes<'_>, pod: &Value) -> ApiResult<()> {
        let policy = self.policy(request).await?;
        if [policy.enforce, policy.audit, policy.warn].iter().all(|level| level.is_privileged()) {
            return Ok(());
        }
        request.call.annotate("pod-security.kubernetes.io/enforce-policy", &policy.enforce.to_string());
        let verdict = self.evaluate(policy.enforce, pod);
        self.audit(request, &policy, pod);
        if !verdict.is_empty() {
            let text = format!("violates PodSecurity \"{}\": {}", policy.enforce, verdict.detail());
            return Err(request.forbidden(text));
        }
        self.warn(request, &policy, pod)
    }

    fn audit(&self, request: &Attributes<'_>, policy: &Policy, pod: &Value) {
        if request.call.trail.is_none() {
            return;
        }
        let verdict = self.evaluate(policy.audit, pod);
        if !verdict.is_empty() {
            let text = format!("would violate PodSecurity \"{}\": {}", policy.audit, verdict.detail());
            request.call.annotate("pod-security.kubernetes.io/audit-violations", &text);
        }
    }

    fn warn(&self, request: &Attributes<'_>, policy: &Policy, pod: &Value) -> ApiResult<()> {
        let verdict = self.evaluate(policy.warn, pod);
        if !verdict.is_empty() {
            request.call.warn(format!("would violate PodSecurity \"{}\": {}", policy.warn, verdict.detail()));
        }
        Ok(())
    }

    async fn namespace(&self, request: &Attributes<'_>, namespace: &Value) -> ApiResult<()> {
        let defaults = &self.0.defaults;
        let (policy, errors) = Policy::of(namespace, defaults);
        let exempt = self.0.exemptions.namespaces.iter().any(|name| name == request.name);
        let ignored = policy.ignored(namespace, request.name, defaults).filter(|_| exempt);
        let Some(old) = request.old else {
            if !errors.is_empty() {
                return Err(ApiError::invalid_fields("", "Namespace", request.name, errors));
            }
            ignored.into_iter().for_each(|text| request.call.warn(text));
            return Ok(());
        };
        let (before, old_errors) = Policy::of(old, defaults);
        if !errors.is_empty() && errors != old_errors {
            return Err(ApiError::invalid_fields("", "Namespace", request.name, errors));
        }
        let (new, old) = (policy.enforce, before.enforce);
        if new == old || new.is_privileged() || new.version == old.version && new.level <= old.level {
            return Ok(());
        }
        if exempt {
            ignored.into_iter().for_each(|text| request.call.warn(text));
            return Ok(());
        }
        let pods = request.list("", "pods", Some(request.name)).await?;
        self.pod_warnings(request.name, &pods, new).into_iter().for_each(|text| request.call.warn(text));
        Ok(())
    }

    /// Pods that are there already stay; whoever makes the namespace stricter is told about them.
    fn pod_warnings(&self, namespace: &str, pods: &[Value], enforce: LevelVersion) -> Vec<String> {
        let mut texts = Vec::new();
        let checked = pods.len().min(MAX_PODS);
        if checked < pods.len() {
            let all = pods.len();
            texts.push(format!(
                "new PodSecurity enforce level only checked against the first {checked} of {all} existing pods"
            ));
        }
        let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for pod in &pods[..checked] {
            let verdict = self.evaluate(enforce, pod);
            if !verdict.is_empty() {
                found.entry(verdict.reason()).or_default().push(str_at(pod, "metadata.name"));
            }
        }
        if !found.is_empty() {
            let namespace = go_quote(namespace);
            texts.push(format!(
                "existing pods in namespace {namespace} violate the new PodSecurity enforce level \"{enforce}\""
            ));
        }
        let mut lines: Vec<String> = found
            .into_iter()
            .map(|(reason, mut names)| {
                names.sort_unstable();
                match names.len() {
                    1 => format!("{}: {reason}", names[0]),
                    2 => format!("{} (and 1 other pod): {reason}", names[0]),
                    count => format!("{} (and {} other pods): {reason}", names[0], count - 1),
                }
            })
            .collect();
        lines.sort();
        texts.extend(lines);
        texts
    }
}

/// The pod template of what makes pods.
fn template_of<'a>(request: &Attributes<'_>, object: &'a Value) -> Option<&'a Value> {
    let path = match (request.group, request.resource) {
        ("", "podtemplates") => "template",
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => "spec.template",
        ("batch", "cronjobs") => "spec.jobTemplate.spec.template",
        _ => return None,
    };
    at(object, path)
}

/// Only what runs matters in an update: new containers and other images.
fn is_significant(new: &Value, old: &Value) -> bool {
    let image = |container: &Value| str_at(container, "image").to_owned();
    let differs = |path: &str| {
        let (new, old) = (list_at(new, path), list_at(old, path));
        new.len() != old.len() || new.iter().zip(old).any(|(n, o)| image(n) != image(o))
    };
    let before = list_at(old, "spec.ephemeralContainers");
    let is_new = |container: &&Value| {
        let known = before.iter().find(|b| str_at(b, "name") == str_at(container, "name"));
        known.is_none_or(|known| image(known) != image(container))
    };
    differs("spec.containers")
        || differs("spec.initContainers")
        || list_at(new, "spec.ephemeralContainers").iter().any(|c| is_new(&c))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stricter_namespaces_name_the_pods_that_do_not_fit() {
        let pod =
            |name: &str| json!({"metadata": {"name": name}, "spec": {"hostPID": true, "containers": [{"name": "c"}]}});
        let namespace = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
        let (policy, _) = Policy::of(&namespace, &Policy::default());
        assert_eq!(
            PodSecurity::new(None).unwrap().pod_warnings("ns", &[pod("b"), pod("a"), pod("c")], policy.enforce),
            [
                "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 2 other pods): host namespaces",
            ]
        );
    }

    #[test]
    fn updates_matter_when_something_else_runs() {
        let pod = |image: &str| json!({"spec": {"containers": [{"name": "c", "image": image}]}});
        assert!(is_significant(&pod("b"), &pod("a")) && !is_significant(&pod("a"), &pod("a")));
        let mut debug = pod("a");
        debug["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "x"}]);
        assert!(is_significant(&debug, &pod("a")));
    }
}
