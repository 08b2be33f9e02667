//! `kubectl patch`: every type of patch and every directive of strategic merge patches.

use serde_json::Value;

use super::Kubectl;

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {a: "1", b: "2"}, finalizers: [x/a, x/b, x/c]}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: "i:1", env: [{name: A, value: "1"}, {name: B, value: "2"}], ports: [{containerPort: 80}, {containerPort: 81}]}
      volumes: [{name: v, emptyDir: {}}]
      tolerations: [{key: k}]
"#;

/// Patches in turn on one object: type, patch, a path into the answer, what is there (`*` in paths maps over lists).
const STEPS: &[(&str, &str, &str, &str)] = &[
    // Lists that merge by key: added in front, merged, in the order asked for, deleted, replaced.
    (
        "strategic",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"d","image":"i:d"}]}}}}"#,
        "/spec/template/spec/containers/*/name",
        r#"["d","c"]"#,
    ),
    (
        "strategic",
        r#"{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"d"}],"containers":[{"name":"c","image":"i:2"}]}}}}"#,
        "/spec/template/spec/containers/*/image",
        r#"["i:2","i:d"]"#,
    ),
    (
        "strategic",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"name":"A","$patch":"delete"}]}]}}}}"#,
        "/spec/template/spec/containers/0/env",
        r#"[{"name":"B","value":"2"}]"#,
    ),
    (
        "strategic",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"$patch":"replace"},{"name":"Z","value":"9"}]}]}}}}"#,
        "/spec/template/spec/containers/0/env",
        r#"[{"name":"Z","value":"9"}]"#,
    ),
    (
        "strategic",
        r#"{"spec":{"template":{"spec":{"containers":[{"$patch":"delete","name":"d"}]}}}}"#,
        "/spec/template/spec/containers/*/name",
        r#"["c"]"#,
    ),
    // Unions: what is not to be retained goes.
    (
        "strategic",
        r#"{"spec":{"template":{"spec":{"volumes":[{"name":"v","$retainKeys":["name","configMap"],"configMap":{"name":"m"}}]}}}}"#,
        "/spec/template/spec/volumes",
        r#"[{"configMap":{"defaultMode":420,"name":"m"},"name":"v"}]"#,
    ),
    (
        "strategic",
        r#"{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}"#,
        "/spec/strategy",
        r#"{"type":"Recreate"}"#,
    ),
    // Lists of scalars that merge.
    (
        "strategic",
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["x/b"]}}"#,
        "/metadata/finalizers",
        r#"["x/a","x/c"]"#,
    ),
    (
        "strategic",
        r#"{"metadata":{"$setElementOrder/finalizers":["x/d","x/c","x/a"],"finalizers":["x/d"]}}"#,
        "/metadata/finalizers",
        r#"["x/d","x/c","x/a"]"#,
    ),
    // Maps.
    ("strategic", r#"{"metadata":{"labels":{"a":null,"c":"3"}}}"#, "/metadata/labels", r#"{"b":"2","c":"3"}"#),
    ("strategic", r#"{"metadata":{"labels":{"$patch":"replace","z":"9"}}}"#, "/metadata/labels", r#"{"z":"9"}"#),
    ("strategic", r#"{"metadata":{"labels":{"$patch":"delete"}}}"#, "/metadata/labels", "null"),
    // Lists without a merge key are replaced.
    (
        "strategic",
        r#"{"spec":{"template":{"spec":{"tolerations":[{"key":"n"}]}}}}"#,
        "/spec/template/spec/tolerations",
        r#"[{"key":"n"}]"#,
    ),
    ("merge", r#"{"metadata":{"finalizers":["x/m"],"annotations":{"k":"v"}}}"#, "/metadata/finalizers", r#"["x/m"]"#),
    (
        "merge",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"m","image":"i:m"}]}}}}"#,
        "/spec/template/spec/containers/*/name",
        r#"["m"]"#,
    ),
    (
        "json",
        r#"[{"op":"test","path":"/metadata/annotations/k","value":"v"},{"op":"copy","from":"/spec/template/spec/containers/0","path":"/spec/template/spec/containers/-"},{"op":"replace","path":"/spec/template/spec/containers/1/name","value":"n"},{"op":"move","from":"/spec/template/spec/containers/1","path":"/spec/template/spec/containers/0"}]"#,
        "/spec/template/spec/containers/*/name",
        r#"["n","m"]"#,
    ),
    (
        "json",
        r#"[{"op":"remove","path":"/metadata/finalizers"},{"op":"add","path":"/metadata/labels","value":{"l":"1"}}]"#,
        "/metadata/labels",
        r#"{"l":"1"}"#,
    ),
];

