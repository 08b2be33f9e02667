//! An API server with hollow nodes, and what pods of a workload need besides themselves.

use anyhow::{Context, Result};
use e2e::bench::{
    client::{Ask, Connection, Endpoint},
    each,
};
use http::Method;
use serde_json::{Value, json};

use super::workloads::{
    NAMESPACES, Pods, Shape, Workload, claim_template, csi_node, device_class, pod, resource_slice, volume_and_claim,
};

const LEASES: &str = "kube-node-lease";

/// The collection that an object of a kind is created in.
fn collection(object: &Value) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let group = match text("/apiVersion") {
        "v1" => "/api/v1".to_owned(),
        other => format!("/apis/{other}"),
    };
    let namespace = text("/metadata/namespace");
    let within = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    let plural = match text("/kind") {
        "DeviceClass" => "deviceclasses".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    format!("{group}{within}/{plural}")
}

async fn create(connection: &mut Connection, object: &Value) -> Result<()> {
    let path = collection(object);
    let body = object.to_string().into();
    connection.size(Ask::json(Method::POST, &path, body)).await.with_context(|| format!("creating in {path}")).map(drop)
}

/// Creates nodes with their Leases, and whatever the workload's pods refer to.
pub async fn prepare(endpoint: &Endpoint, workload: &Workload) -> Result<()> {
    let mut connection = endpoint.connect().await?;
    for name in NAMESPACES {
        create(&mut connection, &json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}})).await?;
    }
    // The server makes it itself, sooner or later.
    let _ =
        create(&mut connection, &json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": LEASES}})).await;
    let volumes = workload.shapes().any(|shape| matches!(shape, Shape::WithVolume));
    let devices = workload.shapes().any(|shape| matches!(shape, Shape::WithDevice));
    if devices {
        create(&mut connection, &device_class()).await?;
        for namespace in NAMESPACES {
            create(&mut connection, &claim_template(namespace)).await?;
        }
    }
    let one = async |connection: &mut Connection, number: usize| {
        let name = workload.node_name(number);
        create(connection, &workload.node(number)).await?;
        let lease = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
            "metadata": {"name": name, "namespace": LEASES},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}});
        create(connection, &lease).await?;
        if volumes {
            create(connection, &csi_node(&name)).await?;
        }
        if devices {
            create(connection, &resource_slice(&name)).await?;
        }
        Ok(())
    };
    each(endpoint, workload.nodes, one).await.map(drop)
}

/// Creates pods, named by `prefix` and number.
pub async fn pods(endpoint: &Endpoint, pods: Pods, prefix: &str) -> Result<()> {
    let one =
        async |connection: &mut Connection, number: usize| one(connection, pods, &format!("{prefix}-{number}")).await;
    each(endpoint, pods.count, one).await.map(drop)
}

/// Creates one pod, its volume first.
pub async fn one(connection: &mut Connection, pods: Pods, name: &str) -> Result<()> {
    if matches!(pods.shape, Shape::WithVolume) {
        let (volume, claim) = volume_and_claim(pods.namespace, name);
        create(connection, &volume).await?;
        create(connection, &claim).await?;
    }
    create(connection, &pod(pods.shape, pods.namespace, name)).await
}
