//! What operators meet: /statusz and /flagz, leases of servers, the date of token tracking, storage in other forms.

use futures::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use super::support::{Cluster, call, get, send, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn the_server_says_what_it_is() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let (parts, text) = send(&admin, get("/statusz", &[])).await;
    assert_eq!(parts.headers["content-type"], "text/plain; charset=utf-8");
    assert!(text.starts_with("\napiserver statusz\n") && text.contains("\nBinary version: 1.36"), "{text}");
    assert!(text.contains(" /debug /flagz /healthz /livez /metrics /readyz "), "{text}");
    let accept = [("accept", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz")];
    let (_, text) = send(&admin, get("/flagz", &accept)).await;
    let flags: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&flags["kind"], &flags["apiVersion"]), (&json!("Flagz"), &json!("config.k8s.io/v1beta1")));
    assert!(flags["flags"]["service-cluster-ip-range"].as_str().unwrap().starts_with('['), "{flags}");
    let (parts, _) = send(&admin, get("/flagz", &[("accept", "application/json")])).await;
    assert_eq!(parts.status, 406);
    let reader = cluster.client("scraper", &["system:monitoring"]).await;
    assert_eq!(send(&reader, get("/statusz", &[])).await.0.status, 200);
    assert_eq!(send(&cluster.client("nobody", &[]).await, get("/statusz", &[])).await.0.status, 403);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_servers_that_are_gone_are_collected() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let lease = |name: &str, label: &str| {
        json!({"metadata": {"name": name, "labels": {"apiserver.kubernetes.io/identity": label}},
            "spec": {"holderIdentity": "x", "leaseDurationSeconds": 1, "renewTime": "2020-01-01T00:00:00.000000Z"}})
    };
    call(&admin, "POST", leases, lease("apiserver-gone", "kube-apiserver")).await;
    call(&admin, "POST", leases, lease("other", "other-apiserver")).await;
    cluster.restart().await;
    let admin = cluster.admin().await;
    let (parts, _) = send(&admin, get(&format!("{leases}/apiserver-gone"), &[])).await;
    assert_eq!(parts.status, 404);
    let list = call(&admin, "GET", leases, Value::Null).await;
    let names: Vec<_> =
        list["items"].as_array().unwrap().iter().filter_map(|l| l["metadata"]["name"].as_str()).collect();
    assert!(names.len() == 2 && names[0].starts_with("apiserver-") && names[1] == "other", "{names:?}");
    let path = "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";
    let since = call(&admin, "GET", path, Value::Null).await["data"]["since"].clone();
    assert_eq!(since.as_str().unwrap().len(), "2026-01-01".len());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_can_keep_its_objects_in_yaml() {
    let mut cluster = Cluster::start_with(&["--storage-media-type=application/yaml"]).await;
    let admin = cluster.admin().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "yes", "b": "- 1\n", "c": "", "d": "1e3"}});
    call(&admin, "POST", maps, map.clone()).await;
    cluster.restart_with(&["--storage-media-type=application/json"]).await;
    let admin = cluster.admin().await;
    assert_eq!(call(&admin, "GET", &format!("{maps}/m"), Value::Null).await["data"], map["data"]);
    let list = call(&admin, "GET", maps, Value::Null).await;
    assert_eq!(list["items"][0]["data"], map["data"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_deleted_by_force_is_seen_without_time_left() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let pods = "/api/v1/namespaces/default/pods";
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    call(&admin, "POST", accounts, json!({"metadata": {"name": "default"}})).await;
    let spec = json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}]});
    let pod = call(&admin, "POST", pods, json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let version = pod["metadata"]["resourceVersion"].as_str().unwrap();
    call(&admin, "DELETE", &format!("{pods}/p?gracePeriodSeconds=0"), Value::Null).await;
    let path = format!("{pods}?watch=true&resourceVersion={version}&timeoutSeconds=2");
    let (_, text) = send(&admin, get(&path, &[])).await;
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["MODIFIED", "DELETED"]);
    for event in &events {
        let meta = &event["object"]["metadata"];
        assert!(meta["deletionTimestamp"].is_string() && meta["deletionGracePeriodSeconds"] == 0, "{meta}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_go_over_websocket() {
    let mut cluster = Cluster::prepare();
    std::fs::write(cluster.dir().join("tokens"), "secret,root,1,system:masters\n").unwrap();
    cluster.restart_with(&["--token-auth-file={dir}/tokens"]).await;
    let admin = cluster.admin().await;
    let url = "wss://localhost/api/v1/namespaces?watch=true&fieldSelector=metadata.name%3Dsocket";
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("authorization", "Bearer secret".parse().unwrap());
    let (mut socket, answer) = tokio_tungstenite::client_async(request, cluster.connect().await).await.unwrap();
    assert_eq!(answer.status(), 101);
    call(&admin, "POST", "/api/v1/namespaces", json!({"metadata": {"name": "socket"}})).await;
    let Message::Text(text) = socket.next().await.unwrap().unwrap() else { panic!("events are text") };
    let event: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("socket")));
    socket.close(None).await.unwrap();
    wait_for("the server closes too", async || {
        matches!(socket.next().await, None | Some(Err(_)) | Some(Ok(Message::Close(_))))
    })
    .await;
    cluster.stop().await;
}
