//! `metadata.managedFields`: every write says who owns what; who may change that, and how it is forgotten.

use kube::Client;
use serde_json::{Value, json};

use super::support::{Cluster, call, refused, request};

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// A server-side apply.
pub fn applying(path: &str, query: &str, config: &Value) -> http::Request<Vec<u8>> {
    http::Request::builder()
        .method("PATCH")
        .uri(format!("{path}?{query}"))
        .header("content-type", "application/apply-patch+yaml")
        .body(config.to_string().into_bytes())
        .unwrap()
}

/// A server-side apply that must succeed.
pub async fn apply(client: &Client, path: &str, manager: &str, config: Value) -> Value {
    let request = applying(path, &format!("fieldManager={manager}"), &config);
    match client.request(request).await {
        Ok(value) => value,
        Err(error) => panic!("apply {path} by {manager}: {error:?}"),
    }
}

/// The entries of an object by manager, operation and subresource, without times.
pub fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let name = |entry: &Value| {
        format!("{} {} {}", text(entry, "manager"), text(entry, "operation"), text(entry, "subresource"))
    };
    entries.iter().map(|entry| (name(entry).trim().to_owned(), entry["fieldsV1"].clone())).collect()
}

fn with_agent(mut request: http::Request<Vec<u8>>, agent: &'static str) -> http::Request<Vec<u8>> {
    request.headers_mut().insert("user-agent", http::HeaderValue::from_static(agent));
    request
}

