//! Hostile requests on many endpoints: upstream's code, reason and message, and nothing stored. What upstream 1.36 answers to each
//! is in `refusals.jsonl`, a row per request: method, path, media type, body, code, reason, message.

use serde_json::{Value, json};

use super::{
    ownership::{DEPLOYMENTS, MAPS},
    support::{Cluster, call, send},
};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const LIMIT: usize = 3 * 1024 * 1024;

fn raw(method: &str, path: &str, media_type: &str, body: impl Into<Vec<u8>>) -> http::Request<Vec<u8>> {
    let request = http::Request::builder().method(method).uri(path);
    let request = if media_type.is_empty() { request } else { request.header("content-type", media_type) };
    request.body(body.into()).unwrap()
}

/// Everything that a request could have changed.
async fn state(admin: &kube::Client) -> Vec<Value> {
    let mut found = Vec::new();
    for path in [MAPS, DEPLOYMENTS, ACCOUNTS, "/api/v1/namespaces", "/api/v1/namespaces/default/pods"] {
        let mut list = call(admin, "GET", path, Value::Null).await;
        found.push(list["items"].take());
    }
    found
}

async fn with_something_there() -> (Cluster, kube::Client, Vec<Value>) {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    call(&admin, "POST", MAPS, json!({"metadata": {"name": "there"}, "data": {"a": "1"}})).await;
    let pod = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": pod});
    call(&admin, "POST", DEPLOYMENTS, json!({"metadata": {"name": "there"}, "spec": spec})).await;
    for account in ["there", "default"] {
        call(&admin, "POST", ACCOUNTS, json!({"metadata": {"name": account}})).await;
    }
    let before = state(&admin).await;
    (cluster, admin, before)
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_are_refused_in_upstreams_words() {
    let (mut cluster, admin, before) = with_something_there().await;
    let mut wrong = Vec::new();
    for row in include_str!("refusals.jsonl").lines() {
        let (method, path, media_type, body, code, reason, message): (
            String,
            String,
            String,
            String,
            u16,
            String,
            String,
        ) = serde_json::from_str(row).unwrap();
        let media_type = match media_type.as_str() {
            "" | "nonsense" => media_type,
            full if full.contains('/') => media_type,
            short => format!("application/{short}"),
        };
        let (parts, text) = send(&admin, raw(&method, &path, &media_type, body)).await;
        let status: Value = serde_json::from_str(&text).unwrap_or_default();
        let told = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
        let found = (parts.status.as_u16(), told("reason"), told("message"));
        if found != (code, reason, message) {
            wrong.push(format!("{row}\n  {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(state(&admin).await, before, "something was stored");
    cluster.stop().await;
}

/// `[{"op": "copy", ...}, ...]` that doubles an annotation's neighbourhood each time.
fn copy_bomb() -> Value {
    let begin = [json!({"op": "add", "path": "/metadata/annotations", "value": {"a": "x".repeat(100)}})];
    let double = (0..40).flat_map(|n| {
        [
            json!({"op": "copy", "from": "/metadata", "path": format!("/data/m{n}")}),
            json!({"op": "copy", "from": "/data", "path": format!("/metadata/annotations/d{n}")}),
        ]
    });
    begin.into_iter().chain(double).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_deep_requests_are_refused() {
    let (mut cluster, admin, before) = with_something_there().await;
    let (there, deployed) = (format!("{MAPS}/there"), format!("{DEPLOYMENTS}/there"));
    let test = json!({"op": "test", "path": "/data/a", "value": "1"});
    let many = |count: usize| Value::Array(vec![test.clone(); count]).to_string();
    let nested = |open: &str, depth: usize| format!("{{\"data\":{}", open.repeat(depth));
    let large = json!({"metadata": {"name": "new"}, "data": {"a": "x".repeat(1024 * 1024 + 1)}});
    let annotated = json!({"metadata": {"name": "new", "annotations": {"a": "x".repeat(262_145)}}});
    let owned = json!({"manager": "m".repeat(100), "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {}}});
    let managed = json!({"metadata": {"name": "A_", "managedFields": vec![owned; 5000]}});
    let bomb: String = (1..30).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}, *a{0}]\n", n - 1)).collect();
    let too_large = "Request entity too large: limit is 3145728";
    let deep = "exceeded max depth";
    let cases = [
        (raw("POST", MAPS, JSON, vec![b' '; LIMIT + 1]), 413, too_large),
        (raw("POST", MAPS, JSON, vec![b' '; LIMIT]), 400, "unexpected end of JSON input"),
        (raw("PUT", &there, JSON, vec![b' '; LIMIT + 1]), 413, too_large),
        (raw("PATCH", &there, MERGE, vec![b' '; LIMIT + 1]), 413, too_large),
        (raw("DELETE", &there, JSON, vec![b' '; LIMIT + 1]), 413, too_large),
        (raw("POST", MAPS, JSON, large.to_string()), 422, "Too long: may not be more than 1048576 bytes"),
        (
            raw("POST", MAPS, JSON, annotated.to_string()),
            422,
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (raw("POST", MAPS, JSON, managed.to_string()), 422, "Invalid value: \"A_\""),
        (
            raw("PATCH", &there, JSON_PATCH, many(10_001)),
            413,
            "The allowed maximum operations in a JSON patch is 10000, got 10001",
        ),
        (
            raw("PATCH", &there, JSON_PATCH, copy_bomb().to_string()),
            422,
            "the server rejected our request due to an error in our request",
        ),
        (raw("POST", MAPS, JSON, nested("[", 20_000)), 400, deep),
        (raw("POST", MAPS, JSON, nested("{\"a\":", 20_000)), 400, deep),
        (raw("PATCH", &there, MERGE, nested("{\"a\":", 20_000)), 400, deep),
        (raw("PATCH", &deployed, "application/strategic-merge-patch+json", nested("{\"a\":", 20_000)), 400, deep),
        (raw("PATCH", &there, JSON_PATCH, "[".repeat(20_000)), 400, deep),
        (
            raw("POST", MAPS, "application/yaml", "[".repeat(20_000)),
            400,
            "the object provided is unrecognized (must be of type ConfigMap): yaml: ",
        ),
        (
            raw("POST", MAPS, "application/yaml", format!("a0: &a0 [x]\n{bomb}")),
            400,
            "the object provided is unrecognized (must be of type ConfigMap): yaml: ",
        ),
        (
            raw(
                "PATCH",
                &format!("{there}?fieldManager=m"),
                "application/apply-patch+yaml",
                format!("a0: &a0 [x]\n{bomb}"),
            ),
            400,
            "error decoding YAML: error converting YAML to JSON: yaml: ",
        ),
    ];
    for (request, code, want) in cases {
        let what = format!("{} {}", request.method(), request.uri());
        let (parts, text) = send(&admin, request).await;
        let status: Value = serde_json::from_str(&text).unwrap_or_default();
        let message = status["message"].as_str().unwrap_or_default();
        assert!(
            parts.status.as_u16() == code && message.contains(want),
            "{what}, {want}: {} {message:.300}",
            parts.status
        );
    }
    // Compressed bodies are not opened: upstream takes them for what they look like.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, br#"{"metadata":{"name":"new"}}"#).unwrap();
    let mut request = raw("POST", MAPS, JSON, gzip.finish().unwrap());
    request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    let (parts, text) = send(&admin, request).await;
    assert!(
        parts.status == 400 && text.contains("invalid character '\\\\x1f' looking for beginning of value (1f8b"),
        "{text}"
    );
    // So many tests are allowed, and change nothing.
    let (parts, text) = send(&admin, raw("PATCH", &there, JSON_PATCH, many(10_000))).await;
    assert_eq!(parts.status.as_u16(), 200, "{text:.300}");
    assert_eq!(state(&admin).await, before, "something was stored");
    cluster.stop().await;
}
