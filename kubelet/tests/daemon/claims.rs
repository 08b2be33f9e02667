//! Claims of DRA drivers: prepared before containers start, their devices handed to the runtime, given back when the last pod is over.

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::Api;
use kubelet::podresources::wire::{Empty, ListPodResourcesResponse};
use serde_json::json;

use crate::neighbour::{create, merge};
use crate::support::{FakeClaimDriver, Node, call, eventually};

/// A claim whose device the scheduler has chosen, for these pods.
async fn allocate(node: &Node, pods: &[&str]) {
    let claims: Api<ResourceClaim> = Api::namespaced(node.client.clone(), "default");
    let mut consumers = Vec::new();
    for name in pods {
        let uid = node.pod(name).await["metadata"]["uid"].clone();
        consumers.push(json!({"resource": "pods", "name": name, "uid": uid}));
    }
    let result = json!({"request": "one", "driver": "dra.example.com", "pool": "n1", "device": "gpu-0"});
    let status = json!({"allocation": {"devices": {"results": [result]}}, "reservedFor": consumers});
    merge(&claims, "gpu", true, json!({ "status": status })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_prepares_a_claim_for_its_pods() {
    let mut node = Node::start().await;
    let claims: Api<ResourceClaim> = Api::namespaced(node.client.clone(), "default");
    let request = json!({"name": "one", "exactly": {"deviceClassName": "any"}});
    create(&claims, json!({"metadata": {"name": "gpu"}, "spec": {"devices": {"requests": [request]}}})).await;
    let spec = |container: &str| {
        json!({"terminationGracePeriodSeconds": 1, "resourceClaims": [{"name": "mine", "resourceClaimName": "gpu"}],
            "containers": [{"name": container, "resources": {"claims": [{"name": "mine"}]}}, {"name": format!("{container}-plain")}]})
    };
    node.run("first", spec("one")).await;
    let message = node.wait_for_event("first", "FailedPrepareDynamicResources").await;
    assert!(message.contains("is not allowed to use resource claim gpu"), "{message}");
    allocate(&node, &["first"]).await;
    // No driver yet.
    eventually("the pod to wait for the driver", async || {
        let message = node.wait_for_event("first", "FailedPrepareDynamicResources").await;
        if message.contains("Failed to prepare dynamic resources") { Ok(()) } else { Err(message) }
    })
    .await;
    let driver = FakeClaimDriver::start(&node.path("kubelet"));
    node.wait_for_pod_ready("first", "True").await;
    assert_eq!(driver.calls(), ["prepare gpu"]);
    let cdi = |name: &str| -> Vec<String> {
        node.runtime.config(name).unwrap().cdi_devices.into_iter().map(|device| device.name).collect()
    };
    assert_eq!(cdi("one"), ["example.com/gpu=gpu-0"]);
    assert!(cdi("one-plain").is_empty());
    let list: ListPodResourcesResponse =
        call(&node.path("kubelet/pod-resources/kubelet.sock"), "/v1.PodResourcesLister/List", Empty {}).await.unwrap();
    let shown = &list.pod_resources[0].containers[0].dynamic_resources[0];
    assert_eq!((shown.claim_name.as_str(), shown.claim_resources[0].device_name.as_str()), ("gpu", "gpu-0"));

    // The second pod shares the claim; the first one's end takes nothing away.
    node.stop_kubelet().await;
    node.start_kubelet();
    node.run("second", spec("two")).await;
    allocate(&node, &["first", "second"]).await;
    node.wait_for_pod_ready("second", "True").await;
    node.delete("first", None).await;
    node.wait_until_gone("first").await;
    assert!(!driver.calls().contains(&"unprepare gpu".to_owned()), "{:?}", driver.calls());
    node.delete("second", None).await;
    node.wait_until_gone("second").await;
    assert_eq!(driver.calls().last().map(String::as_str), Some("unprepare gpu"));
}
