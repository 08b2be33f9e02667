//! Admission that looks at other objects: limits, quotas, pod security, classes, certificates, disruption budgets; versions of one object.

use serde_json::{Value, json};

use super::support::{Cluster, call, refused, request, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

async fn cluster_with_account() -> (Cluster, kube::Client) {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    call(&admin, "POST", "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    (cluster, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_quotas_hold() {
    let (mut cluster, admin) = cluster_with_account().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [{"type": "Container",
        "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}]}});
    call(&admin, "POST", "/api/v1/namespaces/default/limitranges", range).await;
    let made = call(&admin, "POST", PODS, pod("limited")).await;
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
    );
    let mut big = pod("big");
    big["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    let (code, _, message) = refused(&admin, request("POST", PODS, &big)).await;
    assert_eq!(
        (code, message.as_str()),
        (403, "pods \"big\" is forbidden: maximum cpu usage per Container is 1, but limit is 2")
    );

    let quotas = "/api/v1/namespaces/default/resourcequotas";
    call(&admin, "POST", quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2", "requests.cpu": "150m", "count/configmaps": "1"}}})).await;
    let used = json!({"status": {"hard": {"pods": "2", "requests.cpu": "150m", "count/configmaps": "1"},
        "used": {"pods": "1", "requests.cpu": "100m", "count/configmaps": "0"}}});
    call(&admin, "PATCH", &format!("{quotas}/q/status"), used).await;
    let dry = format!("{PODS}?dryRun=All");
    wait_for("admission sees the quota", async || {
        admin.request::<Value>(request("POST", &dry, &pod("second"))).await.is_err()
    })
    .await;
    let (code, _, message) = refused(&admin, request("POST", PODS, &pod("second"))).await;
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "pods \"second\" is forbidden: exceeded quota: q, requested: requests.cpu=100m, used: requests.cpu=100m, limited: requests.cpu=150m"
    );
    let maps = "/api/v1/namespaces/default/configmaps";
    call(&admin, "POST", &format!("{maps}?dryRun=All"), json!({"metadata": {"name": "dry"}})).await;
    call(&admin, "POST", maps, json!({"metadata": {"name": "one"}})).await;
    assert_eq!(
        call(&admin, "GET", &format!("{quotas}/q"), Value::Null).await["status"]["used"]["count/configmaps"],
        "1"
    );
    assert_eq!(refused(&admin, request("POST", maps, &json!({"metadata": {"name": "two"}}))).await.0, 403);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_as_secure_as_the_namespace_asks() {
    let (mut cluster, admin) = cluster_with_account().await;
    let label = |level: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let (code, _, message) = refused(&admin, request("PATCH", "/api/v1/namespaces/default", &label("strict"))).await;
    assert_eq!(code, 422);
    assert!(message.contains("must be one of privileged, baseline, restricted"), "{message}");
    call(&admin, "PATCH", "/api/v1/namespaces/default", label("baseline")).await;
    call(&admin, "POST", PODS, pod("plain")).await;
    let mut host = pod("host");
    host["spec"]["hostNetwork"] = true.into();
    let (code, _, message) = refused(&admin, request("POST", PODS, &host)).await;
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "pods \"host\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_are_filled_in_and_volumes_protected() {
    let (mut cluster, admin) = cluster_with_account().await;
    let class = json!({"metadata": {"name": "gold", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "x.y/z"});
    call(&admin, "POST", "/apis/storage.k8s.io/v1/storageclasses", class).await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let made = call(&admin, "POST", claims, claim).await;
    assert_eq!(made["spec"]["storageClassName"], "gold");
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    call(&admin, "PATCH", &format!("{claims}/c/status"), json!({"status": {"phase": "Bound"}})).await;
    call(&admin, "PATCH", &format!("{claims}/c"), json!({"spec": {"volumeName": "v"}})).await;
    let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let (code, _, message) = refused(&admin, request("PATCH", &format!("{claims}/c"), &grow)).await;
    assert_eq!(code, 403);
    assert!(message.contains("only dynamically provisioned pvc can be resized"), "{message}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evictions_respect_budgets() {
    let (mut cluster, admin) = cluster_with_account().await;
    call(&admin, "POST", PODS, pod("p")).await;
    call(
        &admin,
        "POST",
        &format!("{PODS}/p/binding"),
        json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}}),
    )
    .await;
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    call(&admin, "PATCH", &format!("{PODS}/p/status"), running).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget =
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    call(&admin, "POST", budgets, budget).await;
    let eviction = json!({"metadata": {"name": "p", "namespace": "default"}});
    let path = format!("{PODS}/p/eviction");
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    call(&admin, "PATCH", &format!("{budgets}/b/status"), status).await;
    call(&admin, "POST", &path, eviction).await;
    let gone = call(&admin, "GET", &format!("{PODS}/p"), Value::Null).await;
    assert!(gone["metadata"]["deletionTimestamp"].is_string());
    let conditions = gone["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "EvictionByEvictionAPI"));
    let after = call(&admin, "GET", &format!("{budgets}/b"), Value::Null).await;
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert!(after["status"]["disruptedPods"]["p"].is_string());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_one_object() {
    let (mut cluster, admin) = cluster_with_account().await;
    let hpas = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let hpa = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    let made = call(&admin, "POST", &hpas("v1"), hpa).await;
    assert_eq!(
        (made["apiVersion"].as_str(), made["spec"]["targetCPUUtilizationPercentage"].as_i64()),
        (Some("autoscaling/v1"), Some(50))
    );
    let v2 = call(&admin, "GET", &format!("{}/h", hpas("v2")), Value::Null).await;
    assert_eq!(
        v2["spec"]["metrics"][0]["resource"]["target"],
        json!({"type": "Utilization", "averageUtilization": 50})
    );
    let components = call(&admin, "GET", "/api/v1/componentstatuses", Value::Null).await;
    assert_eq!(components["items"].as_array().unwrap().len(), 3);
    let store = call(&admin, "GET", "/api/v1/componentstatuses/etcd-0", Value::Null).await;
    assert_eq!(store["conditions"][0]["status"], "True");
    cluster.stop().await;
}

/// Plugins that are off by default or have a configuration do what it says.
#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_configured_by_a_file() {
    let mut cluster = Cluster::prepare();
    let configuration = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": [
        {"name": "PodSecurity", "configuration": {"apiVersion": "pod-security.admission.config.k8s.io/v1",
            "kind": "PodSecurityConfiguration", "defaults": {"enforce": "baseline"}, "exemptions": {"namespaces": ["free"]}}},
        {"name": "PodNodeSelector", "path": "selectors.yaml"},
        {"name": "EventRateLimit", "configuration": {"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1",
            "kind": "Configuration", "limits": [{"type": "Server", "qps": 1, "burst": 1_000_000}]}}]});
    std::fs::write(cluster.dir().join("admission.yaml"), configuration.to_string()).unwrap();
    let selectors = "podNodeSelectorPluginConfig:\n  clusterDefaultNodeSelector: pool=a\n";
    std::fs::write(cluster.dir().join("selectors.yaml"), selectors).unwrap();
    let plugins = "NamespaceAutoProvision,PodNodeSelector,PodTolerationRestriction,EventRateLimit";
    cluster
        .restart_with(&[
            "--admission-control-config-file={dir}/admission.yaml",
            &format!("--enable-admission-plugins={plugins}"),
        ])
        .await;
    let admin = cluster.admin().await;
    for namespace in ["free", "bound"] {
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        call(&admin, "POST", &accounts, json!({"metadata": {"name": "default"}})).await;
    }
    let mut host = pod("host");
    host["spec"]["hostNetwork"] = true.into();
    host["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1m"}});
    let made = call(&admin, "POST", "/api/v1/namespaces/free/pods", host.clone()).await;
    assert_eq!(made["spec"]["nodeSelector"], json!({"pool": "a"}));
    let tolerated = made["spec"]["tolerations"].as_array().unwrap().iter().map(|t| t["key"].as_str().unwrap());
    assert!(tolerated.into_iter().any(|key| key == "node.kubernetes.io/memory-pressure"));
    let (code, _, message) = refused(&admin, request("POST", "/api/v1/namespaces/bound/pods", &host)).await;
    assert_eq!(code, 403);
    assert!(message.contains("violates PodSecurity \"baseline:latest\": host namespaces"), "{message}");
    let mut elsewhere = pod("elsewhere");
    elsewhere["spec"]["nodeSelector"] = json!({"pool": "b"});
    let (code, _, message) = refused(&admin, request("POST", "/api/v1/namespaces/bound/pods", &elsewhere)).await;
    assert_eq!(code, 403);
    assert!(message.ends_with("pod node label selector conflicts with its namespace node label selector"), "{message}");
}
