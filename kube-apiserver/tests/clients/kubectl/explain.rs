//! `kubectl explain` and what discovery tells, for every resource of every version.

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use super::Kubectl;
use crate::support::call;

/// So many kubectls at a time.
const AT_ONCE: usize = 4;

/// Plural, group/version and kind of everything in discovery.
async fn resources(admin: &kube::Client) -> Vec<(String, String, String)> {
    let mut versions = vec![("/api/v1".to_owned(), "v1".to_owned())];
    let groups = call(admin, "GET", "/apis", Value::Null).await;
    for group in groups["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            let version = version["groupVersion"].as_str().unwrap();
            versions.push((format!("/apis/{version}"), version.to_owned()));
        }
    }
    let mut found = Vec::new();
    for (path, version) in versions {
        for resource in call(admin, "GET", &path, Value::Null).await["resources"].as_array().unwrap() {
            let name = resource["name"].as_str().unwrap();
            if !name.contains('/') {
                found.push((name.to_owned(), version.clone(), resource["kind"].as_str().unwrap().to_owned()));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explains_every_resource() {
    let Some((mut cluster, kubectl)) = Kubectl::start().await else { return };
    let all = resources(&cluster.admin().await).await;
    assert!(all.len() > 65, "{all:?}");
    let explained = stream::iter(&all).map(async |(plural, version, kind)| {
        let text = kubectl.must(&format!("explain {plural} --api-version={version}"), "").await;
        for part in ["DESCRIPTION:\n", "FIELDS:\n", "  apiVersion\t<string>\n"] {
            assert!(text.contains(part), "{plural} {version}: {text}");
        }
        let (told, version) = (format!("KIND:       {kind}\n"), version.rsplit('/').next().unwrap());
        assert!(
            text.contains(&told) && text.contains(&format!("VERSION:    {version}\n")),
            "{plural} {version}: {text}"
        );
        Ok::<_, ()>(())
    });
    explained.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explains_fields() {
    let Some((mut cluster, kubectl)) = Kubectl::start().await else { return };
    let text = kubectl.must("explain pod.spec.containers.ports", "").await;
    for part in [
        "KIND:       Pod\n",
        "FIELD: ports <[]ContainerPort>",
        "  containerPort\t<integer> -required-\n",
        "  protocol\t<string>\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let tree = kubectl.must("explain deployments --recursive", "").await;
    for part in [
        "      containers\t<[]Container> -required-\n",
        "maxSurge\t<IntOrString>\n",
        "            valueFrom\t<EnvVarSource>\n",
    ] {
        assert!(tree.contains(part), "{part}: {tree}");
    }
    for recursive in
        ["pods", "services", "cronjobs", "horizontalpodautoscalers", "networkpolicies", "persistentvolumes"]
    {
        let tree = kubectl.must(&format!("explain {recursive} --recursive"), "").await;
        assert!(
            tree.contains("FIELDS:\n") && tree.contains("    ownerReferences\t<[]OwnerReference>\n"),
            "{recursive}: {tree}"
        );
    }
    let old = kubectl.must("explain horizontalpodautoscalers.spec --api-version=autoscaling/v1", "").await;
    assert!(old.contains("targetCPUUtilizationPercentage\t<integer>\n"), "{old}");
    assert!(kubectl.must_not("explain pod.spec.nonsense", "").await.contains("field \"nonsense\" does not exist"));
    assert!(
        kubectl.must_not("explain nonsense", "").await.contains("the server doesn't have a resource type \"nonsense\"")
    );
    let plain = kubectl.must("explain pod.spec.nodeName --output=plaintext-openapiv2", "").await;
    assert!(plain.contains("FIELD:    nodeName <string>\n"), "{plain}");
    let found = kubectl.must("api-resources --api-group=apps --no-headers -o wide", "").await;
    let deployments = found.lines().find(|line| line.starts_with("deployments")).unwrap();
    let words: Vec<&str> = deployments.split_whitespace().collect();
    assert_eq!(
        words,
        [
            "deployments",
            "deploy",
            "apps/v1",
            "true",
            "Deployment",
            "create,delete,deletecollection,get,list,patch,update,watch",
            "all"
        ]
    );
    assert!(kubectl.must("version", "").await.contains("Server Version: v1.36."));
    cluster.stop().await;
}