pub fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": "x"}},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}},
            "spec": {"containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80}]}]}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_own_what_they_change() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let create = with_agent(request("POST", DEPLOYMENTS, &deployment("d")), "kubectl-create/v1 (x)");
    let created: Value = admin.request(create).await.unwrap();
    let entry = &created["metadata"]["managedFields"][0];
    assert_eq!((entry["apiVersion"].as_str(), entry["fieldsType"].as_str()), (Some("apps/v1"), Some("FieldsV1")));
    assert_eq!(entry["time"], created["metadata"]["creationTimestamp"]);
    let expected = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:progressDeadlineSeconds": {}, "f:replicas": {}, "f:revisionHistoryLimit": {}, "f:selector": {},
            "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {r#"k:{"name":"c"}"#: {
                        ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {},
                        "f:ports": {".": {}, r#"k:{"containerPort":80,"protocol":"TCP"}"#: {
                            ".": {}, "f:containerPort": {}, "f:protocol": {}}},
                        "f:resources": {}, "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}}},
                    "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
                    "f:terminationGracePeriodSeconds": {}}}}});
    assert_eq!(owners(&created), [("kubectl-create Update".to_owned(), expected)]);

    let path = format!("{DEPLOYMENTS}/d");
    let patched: Value = admin
        .request(request("PATCH", &format!("{path}?fieldManager=scaler"), &json!({"spec": {"replicas": 5}})))
        .await
        .unwrap();
    let found = owners(&patched);
    assert!(found[0].1["f:spec"].get("f:replicas").is_none());
    assert_eq!(found[1], ("scaler Update".to_owned(), json!({"f:spec": {"f:replicas": {}}})));

    // A status is owned through its subresource, and only the status is.
    let status = json!({"metadata": {"labels": {"no": "no"}}, "spec": {"replicas": 9}, "status": {"replicas": 1, "observedGeneration": 2}});
    let patched = call(&admin, "PATCH", &format!("{path}/status?fieldManager=controller"), status).await;
    let found = owners(&patched);
    let own =
        ("controller Update status".to_owned(), json!({"f:status": {"f:observedGeneration": {}, "f:replicas": {}}}));
    assert!(found.len() == 3 && found.contains(&own), "{found:?}");

    // A removed field is nobody's, and an empty map is none.
    let patched = call(&admin, "PATCH", &path, json!({"metadata": {"labels": {"app": null}}})).await;
    let creator = owners(&patched).into_iter().find(|(name, _)| name.starts_with("kubectl-create")).unwrap();
    assert_eq!(creator.1.get("f:metadata"), None);
    let put = with_agent(request("PUT", &format!("{path}?fieldManager=putter"), &patched), "x");
    let same: Value = admin.request(put).await.unwrap();
    assert_eq!(same["metadata"], patched["metadata"], "who changes nothing owns nothing and writes nothing");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn managers_can_be_forgotten_and_renamed_but_not_broken() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{MAPS}/m");
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "v"}});
    let owned = json!({"f:data": {".": {}, "f:k": {}}});
    let resets = [json!({"metadata": {"managedFields": []}}), json!({"metadata": {"managedFields": [{}]}})];
    for reset in resets {
        apply(&admin, &path, "a", config.clone()).await;
        let forgotten = call(&admin, "PATCH", &path, reset).await;
        assert!(forgotten["metadata"].get("managedFields").is_none());
        let patched = call(&admin, "PATCH", &path, json!({"data": {"x": "y"}})).await;
        assert!(patched["metadata"].get("managedFields").is_none(), "nobody is followed until somebody applies");
        let applied = apply(&admin, &path, "b", config.clone()).await;
        let names: Vec<String> = owners(&applied).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["b Apply", "before-first-apply Update"]);
        let mut update = call(&admin, "GET", &path, Value::Null).await;
        update["metadata"]["managedFields"] = json!([{}]);
        let updated = call(&admin, "PUT", &path, update).await;
        assert!(updated["metadata"].get("managedFields").is_none());
        call(&admin, "DELETE", &path, Value::Null).await;
    }

    let mut object = apply(&admin, &path, "a", config).await;
    assert_eq!(owners(&object), [("a Apply".to_owned(), json!({"f:data": {"f:k": {}}}))]);
    let version = object["metadata"]["resourceVersion"].clone();
    object["metadata"]["managedFields"][0]["manager"] = "renamed".into();
    object["metadata"]["managedFields"][0]["fieldsV1"] = owned.clone();
    let renamed = call(&admin, "PUT", &path, object.clone()).await;
    assert_eq!(owners(&renamed), [("renamed Apply".to_owned(), owned.clone())]);
    assert_ne!(renamed["metadata"]["resourceVersion"], version);
    // What makes no sense is as if it were not sent.
    for (field, value) in [("operation", json!("Grab")), ("fieldsType", json!("")), ("fieldsV1", json!({"x": {}}))] {
        let mut broken = renamed.clone();
        broken["metadata"]["managedFields"][0][field] = value;
        assert_eq!(owners(&call(&admin, "PUT", &path, broken).await), owners(&renamed), "{field}");
    }
    // A create may bring its own.
    let mut copy = renamed.clone();
    copy["metadata"] = json!({"name": "copy", "managedFields": renamed["metadata"]["managedFields"]});
    let copied = call(&admin, "POST", &format!("{MAPS}?fieldManager=creator"), copy).await;
    assert_eq!(owners(&copied).len(), 1, "{copied}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_do_not_change_who_owns_the_rest() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = "/api/v1/nodes/n";
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"a": "b"}}});
    call(&admin, "POST", "/api/v1/nodes?fieldManager=kubelet", node).await;
    let mut status = call(&admin, "GET", path, Value::Null).await;
    status["metadata"]["managedFields"][0]["manager"] = "thief".into();
    status["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "reason": "R", "message": "M",
        "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let updated = call(&admin, "PUT", &format!("{path}/status?fieldManager=kubelet"), status).await;
    let found = owners(&updated);
    assert_eq!((found[0].0.as_str(), found[1].0.as_str()), ("kubelet Update", "kubelet Update status"));
    assert_eq!(
        found[1].1,
        json!({"f:status": {"f:conditions": {".": {}, r#"k:{"type":"Ready"}"#: {".": {}, "f:lastHeartbeatTime": {},
            "f:lastTransitionTime": {}, "f:message": {}, "f:reason": {}, "f:status": {}, "f:type": {}}}}})
    );
    // Twelve writers are more than are kept apart.
    for i in 0..12 {
        let label = json!({"metadata": {"labels": {format!("l{i}"): "x"}}});
        call(&admin, "PATCH", &format!("{path}?fieldManager=writer{i}"), label).await;
    }
    let found = owners(&call(&admin, "GET", path, Value::Null).await);
    assert_eq!(found.len(), 10);
    assert!(found.iter().any(|(name, _)| name == "ancient-changes Update"), "{found:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_moves_the_replicas() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{DEPLOYMENTS}/d");
    let scale = |replicas: i64| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "default"},
            "spec": {"replicas": replicas}})
    };
    let owning = async || {
        let object = call(&admin, "GET", &path, Value::Null).await;
        let owners = owners(&object).into_iter().filter(|(_, fields)| fields["f:spec"].get("f:replicas").is_some());
        (object["spec"]["replicas"].as_i64().unwrap(), owners.map(|(name, _)| name).collect::<Vec<_>>())
    };
    apply(&admin, &path, "applier", deployment("d")).await;
    assert_eq!(owning().await, (2, vec!["applier Apply".to_owned()]));
    call(&admin, "PATCH", &format!("{path}/scale?fieldManager=scaler"), json!({"spec": {"replicas": 5}})).await;
    assert_eq!(owning().await, (5, vec!["scaler Update scale".to_owned()]));
    let again = refused(&admin, applying(&path, "fieldManager=applier", &deployment("d"))).await;
    assert_eq!(
        (again.0, again.2.as_str()),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using apps/v1: .spec.replicas"
        )
    );
    let _: Value = admin.request(applying(&path, "fieldManager=applier&force=true", &deployment("d"))).await.unwrap();
    assert_eq!(owning().await, (2, vec!["applier Apply".to_owned()]));

    let conflict = refused(&admin, applying(&format!("{path}/scale"), "fieldManager=s", &scale(17))).await;
    assert_eq!(
        (conflict.0, conflict.2.as_str()),
        (409, "Apply failed with 1 conflict: conflict with \"applier\": .spec.replicas")
    );
    let forced: Value =
        admin.request(applying(&format!("{path}/scale"), "fieldManager=s&force=true", &scale(17))).await.unwrap();
    assert_eq!(forced["spec"]["replicas"], 17);
    assert_eq!(owning().await, (17, vec!["s Apply scale".to_owned()]));
    call(&admin, "PUT", &format!("{path}/scale?fieldManager=r"), scale(7)).await;
    assert_eq!(owning().await, (7, vec!["r Update scale".to_owned()]));
    apply(&admin, &format!("{path}/scale"), "co", scale(7)).await;
    assert_eq!(owning().await, (7, vec!["co Apply scale".to_owned(), "r Update scale".to_owned()]));
    cluster.stop().await;
}
