//! The port: headers, time limits, deprecations, front proxies, and how the server leaves.

use std::time::{Duration, Instant};

use futures::{AsyncBufReadExt, TryStreamExt};
use serde_json::{Value, json};

use super::support::{Cluster, call, get, refused, request, send, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn headers_texts_and_limits_are_upstreams() {
    let flags = ["--strict-transport-security-directives=max-age=31536000", "--cors-allowed-origins=//friend(:|$)"];
    let mut cluster = Cluster::start_with(&flags).await;
    let admin = cluster.admin().await;
    let (parts, _) =
        send(&admin, get("/api/v1/namespaces", &[("audit-id", "mine"), ("origin", "https://friend")])).await;
    for (name, value) in [
        ("audit-id", "mine"),
        ("cache-control", "no-cache, private"),
        ("content-type", "application/json"),
        ("strict-transport-security", "max-age=31536000"),
        ("access-control-allow-origin", "https://friend"),
        ("access-control-expose-headers", "Date"),
    ] {
        assert_eq!(parts.headers[name], value, "{name}");
    }
    let (parts, _) = send(&admin, get("/api/v1/namespaces/default/endpoints", &[])).await;
    let warning = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    assert_eq!(parts.headers["warning"], warning);

    for (method, path, code, message) in [
        ("GET", "/api/v1/nonsense", 404, "the server could not find the requested resource"),
        ("GET", "/api/v1/namespaces/default/pods/a/nonsense", 404, "the server could not find the requested resource"),
        ("GET", "/api/v1/namespaces/default/nodes", 404, "the server could not find the requested resource"),
        (
            "PUT",
            "/api/v1/namespaces/default/pods",
            405,
            "the server does not allow this method on the requested resource",
        ),
        (
            "GET",
            "/api/v1/pods?timeout=soon",
            400,
            "invalid timeout specified in the request URL - time: invalid duration \"soon\"",
        ),
    ] {
        let (found, _, text) = refused(&admin, request(method, path, &Value::Null)).await;
        assert_eq!((found, text.as_str()), (code, message), "{method} {path}");
    }
    for path in ["/nonsense", "/apis/no.such.group/v1/things"] {
        let (parts, text) = send(&admin, get(path, &[])).await;
        assert_eq!((parts.status.as_u16(), text.as_str()), (404, "404 page not found\n"), "{path}");
    }
    let (parts, text) = send(&admin, get("/api/v1/watch", &[])).await;
    assert_eq!(parts.status, 500);
    assert!(text.contains("failed to create RequestInfo: unable to determine kind and namespace from url"), "{text}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn front_proxies_speak_for_users_and_nobody_else_does() {
    let mut cluster = Cluster::start_with(&[
        "--requestheader-client-ca-file={dir}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    ])
    .await;
    let review = || {
        http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("content-type", "application/json")
            .header("x-remote-user", "jane")
            .header("x-remote-group", "system:masters")
            .header("x-remote-extra-team", "a")
            .body(b"{}".to_vec())
            .unwrap()
    };
    let proxy = cluster.front_proxy("front-proxy-client").await;
    let who: Value = proxy.request(review()).await.unwrap();
    let info = &who["status"]["userInfo"];
    assert_eq!((&info["username"], &info["extra"]["team"]), (&json!("jane"), &json!(["a"])));
    let stranger = cluster.front_proxy("somebody").await;
    assert_eq!(refused(&stranger, review()).await.0, 403, "anonymous may not");
    let user = cluster.client("joe", &[]).await;
    let who: Value = user.request(review()).await.unwrap();
    assert_eq!(who["status"]["userInfo"]["username"], "joe", "a client certificate is not a front proxy's");

    let admin = cluster.admin().await;
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let map = call(&admin, "GET", path, Value::Null).await;
    for key in ["client-ca-file", "requestheader-client-ca-file"] {
        assert!(map["data"][key].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"), "{map}");
    }
    assert_eq!(map["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_eq!(map["data"]["requestheader-username-headers"], "[\"X-Remote-User\"]");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_server_says_so_and_ends_its_watches_cleanly() {
    let mut cluster = Cluster::start_with(&[
        "--shutdown-delay-duration=500ms",
        "--shutdown-send-retry-after=true",
        "--shutdown-watch-termination-grace-period=1s",
    ])
    .await;
    let admin = cluster.admin().await;
    let watch = admin.request_stream(get("/api/v1/namespaces?watch=true", &[])).await.unwrap();
    let mut lines = std::pin::pin!(watch.lines());
    assert!(lines.try_next().await.unwrap().unwrap().contains("ADDED"));
    let other = cluster.admin().await;
    cluster.begin_stop();
    wait_for("readyz fails", async || send(&other, get("/readyz", &[])).await.0.status == 500).await;
    let started = Instant::now();
    let mut retry_after = false;
    while started.elapsed() < Duration::from_secs(10) {
        let Ok(response) = cluster.admin().await.send(get("/api/v1/nodes", &[]).map(kube::client::Body::from)).await
        else {
            break;
        };
        if response.status() == 429 {
            assert_eq!(response.headers()["retry-after"], "5");
            retry_after = true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(retry_after, "new requests are sent elsewhere before the port closes");
    while lines.try_next().await.expect("the watch ends without an error").is_some() {}
    cluster.stop().await;
}
