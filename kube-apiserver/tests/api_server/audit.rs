//! Auditing: what the log says after real requests, and what a webhook is told.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use common::{
    keys::SigningKey,
    serving::{Handler, Peer, full, serve},
};
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
use tokio_util::sync::CancellationToken;

use super::support::{Cluster, call, get, request, send, wait_for};

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

/// Starts a server that records what `rules` say, as JSON, in the returned file.
async fn recording(rules: Value) -> (Cluster, PathBuf) {
    let mut cluster = Cluster::prepare();
    let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules});
    std::fs::write(cluster.dir().join("policy"), policy.to_string()).unwrap();
    std::fs::write(cluster.dir().join("tokens"), "secret,root,1,system:masters\n").unwrap();
    let log = cluster.dir().join("audit.log");
    cluster
        .restart_with(&[
            "--audit-policy-file={dir}/policy",
            "--audit-log-path={dir}/audit.log",
            "--token-auth-file={dir}/tokens",
        ])
        .await;
    (cluster, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_what_is_recorded_as_far_as_the_policy_says() {
    let core = |resource: &str| json!([{"group": "", "resources": [resource]}]);
    let (mut cluster, log) = recording(json!([
        {"level": "None", "resources": core("events")},
        {"level": "Metadata", "resources": core("secrets")},
        {"level": "Request", "resources": core("serviceaccounts")},
        {"level": "RequestResponse", "resources": core("configmaps"), "omitStages": ["RequestReceived"]},
    ]))
    .await;
    let admin = cluster.admin().await;
    let at = |resource: &str| format!("/api/v1/namespaces/default/{resource}");
    let named = json!({"metadata": {"name": "audited"}, "data": {"k": "dg=="}});
    let account = json!({"metadata": {"name": "audited"}});
    for (id, method, resource, body) in [
        ("none", "GET", "events", Value::Null),
        ("metadata", "POST", "secrets", named.clone()),
        ("request", "POST", "serviceaccounts", account),
        ("both", "POST", "configmaps", named),
    ] {
        let (parts, text) = send(&admin, marked(id, request(method, &at(resource), &body))).await;
        assert!(parts.status.is_success(), "{id}: {text}");
    }
    let mut as_jane = marked("jane", request("GET", &at("secrets/audited"), &Value::Null));
    as_jane.headers_mut().insert("impersonate-user", "jane".parse().unwrap());
    assert_eq!(send(&admin, as_jane).await.0.status, 403);
    cluster.stop().await;

    assert!(events(&log).iter().all(|event| event["auditID"] != "none"));
    let complete = |id: &str| find(&log, id, "ResponseComplete").unwrap();
    let stages = |id: &str| -> Vec<String> {
        let own = events(&log).into_iter().filter(|event| event["auditID"] == id);
        own.map(|event| event["stage"].as_str().unwrap().to_owned()).collect()
    };
    for (id, level, sent, answered) in [
        ("metadata", "Metadata", false, false),
        ("request", "Request", true, false),
        ("both", "RequestResponse", true, true),
    ] {
        let event = complete(id);
        assert_eq!((&event["level"], &event["verb"]), (&json!(level), &json!("create")), "{event}");
        assert_eq!((&event["user"]["username"], &event["responseStatus"]["code"]), (&json!("admin"), &json!(201)));
        assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
        for (member, there) in [("requestObject", sent), ("responseObject", answered)] {
            assert_eq!(event.get(member).is_some(), there, "{id} {member}");
        }
    }
    assert_eq!(complete("both")["responseObject"]["metadata"]["name"], "audited");
    assert!(complete("both")["responseObject"]["metadata"]["uid"].is_string());
    assert_eq!(stages("metadata"), ["RequestReceived", "ResponseComplete"]);
    assert_eq!(stages("both"), ["ResponseComplete"]);
    let event = complete("jane");
    assert_eq!(event["user"]["username"], "admin");
    assert_eq!(event["impersonatedUser"]["username"], "jane");
    assert_eq!(event["responseStatus"]["code"], 403);
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "forbid");
    let object = json!({"resource": "secrets", "namespace": "default", "name": "audited", "apiVersion": "v1"});
    assert_eq!(event["objectRef"], object);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_complete_when_it_ends() {
    let (mut cluster, log) = recording(json!([{"level": "Metadata", "verbs": ["watch"]}])).await;
    let mut upgrade = "wss://localhost/api/v1/namespaces?watch=true".into_client_request().unwrap();
    upgrade.headers_mut().insert("authorization", "Bearer secret".parse().unwrap());
    upgrade.headers_mut().insert("audit-id", "session".parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::client_async(upgrade, cluster.connect().await).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(socket.next().await, Some(Ok(Message::Text(_)))));
    }
    let started = find(&log, "session", "ResponseStarted").unwrap();
    assert_eq!(started["responseStatus"]["code"], 101);
    assert_eq!(find(&log, "session", "ResponseComplete"), None, "it goes on");
    socket.close(None).await.unwrap();
    wait_for("the end is recorded", async || find(&log, "session", "ResponseComplete").is_some()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_of_tokens_in_secrets_are_noted() {
    let (mut cluster, log) = recording(json!([{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}])).await;
    let admin = cluster.admin().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let secrets = "/api/v1/namespaces/default/secrets";
    let account = json!({"metadata": {"name": "old"}, "secrets": [{"name": "automatic"}]});
    let uid = call(&admin, "POST", accounts, account).await["metadata"]["uid"].clone();
    let key = SigningKey::load(&cluster.dir().join("sa.key")).unwrap();
    for (name, warned, annotation) in
        [("automatic", true, "legacy-token-autogenerated-secret"), ("manual", false, "legacy-token-manual-secret")]
    {
        let claims = json!({"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:default:old",
            "kubernetes.io/serviceaccount/namespace": "default", "kubernetes.io/serviceaccount/secret.name": name,
            "kubernetes.io/serviceaccount/service-account.name": "old", "kubernetes.io/serviceaccount/service-account.uid": uid});
        let header = json!({"alg": key.public.algorithm.name(), "kid": key.public.id});
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap()));
        let secret = json!({"metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": "old"}},
            "type": "kubernetes.io/service-account-token", "data": {"token": STANDARD.encode(&token)}});
        call(&admin, "POST", secrets, secret).await;
        let client = cluster.with(json!({"token": token})).await;
        let (parts, _) = send(&client, marked(name, get("/api", &[]))).await;
        assert_eq!(parts.status, 200);
        assert_eq!(parts.headers.contains_key("warning"), warned, "{:?}", parts.headers);
        let stored = call(&admin, "GET", &format!("{secrets}/{name}"), Value::Null).await;
        let day = stored["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"].as_str().unwrap_or_default();
        assert!(day.len() == 10 && day.parse::<jiff::civil::Date>().is_ok(), "{stored}");
        // Once a day.
        send(&client, get("/api", &[])).await;
        let again = call(&admin, "GET", &format!("{secrets}/{name}"), Value::Null).await;
        assert_eq!(stored["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"]);
        let event = find(&log, name, "ResponseComplete").unwrap();
        assert_eq!(event["annotations"][format!("authentication.k8s.io/{annotation}")], name, "{event}");
        assert_eq!(event["annotations"]["authentication.k8s.io/legacy-token"], "system:serviceaccount:default:old");
    }
    let text = send(&admin, get("/metrics", &[])).await.1;
    for name in ["legacy_tokens_total", "legacy_manual_token_uses_total", "legacy_auto_token_uses_total"] {
        assert!(super::metrics::value(&text, &format!("serviceaccount_{name}"), &[]) > 0.0, "{name}");
    }
    cluster.stop().await;
}
