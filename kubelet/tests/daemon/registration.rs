//! The node in the API: registration, status, Lease, and coming back to an object that is there.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::{Node, eventually};

async fn node_object(node: &Node) -> Value {
    let nodes: Api<NodeObject> = Api::all(node.client.clone());
    serde_json::to_value(nodes.get("n1").await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_registers_and_says_what_it_is() {
    let taint = json!({"key": "new", "value": "yes", "effect": "NoSchedule"});
    let node = Node::start_with(json!({"registerWithTaints": [taint], "maxPods": 7})).await;
    let object = node_object(&node).await;
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/os"], "linux");
    assert!(object["spec"]["taints"].as_array().unwrap().contains(&taint), "{}", object["spec"]);
    let status = &object["status"];
    assert_eq!(status["capacity"]["pods"], "7");
    for resource in ["cpu", "memory", "ephemeral-storage"] {
        assert!(status["allocatable"][resource].is_string(), "{status}");
    }
    assert_eq!(status["nodeInfo"]["containerRuntimeVersion"], "fake://1.0");
    assert!(status["nodeInfo"]["kubeletVersion"].as_str().unwrap().starts_with("v1.36."), "{status}");
    assert_eq!(
        status["addresses"],
        json!([{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": "n1"}])
    );
    for (condition, reason) in [
        ("MemoryPressure", "KubeletHasSufficientMemory"),
        ("DiskPressure", "KubeletHasNoDiskPressure"),
        ("PIDPressure", "KubeletHasSufficientPID"),
        ("Ready", "KubeletReady"),
    ] {
        let conditions = status["conditions"].as_array().unwrap();
        assert!(conditions.iter().any(|c| c["type"] == condition && c["reason"] == reason), "{condition}: {status}");
    }
    node.wait_for_event("n1", "Starting").await;
    node.wait_for_event("n1", "NodeReady").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_is_renewed() {
    let node = Node::start_with(json!({"nodeLeaseDurationSeconds": 4})).await;
    let leases: Api<Lease> = Api::namespaced(node.client.clone(), "kube-node-lease");
    let renewed = async || {
        let lease = leases.get_opt("n1").await.map_err(|error| error.to_string())?.ok_or("no lease")?;
        Ok::<_, String>((lease.metadata, lease.spec.unwrap()))
    };
    let (_, first) = eventually("the lease", renewed).await;
    assert_eq!((first.holder_identity.as_deref(), first.lease_duration_seconds), (Some("n1"), Some(4)));
    eventually("a renewal", async || {
        let (_, spec) = renewed().await?;
        if spec.renew_time > first.renew_time { Ok(()) } else { Err(format!("{:?}", spec.renew_time)) }
    })
    .await;
    eventually("the owner of the lease", async || {
        let owners = renewed().await?.0.owner_references.unwrap_or_default();
        if owners.iter().any(|owner| owner.kind == "Node" && owner.name == "n1") {
            Ok(())
        } else {
            Err(format!("{owners:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_before_keeps_what_others_put_on_it() {
    let mut node = Node::start().await;
    let nodes: Api<NodeObject> = Api::all(node.client.clone());
    let uid = node_object(&node).await["metadata"]["uid"].clone();
    node.stop_kubelet().await;
    let patch =
        json!({"metadata": {"labels": {"zone": "a", "kubernetes.io/os": "plan9"}}, "spec": {"unschedulable": true}});
    nodes.patch("n1", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    node.start_kubelet();
    eventually("our own label to be put right", async || {
        let object = node_object(&node).await;
        let labels = &object["metadata"]["labels"];
        if labels["kubernetes.io/os"] == "linux" { Ok(()) } else { Err(labels.to_string()) }
    })
    .await;
    let object = node_object(&node).await;
    assert_eq!(object["metadata"]["uid"], uid);
    assert_eq!(object["metadata"]["labels"]["zone"], "a");
    assert_eq!(object["spec"]["unschedulable"], true);
}
