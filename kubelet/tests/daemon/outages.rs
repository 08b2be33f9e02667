//! Neighbours that go away and come back, and the kubelet itself.

use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::support::{Node, Script, eventually, free_port, http_get};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_kubelet_leaves_containers_alone() {
    let mut node = Node::start().await;
    node.run("web", json!({"containers": [{"name": "main"}]})).await;
    node.wait_for_pod_ready("web", "True").await;
    let running = node.runtime.running("main");
    let before = node.pod("web").await["status"].clone();
    node.stop_kubelet().await;
    assert_eq!(node.runtime.running("main"), running);
    node.start_kubelet();
    // That the new one has taken over shows when it reacts.
    node.run("next", json!({"containers": [{"name": "other"}]})).await;
    node.wait_for_pod_ready("next", "True").await;
    assert_eq!(node.runtime.running("main"), running);
    assert_eq!(node.runtime.calls(&["stop"]), Vec::<String>::new());
    let after = node.pod("web").await["status"].clone();
    for field in ["phase", "startTime", "podIP", "containerStatuses"] {
        assert_eq!(after[field], before[field], "{field}");
    }

    // What ended, or was deleted, while it was away is dealt with.
    node.stop_kubelet().await;
    node.runtime.exit("main", 1);
    node.delete("next", Some(1)).await;
    node.start_kubelet();
    node.wait_until_gone("next").await;
    node.wait_for_pod("web", "/status/containerStatuses/0/restartCount", 1).await;
    node.wait_for_pod_ready("web", "True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_no_source_has_are_killed() {
    let mut node = Node::start().await;
    node.run("web", json!({"containers": [{"name": "main"}]})).await;
    node.wait_for_pod_ready("web", "True").await;
    node.stop_kubelet().await;
    node.delete("web", Some(0)).await;
    node.wait_until_gone("web").await;
    node.start_kubelet();
    eventually("the orphan to go", async || if node.runtime.is_empty() { Ok(()) } else { Err("it runs".into()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_goes_away_makes_the_node_unready() {
    let mut node = Node::start().await;
    node.run("web", json!({"containers": [{"name": "main"}]})).await;
    node.wait_for_pod_ready("web", "True").await;
    node.runtime.go_away();
    let message = node.wait_for_ready("False").await;
    assert!(message.contains("container runtime is down"), "{message}");
    node.wait_for_event("n1", "NodeNotReady").await;
    node.runtime.come_back();
    node.wait_for_ready("True").await;
    assert_eq!(node.runtime.calls(&["start", "stop"]), ["start main"]);
    node.runtime.exit("main", 0);
    node.wait_for_pod("web", "/status/containerStatuses/0/restartCount", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn static_pods_run_before_the_api_server_does() {
    let port = free_port();
    let mut node = Node::prepare(json!({"healthzPort": port})).await;
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: main, image: 'example.com/app:1'}]}\n";
    std::fs::write(node.path("manifests/web.yaml"), manifest).unwrap();
    node.start_kubelet();
    eventually("the static pod", async || match node.runtime.running("main").as_slice() {
        [] => Err("it does not run".into()),
        _ => Ok(()),
    })
    .await;
    // The kubelet itself is well, as upstream's is.
    assert_eq!(http_get(port, "/healthz").await, (200, "ok".to_owned()));
    node.api_server.boot().await;
    node.wait_for_ready("True").await;
    node.wait_for_pod("web-n1", "/status/phase", "Running").await;
    assert_eq!(node.runtime.calls(&["start"]), ["start main"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_go_on_without_the_api_server() {
    let mut node = Node::start().await;
    node.run("web", json!({"containers": [{"name": "main"}]})).await;
    node.wait_for_pod_ready("web", "True").await;
    node.api_server.stop().await;
    node.runtime.exit("main", 1);
    eventually("a restart", async || {
        let calls = node.runtime.calls(&["start"]);
        if calls.len() >= 2 { Ok(()) } else { Err(format!("{calls:?}")) }
    })
    .await;
    node.runtime.script("main", Script::default());
    node.api_server.boot().await;
    node.wait_for_pod("web", "/status/containerStatuses/0/restartCount", 1).await;
    node.wait_for_pod_ready("web", "True").await;
}

/// The node lifecycle controller does so to pods of a silent node.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_others_made_unready_is_ready_again() {
    let node = Node::start().await;
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: own}\nspec: {containers: [{name: side, image: 'example.com/app:1'}]}\n";
    std::fs::write(node.path("manifests/own.yaml"), manifest).unwrap();
    node.run("web", json!({"containers": [{"name": "main"}]})).await;
    for pod in ["web", "own-n1"] {
        node.wait_for_pod_ready(pod, "True").await;
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let written = node.pods().patch_status(pod, &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
        let conditions = written.status.unwrap().conditions.unwrap();
        assert!(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "False"));
        node.wait_for_pod_ready(pod, "True").await;
    }
}
