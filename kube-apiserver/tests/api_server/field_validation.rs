//! Unknown and duplicate fields: refused, warned about or ignored, in every kind of write.

use serde_json::{Value, json};

use super::{
    ownership::{DEPLOYMENTS, MAPS, apply, deployment},
    support::{Cluster, call, refused, request},
};

fn write(method: &str, path: &str, content_type: &str, body: &str) -> http::Request<Vec<u8>> {
    let builder = http::Request::builder().method(method).uri(path).header("content-type", content_type);
    builder.body(body.as_bytes().to_vec()).unwrap()
}

const YAML: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\n  name: z\n  nonsense: 1\ndata:\n  a: b\n  a: c\n";

/// The texts of the warnings of a request that must succeed.
async fn warnings(client: &kube::Client, request: http::Request<Vec<u8>>) -> Vec<String> {
    let response = client.send(request.map(Into::into)).await.unwrap();
    assert!(response.status().is_success(), "{response:?}");
    let texts = response.headers().get_all("warning").iter();
    let unquoted = |text: &str| {
        let text = text.strip_prefix("299 - \"").and_then(|text| text.strip_suffix('"')).unwrap();
        text.replace("\\\"", "\"")
    };
    texts.map(|value| unquoted(value.to_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_duplicate_fields_are_told_as_upstream_tells_them() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    call(&admin, "POST", DEPLOYMENTS, deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d");
    let merge = r#"{"spec":{"unknown":1,"paused":true,"paused":false,"template":{"spec":{"containers":[{"name":"c","image":"i:1","nested":1}]}}}}"#;
    let operations = r#"[{"op":"add","path":"/spec/unknown","value":1,"foo":"bar"},{"op":"add","path":"/spec/x","path":"/spec/paused","value":true}]"#;
    let twice = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: d\nspec:\n  replicas: 1\n  replicas: 2\n";
    let cases = [
        (
            "PATCH",
            "application/merge-patch+json",
            merge,
            vec![
                r#"duplicate field "spec.paused""#,
                r#"unknown field "spec.template.spec.containers[0].nested""#,
                r#"unknown field "spec.unknown""#,
            ],
        ),
        (
            "PATCH",
            "application/strategic-merge-patch+json",
            merge,
            vec![
                r#"duplicate field "spec.paused""#,
                r#"unknown field "spec.template.spec.containers[0].nested""#,
                r#"unknown field "spec.unknown""#,
            ],
        ),
        (
            "PATCH",
            "application/json-patch+json",
            operations,
            vec![
                r#"json patch unknown field "[0].foo""#,
                r#"json patch duplicate field "[1].path""#,
                r#"unknown field "spec.unknown""#,
            ],
        ),
    ];
    for (method, content_type, body, problems) in cases {
        let strict = format!("{path}?fieldValidation=Strict");
        let (code, reason, message) = refused(&admin, write(method, &strict, content_type, body)).await;
        assert_eq!((code, reason.as_str()), (422, "Invalid"), "{message}");
        assert!(message.starts_with(" \"\" is invalid: patch: Invalid value: "), "{message}");
        assert!(message.ends_with(&format!("strict decoding error: {}", problems.join(", "))), "{message}");
        let dry = |mode: &str| write(method, &format!("{path}?dryRun=All&{mode}"), content_type, body);
        assert_eq!(warnings(&admin, dry("fieldValidation=Warn")).await, problems);
        assert_eq!(warnings(&admin, dry("")).await, problems);
        assert_eq!(warnings(&admin, dry("fieldValidation=Ignore")).await, [""; 0]);
    }
    let apply_type = "application/apply-patch+yaml";
    let strict = format!("{path}?fieldManager=a&force=true&fieldValidation=Strict");
    let found = refused(&admin, write("PATCH", &strict, apply_type, twice)).await;
    assert_eq!(
        (found.0, found.2.as_str()),
        (
            400,
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 7: key \"replicas\" already set in map"
        )
    );
    let warn = write("PATCH", &format!("{path}?fieldManager=a&force=true&dryRun=All"), apply_type, twice);
    assert_eq!(warnings(&admin, warn).await, [r#"line 7: key "replicas" already set in map"#]);

    let yaml = |mode: &str| write("POST", &format!("{MAPS}?dryRun=All&{mode}"), "application/yaml", YAML);
    let found = refused(&admin, yaml("fieldValidation=Strict")).await;
    assert_eq!(
        (found.0, found.2.as_str()),
        (
            400,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  line 5: key \"name\" already set in map\n  line 9: key \"a\" already set in map, unknown field \"metadata.nonsense\""
        )
    );
    assert_eq!(
        warnings(&admin, yaml("")).await,
        [
            r#"line 5: key "name" already set in map"#,
            r#"line 9: key "a" already set in map"#,
            r#"unknown field "metadata.nonsense""#,
        ]
    );
    assert_eq!(warnings(&admin, yaml("fieldValidation=Ignore")).await, [""; 0]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_that_do_not_fit_store_nothing() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let made = call(&admin, "POST", DEPLOYMENTS, deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d");
    let rejected = "the server rejected our request due to an error in our request";
    for (content_type, body, code, message) in [
        (
            "application/merge-patch+json",
            r#"{"spec":{"replicas":"x"}}"#,
            422,
            " \"\" is invalid: patch: Invalid value: ",
        ),
        (
            "application/merge-patch+json",
            "[]",
            400,
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        (
            "application/json-patch+json",
            "{}",
            400,
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ),
        ("application/json-patch+json", r#"[{"op":"remove","path":"/none"}]"#, 422, rejected),
        ("application/strategic-merge-patch+json", "{", 400, "unexpected end of JSON input"),
        (
            "application/strategic-merge-patch+json",
            r#"{"metadata":{"uid":"other"}}"#,
            422,
            "Deployment.apps \"d\" is invalid: metadata.uid: Invalid value: \"other\": field is immutable",
        ),
        (
            "application/merge-patch+json",
            r#"{"metadata":{"resourceVersion":"1"}}"#,
            409,
            "Operation cannot be fulfilled on deployments.apps \"d\": the object has been modified",
        ),
        (
            "application/merge-patch+json",
            r#"{"metadata":{"name":"e"}}"#,
            400,
            "the name of the object (e) does not match the name on the URL (d)",
        ),
        (
            "application/merge-patch+json",
            r#"{"metadata":{"namespace":"e"}}"#,
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
    ] {
        let found = refused(&admin, write("PATCH", &path, content_type, body)).await;
        assert_eq!(found.0, code, "{content_type} {body}: {found:?}");
        assert!(found.2.starts_with(message), "{content_type} {body}: {found:?}");
    }
    assert_eq!(call(&admin, "GET", &path, Value::Null).await, made);
    let missing = refused(&admin, request("PATCH", &format!("{DEPLOYMENTS}/none"), &json!({}))).await;
    assert_eq!((missing.0, missing.2.as_str()), (404, "deployments.apps \"none\" not found"));
    let nameless = refused(&admin, request("PUT", &path, &json!({"spec": {}}))).await;
    assert_eq!(
        (nameless.0, nameless.2.as_str()),
        (400, "the name of the object (d based on URL) was undeterminable: name must be provided")
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_are_followed_through_versions() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let (one, two) = (
        "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
        "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
    );
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let old = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": target}});
    apply(&admin, &format!("{one}/h"), "old", old).await;
    // Through another version the same field belongs to the same manager.
    let new = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 5, "scaleTargetRef": target}});
    let found = refused(&admin, super::ownership::applying(&format!("{two}/h"), "fieldManager=new", &new)).await;
    assert_eq!(
        (found.0, found.2.as_str()),
        (409, "Apply failed with 1 conflict: conflict with \"old\": .spec.maxReplicas")
    );
    // An applier that comes with another version keeps what it owned, and gives up what it leaves out.
    let moved = apply(&admin, &format!("{two}/h"), "old", new).await;
    assert_eq!((moved["spec"]["maxReplicas"].as_i64(), moved["spec"]["minReplicas"].as_i64()), (Some(5), Some(1)));
    let entries = moved["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!((entries.len(), entries[0]["apiVersion"].as_str()), (1, Some("autoscaling/v2")));
    assert_eq!(entries[0]["fieldsV1"]["f:spec"].get("f:minReplicas"), None);
    call(&admin, "PATCH", &format!("{one}/h?fieldManager=u"), json!({"spec": {"maxReplicas": 6}})).await;
    let after = call(&admin, "GET", &format!("{two}/h"), Value::Null).await;
    let owners = super::ownership::owners(&after);
    assert_eq!(owners[1], ("u Update".to_owned(), json!({"f:spec": {"f:maxReplicas": {}}})));
    assert_eq!(owners[0].1["f:spec"].get("f:maxReplicas"), None);
    let server = call(&admin, "GET", "/api/v1/namespaces/default/services/kubernetes", Value::Null).await;
    assert_eq!(super::ownership::owners(&server)[0].0, "kube-apiserver Update");
    cluster.stop().await;
}
