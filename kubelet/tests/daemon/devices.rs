//! Device plugins: registration, capacity, allocation, health, the checkpoint, and the podresources API.

use kubelet::podresources::wire::{
    AllocatableResourcesResponse, Empty, GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesResponse,
};
use serde_json::{Value, json};

use crate::support::{FakePlugin, Node, call, eventually};

const RESOURCE: &str = "example.com/device";

async fn wait_for_capacity(node: &Node, capacity: &str, allocatable: &str) {
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(node.client.clone());
    eventually(&format!("{capacity} devices, {allocatable} of them healthy"), async || {
        let status = nodes.get("n1").await.unwrap().status.unwrap();
        let of = |list: Option<
            std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
        >| {
            list.and_then(|list| list.get(RESOURCE).cloned()).map(|quantity| quantity.0).unwrap_or_default()
        };
        let seen = (of(status.capacity), of(status.allocatable));
        if seen == (capacity.to_owned(), allocatable.to_owned()) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

fn wants(count: &str) -> Value {
    json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "resources": {"limits": {RESOURCE: count}}}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_gets_a_plugins_devices() {
    let mut node = Node::start().await;
    let sockets = node.path("kubelet/device-plugins");
    let plugin = FakePlugin::start(&sockets).await;
    wait_for_capacity(&node, "2", "2").await;
    node.run("user", wants("1")).await;
    node.wait_for_pod_ready("user", "True").await;
    assert_eq!(plugin.calls(), ["allocate two", "prestart two"], "the plugin likes the second");
    let config = node.runtime.config("main").unwrap();
    assert_eq!(config.devices[0].container_path, "/dev/two");
    assert!(config.envs.iter().any(|env| env.key == "DEVICES" && env.value == "two"), "{:?}", config.envs);
    let health = "/status/containerStatuses/0/allocatedResourcesStatus/0/resources/0";
    node.wait_for_pod("user", health, json!({"resourceID": "two", "health": "Healthy"})).await;

    let lister = node.path("kubelet/pod-resources/kubelet.sock");
    let list: ListPodResourcesResponse = call(&lister, "/v1.PodResourcesLister/List", Empty {}).await.unwrap();
    let devices = &list.pod_resources[0].containers[0].devices;
    assert_eq!((devices[0].resource_name.as_str(), devices[0].device_ids[0].as_str()), (RESOURCE, "two"));
    let all: AllocatableResourcesResponse =
        call(&lister, "/v1.PodResourcesLister/GetAllocatableResources", Empty {}).await.unwrap();
    assert_eq!(all.devices.len(), 2);
    let request = GetPodResourcesRequest { pod_name: "nobody".into(), pod_namespace: "default".into() };
    let missing: Result<GetPodResourcesResponse, _> = call(&lister, "/v1.PodResourcesLister/Get", request).await;
    assert_eq!(missing.unwrap_err().message(), "pod nobody in namespace default not found");

    node.run("greedy", wants("2")).await;
    let pod = node.wait_for_pod("greedy", "/status/reason", "UnexpectedAdmissionError").await;
    let message = pod["status"]["message"].as_str().unwrap();
    assert!(message.contains("Requested: 2, Available: 1, which is unexpected"), "{message}");

    plugin.set_health("Healthy", "Unhealthy");
    wait_for_capacity(&node, "2", "1").await;
    node.wait_for_pod("user", &format!("{health}/health"), "Unhealthy").await;

    // After a restart plugins register anew; what was given is not given twice.
    node.stop_kubelet().await;
    drop(plugin);
    node.start_kubelet();
    wait_for_capacity(&node, "0", "0").await;
    let plugin = FakePlugin::start(&sockets).await;
    wait_for_capacity(&node, "2", "2").await;
    node.run("other", wants("1")).await;
    node.wait_for_pod_ready("other", "True").await;
    assert_eq!(plugin.calls()[0], "allocate one");
    node.delete("user", None).await;
    node.wait_until_gone("user").await;
    node.run("again", wants("1")).await;
    node.wait_for_pod_ready("again", "True").await;
    drop(plugin);
    wait_for_capacity(&node, "2", "0").await;
}
