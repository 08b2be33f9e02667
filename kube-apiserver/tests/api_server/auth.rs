//! Who may do what: certificates, tokens, RBAC, nodes, impersonation, escalation.

use serde_json::{Value, json};

use super::support::{Cluster, call, refused, request, wait_for};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

#[tokio::test(flavor = "multi_thread")]
async fn rbac_decides_and_nobody_escalates() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let jane = cluster.client("jane", &["devs"]).await;
    let pods = "/api/v1/namespaces/default/pods";
    let (code, reason, message) = refused(&jane, request("GET", pods, &Value::Null)).await;
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        message,
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = json!({"metadata": {"name": "r"}, "rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create"]}]});
    call(&admin, "POST", &roles, role).await;
    let binding = json!({"metadata": {"name": "b"}, "subjects": [{"kind": "Group", "name": "devs", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}});
    call(&admin, "POST", &format!("{RBAC}/namespaces/default/rolebindings"), binding).await;
    wait_for("jane may list pods", async || jane.request::<Value>(request("GET", pods, &Value::Null)).await.is_ok())
        .await;
    let more = json!({"metadata": {"name": "more"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    let (code, _, message) = refused(&jane, request("POST", &roles, &more)).await;
    assert_eq!(code, 403);
    assert!(
        message.ends_with("is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"),
        "{message}"
    );
    let mut as_jane = request("GET", "/api/v1/namespaces/default/secrets", &Value::Null);
    as_jane.headers_mut().insert("impersonate-user", "jane".parse().unwrap());
    assert_eq!(refused(&admin, as_jane).await.0, 403);
    let review = json!({"spec": {"user": "jane", "groups": ["devs"], "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}});
    let review = call(&admin, "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review).await;
    assert_eq!(review["status"]["allowed"], true);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_authenticate_until_their_pod_is_gone() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    call(&admin, "POST", accounts, json!({"metadata": {"name": "sa"}})).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "sa", "containers": [{"name": "c", "image": "i"}]}});
    let pod = call(&admin, "POST", pods, pod).await;
    let bound = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]}}});
    let reply = call(&admin, "POST", &format!("{accounts}/sa/token"), bound).await;
    let token = reply["status"]["token"].clone();
    let client = cluster.with(json!({"token": token})).await;
    let whoami = call(&client, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await;
    assert_eq!(whoami["status"]["userInfo"]["username"], "system:serviceaccount:default:sa");
    let review = json!({"spec": {"token": token}});
    let review = call(&admin, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(review["status"]["authenticated"], true);
    call(&admin, "DELETE", &format!("{pods}/p"), json!({"gracePeriodSeconds": 0})).await;
    wait_for("the token is refused", async || {
        client.request::<Value>(request("GET", "/api", &Value::Null)).await.is_err()
    })
    .await;
    let (code, reason, message) = refused(&client, request("GET", "/api", &Value::Null)).await;
    assert_eq!((code, reason.as_str(), message.as_str()), (401, "Unauthorized", "Unauthorized"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_see_only_what_is_theirs() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let node = cluster.client("system:node:n1", &["system:nodes"]).await;
    let created = call(&node, "POST", "/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    assert_eq!(created["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let (code, _, message) =
        refused(&node, request("POST", "/api/v1/nodes", &json!({"metadata": {"name": "n2"}}))).await;
    assert_eq!(
        (code, message.as_str()),
        (403, "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\"")
    );
    call(&admin, "POST", "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    for secret in ["mine", "other"] {
        call(&admin, "POST", "/api/v1/namespaces/default/secrets", json!({"metadata": {"name": secret}})).await;
    }
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "secret": {"secretName": "mine"}}]}});
    call(&admin, "POST", "/api/v1/namespaces/default/pods", pod).await;
    let secret = |name: &str| request("GET", &format!("/api/v1/namespaces/default/secrets/{name}"), &Value::Null);
    wait_for("the node may read its pod's secret", async || node.request::<Value>(secret("mine")).await.is_ok()).await;
    let (code, _, message) = refused(&node, secret("other")).await;
    assert_eq!(code, 403);
    assert!(message.ends_with("no relationship found between node 'n1' and this object"), "{message}");
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    call(&node, "POST", lease, json!({"metadata": {"name": "n1"}})).await;
    assert_eq!(refused(&node, request("POST", lease, &json!({"metadata": {"name": "n9"}}))).await.0, 403);
    cluster.stop().await;
}
