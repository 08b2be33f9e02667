//! Brings the default roles and bindings up to date: what is missing is added, what people added is kept.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::try_join_all;
use serde_json::Value;

use super::{
    ensure::ensure,
    policy::{Object, objects},
};
use crate::{
    authz::rules::{Rule, uncovered},
    request::ApiResult,
    server::{ApiServer, Change, Mutation, Outcome, Stored},
};

const GROUP: &str = "rbac.authorization.k8s.io";
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Creates or completes all default roles and bindings.
///
/// # Errors
/// The store is unavailable.
pub async fn reconcile(server: Arc<ApiServer>) -> ApiResult<()> {
    let objects = objects();
    let (bindings, roles): (Vec<&Object>, Vec<&Object>) =
        objects.iter().partition(|o| o.resource.ends_with("bindings"));
    for group in [roles, bindings] {
        try_join_all(group.into_iter().map(|object| one(&server, object))).await?;
    }
    Ok(())
}

async fn one(server: &ApiServer, wanted: &Object) -> ApiResult<()> {
    if ensure(server, GROUP, wanted.resource, wanted.object.clone()).await? {
        return Ok(());
    }
    let store = server.registry.of(GROUP, wanted.resource)?;
    let mut completion = Completion { wanted: &wanted.object };
    match super::ensure::modify(store, wanted.namespace, wanted.name, &mut completion).await {
        // A binding to another role cannot be changed, only made anew.
        Ok(Outcome::Deleted(_)) => {
            ensure(server, GROUP, wanted.resource, wanted.object.clone()).await?;
            Ok(())
        }
        Ok(Outcome::Stored(_)) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

struct Completion<'a> {
    wanted: &'a Value,
}

#[async_trait]
impl Mutation for Completion<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let mut object = current.object.clone();
        if object["metadata"]["annotations"][AUTO_UPDATE] == "false" {
            return Ok(Change::Keep(object));
        }
        if self
            .wanted
            .get("roleRef")
            .is_some_and(|r| r["name"] != object["roleRef"]["name"] || r["kind"] != object["roleRef"]["kind"])
        {
            return Ok(Change::Delete);
        }
        complete(&mut object, self.wanted);
        Ok(if object == current.object { Change::Keep(object) } else { Change::Put(object) })
    }
}

/// Adds what `wanted` has and `object` lacks.
fn complete(object: &mut Value, wanted: &Value) {
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if object["metadata"][field].get(key).is_none() || field == "labels" {
                object["metadata"][field][key] = value.clone();
            }
        }
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let rules = |value: &Value| -> Vec<Rule> { serde_json::from_value(value.clone()).unwrap_or_default() };
    let owned = rules(&object["rules"]);
    let missing: Vec<Value> = list(&wanted["rules"])
        .into_iter()
        .filter(|rule| uncovered(&owned, &rules(&Value::Array(vec![rule.clone()]))))
        .collect();
    let subjects = list(&object["subjects"]);
    let same = |a: &Value, b: &Value| ["kind", "name", "namespace"].iter().all(|f| a.get(*f) == b.get(*f));
    let absent: Vec<Value> =
        list(&wanted["subjects"]).into_iter().filter(|w| !subjects.iter().any(|s| same(s, w))).collect();
    let selectors = list(&object["aggregationRule"]["clusterRoleSelectors"]);
    let aggregates: Vec<Value> = list(&wanted["aggregationRule"]["clusterRoleSelectors"])
        .into_iter()
        .filter(|w| !selectors.contains(w))
        .collect();
    for (target, additions) in
        [(&["rules"][..], missing), (&["subjects"], absent), (&["aggregationRule", "clusterRoleSelectors"], aggregates)]
    {
        if additions.is_empty() {
            continue;
        }
        let slot = target.iter().fold(&mut *object, |value, field| &mut value[*field]);
        match slot.as_array_mut() {
            Some(existing) => existing.extend(additions),
            None => *slot = Value::Array(additions),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn additions_of_people_survive() {
        let wanted = json!({"metadata": {"labels": {"a": "1"}}, "rules": [
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]});
        let mut object = json!({"metadata": {"labels": {"b": "2"}}, "rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["*"], "apiGroups": ["x"], "resources": ["*"]}]});
        complete(&mut object, &wanted);
        assert_eq!(object["metadata"]["labels"], json!({"a": "1", "b": "2"}));
        assert_eq!(object["rules"].as_array().unwrap().len(), 3);
        let settled = object.clone();
        complete(&mut object, &wanted);
        assert_eq!(object, settled);
    }
}
