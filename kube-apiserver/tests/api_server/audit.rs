//! Auditing: what the log says after real requests, and what a webhook is told.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use common::serving::{Handler, Peer, full, serve};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::support::{Cluster, call, request, send, wait_for};

fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The last event of an audit id and stage.
fn find(path: &Path, id: &str, stage: &str) -> Option<Value> {
    events(path).into_iter().rfind(|event| event["auditID"] == id && event["stage"] == stage)
}

fn marked(id: &str, mut request: http::Request<Vec<u8>>) -> http::Request<Vec<u8>> {
    request.headers_mut().insert("audit-id", id.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_security_says_what_it_found() {
    let mut cluster = Cluster::prepare();
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, users: [admin]}]\n";
    std::fs::write(cluster.dir().join("policy"), policy).unwrap();
    let log = cluster.dir().join("audit.log");
    cluster.restart_with(&["--audit-policy-file={dir}/policy", "--audit-log-path={dir}/audit.log"]).await;
    let admin = cluster.admin().await;
    let labels =
        json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "restricted"});
    call(&admin, "POST", "/api/v1/namespaces", json!({"metadata": {"name": "ps", "labels": labels}})).await;
    call(&admin, "POST", "/api/v1/namespaces/ps/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    // The plugin looks at the namespace as its cache has it, which may be a moment behind.
    wait_for("the pod's namespace is known", async || {
        let (parts, _) =
            send(&admin, marked("p1", request("POST", "/api/v1/namespaces/ps/pods?dryRun=All", &pod))).await;
        let event = find(&log, "p1", "ResponseComplete");
        parts.status == 201
            && event.is_some_and(|event| {
                let annotations = &event["annotations"];
                annotations["pod-security.kubernetes.io/enforce-policy"] == "baseline:latest"
                    && annotations["pod-security.kubernetes.io/audit-violations"].as_str().is_some_and(|text| {
                        text.starts_with(
                            "would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false",
                        )
                    })
            })
    })
    .await;
    cluster.stop().await;
}

/// A server that keeps what it is told.
#[derive(Default)]
struct Listener(Mutex<Vec<Value>>);

#[async_trait]
impl Handler for Listener {
    async fn handle(&self, request: Request<Incoming>, _: Arc<Peer>) -> Response<common::serving::Body> {
        let path = request.uri().path().to_owned();
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let mut list: Value = serde_json::from_slice(&bytes).unwrap();
        list["path"] = path.into();
        self.0.lock().push(list);
        Response::new(full("{}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_in_batches_and_all_of_it_at_the_end() {
    let listener = Arc::new(Listener::default());
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(socket, None, Arc::clone(&listener) as Arc<dyn Handler>, stop.clone()));
    let mut cluster = Cluster::prepare();
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Request, users: [admin]}]\n";
    std::fs::write(cluster.dir().join("policy"), policy).unwrap();
    let kubeconfig = json!({
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}/sink")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x",
    });
    std::fs::write(cluster.dir().join("webhook"), kubeconfig.to_string()).unwrap();
    cluster
        .restart_with(&[
            "--audit-policy-file={dir}/policy",
            "--audit-webhook-config-file={dir}/webhook",
            "--audit-webhook-batch-max-wait=1h",
            "--audit-webhook-truncate-enabled=true",
            "--audit-webhook-truncate-max-event-size=4000",
        ])
        .await;
    let admin = cluster.admin().await;
    let large = json!({"metadata": {"name": "large"}, "data": {"k": "v".repeat(5000)}});
    let path = "/api/v1/namespaces/default/configmaps";
    send(&admin, marked("w1", request("POST", path, &large))).await;
    // The batch would wait for an hour; who leaves sends it.
    cluster.stop().await;
    stop.cancel();
    serving.await.unwrap().unwrap();
    let lists = listener.0.lock();
    assert!(lists.iter().all(|list| list["kind"] == "EventList" && list["path"] == "/sink"), "{lists:?}");
    let items: Vec<&Value> = lists.iter().flat_map(|list| list["items"].as_array().unwrap()).collect();
    let event = items.iter().find(|event| event["auditID"] == "w1" && event["stage"] == "ResponseComplete").unwrap();
    assert_eq!(event.get("requestObject"), None);
    assert_eq!(event["annotations"]["audit.k8s.io/truncated"], "true");
}
