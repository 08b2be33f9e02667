//! In-place resize of running containers.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::{Node, eventually};

fn resources(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

async fn resize(node: &Node, pod: &str, resources: Value) {
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}});
    node.pods().patch_subresource("resize", pod, &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
}

fn condition(pod: &Value, type_: &str) -> Option<Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_).cloned()
}

async fn wait_for_resources(node: &Node, pod: &str, want: &Value) -> Value {
    eventually(&format!("{pod} to have {want}"), async || {
        let seen = node.pod(pod).await;
        let status = &seen["status"]["containerStatuses"][0];
        let done = condition(&seen, "PodResizeInProgress").is_none() && condition(&seen, "PodResizePending").is_none();
        if status["resources"] == *want && status["state"]["running"].is_object() && done {
            Ok(seen)
        } else {
            Err(seen["status"].to_string())
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_gets_its_new_resources() {
    let mut node = Node::start().await;
    node.run("web", json!({"containers": [{"name": "main", "resources": resources("100m", "64Mi")}]})).await;
    node.wait_for_pod_ready("web", "True").await;
    resize(&node, "web", resources("200m", "64Mi")).await;
    let pod = wait_for_resources(&node, "web", &resources("200m", "64Mi")).await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["restartCount"], 0);
    assert_eq!(status["allocatedResources"], json!({"cpu": "200m", "memory": "64Mi"}));
    assert_eq!(node.runtime.calls(&["update"]), ["update main shares=204 quota=20000 memory=67108864"]);
    assert!(node.wait_for_event("web", "ResizeStarted").await.starts_with("Pod resize started: {"));
    node.wait_for_event("web", "ResizeCompleted").await;
    assert_eq!(node.runtime.calls(&["start", "stop"]), ["start main"]);

    // A restarted kubelet knows what was done; what was wished meanwhile is done then.
    node.stop_kubelet().await;
    resize(&node, "web", resources("200m", "128Mi")).await;
    node.start_kubelet();
    wait_for_resources(&node, "web", &resources("200m", "128Mi")).await;
    let updates = node.runtime.calls(&["update"]);
    assert_eq!(updates[1..], ["update main shares=204 quota=20000 memory=134217728"]);
    assert_eq!(node.runtime.calls(&["start", "stop"]), ["start main"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_may_ask_for_a_restart() {
    let node = Node::start().await;
    let policy = json!([
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "RestartContainer"},
    ]);
    let container = json!({"name": "main", "resources": resources("100m", "64Mi"), "resizePolicy": policy});
    node.run("web", json!({"terminationGracePeriodSeconds": 3, "containers": [container]})).await;
    node.wait_for_pod_ready("web", "True").await;
    resize(&node, "web", resources("150m", "64Mi")).await;
    wait_for_resources(&node, "web", &resources("150m", "64Mi")).await;
    assert_eq!(node.runtime.calls(&["start"]), ["start main"]);
    resize(&node, "web", resources("150m", "96Mi")).await;
    let pod = wait_for_resources(&node, "web", &resources("150m", "96Mi")).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(node.runtime.calls(&["start", "stop"]), ["start main", "stop main 3", "start main"]);
    let linux = node.runtime.config("main").unwrap().linux.unwrap().resources.unwrap();
    assert_eq!(linux.memory_limit_in_bytes, 96 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_that_does_not_fit_waits_or_is_infeasible() {
    let node = Node::start_with(json!({"systemReserved": {"memory": "1Gi"}})).await;
    node.run("web", json!({"containers": [{"name": "main", "resources": resources("100m", "64Mi")}]})).await;
    node.run("other", json!({"containers": [{"name": "main2", "resources": resources("500m", "64Mi")}]})).await;
    node.wait_for_pod_ready("web", "True").await;
    node.wait_for_pod_ready("other", "True").await;
    let cpus = std::thread::available_parallelism().unwrap();
    for (cpu, reason) in [("1000".to_owned(), "Infeasible"), (format!("{cpus}"), "Deferred")] {
        resize(&node, "web", resources(&cpu, "64Mi")).await;
        let pending = eventually(reason, async || {
            let pod = node.pod("web").await;
            let pending = condition(&pod, "PodResizePending").unwrap_or_default();
            if pending["reason"] == reason { Ok(pending) } else { Err(pod["status"].to_string()) }
        })
        .await;
        assert!(pending["message"].as_str().unwrap().starts_with("Node didn't have enough "), "{pending}");
        node.wait_for_event("web", &format!("Resize{reason}")).await;
    }
    assert_eq!(node.pod("web").await["status"]["containerStatuses"][0]["resources"], resources("100m", "64Mi"));
    assert_eq!(node.runtime.calls(&["update"]), Vec::<String>::new());
    // Room comes when the other pod goes.
    node.delete("other", Some(0)).await;
    wait_for_resources(&node, "web", &resources(&format!("{cpus}"), "64Mi")).await;
}
