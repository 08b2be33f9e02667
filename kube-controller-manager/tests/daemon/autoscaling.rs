//! An autoscaler keeps within its bounds, and says what it cannot know.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use kube_controller_manager::run;
use serde_json::{Value, json};

use crate::USER;
use crate::neighbour::{ApiServer, create, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn bounds_hold_and_missing_metrics_are_told() {
    let server = ApiServer::start().await;
    let client = server.admin().await;
    let flags = [
        "--leader-elect=false",
        "--use-service-account-credentials",
        "--controllers=horizontalpodautoscaling",
        "--horizontal-pod-autoscaler-sync-period=200ms",
    ];
    let daemon = server.daemon(run, USER, &flags).await;
    let sets: Api<ReplicaSet> = Api::default_namespaced(client.clone());
    let scalers: Api<HorizontalPodAutoscaler> = Api::default_namespaced(client.clone());
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let selector = json!({"matchLabels": {"app": "x"}});
    create(
        &sets,
        json!({"metadata": {"name": "s"}, "spec": {"replicas": 1, "selector": selector, "template": template}}),
    )
    .await;
    let scaler = |name: &str, kind: &str, target: &str| {
        json!({"metadata": {"name": name}, "spec": {"minReplicas": 2, "maxReplicas": 4,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": target}}})
    };
    create(&scalers, scaler("h", "ReplicaSet", "s")).await;
    eventually("the minimum holds", async || {
        let set = sets.get("s").await.unwrap();
        (set.spec?.replicas == Some(2)).then_some(())
    })
    .await;
    let condition = async |name: &str, kind: &str, reason: &str| {
        eventually(&format!("{kind} of {name} is {reason}"), async || {
            let status = json!(scalers.get(name).await.unwrap().status);
            let list = status["conditions"].as_array().cloned().unwrap_or_default();
            list.into_iter().find(|c: &Value| c["type"] == kind && c["reason"] == reason)
        })
        .await
    };
    // Nobody serves metrics here.
    let active = condition("h", "ScalingActive", "FailedGetResourceMetric").await;
    let why = "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource \
               cpu: unable to fetch metrics from resource metrics API: the server could not find the requested resource (get \
               pods.metrics.k8s.io)";
    assert_eq!((&active["status"], &active["message"]), (&json!("False"), &json!(why)));
    condition("h", "AbleToScale", "SucceededGetScale").await;
    create(&scalers, scaler("lost", "ReplicaSet", "nobody")).await;
    condition("lost", "AbleToScale", "FailedGetScale").await;
    create(&scalers, scaler("strange", "Nothing", "s")).await;
    let able = condition("strange", "AbleToScale", "FailedGetScale").await;
    assert!(able["message"].as_str().unwrap().ends_with("no matches for kind \"Nothing\" in group \"apps\""), "{able}");
    daemon.stop().await;
}
