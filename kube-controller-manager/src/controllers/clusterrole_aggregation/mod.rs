//! `clusterrole-aggregation-controller`: a ClusterRole with an aggregation rule has the rules of all roles that it selects.

use std::sync::Arc;

use common::informer::{Informer, WorkQueue, object_key, run_workers};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::context::{Context, Task};
use crate::shared::meta::MetaExt;
use crate::shared::selector::{compile, selects};

/// The field manager; upstream's, so that ownership stays when one controller manager follows the other.
const MANAGER: &str = "clusterrole-aggregation-controller";
const WORKERS: usize = 5;

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("clusterrole-aggregation-controller");
    let roles: Arc<Informer<ClusterRole>> = ctx.factory.informer();
    let queue = WorkQueue::new("ClusterRoleAggregator");
    let (q, cache) = (queue.clone(), Arc::downgrade(&roles));
    roles.on_event(move |_| {
        let Some(cache) = cache.upgrade() else { return };
        for role in cache.list().iter().filter(|role| role.aggregation_rule.is_some()) {
            q.add(object_key(&**role));
        }
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        run_workers("clusterrole-aggregation", queue, WORKERS, shutdown, move |name: String| {
            let (client, roles) = (client.clone(), roles.clone());
            async move { sync(&client, &roles, &name).await }
        })
        .await;
    }))
}

/// The rules that a role should have, if those differ from what it has. `all` is ordered by name.
fn aggregated(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Result<Option<Vec<PolicyRule>>, String> {
    let Some(rule) = &role.aggregation_rule else { return Ok(None) };
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in rule.cluster_role_selectors.iter().flatten() {
        let selector = compile(selector)?;
        for other in all.iter().filter(|other| other.name_str() != role.name_str()) {
            if !selects(&selector, &other.metadata) {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    let current = role.rules.as_deref().unwrap_or_default();
    Ok((rules != current).then_some(rules))
}

async fn sync(client: &Client, roles: &Informer<ClusterRole>, name: &str) -> anyhow::Result<()> {
    let Some(role) = roles.get("", name) else { return Ok(()) };
    let Some(rules) = aggregated(&role, &roles.list()).map_err(anyhow::Error::msg)? else { return Ok(()) };
    let api: Api<ClusterRole> = Api::all(client.clone());
    let patch = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(value: serde_json::Value) -> Arc<ClusterRole> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn rules_of_selected_roles_once_and_in_order() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let labelled = |name: &str, verbs: &[&str]| {
            let rules: Vec<_> = verbs.iter().map(|verb| rule(verb)).collect();
            role(json!({"metadata": {"name": name, "labels": {"into": "x"}}, "rules": rules}))
        };
        let target = |rules: &[&str]| {
            let rules: Vec<_> = rules.iter().map(|verb| rule(verb)).collect();
            role(json!({"metadata": {"name": "m", "labels": {"into": "x"}}, "rules": rules,
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"into": "x"}}]}}))
        };
        let all = |target: &Arc<ClusterRole>| {
            let other = role(json!({"metadata": {"name": "o"}, "rules": [rule("delete")]}));
            vec![labelled("a", &["get", "list"]), target.clone(), other, labelled("z", &["list", "watch"])]
        };
        let verbs = |rules: Vec<PolicyRule>| rules.into_iter().flat_map(|rule| rule.verbs).collect::<Vec<_>>();
        for (has, wants) in [
            (&["delete"][..], Some(vec!["get", "list", "watch"])),
            (&[], Some(vec!["get", "list", "watch"])),
            (&["get", "list", "watch"], None),
            (&["list", "get", "watch"], Some(vec!["get", "list", "watch"])),
        ] {
            let target = target(has);
            let got = aggregated(&target, &all(&target)).unwrap().map(verbs);
            assert_eq!(got, wants.map(|list| list.into_iter().map(str::to_owned).collect()), "{has:?}");
        }
        let plain = labelled("a", &[]);
        assert_eq!(aggregated(&plain, &[]).unwrap(), None);
    }
}
