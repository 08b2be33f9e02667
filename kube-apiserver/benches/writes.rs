//! What a write costs beside the store: `cargo bench -p kube-apiserver --bench writes`.
//!
//! Dry runs travel the whole way but the commit, so the figures are the server's (and this client's) own work.

// Shared with the tests, which use more of it.
#[allow(dead_code, clippy::unwrap_used, reason = "shared with the tests")]
#[path = "../tests/api_server/support.rs"]
mod support;

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use kube::Client;
use serde_json::{Value, json};
use support::{Cluster, call, request};

const WRITES: usize = 2000;
const CONCURRENCY: usize = 4;
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let nodes = "/api/v1/nodes";
    let node = call(&admin, "POST", nodes, node()).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let created = call(&admin, "POST", deployments, deployment("base")).await;
    let (name, status) = (format!("{deployments}/base"), format!("{nodes}/bench/status"));
    let ready = call(&admin, "PATCH", &status, heartbeat(0)).await;
    measure(&admin, "create", |_| request("POST", &dry(deployments), &deployment("other"))).await;
    measure(&admin, "update", |i| {
        let mut object = created.clone();
        object["metadata"]["labels"]["round"] = i.to_string().into();
        request("PUT", &dry(&name), &object)
    })
    .await;
    measure(&admin, "no-op update", |_| request("PUT", &dry(&name), &created)).await;
    measure(&admin, "patch", |i| request("PATCH", &dry(&name), &json!({"spec": {"replicas": i % 7 + 2}}))).await;
    measure(&admin, "status patch", |i| request("PATCH", &dry(&status), &heartbeat(i + 1))).await;
    println!("the node: {} bytes, after its status: {} bytes", node.to_string().len(), ready.to_string().len());
    cluster.stop().await;
}

fn dry(path: &str) -> String {
    format!("{path}?dryRun=All")
}

async fn measure(client: &Client, what: &str, make: impl Fn(usize) -> http::Request<Vec<u8>>) {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let requests: Vec<_> = (0..WRITES).map(&make).collect();
        let before = processor_time();
        let started = Instant::now();
        stream::iter(requests)
            .for_each_concurrent(CONCURRENCY, |request| async move {
                if let Err(error) = client.request::<Value>(request).await {
                    panic!("{what}: {error:?}");
                }
            })
            .await;
        let (wall, busy) = (started.elapsed(), processor_time() - before);
        best = best.min(busy);
        let per_write = |time: Duration| time.as_micros() as f64 / WRITES as f64;
        println!("{what}: {:.1} us of processor, {:.1} us of wall per write", per_write(busy), per_write(wall));
    }
    println!("{what}: best {:.1} us", best.as_micros() as f64 / WRITES as f64);
}

/// Processor time of this process so far (clock ticks are 1/100 s on Linux).
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn deployment(name: &str) -> Value {
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example/app:1", "ports": [{"containerPort": 8080, "name": "http"}],
            "env": (0..8).map(|i| json!({"name": format!("VARIABLE_{i}"), "value": "x"})).collect::<Vec<_>>(),
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}}})
    };
    let labels = json!({"app": name, "tier": "front"});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [container("one"), container("two")],
                "volumes": [{"name": "v", "emptyDir": {}}]}}}})
}

fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bench", "labels": {"zone": "a"}},
        "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}})
}

fn heartbeat(i: usize) -> Value {
    let time = format!("2026-01-01T{:02}:{:02}:{:02}Z", i / 3600 % 24, i / 60 % 60, i % 60);
    let kinds = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
    let conditions: Vec<Value> = kinds
        .iter()
        .map(|kind| {
            json!({"type": kind, "status": "True", "reason": "Bench", "message": "as it was",
                "lastHeartbeatTime": time, "lastTransitionTime": "2026-01-01T00:00:00Z"})
        })
        .collect();
    let images: Vec<Value> =
        (0..20).map(|i| json!({"names": [format!("registry.example/image:{i}")], "sizeBytes": 1000 + i})).collect();
    json!({"status": {"conditions": conditions, "images": images, "capacity": {"cpu": "8", "memory": "32Gi", "pods": "110"},
        "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "linux", "architecture": "amd64", "operatingSystem": "linux",
            "machineID": "a", "systemUUID": "b", "bootID": "c", "kernelVersion": "6", "containerRuntimeVersion": "containerd://2",
            "kubeProxyVersion": ""}}})
}
