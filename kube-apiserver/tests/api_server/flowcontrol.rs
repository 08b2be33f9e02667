//! Priority and fairness, as clients and operators meet it.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{
    metrics::value,
    support::{Cluster, call, get, request, send, wait_for},
};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

fn level(name: &str, limited: Value) -> Value {
    json!({"kind": "PriorityLevelConfiguration", "metadata": {"name": name}, "spec": {"type": "Limited", "limited": limited}})
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    let subject = json!({"kind": "User", "user": {"name": user}});
    let rules = json!([{"subjects": [subject], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]);
    json!({"kind": "FlowSchema", "metadata": {"name": name}, "spec": {"matchingPrecedence": 1000, "rules": rules,
        "priorityLevelConfiguration": {"name": level}, "distinguisherMethod": {"type": "ByUser"}}})
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_classified_by_objects() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let condition = async |name: &str| {
        let schema = call(&admin, "GET", &format!("{GROUP}/flowschemas/{name}"), Value::Null).await;
        schema["status"]["conditions"][0].clone()
    };
    wait_for("the suggested schemas are followed", async || condition("global-default").await["status"] == "False")
        .await;

    // What upstream's e2e test does.
    let created_level = level("e2e", json!({"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}));
    call(&admin, "POST", &format!("{GROUP}/flowschemas"), schema("e2e", "e2e", "noxu")).await;
    wait_for("the schema dangles", async || condition("e2e").await["status"] == "True").await;
    let created_level = call(&admin, "POST", &format!("{GROUP}/prioritylevelconfigurations"), created_level).await;
    wait_for("the schema is in use", async || condition("e2e").await["status"] == "False").await;
    let created = call(&admin, "GET", &format!("{GROUP}/flowschemas/e2e"), Value::Null).await;
    let mut owners = created["metadata"]["managedFields"].as_array().unwrap().iter();
    let owner = owners.find(|owner| owner["manager"] == "api-priority-and-fairness-config-consumer-v1").unwrap();
    assert_eq!([&owner["operation"], &owner["subresource"]], ["Apply", "status"]);
    assert_eq!(condition("e2e").await["reason"], "Found");

    let seen = async |name: &str| {
        let client = cluster.client(name, &[]).await;
        let (parts, _) = send(&client, get("/version", &[])).await;
        let header = |name: &str| parts.headers[name].to_str().unwrap().to_owned();
        (header("x-kubernetes-pf-flowschema-uid"), header("x-kubernetes-pf-prioritylevel-uid"))
    };
    assert_eq!(seen("noxu").await, (uid(&created).to_owned(), uid(&created_level).to_owned()));
    let other = seen("foo").await;
    assert!(!other.0.is_empty() && !other.1.is_empty() && other.0 != uid(&created));
    let (parts, _) = send(&cluster.client("noxu", &[]).await, get("/api/v1/secrets", &[])).await;
    assert_eq!(parts.status, 403);
    assert_eq!(parts.headers["x-kubernetes-pf-flowschema-uid"], uid(&created));

    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_the_server_are_kept_as_they_say() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let schemas = format!("{GROUP}/flowschemas");
    let levels = call(&admin, "GET", &format!("{GROUP}/prioritylevelconfigurations"), Value::Null).await;
    let names: Vec<_> =
        levels["items"].as_array().unwrap().iter().map(|l| l["metadata"]["name"].as_str().unwrap()).collect();
    let all = "catch-all exempt global-default leader-election node-high system workload-high workload-low";
    assert_eq!(names.join(" "), all);
    for (name, annotation) in [("probes", "true"), ("service-accounts", "false"), ("catch-all", "false")] {
        let change = json!({"spec": {"matchingPrecedence": if name == "catch-all" { 10_000 } else { 77 }, "distinguisherMethod": {"type": "ByNamespace"}},
            "metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": annotation}}});
        call(&admin, "PATCH", &format!("{schemas}/{name}"), change).await;
    }
    let mut orphan = schema("orphan", "exempt", "u");
    orphan["metadata"]["annotations"] = json!({"apf.kubernetes.io/autoupdate-spec": "true"});
    call(&admin, "POST", &schemas, orphan).await;
    cluster.restart().await;
    let admin = cluster.admin().await;
    let kept = async |name: &str| call(&admin, "GET", &format!("{schemas}/{name}"), Value::Null).await;
    let probes = kept("probes").await;
    assert_eq!((&probes["spec"]["matchingPrecedence"], &probes["metadata"]["generation"]), (&json!(2), &json!(3)));
    assert_eq!(probes["spec"].get("distinguisherMethod"), None);
    assert_eq!(kept("service-accounts").await["spec"]["matchingPrecedence"], 77);
    let caught = kept("catch-all").await;
    assert_eq!(caught["spec"]["distinguisherMethod"]["type"], "ByUser");
    assert_eq!(caught["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"], "true");
    assert_eq!(kept("exempt").await["metadata"]["generation"], 1);
    let (parts, _) = send(&admin, get(&format!("{schemas}/orphan"), &[])).await;
    assert_eq!(parts.status, 404);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_refuses_what_it_has_no_seats_for_and_watches_take_none() {
    let mut cluster = Cluster::prepare();
    std::fs::write(cluster.dir().join("tokens"), "secret,unwanted,1\n").unwrap();
    let limits = ["--max-requests-inflight=3", "--max-mutating-requests-inflight=0", "--token-auth-file={dir}/tokens"];
    cluster.restart_with(&limits).await;
    let admin = cluster.admin().await;
    let limited =
        json!({"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}});
    call(&admin, "POST", &format!("{GROUP}/prioritylevelconfigurations"), level("closed", limited)).await;
    call(&admin, "POST", &format!("{GROUP}/flowschemas"), schema("closed", "closed", "unwanted")).await;
    let unwanted = cluster.client("unwanted", &[]).await;
    let mut open = Vec::new();
    // A request that wants more seats than there are gets in while no other is there; so does every watch in turn.
    for _ in 0..5 {
        let stream = admin.request_stream(get("/api/v1/namespaces?watch=true", &[])).await.unwrap();
        open.push(stream);
    }
    wait_for("the closed level is in use", async || {
        let closed = call(&admin, "GET", &format!("{GROUP}/flowschemas/closed"), Value::Null).await;
        closed["status"]["conditions"][0]["status"] == "False"
    })
    .await;
    let subject = json!({"kind": "User", "name": "unwanted", "apiGroup": "rbac.authorization.k8s.io"});
    let role = json!({"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": "rbac.authorization.k8s.io"});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    call(&admin, "POST", bindings, json!({"metadata": {"name": "unwanted"}, "subjects": [subject], "roleRef": role}))
        .await;
    // Its body never comes, so it keeps the only seat.
    let mut held = cluster.connect().await;
    let head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer secret\r\n\
        content-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    held.write_all(head.as_bytes()).await.unwrap();
    held.flush().await.unwrap();
    wait_for("the seat is taken", async || {
        let dump = "/debug/api_priority_and_fairness/dump_requests?includeRequestDetails=1";
        let text = admin.request_text(request("GET", dump, &Value::Null)).await.unwrap();
        text.lines().any(|line| line.starts_with("closed,") && line.contains(" configmaps,"))
    })
    .await;
    let (parts, text) = send(&unwanted, get("/version", &[])).await;
    assert_eq!((parts.status.as_u16(), text.as_str()), (429, "Too many requests, please try again later.\n"));
    assert!(parts.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    assert!(!parts.headers["x-kubernetes-pf-prioritylevel-uid"].is_empty());
    let text = send(&admin, get("/metrics", &[])).await.1;
    let (level, flow) = ("priority_level=\"closed\"", "flow_schema=\"closed\"");
    for (name, labels) in [
        ("rejected_requests_total", &[level, flow, "reason=\"concurrency-limit\""][..]),
        ("dispatched_requests_total", &[level, flow]),
        ("current_executing_requests", &[level, flow]),
        ("current_executing_seats", &[level, flow]),
        ("request_wait_duration_seconds_count", &[level, flow, "execute=\"false\""]),
        ("request_wait_duration_seconds_count", &[level, flow, "execute=\"true\""]),
        ("work_estimated_seats_count", &[level, flow]),
        ("request_execution_seconds_count", &["type=\"regular\""]),
        ("nominal_limit_seats", &["priority_level=\"catch-all\""]),
        ("current_limit_seats", &["priority_level=\"catch-all\""]),
        ("read_vs_write_current_requests_count", &["request_kind=\"mutating\"", "phase=\"executing\""]),
        ("priority_level_seat_utilization_count", &[level]),
    ] {
        let name = format!("apiserver_flowcontrol_{name}");
        assert!(value(&text, &name, labels) > 0.0, "{name} {labels:?} in\n{text}");
    }
    assert!(text.contains("apiserver_flowcontrol_nominal_limit_seats{priority_level=\"closed\"} 0"), "{text}");
    drop(held);
    wait_for("the seat is free", async || send(&unwanted, get("/version", &[])).await.0.status == 200).await;
    let (parts, _) = send(&admin, get("/version", &[])).await;
    assert_eq!(parts.status, 200);
    drop(open);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_turned_off() {
    let mut cluster = Cluster::start_with(&["--enable-priority-and-fairness=false"]).await;
    let (parts, _) = send(&cluster.admin().await, get("/version", &[])).await;
    assert!(!parts.headers.contains_key("x-kubernetes-pf-flowschema-uid"));
    cluster.stop().await;
}
