//! What a container waits for before it can be made: its image, and the objects its environment names.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use serde_json::json;

use crate::support::{Node, Script};

const REASON: &str = "/status/containerStatuses/0/state/waiting/reason";

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_pulled_is_tried_again_with_back_off() {
    let node = Node::start().await;
    node.runtime.break_image("example.com/app:1", "no such image");
    node.run("web", json!({"containers": [{"name": "main"}]})).await;
    // Its first reason, ErrImagePull, may have passed by the time that anybody looks: the events keep it.
    let failed = node.wait_for_event("web", "Failed").await;
    let text = "Failed to pull image \"example.com/app:1\": rpc error: code = NotFound desc = no such image";
    assert!(["Error: ErrImagePull", text].contains(&failed.as_str()), "{failed}");
    let pod = node.wait_for_pod("web", REASON, "ImagePullBackOff").await;
    let message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert_eq!(
        message,
        "Back-off pulling image \"example.com/app:1\": ErrImagePull: rpc error: code = NotFound desc = no such image"
    );
    assert_eq!(pod["status"]["phase"], "Pending");
    node.wait_for_event("web", "BackOff").await;
    node.runtime.mend_image("example.com/app:1");
    node.wait_for_pod_ready("web", "True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_policies_and_names() {
    let node = Node::start().await;
    let of = |policy: &str, image: &str| json!({"containers": [{"name": "main", "image": image, "imagePullPolicy": policy}]});
    node.run("never", of("Never", "example.com/absent:1")).await;
    node.wait_for_pod("never", REASON, "ErrImageNeverPull").await;
    node.run("nonsense", of("IfNotPresent", "Not An Image")).await;
    node.wait_for_pod("nonsense", REASON, "InvalidImageName").await;
    for name in ["one", "two"] {
        node.run(name, of("IfNotPresent", "example.com/app:1")).await;
        node.wait_for_pod_ready(name, "True").await;
    }
    assert_eq!(node.runtime.calls(&["pull"]), ["pull example.com/app:1"]);
    node.run("three", of("Always", "example.com/app:1")).await;
    node.wait_for_pod_ready("three", "True").await;
    assert_eq!(node.runtime.calls(&["pull"]).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_config_map_holds_its_container_back() {
    let node = Node::start().await;
    let env = json!([{"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}}]);
    node.run("web", json!({"containers": [{"name": "main", "env": env}]})).await;
    let pod = node.wait_for_pod("web", REASON, "CreateContainerConfigError").await;
    assert_eq!(
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"],
        "configmap \"settings\" not found"
    );
    node.wait_for_event("web", "Failed").await;
    let maps: Api<ConfigMap> = Api::namespaced(node.client.clone(), "default");
    let map = json!({"metadata": {"name": "settings"}, "data": {"color": "blue"}});
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    node.wait_for_pod_ready("web", "True").await;
    let envs = node.runtime.config("main").unwrap().envs;
    assert!(envs.iter().any(|env| env.key == "COLOR" && env.value == "blue"), "{envs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_the_runtime_refuses_says_why() {
    let node = Node::start().await;
    node.runtime.script("main", Script { create_error: Some("no room".into()), ..Script::default() });
    node.run("web", json!({"containers": [{"name": "main"}]})).await;
    let pod = node.wait_for_pod("web", REASON, "CreateContainerError").await;
    let message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.ends_with("no room"), "{message}");
    node.runtime.script("main", Script::default());
    node.wait_for_pod_ready("web", "True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_volume_too() {
    let node = Node::start().await;
    node.runtime.break_image("example.com/data:1", "no such image");
    let pod = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "image": {"reference": "example.com/data:1", "pullPolicy": "IfNotPresent"}}],
    });
    node.run("web", pod).await;
    node.wait_for_pod("web", REASON, "ImagePullBackOff").await;
    assert!(node.runtime.calls(&["create"]).is_empty());
    node.runtime.mend_image("example.com/data:1");
    node.wait_for_pod_ready("web", "True").await;
    let mounts = node.runtime.config("main").unwrap().mounts;
    let data = mounts.iter().find(|mount| mount.container_path == "/data").unwrap();
    assert_eq!(data.image.as_ref().map(|image| image.image.as_str()), Some("example.com/data:1"));
    assert!(data.readonly && data.host_path.is_empty(), "{data:?}");
}
