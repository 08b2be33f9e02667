//! Bad input: upstream's code, reason and message, and nothing stored.

use serde_json::{Value, json};

use super::support::{Cluster, call, refused, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn raw(method: &str, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> http::Request<Vec<u8>> {
    http::Request::builder().method(method).uri(path).header("content-type", content_type).body(body.into()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_as_upstream_tells_them() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let json_type = "application/json";
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let cases: Vec<(http::Request<Vec<u8>>, u16, &str, &str)> = vec![
        (
            raw("POST", MAPS, json_type, "hello"),
            400,
            "BadRequest",
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character 'h' looking for beginning of value (68656c6c6f)",
        ),
        (
            raw("POST", MAPS, "text/plain", "x"),
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ),
        (
            raw("POST", MAPS, json_type, vec![b' '; 3 * 1024 * 1024 + 1]),
            413,
            "RequestEntityTooLarge",
            "Request entity too large: limit is 3145728",
        ),
        (
            request("POST", MAPS, &json!({"metadata": {"name": "A_B"}})),
            422,
            "Invalid",
            "ConfigMap \"A_B\" is invalid: metadata.name: Invalid value: \"A_B\": ",
        ),
        (
            request("POST", MAPS, &json!({"metadata": {"name": "a", "namespace": "other"}})),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            request("PUT", &format!("{MAPS}/b"), &json!({"metadata": {"name": "a"}})),
            400,
            "BadRequest",
            "the name of the object (a) does not match the name on the URL (b)",
        ),
        (
            request("POST", "/api/v1/namespaces/nowhere/configmaps", &json!({"metadata": {"name": "a"}})),
            404,
            "NotFound",
            "namespaces \"nowhere\" not found",
        ),
        (
            request("POST", MAPS, &json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}})),
            400,
            "BadRequest",
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion",
        ),
        (
            request("POST", &format!("{MAPS}?fieldValidation=Strict"), &json!({"metadata": {"name": "a"}, "dta": {}})),
            400,
            "BadRequest",
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dta\"",
        ),
        (
            request("POST", deployments, &json!({"metadata": {"name": "d"}, "spec": {"replicas": "three"}})),
            400,
            "BadRequest",
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (request("GET", &format!("{MAPS}?limit=x"), &Value::Null), 400, "BadRequest", ""),
        (
            request("GET", "/api/v1/pods?fieldSelector=spec.foo%3Dx", &Value::Null),
            400,
            "BadRequest",
            "field label not supported: spec.foo",
        ),
        (
            request("DELETE", "/api/v1/namespaces/kube-system", &Value::Null),
            403,
            "Forbidden",
            "namespaces \"kube-system\" is forbidden: this namespace may not be deleted",
        ),
        (
            raw("PATCH", &format!("{MAPS}/a"), json_type, "{}"),
            415,
            "UnsupportedMediaType",
            "415: Unsupported Media Type",
        ),
    ];
    for (request, code, reason, message) in cases {
        let what = format!("{} {}", request.method(), request.uri());
        let (got_code, got_reason, got_message) = refused(&admin, request).await;
        assert_eq!((got_code, got_reason.as_str()), (code, reason), "{what}: {got_message}");
        assert!(got_message.starts_with(message), "{what}: {got_message}");
    }
    let list = call(&admin, "GET", MAPS, Value::Null).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(0), "nothing was stored");
    let unknown = admin.request_text(request("GET", "/apis/no.such/v1/things", &Value::Null)).await;
    assert!(unknown.is_err());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_stores_nothing() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{MAPS}?dryRun=All");
    let shown = call(&admin, "POST", &path, json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await;
    assert_eq!(shown["data"]["k"], "v");
    assert_eq!(refused(&admin, request("GET", &format!("{MAPS}/a"), &Value::Null)).await.0, 404);
    call(&admin, "POST", MAPS, json!({"metadata": {"name": "a"}})).await;
    call(&admin, "DELETE", &format!("{MAPS}/a?dryRun=All"), Value::Null).await;
    call(&admin, "GET", &format!("{MAPS}/a"), Value::Null).await;
    cluster.stop().await;
}
