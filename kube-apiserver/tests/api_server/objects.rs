//! Create, read, update, patch, delete; finalizers; grace; allocation; restart.

use serde_json::{Value, json};

use super::support::{Cluster, call, refused, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn objects_live_and_survive_a_restart() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let created = call(&admin, "POST", MAPS, json!({"metadata": {"name": "a"}, "data": {"x": "1"}})).await;
    assert_eq!(created["kind"], "ConfigMap");
    assert!(created["metadata"]["uid"].is_string() && created["metadata"]["creationTimestamp"].is_string());
    let named = call(&admin, "POST", MAPS, json!({"metadata": {"generateName": "gen-"}})).await;
    assert!(named["metadata"]["name"].as_str().unwrap().starts_with("gen-"));

    let mut update = created.clone();
    update["data"]["x"] = "2".into();
    let updated = call(&admin, "PUT", &format!("{MAPS}/a"), update.clone()).await;
    assert_ne!(updated["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    let (code, reason, message) = refused(&admin, request("PUT", &format!("{MAPS}/a"), &update)).await;
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );

    let same = call(&admin, "PUT", &format!("{MAPS}/a"), updated.clone()).await;
    assert_eq!(same["metadata"]["resourceVersion"], updated["metadata"]["resourceVersion"], "no-op writes nothing");
    let mut unconditional = updated;
    unconditional["metadata"]["resourceVersion"] = Value::Null;
    unconditional["data"]["x"] = "4".into();
    assert_eq!(call(&admin, "PUT", &format!("{MAPS}/a"), unconditional).await["data"]["x"], "4");
    let patched = call(&admin, "PATCH", &format!("{MAPS}/a"), json!({"data": {"x": null, "y": "3"}})).await;
    assert_eq!(patched["data"], json!({"y": "3"}));

    cluster.restart().await;
    let admin = cluster.admin().await;
    let found = call(&admin, "GET", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(found, patched);
    let list = call(&admin, "GET", &format!("{MAPS}?labelSelector=none%3Dhere"), Value::Null).await;
    assert_eq!((list["kind"].as_str(), list["items"].as_array().map(Vec::len)), (Some("ConfigMapList"), Some(0)));

    let gone = call(&admin, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!((gone["kind"].as_str(), gone["status"].as_str()), (Some("Status"), Some("Success")));
    let (code, _, message) = refused(&admin, request("GET", &format!("{MAPS}/a"), &Value::Null)).await;
    assert_eq!((code, message.as_str()), (404, "configmaps \"a\" not found"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_respects_finalizers_grace_and_preconditions() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let map = json!({"metadata": {"name": "f", "finalizers": ["example.com/hold"]}});
    call(&admin, "POST", MAPS, map).await;
    let path = format!("{MAPS}/f");
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(refused(&admin, request("DELETE", &path, &wrong)).await.0, 409);
    let marked = call(&admin, "DELETE", &path, json!({"propagationPolicy": "Foreground"})).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["finalizers"], json!(["example.com/hold", "foregroundDeletion"]));
    call(&admin, "PATCH", &path, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(refused(&admin, request("GET", &path, &Value::Null)).await.0, 404);

    call(&admin, "POST", "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let created = call(&admin, "POST", pods, pod).await;
    assert_eq!(created["spec"]["serviceAccountName"], "default");
    assert_eq!(created["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    call(&admin, "POST", &format!("{pods}/p/binding"), binding.clone()).await;
    let again = refused(&admin, request("POST", &format!("{pods}/p/binding"), &binding)).await;
    assert_eq!(
        again.2,
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );
    let marked = call(&admin, "DELETE", &format!("{pods}/p"), Value::Null).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    call(&admin, "DELETE", &format!("{pods}/p"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(refused(&admin, request("GET", &format!("{pods}/p"), &Value::Null)).await.0, 404);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_allocation_scale_and_tables() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let services = "/api/v1/namespaces/default/services";
    let kubernetes = call(&admin, "GET", &format!("{services}/kubernetes"), Value::Null).await;
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.96.0.1");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(call(&admin, "GET", slices, Value::Null).await["endpoints"][0]["addresses"][0], "127.0.0.1");
    let service =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let one = call(&admin, "POST", services, service("one")).await;
    let two = call(&admin, "POST", services, service("two")).await;
    assert_ne!(one["spec"]["clusterIP"], two["spec"]["clusterIP"]);
    assert_ne!(one["spec"]["ports"][0]["nodePort"], two["spec"]["ports"][0]["nodePort"]);
    let mut taken = service("three");
    taken["spec"]["clusterIP"] = one["spec"]["clusterIP"].clone();
    assert_eq!(refused(&admin, request("POST", services, &taken)).await.0, 422);

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(call(&admin, "POST", deployments, deployment).await["spec"]["replicas"], 1);
    let scale = call(&admin, "PATCH", &format!("{deployments}/d/scale"), json!({"spec": {"replicas": 3}})).await;
    assert_eq!((scale["kind"].as_str(), scale["status"]["selector"].as_str()), (Some("Scale"), Some("a=b")));
    let scaled = call(&admin, "GET", &format!("{deployments}/d"), Value::Null).await;
    assert_eq!((scaled["spec"]["replicas"].as_i64(), scaled["metadata"]["generation"].as_i64()), (Some(3), Some(2)));
    let status = json!({"status": {"replicas": 7}, "spec": {"replicas": 9}});
    let after = call(&admin, "PATCH", &format!("{deployments}/d/status"), status).await;
    assert_eq!((after["status"]["replicas"].as_i64(), after["spec"]["replicas"].as_i64()), (Some(7), Some(3)));

    let mut table = request("GET", deployments, &Value::Null);
    table.headers_mut().insert("accept", "application/json;as=Table;v=v1;g=meta.k8s.io".parse().unwrap());
    let table: Value = admin.request(table).await.unwrap();
    assert_eq!((table["kind"].as_str(), table["rows"].as_array().map(Vec::len)), (Some("Table"), Some(1)));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_one_in_two_groups() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let event = json!({"metadata": {"name": "e"}, "reason": "R", "message": "hello", "type": "Normal",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "count": 1});
    call(&admin, "POST", "/api/v1/namespaces/default/events", event).await;
    let seen = call(&admin, "GET", "/apis/events.k8s.io/v1/namespaces/default/events/e", Value::Null).await;
    assert_eq!((seen["note"].as_str(), seen["regarding"]["name"].as_str()), (Some("hello"), Some("p")));
    assert_eq!(seen["apiVersion"], "events.k8s.io/v1");
    let list = call(&admin, "GET", "/api/v1/events?fieldSelector=involvedObject.name%3Dp", Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    cluster.stop().await;
}
