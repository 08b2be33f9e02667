//! Cases in the terms of upstream's behaviour: what a patch does to a Deployment, a Pod, a Service, a Node.

use common::schema;
use serde_json::{Value, json};

use crate::patch::{PatchError, PatchType, apply};

fn patched(kind: (&str, &str), original: Value, patch: Value) -> Result<Value, PatchError> {
    let ty = schema::lookup(kind.0, "v1", kind.1).unwrap();
    apply(PatchType::StrategicMerge, &original, patch.to_string().as_bytes(), Some(ty))
}

fn containers(original: Value, patch: Value) -> Value {
    let pod = |list: Value| json!({"spec": {"containers": list}});
    let result = patched(("", "Pod"), pod(original), pod(patch)).unwrap();
    result["spec"]["containers"].clone()
}

#[test]
fn merges_lists_by_key_and_appends_what_is_new() {
    let result = containers(
        json!([{"name": "a", "image": "one", "args": ["x"]}, {"name": "b", "image": "two"}]),
        json!([{"name": "b", "image": "three"}, {"name": "c", "image": "four"}]),
    );
    assert_eq!(
        result,
        json!([
            {"name": "a", "image": "one", "args": ["x"]},
            {"name": "b", "image": "three"},
            {"name": "c", "image": "four"},
        ])
    );
}

#[test]
fn replaces_atomic_lists_and_merges_maps() {
    let original = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [], "tolerations": [{"key": "x"}]}});
    let patch = json!({"metadata": {"labels": {"b": null, "c": "3"}}, "spec": {"tolerations": [{"key": "y"}]}});
    assert_eq!(
        patched(("", "Pod"), original, patch).unwrap(),
        json!({"metadata": {"labels": {"a": "1", "c": "3"}}, "spec": {"containers": [], "tolerations": [{"key": "y"}]}})
    );
}

#[test]
fn obeys_directives_in_lists() {
    let original = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]);
    assert_eq!(
        containers(original.clone(), json!([{"name": "a", "$patch": "delete"}])),
        json!([{"name": "b", "image": "2"}])
    );
    assert_eq!(
        containers(original.clone(), json!([{"$patch": "replace"}, {"name": "z", "image": "9"}])),
        json!([{"name": "z", "image": "9"}])
    );
    let pod = |list: Value| json!({"spec": {"containers": list}});
    let refused = patched(("", "Pod"), pod(original.clone()), pod(json!([{"$patch": "merge"}]))).unwrap_err();
    assert_eq!(refused.to_string(), "merging lists cannot yet be specified in the patch");
    let refused = patched(("", "Pod"), pod(original), pod(json!([{"image": "9"}]))).unwrap_err();
    assert_eq!(
        (refused.code(), refused.to_string().as_str()),
        (500, "map: map[image:9] does not contain declared merge key: name")
    );
}

#[test]
fn obeys_directives_in_maps() {
    let original = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "name": "n"}});
    for (directive, labels) in
        [(json!({"$patch": "replace", "c": "3"}), json!({"c": "3"})), (json!({"$patch": "delete"}), json!({}))]
    {
        let patch = json!({"metadata": {"labels": directive}});
        let result = patched(("", "Pod"), original.clone(), patch).unwrap();
        assert_eq!(result["metadata"], json!({"labels": labels, "name": "n"}));
    }
    // There is nothing to delete: the directive leaves no trace.
    let patch = json!({"metadata": {"annotations": {"$patch": "delete"}}});
    assert_eq!(patched(("", "Pod"), original.clone(), patch).unwrap(), original);
    let refused = patched(("", "Pod"), original, json!({"$patch": "shuffle"})).unwrap_err();
    assert_eq!(refused.to_string(), "unknown patch type: shuffle in map: map[$patch:shuffle]");
}

#[test]
fn retains_only_listed_keys() {
    let original = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let result = patched(("apps", "Deployment"), original.clone(), patch).unwrap();
    assert_eq!(result["spec"]["strategy"], json!({"type": "Recreate"}));
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}});
    let refused = patched(("apps", "Deployment"), original, patch).unwrap_err();
    assert_eq!((refused.code(), refused.to_string().as_str()), (400, "invalid patch format of retainKeys"));
}

#[test]
fn merges_and_deletes_in_lists_of_scalars() {
    let original = json!({"metadata": {"finalizers": ["a", "b"]}});
    let result = patched(("", "Pod"), original.clone(), json!({"metadata": {"finalizers": ["b", "c"]}})).unwrap();
    assert_eq!(result["metadata"]["finalizers"], json!(["a", "b", "c"]));
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}});
    let result = patched(("", "Pod"), original.clone(), patch).unwrap();
    // What the server's order says nothing about comes first, as upstream has it.
    assert_eq!(result["metadata"]["finalizers"], json!(["c", "b"]));
    let patch = json!({"metadata": {"$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}});
    let result = patched(("", "Pod"), original.clone(), patch).unwrap();
    assert_eq!(result["metadata"]["finalizers"], json!(["c", "a", "b"]));
    let refused = patched(("", "Pod"), original, json!({"metadata": {"$deleteFromPrimitiveList": ["a"]}})).unwrap_err();
    assert_eq!((refused.code(), refused.to_string().as_str()), (400, "invalid patch format of primitive list"));
}

#[test]
fn sets_the_order_of_elements() {
    let original = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "server"}]}});
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "new"}, {"name": "b"}, {"name": "a"}],
        "containers": [{"name": "new", "image": "i"}, {"name": "a", "image": "j"}],
    }});
    let result = patched(("", "Pod"), original.clone(), patch).unwrap();
    assert_eq!(
        result["spec"]["containers"],
        json!([{"name": "new", "image": "i"}, {"name": "b"}, {"name": "a", "image": "j"}, {"name": "server"}])
    );
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
        "containers": [{"name": "b", "image": "i"}, {"name": "a", "image": "j"}],
    }});
    let refused = patched(("", "Pod"), original, patch).unwrap_err();
    assert!(refused.to_string().starts_with("The order in patch list:\n[map[image:i name:b] map["), "{refused}");
}

#[test]
fn merges_by_the_key_of_the_list_at_hand() {
    let original = json!({"spec": {"ports": [{"port": 80, "name": "http", "nodePort": 30080}, {"port": 443}]}});
    let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}});
    let result = patched(("", "Service"), original, patch).unwrap();
    assert_eq!(
        result["spec"]["ports"],
        json!([{"port": 80, "name": "http", "nodePort": 30080, "targetPort": 8080}, {"port": 443}])
    );
    let original = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "U"}]}});
    let result = patched(("", "Node"), original, patch).unwrap();
    assert_eq!(
        result["status"]["conditions"],
        json!([{"type": "Ready", "status": "True"}, {"type": "X", "status": "U"}])
    );
}

#[test]
fn drops_nulls_of_what_is_added() {
    let patch = json!({"spec": {"template": {"spec": {"containers": null, "nodeName": "n"}}}});
    assert_eq!(
        patched(("apps", "Deployment"), json!({}), patch).unwrap(),
        json!({"spec": {"template": {"spec": {"nodeName": "n"}}}})
    );
}

#[test]
fn needs_a_type() {
    let refused = apply(PatchType::StrategicMerge, &json!({}), b"{}", None).unwrap_err();
    assert_eq!(
        (refused.code(), refused.to_string().as_str()),
        (
            415,
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
        )
    );
}
