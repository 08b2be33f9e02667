//! Budgets, and an eviction that they allow.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::EvictParams;
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;

use crate::loops::{make_ready, start};
use crate::neighbour::{create, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_counts_and_is_used_up() {
    let (_server, client, daemon) = start().await;
    let sets: Api<ReplicaSet> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(client.clone());
    let selector = json!({"matchLabels": {"app": "x"}});
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    create(
        &sets,
        json!({"metadata": {"name": "s"}, "spec": {"replicas": 3, "selector": selector, "template": template}}),
    )
    .await;
    create(&budgets, json!({"metadata": {"name": "b"}, "spec": {"maxUnavailable": "34%", "selector": selector}})).await;
    let status = async |wanted: [i32; 4]| {
        eventually(&format!("expected, desired, healthy, allowed are {wanted:?}"), async || {
            let s = budgets.get("b").await.unwrap().status?;
            ([s.expected_pods, s.desired_healthy, s.current_healthy, s.disruptions_allowed] == wanted.map(Some))
                .then_some(s)
        })
        .await
    };
    let blocked = status([3, 1, 0, 0]).await;
    assert_eq!(blocked.conditions.unwrap()[0].reason, "InsufficientPods");
    let three = eventually("three pods", async || {
        Some(pods.list(&ListParams::default()).await.unwrap().items).filter(|list| list.len() == 3)
    })
    .await;
    for pod in &three[..2] {
        make_ready(&pods, pod, "10.0.0.1").await;
    }
    assert_eq!(status([3, 1, 2, 1]).await.conditions.unwrap()[0].reason, "SufficientPods");
    pods.evict(&three[0].name_any(), &EvictParams::default()).await.unwrap();
    status([3, 1, 1, 0]).await;
    // The next one would be refused until its successor is ready.
    let budget = budgets.get("b").await.unwrap();
    assert_eq!(budget.status.unwrap().conditions.unwrap()[0].reason, "InsufficientPods");
    daemon.stop().await;
}