/// Refused patches: type, patch, what kubectl is told.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "strategic",
        r#"{"spec":{"template":{"spec":{"containers":[{"$patch":"merge","name":"m"}]}}}}"#,
        "merging lists cannot yet be specified in the patch",
    ),
    (
        "strategic",
        r#"{"spec":{"template":{"spec":{"containers":[{"$patch":"fly","name":"m"}]}}}}"#,
        "unknown patch type: fly in map: map[$patch:fly name:m]",
    ),
    (
        "strategic",
        r#"{"spec":{"template":{"spec":{"containers":[{"image":"i"}]}}}}"#,
        "map: map[image:i] does not contain declared merge key: name",
    ),
    (
        "strategic",
        r#"{"spec":{"strategy":{"$retainKeys":["type"],"rollingUpdate":{}}}}"#,
        "invalid patch format of retainKeys",
    ),
    (
        "strategic",
        r#"{"metadata":{"$setElementOrder/finalizers":["x/z"],"finalizers":["x/y"]}}"#,
        "doesn't match $setElementOrder list",
    ),
    ("strategic", r#"{"spec":{"selector":{"matchLabels":{"app":"other"}}}}"#, "field is immutable"),
    (
        "json",
        r#"[{"op":"test","path":"/spec/replicas","value":7}]"#,
        "the server rejected our request due to an error in our request",
    ),
    (
        "json",
        r#"[{"op":"remove","path":"/spec/nothing"}]"#,
        "the server rejected our request due to an error in our request",
    ),
    (
        "merge",
        r#"{"spec":{"replicas":"many"}}"#,
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    ),
];

fn at(object: &Value, path: &str) -> Value {
    match path.split_once("/*") {
        Some((list, rest)) => {
            let list = object.pointer(list).and_then(Value::as_array).cloned().unwrap_or_default();
            list.iter().map(|element| at(element, rest)).collect()
        }
        None => object.pointer(path).cloned().unwrap_or_default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_patches_in_every_way() {
    let Some((mut cluster, kubectl)) = Kubectl::start().await else { return };
    kubectl.must("create --validate=strict -f -", MANIFEST).await;
    for (kind, patch, path, want) in STEPS {
        let words = ["patch", "deployment", "web", "--type", kind, "-p", patch, "-o", "json"];
        let (patched, output, errors) = kubectl.run_with(&words, "").await;
        assert!(patched, "{patch}: {errors}");
        let found = at(&serde_json::from_str(&output).unwrap(), path);
        assert_eq!(found, serde_json::from_str::<Value>(want).unwrap(), "{patch}");
    }
    let before = kubectl.must("get deployment web -o json", "").await;
    for (kind, patch, told) in REFUSED {
        let (patched, _, errors) =
            kubectl.run_with(&["patch", "deployment", "web", "--type", kind, "-p", patch], "").await;
        assert!(!patched && errors.contains(told), "{patch}: {errors}");
    }
    assert_eq!(kubectl.must("get deployment web -o json", "").await, before);
    // Subresources, and commands that patch.
    let status = [
        "patch",
        "deployment",
        "web",
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":{"replicas":3}}"#,
        "-o",
        "jsonpath={.status.replicas}",
    ];
    assert_eq!(kubectl.run_with(&status, "").await.1, "3");
    kubectl.must("label deployment web l-", "").await;
    kubectl.must("annotate deployment web note=x", "").await;
    kubectl.must("set image deployment/web m=i:set", "").await;
    kubectl.must("set env deployment/web -c m A=1", "").await;
    kubectl.must("rollout pause deployment/web", "").await;
    let shown: Value = serde_json::from_str(&kubectl.must("get deployment web -o json", "").await).unwrap();
    assert_eq!(
        (&shown["metadata"]["labels"], &shown["metadata"]["annotations"]["note"]),
        (&Value::Null, &Value::from("x"))
    );
    assert_eq!(at(&shown, "/spec/template/spec/containers/*/image"), serde_json::json!(["i:m", "i:set"]));
    assert_eq!(shown["spec"]["paused"], true);
    cluster.stop().await;
}
