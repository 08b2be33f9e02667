//! The pods that every server is asked for.

use anyhow::{Result, bail};
use bytes::Bytes;
use e2e::bench::{
    client::{Ask, Endpoint},
    each,
};
use http::Method;
use serde_json::json;

use super::load;

/// Where the pods that stay are.
pub const NAMESPACE: &str = "bench";
/// Pods belong to so many nodes in turn.
pub const NODES: usize = 1000;

/// The path of a collection of pods.
pub fn collection(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// The path of one of the pods that stay.
pub fn path(number: usize) -> String {
    format!("{}/{}", collection(NAMESPACE), name(number))
}

fn name(number: usize) -> String {
    format!("web-5d4f8c7b9-{number:05}")
}

/// A pod that a server shows in about 4 KiB of JSON, its managed fields included.
pub fn pod(namespace: &str, number: usize, round: usize) -> Bytes {
    let environment: Vec<_> = (0..10).map(|at| json!({"name": format!("VARIABLE_{at}"), "value": "a value"})).collect();
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10});
    let tree = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": name(number), "namespace": namespace,
            "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9", "round": round.to_string()},
            "annotations": {"example.com/checksum": "9b74c9897bac770ffc029102a200c5de5a4f3c8e0a9d2b7a"},
        },
        "spec": {
            "nodeName": format!("node-{}", number % NODES),
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "web", "image": "registry.example.com/web:1.2.3", "env": environment,
                "ports": [{"containerPort": 8080}], "readinessProbe": probe, "livenessProbe": probe,
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/web"}],
            }],
            "volumes": [{"name": "config", "configMap": {"name": "web"}}],
        },
    });
    Bytes::from(tree.to_string())
}

/// Creates the namespaces and the pods that stay.
pub async fn fill(endpoint: &Endpoint, pods: usize) -> Result<()> {
    let mut connection = endpoint.connect().await?;
    for name in [NAMESPACE, load::WRITES] {
        let body = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}).to_string();
        connection.size(Ask::json(Method::POST, "/api/v1/namespaces", body.into())).await?;
    }
    let spent = each(endpoint, pods, async |connection, number| {
        connection.size(Ask::json(Method::POST, &collection(NAMESPACE), pod(NAMESPACE, number, 0))).await.map(drop)
    });
    let spent = spent.await?;
    if spent.len() != pods {
        bail!("{} of {pods} pods were created", spent.len());
    }
    Ok(())
}
