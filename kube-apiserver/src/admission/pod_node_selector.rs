//! PodNodeSelector: the node labels that a namespace's pods ask for, and which others they may.

use std::collections::BTreeMap;

use async_trait::async_trait;
use common::{meta::names, wire::yaml};
use serde::Deserialize;
use serde_json::Value;

use super::{Attributes, Operation, Plugin, pod_tolerations::plain};
use crate::{
    request::ApiResult,
    resources::value::{member, set, strings_at},
};

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
const CLUSTER: &str = "clusterDefaultNodeSelector";

type Labels = BTreeMap<String, String>;

/// Selectors (`a=b,c=d`) by namespace: what its pods may ask for; and the cluster's default.
#[derive(Default, Deserialize)]
pub(super) struct PodNodeSelector {
    #[serde(default, rename = "podNodeSelectorPluginConfig")]
    selectors: BTreeMap<String, String>,
}

impl PodNodeSelector {
    /// What can't be read counts as not there, as upstream has it.
    pub(super) fn new(text: Option<&str>) -> Self {
        let document = text.and_then(|text| yaml::read(text.as_bytes()).ok());
        document.and_then(|document| serde_json::from_value(document.value).ok()).unwrap_or_default()
    }

    async fn wanted(&self, request: &Attributes<'_>) -> ApiResult<Labels> {
        let namespace = super::namespace(request).await?;
        let own = namespace["metadata"]["annotations"][ANNOTATION].as_str();
        parse(own.or_else(|| self.selectors.get(CLUSTER).map(String::as_str)).unwrap_or_default()).map_err(plain)
    }

    fn decide(&self, namespace: &str, wanted: &Labels, pod: &Value) -> Result<(), String> {
        let asked: Vec<(&str, &str)> = strings_at(pod, "spec.nodeSelector").collect();
        if asked.iter().any(|(key, value)| wanted.get(*key).is_some_and(|wanted| wanted != value)) {
            return Err("pod node label selector conflicts with its namespace node label selector".to_owned());
        }
        let allowed = parse(self.selectors.get(namespace).map(String::as_str).unwrap_or_default())?;
        let fits = |(key, value): &(&str, &str)| allowed.get(*key).is_some_and(|allowed| allowed == value);
        if allowed.is_empty() || asked.iter().all(fits) {
            return Ok(());
        }
        Err("pod node label selector labels conflict with its namespace whitelist".to_owned())
    }
}

/// `a=b,c=d`.
fn parse(selector: &str) -> Result<Labels, String> {
    let mut labels = Labels::new();
    for part in selector.split(',').filter(|_| !selector.is_empty()) {
        let Some((key, value)) = part.split_once('=').filter(|(_, value)| !value.contains('=')) else {
            let words: Vec<&str> = part.split('=').collect();
            return Err(format!("invalid selector: [{}]", words.join(" ")));
        };
        let (key, value) = (key.trim(), value.trim());
        let complaints = [names::label_key(key), names::label_value(value)].concat();
        if !complaints.is_empty() {
            return Err(format!("<nil>: Invalid value: {key:?}: {}", complaints.join("; ")));
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

#[async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    async fn admit(&self, request: &Attributes<'_>, pod: &mut Value) -> ApiResult<()> {
        if !request.is("", "pods") || request.operation != Operation::Create {
            return Ok(());
        }
        let wanted = self.wanted(request).await?;
        self.decide("", &wanted, pod).map_err(|text| request.forbidden(text))?;
        if let Some(selector) = member(pod, "spec").and_then(|spec| member(spec, "nodeSelector")) {
            wanted.iter().for_each(|(key, value)| set(selector, key, value.as_str()));
        }
        self.decide(request.namespace, &wanted, pod).map_err(|text| request.forbidden(text))
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let asked = |_: &&Value| request.is("", "pods") && request.operation == Operation::Create;
        let Some(pod) = object.filter(asked) else { return Ok(()) };
        let wanted = self.wanted(request).await?;
        self.decide(request.namespace, &wanted, pod).map_err(|text| request.forbidden(text))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn namespaces_say_what_pods_may_ask_for() {
        let plugin = PodNodeSelector::new(Some("podNodeSelectorPluginConfig:\n  ns: a=1,b=2\n"));
        let wanted = parse("a=1").unwrap();
        let decide = |selector: Value| plugin.decide("ns", &wanted, &json!({"spec": {"nodeSelector": selector}}));
        assert_eq!(decide(json!({"a": "1"})), Ok(()));
        assert!(decide(json!({"a": "2"})).unwrap_err().contains("conflicts with its namespace node label selector"));
        assert!(decide(json!({"a": "1", "c": "3"})).unwrap_err().contains("whitelist"));
        assert_eq!(parse("a").unwrap_err(), "invalid selector: [a]");
        assert!(parse("a=-").is_err() && parse("").unwrap().is_empty());
    }
}
