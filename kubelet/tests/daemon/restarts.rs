//! Restarts that containers' own rules ask for, and pods that end for others or come from elsewhere.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Node, Script, eventually, free_port};

fn exits(after: u64, code: i32) -> Script {
    Script { exits: Some((Duration::from_millis(after), code)), ..Script::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_restarts_a_container_that_would_stay_down() {
    let node = Node::start().await;
    node.runtime.script("main", exits(0, 42));
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let container = json!({"name": "main", "restartPolicy": "Never", "restartPolicyRules": rules});
    node.run("retry", json!({"restartPolicy": "Never", "containers": [container]})).await;
    eventually("two restarts", async || {
        let pod = node.pod("retry").await;
        let count = pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
        if count >= Some(2) && pod["status"]["phase"] == "Running" { Ok(()) } else { Err(pod["status"].to_string()) }
    })
    .await;
    node.runtime.script("main", exits(0, 1));
    let pod = node.wait_for_pod("retry", "/status/phase", "Failed").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_containers_start_anew_when_a_rule_asks_for_it() {
    let node = Node::start().await;
    node.runtime.script("init", exits(0, 0));
    node.runtime.script("watch", exits(1500, 88));
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]);
    let watch = json!({"name": "watch", "restartPolicy": "Never", "restartPolicyRules": rules});
    let spec = json!({
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "initContainers": [{"name": "init"}], "containers": [{"name": "main"}, watch],
    });
    node.run("together", spec).await;
    node.wait_for_pod_ready("together", "True").await;
    node.runtime.script("watch", Script::default());
    node.runtime.script("watch", exits(600_000, 0));
    // The first one runs by its old script, which the fake has forgotten: it is ended by hand.
    node.runtime.exit("watch", 88);
    eventually("each container to have started twice", async || {
        let calls = node.runtime.calls(&["start"]);
        let twice = |name: &str| calls.iter().filter(|call| **call == format!("start {name}")).count() == 2;
        if twice("init") && twice("main") && twice("watch") { Ok(()) } else { Err(format!("{calls:?}")) }
    })
    .await;
    node.wait_for_pod_ready("together", "True").await;
    let pod = node.pod("together").await;
    let status = &pod["status"];
    assert_eq!(status["phase"], "Running");
    for container in status["containerStatuses"].as_array().unwrap() {
        assert_eq!(container["restartCount"], 1, "{container}");
    }
    let conditions = status["conditions"].as_array().unwrap();
    let restarting = conditions.iter().find(|condition| condition["type"] == "AllContainersRestarting").unwrap();
    assert_eq!(restarting["status"], "False");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lesser_pod_ends_for_a_critical_one() {
    let node = Node::start_with(json!({"maxPods": 2})).await;
    node.run("modest", json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "main"}]})).await;
    let small = json!({"resources": {"requests": {"cpu": "1m"}}, "name": "other"});
    node.run("middling", json!({"containers": [small]})).await;
    node.wait_for_pod_ready("modest", "True").await;
    node.wait_for_pod_ready("middling", "True").await;
    node.run("unlucky", json!({"containers": [{"name": "third"}]})).await;
    node.wait_for_pod("unlucky", "/status/reason", "OutOfpods").await;
    let critical = json!({"priorityClassName": "system-node-critical", "containers": [{"name": "needed"}]});
    node.run("critical", critical).await;
    node.wait_for_pod_ready("critical", "True").await;
    let pod = node.wait_for_pod("modest", "/status/reason", "Preempting").await;
    assert_eq!(pod["status"]["message"], "Preempted in order to admit critical pod");
    let conditions = pod["status"]["conditions"].as_array().unwrap().clone();
    assert!(
        conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "TerminationByKubelet"),
        "{conditions:?}"
    );
    node.wait_for_pod_ready("middling", "True").await;
}

/// Answers every request with that body, if it has the header.
async fn serve(port: u16, body: String) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap_or(0);
        let known = String::from_utf8_lossy(&request[..length]).to_lowercase().contains("x-key: word");
        let (status, body) = if known { ("200 OK", body.as_str()) } else { ("403 Forbidden", "no") };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn static_pods_come_from_a_url_too() {
    let port = free_port();
    let pod = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": name, "image": "example.com/app:1"}]}})
    };
    let list = json!({"apiVersion": "v1", "kind": "PodList", "items": [pod("first"), pod("second")]});
    let server = tokio::spawn(serve(port, list.to_string()));
    let settings = json!({"staticPodURL": format!("http://127.0.0.1:{port}/pods"), "staticPodURLHeader": {"X-Key": ["word"]},
        "httpCheckFrequency": "1s"});
    let node = Node::start_with(settings).await;
    node.wait_for_pod_ready("first-n1", "True").await;
    node.wait_for_pod_ready("second-n1", "True").await;
    // A server that is away changes nothing; one that says less does.
    server.abort();
    let _ = server.await;
    let server = tokio::spawn(serve(port, pod("second").to_string()));
    node.wait_until_gone("first-n1").await;
    node.wait_for_pod_ready("second-n1", "True").await;
    server.abort();
}
