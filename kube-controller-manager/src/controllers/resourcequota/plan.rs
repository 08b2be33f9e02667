//! What a quota's status has to be; no I/O.

use common::quota::Evaluator;
use common::quota::amounts::{self, Amounts, amounts};
use k8s_openapi::api::core::v1::ResourceQuotaStatus;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

use crate::shared::discovery::Served;

/// The served resources that a quota counts.
pub(super) fn tracked(quota: &Value, served: &[Served]) -> Vec<Served> {
    let hard = amounts(quota, "spec.hard");
    let counted = |s: &&Served| {
        let evaluator = Evaluator::of(&s.group, &s.plural);
        s.namespaced
            && s.has("list")
            && !common::quota::is_ignored(&s.group, &s.plural)
            && hard.keys().any(|name| evaluator.counts(name))
    };
    served.iter().filter(counted).cloned().collect()
}

/// What the objects of one kind use of a quota; zero for what the quota names and nobody uses.
pub(super) fn usage(quota: &Value, evaluator: &Evaluator, objects: &[Value]) -> Amounts {
    let hard = amounts(quota, "spec.hard");
    let zero = amounts::quantity(&Value::from(0));
    let named = hard.into_keys().filter(|name| evaluator.counts(name));
    let mut sum: Amounts = named.zip(std::iter::repeat(zero)).filter_map(|(name, zero)| Some((name, zero?))).collect();
    for object in objects.iter().filter(|object| evaluator.in_scopes(quota, object)) {
        let mut used = evaluator.usage(object);
        used.retain(|name, _| sum.contains_key(name));
        amounts::add(&mut sum, &used);
    }
    sum
}

/// The status to write when it differs; what could not be counted now keeps its last count.
pub(super) fn status(quota: &Value, counted: Amounts) -> Option<ResourceQuotaStatus> {
    let (hard, before) = (amounts(quota, "spec.hard"), amounts(quota, "status.used"));
    let mut used = before.clone();
    used.extend(counted);
    used.retain(|name, _| hard.contains_key(name));
    let unknown = ["hard", "used"].iter().any(|list| quota["status"][list].is_null());
    if !unknown && used == before && hard == amounts(quota, "status.hard") {
        return None;
    }
    let list = |list: Amounts| list.into_iter().map(|(name, amount)| (name, Quantity(amount.to_string()))).collect();
    Some(ResourceQuotaStatus { hard: Some(list(hard)), used: Some(list(used)) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota() -> Value {
        json!({"spec": {"hard": {"pods": "2", "requests.cpu": "1", "example.com/other": "1"}}})
    }

    fn pod(phase: &str) -> Value {
        json!({"status": {"phase": phase}, "spec": {"containers": [{"resources": {"requests": {"cpu": "250m"}}}]}})
    }

    #[test]
    fn live_objects_in_scope_are_counted() {
        let pods = [pod("Running"), pod("Pending"), pod("Failed")];
        let evaluator = Evaluator::of("", "pods");
        assert_eq!(amounts::text(&usage(&quota(), &evaluator, &pods)), "pods=2,requests.cpu=500m");
        let mut scoped = quota();
        scoped["spec"]["scopes"] = json!(["BestEffort"]);
        assert_eq!(amounts::text(&usage(&scoped, &evaluator, &pods)), "pods=0,requests.cpu=0");
    }

    #[test]
    fn the_status_is_written_when_it_differs() {
        let mut quota = quota();
        let counted = || usage(&self::quota(), &Evaluator::of("", "pods"), &[pod("Running")]);
        let first = status(&quota, counted()).unwrap();
        assert_eq!(first.used.as_ref().unwrap()["pods"].0, "1");
        assert!(!first.used.as_ref().unwrap().contains_key("example.com/other"));
        quota["status"] = json!(first);
        assert!(status(&quota, counted()).is_none());
        assert!(status(&quota, Amounts::new()).is_none(), "a kind that could not be counted keeps its count");
        quota["spec"]["hard"]["pods"] = "3".into();
        assert_eq!(status(&quota, counted()).unwrap().hard.unwrap()["pods"].0, "3");
    }

    #[test]
    fn quotas_track_what_they_name() {
        let served = |group: &str, plural: &str| Served {
            group: group.into(),
            version: "v1".into(),
            kind: String::new(),
            plural: plural.into(),
            namespaced: true,
            scalable: false,
            verbs: ["list".to_owned()].into(),
        };
        let all = [served("", "pods"), served("", "events"), served("apps", "deployments"), served("", "secrets")];
        let quota = json!({"spec": {"hard": {"count/deployments.apps": "1", "count/events": "1", "secrets": "1"}}});
        let names: Vec<String> = tracked(&quota, &all).into_iter().map(|s| s.plural).collect();
        assert_eq!(names, ["deployments", "secrets"]);
    }
}
