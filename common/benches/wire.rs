//! Speed of the protobuf codec on a pod of 4 KiB: `cargo bench -p common --bench wire`.
//!
//! Both directions in one pass, beside what they replace: a tree of serde_json in between.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use common::{schema, wire};
use serde_json::{Value, json};

const TIME: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ty = schema::lookup("", "v1", "Pod").ok_or("no pods")?;
    let mut tree = pod();
    schema::normalize(ty, &mut tree);
    let text = serde_json::to_vec(&tree)?;
    let mut raw = Vec::new();
    wire::json_to_protobuf(ty, &text, &mut raw)?;
    println!("a pod of {} bytes in JSON, {} in protobuf", text.len(), raw.len());
    let mut out = Vec::new();
    measure("JSON to protobuf", text.len(), || {
        out.clear();
        wire::json_to_protobuf(ty, black_box(&text), &mut out)
    })?;
    measure("protobuf to JSON", text.len(), || {
        out.clear();
        wire::protobuf_to_json(ty, black_box(&raw), Some(("v1", "Pod")), &mut out)
    })?;
    measure("tree to protobuf", text.len(), || {
        out.clear();
        wire::tree_to_protobuf(ty, black_box(&tree), &mut out)
    })?;
    measure("JSON to tree (serde_json)", text.len(), || serde_json::from_slice::<Value>(black_box(&text)).map(drop))?;
    measure("tree to JSON (serde_json)", text.len(), || serde_json::to_vec(black_box(&tree)).map(drop))?;
    measure("JSON to typed tree (field validation)", text.len(), || {
        let decoded = schema::decode(ty, black_box(&text));
        decoded.error.map_or(Ok(()), Err)
    })?;
    Ok(())
}

fn measure<E: Into<Box<dyn std::error::Error>>>(
    name: &str,
    bytes: usize,
    mut work: impl FnMut() -> Result<(), E>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (start, mut rounds) = (Instant::now(), 0u32);
    while start.elapsed() < TIME {
        for _ in 0..100 {
            work().map_err(Into::into)?;
        }
        rounds += 100;
    }
    let each = start.elapsed() / rounds;
    println!("{name}: {each:?}, {:.0} MB/s of JSON", bytes as f64 / each.as_secs_f64() / 1e6);
    Ok(())
}

fn pod() -> Value {
    let environment: Vec<_> =
        (0..24).map(|at| json!({"name": format!("VARIABLE_{at}"), "value": "some value of some length"})).collect();
    let mounts: Vec<_> =
        (0..4).map(|at| json!({"name": format!("v{at}"), "mountPath": format!("/data/{at}")})).collect();
    let volumes: Vec<_> = (0..4).map(|at| json!({"name": format!("v{at}"), "configMap": {"name": "map"}})).collect();
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10, "failureThreshold": 3});
    let conditions: Vec<_> = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .iter()
        .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}))
        .collect();
    json!({
        "metadata": {
            "name": "web-5d4f8c7b9-x2x4z", "generateName": "web-5d4f8c7b9-", "namespace": "default",
            "uid": "2c1f2f4e-5c57-4c8c-9a5d-0b8f2a8e6b11", "resourceVersion": "123456",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9"},
            "annotations": {"example.com/checksum": "0123456789abcdef0123456789abcdef"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8c7b9",
                "uid": "8d8c1d1a-1d0a-4b60-8a57-0d3a70f4a7a1", "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "volumes": volumes, "nodeName": "node-17", "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "terminationGracePeriodSeconds": 30, "serviceAccountName": "default", "schedulerName": "default-scheduler",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "containers": [{
                "name": "web", "image": "registry.k8s.io/web:1", "env": environment, "volumeMounts": mounts,
                "ports": [{"containerPort": 8080, "protocol": "TCP"}], "livenessProbe": probe, "readinessProbe": probe,
                "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
                "imagePullPolicy": "IfNotPresent",
            }],
        },
        "status": {
            "phase": "Running", "conditions": conditions, "hostIP": "10.0.0.17", "podIP": "10.244.17.5",
            "podIPs": [{"ip": "10.244.17.5"}], "startTime": "2026-01-01T00:00:00Z", "qosClass": "Burstable",
            "containerStatuses": [{"name": "web", "ready": true, "restartCount": 0, "started": true,
                "image": "registry.k8s.io/web:1", "imageID": "sha256:0123", "containerID": "containerd://0123",
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
        },
    })
}
