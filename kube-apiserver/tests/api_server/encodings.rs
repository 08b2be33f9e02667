//! Protobuf and the other encodings: every answer in the form asked for, every stored form read back.

use std::time::Duration;

use bytes::BytesMut;
use common::{schema, wire};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use kube_apiserver::storage::{
    embedded::{self, EmbeddedOptions},
    etcd,
};
use serde_json::{Value, json};

use super::support::{Cluster, call, refused, request, wait_for};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PARTIAL: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const PARTIAL_LIST: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn accepting(accept: &str, mut request: http::Request<Vec<u8>>) -> http::Request<Vec<u8>> {
    request.headers_mut().insert("accept", accept.parse().unwrap());
    request
}

async fn send(client: &Client, request: http::Request<Vec<u8>>) -> (u16, String, Vec<u8>) {
    let response = client.send(request.map(Body::from)).await.unwrap();
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    let code = response.status().as_u16();
    (code, content_type, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

/// The JSON of an object in its envelope.
fn opened(bytes: &[u8]) -> Value {
    let envelope = wire::open(bytes).unwrap();
    let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", envelope.api_version));
    let ty = schema::lookup(group, version, envelope.kind).unwrap();
    let mut json = Vec::new();
    wire::protobuf_to_json(ty, envelope.raw, Some((envelope.api_version, envelope.kind)), &mut json).unwrap();
    serde_json::from_slice(&json).unwrap()
}

async fn get(client: &Client, accept: &str, path: &str) -> Value {
    let (code, content_type, body) = send(client, accepting(accept, request("GET", path, &Value::Null))).await;
    assert_eq!((code, content_type.as_str()), (200, PROTOBUF), "{path}");
    opened(&body)
}

fn sealed(object: &Value) -> Vec<u8> {
    let ty = schema::lookup("", "v1", object["kind"].as_str().unwrap()).unwrap();
    let mut raw = Vec::new();
    wire::tree_to_protobuf(ty, object, &mut raw).unwrap();
    wire::seal("v1", object["kind"].as_str().unwrap(), &raw)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_and_lists_are_the_same_in_both_encodings() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    for n in 0..3 {
        let map = json!({"kind": "ConfigMap", "metadata": {"name": format!("m{n}"), "labels": {"n": n.to_string()}},
            "data": {"z": "1", "a": "2"}, "binaryData": {"b": "AAEC"}});
        let post = http::Request::post(MAPS).header("content-type", PROTOBUF).header("accept", PROTOBUF);
        let (code, _, body) = send(&admin, post.body(sealed(&map)).unwrap()).await;
        assert_eq!(code, 201);
        assert_eq!(opened(&body)["binaryData"], map["binaryData"]);
    }
    let one = format!("{MAPS}/m1");
    for path in [one.as_str(), MAPS, "/api/v1/namespaces", "/apis/rbac.authorization.k8s.io/v1/clusterroles"] {
        let json = call(&admin, "GET", path, Value::Null).await;
        let protobuf = get(&admin, PROTOBUF, path).await;
        assert!(protobuf.get("items").and_then(Value::as_array).is_none_or(|items| !items.is_empty()));
        assert_eq!(protobuf, json, "{path}");
    }
    // A version that is not the stored one.
    let path = "/apis/events.k8s.io/v1/events";
    assert_eq!(get(&admin, PROTOBUF, path).await["kind"], "EventList");
    let partial = get(&admin, PARTIAL, &one).await;
    assert_eq!((&partial["kind"], &partial["metadata"]["name"]), (&json!("PartialObjectMetadata"), &json!("m1")));
    assert!(partial.get("data").is_none());
    let list = get(&admin, PARTIAL_LIST, &format!("{MAPS}?labelSelector=n")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    assert_eq!(list["items"][2]["metadata"]["labels"]["n"], "2");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_encoded_too_and_what_cannot_be_is_refused() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let missing = format!("{MAPS}/none");
    let (code, content_type, body) = send(&admin, accepting(PROTOBUF, request("GET", &missing, &Value::Null))).await;
    let status = opened(&body);
    assert_eq!((code, content_type.as_str()), (404, PROTOBUF));
    assert_eq!((&status["kind"], &status["reason"]), (&json!("Status"), &json!("NotFound")));
    let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
    for (accept, path, want) in [
        (
            table,
            MAPS,
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ),
        (
            "application/cbor",
            MAPS,
            "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
        ),
        (
            "application/yaml",
            "/api/v1/namespaces?watch=1",
            "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
        ),
    ] {
        let json = format!("{accept}, application/none");
        let (code, reason, message) = match send(&admin, accepting(&json, request("GET", path, &Value::Null))).await {
            (code, kind, body) if kind == "application/json" => {
                let status: Value = serde_json::from_slice(&body).unwrap();
                (code, status["reason"].as_str().unwrap().to_owned(), status["message"].as_str().unwrap().to_owned())
            }
            (code, kind, body) if kind == "application/yaml" => {
                let text = String::from_utf8_lossy(&body).into_owned();
                let message = if text.contains(want) { want.to_owned() } else { text };
                (code, "NotAcceptable".to_owned(), message)
            }
            (code, kind, _) => panic!("{path}: {code} {kind}"),
        };
        assert_eq!((code, reason.as_str(), message.as_str()), (406, "NotAcceptable", want));
    }
    let post = http::Request::post(MAPS).header("content-type", "application/cbor").body(vec![0xa0]).unwrap();
    assert_eq!(refused(&admin, post).await.0, 415);
    for (body, want) in [
        (&b"k8s"[..], "provided data does not appear to be a protobuf message"),
        (b"k8s\0", "empty body"),
        (b"k8s\0\x0a\x04\x0a\x02v1\x12\x03\x0a\x7f\x00", "unexpected EOF"),
    ] {
        let post = http::Request::post(MAPS).header("content-type", PROTOBUF).body(body.to_vec()).unwrap();
        let (code, _, message) = refused(&admin, post).await;
        assert!(code == 400 && message.contains(want), "{code} {message}");
    }
    cluster.stop().await;
}

/// The frames of a watch: type and object of each.
async fn frames(admin: &Client, accept: &str, path: &str, count: usize) -> Vec<(String, Value)> {
    let watch = accepting(accept, request("GET", path, &Value::Null));
    let response = admin.send(watch.map(Body::from)).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let mut body = response.into_body();
    let (mut bytes, mut found) = (BytesMut::new(), Vec::new());
    while found.len() < count {
        if let Ok(data) = body.frame().await.unwrap().unwrap().into_data() {
            bytes.extend_from_slice(&data);
        }
        while bytes.len() >= 4 {
            let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
            if bytes.len() < 4 + length {
                break;
            }
            let frame = bytes.split_to(4 + length);
            let at = wire::first_field_len(&frame[4..], 1).unwrap();
            let kind = String::from_utf8(frame[6..4 + at].to_vec()).unwrap();
            let object = frame.windows(4).position(|w| w == wire::MAGIC).unwrap();
            found.push((kind, opened(&frame[object..])));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_are_framed() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let start = call(&admin, "GET", MAPS, Value::Null).await["metadata"]["resourceVersion"].clone();
    let map = |on: &str| json!({"metadata": {"name": "a", "labels": {"on": on}}});
    call(&admin, "POST", MAPS, map("yes")).await;
    call(&admin, "PATCH", &format!("{MAPS}/a"), map("no")).await;
    call(&admin, "PATCH", &format!("{MAPS}/a"), map("yes")).await;
    call(&admin, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    let path = format!("{MAPS}?watch=true&labelSelector=on%3Dyes&resourceVersion={}", start.as_str().unwrap());
    let seen = frames(&admin, PROTOBUF, &path, 4).await;
    let kinds: Vec<&str> = seen.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["ADDED", "DELETED", "ADDED", "DELETED"]);
    assert!(seen.iter().all(|(_, object)| object["kind"] == "ConfigMap" && object["metadata"]["name"] == "a"));
    let seen = frames(&admin, PARTIAL, &path, 1).await;
    assert_eq!(seen[0].1["kind"], "PartialObjectMetadata");
    let list = "?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let seen = frames(&admin, PROTOBUF, &format!("/api/v1/namespaces{list}"), 5).await;
    let (kind, bookmark) = &seen[4];
    assert_eq!((kind.as_str(), &bookmark["kind"]), ("BOOKMARK", &json!("Namespace")));
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let seen = frames(&admin, PROTOBUF, &format!("{MAPS}?watch=true&resourceVersion=1"), 1).await;
    assert!(matches!(seen[0].0.as_str(), "ERROR" | "ADDED"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_stored_is_read_and_both_forms_live_side_by_side() {
    let mut cluster = Cluster::prepare();
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/api-fixtures");
    let Ok(stored) = std::fs::read(fixtures.join("core.v1.ConfigMap.pb")) else {
        eprintln!("skipped: no fixtures at {}", fixtures.display());
        return;
    };
    let options = EmbeddedOptions { directory: cluster.data_dir(), compaction_interval: Duration::ZERO };
    let store = embedded::open(options).await.unwrap();
    store.create("/registry/configmaps/default/nameValue", stored.into(), None).await.unwrap();
    store.close().await;
    drop(store);
    cluster.restart_with(&["--storage-media-type=application/vnd.kubernetes.protobuf"]).await;
    let admin = cluster.admin().await;
    let path = format!("{MAPS}/nameValue");
    let json: Value = serde_json::from_slice(&std::fs::read(fixtures.join("core.v1.ConfigMap.json")).unwrap()).unwrap();
    let read = call(&admin, "GET", &path, Value::Null).await;
    assert_eq!((&read["data"], &read["metadata"]["uid"]), (&json["data"], &json["metadata"]["uid"]));
    call(&admin, "POST", MAPS, json!({"metadata": {"name": "ours"}, "data": {"k": "v"}})).await;
    // Nothing changes with the media type but what is written from then on.
    cluster.restart_with(&["--storage-media-type=application/json"]).await;
    assert_eq!(call(&admin, "GET", &format!("{MAPS}/ours"), Value::Null).await["data"]["k"], "v");
    let patch = json!({"metadata": {"finalizers": null, "deletionTimestamp": null}, "data": {"new": "x"}});
    call(&admin, "PATCH", &format!("{MAPS}/ours"), patch).await;
    cluster.stop().await;
    let options = EmbeddedOptions { directory: cluster.data_dir(), compaction_interval: Duration::ZERO };
    let store = embedded::open(options).await.unwrap();
    let value = store.get("/registry/configmaps/default/ours", None).await.unwrap().0.unwrap().value;
    assert!(value.starts_with(b"{"));
    let value = store.get("/registry/namespaces/default", None).await.unwrap().0.unwrap().value;
    assert!(value.starts_with(b"k8s\0"));
    store.close().await;
}

/// An etcd of its own; none when the machine has no etcd.
struct Etcd {
    process: std::process::Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Option<Self> {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let (client, peer) = (format!("http://127.0.0.1:{}", free()), format!("http://127.0.0.1:{}", free()));
        let process = std::process::Command::new("etcd")
            .arg("--data-dir")
            .arg(dir.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        match process {
            Ok(process) => Some(Self { process, endpoint: client, _dir: dir }),
            Err(error) => {
                eprintln!("skipped: no etcd: {error}");
                None
            }
        }
    }

    async fn store(&self) -> std::sync::Arc<dyn kube_apiserver::storage::Store> {
        for _ in 0..200 {
            let options = etcd::EtcdOptions::new(vec![self.endpoint.clone()]);
            if let Ok(store) = etcd::connect(options).await {
                return store;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("etcd does not answer");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_in_etcd_are_upstreams() {
    let Some(etcd) = Etcd::start() else { return };
    let store = etcd.store().await;
    let hpa = json!({
        "kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v1", "metadata": {"name": "old", "namespace": "default"},
        "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
    });
    let mut raw = Vec::new();
    wire::tree_to_protobuf(schema::lookup("autoscaling", "v1", "HorizontalPodAutoscaler").unwrap(), &hpa, &mut raw)
        .unwrap();
    let value = wire::seal("autoscaling/v1", "HorizontalPodAutoscaler", &raw);
    store.create("/registry/horizontalpodautoscalers/default/old", value.into(), None).await.unwrap();
    let mut cluster = Cluster::prepare();
    cluster.restart_with(&[&format!("--etcd-servers={}", etcd.endpoint)]).await;
    let admin = cluster.admin().await;
    call(&admin, "POST", MAPS, json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}, "reason": "R"});
    call(&admin, "POST", "/api/v1/namespaces/default/events", event).await;
    for (key, kind) in [
        ("configmaps/default/a", "ConfigMap"),
        ("events/default/e", "Event"),
        ("namespaces/default", "Namespace"),
        ("services/specs/default/kubernetes", "Service"),
        ("services/endpoints/default/kubernetes", "Endpoints"),
        ("masterleases/127.0.0.1", "Endpoints"),
        ("ipaddresses/10.96.0.1", "IPAddress"),
        ("servicecidrs/kubernetes", "ServiceCIDR"),
        ("clusterroles/cluster-admin", "ClusterRole"),
        ("priorityclasses/system-node-critical", "PriorityClass"),
    ] {
        let key = format!("/registry/{key}");
        let mut found = None;
        wait_for(&format!("{key} is there"), async || {
            found = store.get(&key, None).await.unwrap().0;
            found.is_some()
        })
        .await;
        let object = opened(&found.unwrap().value);
        assert_eq!(object["kind"], kind, "{key}");
        assert!(object["metadata"].get("resourceVersion").is_none(), "{key}");
    }
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/old";
    let read = call(&admin, "GET", path, Value::Null).await;
    assert_eq!(read["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let path = format!("{MAPS}/a");
    let read = call(&admin, "GET", &path, Value::Null).await;
    assert_eq!(get(&admin, PROTOBUF, &path).await, read);
    call(&admin, "PATCH", &path, json!({"data": {"k": "w"}})).await;
    assert_eq!(call(&admin, "GET", &path, Value::Null).await["data"]["k"], "w");
    cluster.stop().await;
    store.close().await;
}
