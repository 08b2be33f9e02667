//! Deletion of what is in use waits, and goes through when the last user is gone.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::DeleteParams;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::loops::start;
use crate::neighbour::{add_node, create, delete, eventually, merge};

fn claim(name: &str, class: Option<&str>) -> Value {
    json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeAttributesClassName": class,
        "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}})
}

fn volume(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
        "storageClassName": "none", "hostPath": {"path": "/tmp"}}})
}

async fn gone<K: Clone + DeserializeOwned + std::fmt::Debug>(api: &Api<K>, name: &str) {
    eventually(&format!("{name} is gone"), async || api.get_opt(name).await.unwrap().is_none().then_some(())).await;
}

async fn is_terminating<K>(api: &Api<K>, name: &str) -> bool
where
    K: Clone + DeserializeOwned + std::fmt::Debug + Resource,
{
    api.get(name).await.unwrap().meta().deletion_timestamp.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_outlives_its_deletion() {
    let (_server, client, daemon) = start().await;
    add_node(&client, "n1", 8).await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    // First, so that the controllers know of it when its class is deleted: for classes they trust their cache.
    create(&claims, claim("gold", Some("named"))).await;
    create(&claims, claim("used", None)).await;
    create(&claims, claim("free", None)).await;
    let source = json!({"name": "data", "persistentVolumeClaim": {"claimName": "used"}});
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}], "volumes": [source]});
    create(&pods, json!({"metadata": {"name": "user"}, "spec": spec})).await;
    // The one in use first: when the other is gone, both have been looked at.
    delete(&claims, "used").await;
    delete(&claims, "free").await;
    gone(&claims, "free").await;
    assert!(is_terminating(&claims, "used").await);
    pods.delete("user", &DeleteParams::default().grace_period(0)).await.unwrap();
    gone(&claims, "used").await;

    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    create(&volumes, volume("bound")).await;
    create(&volumes, volume("free")).await;
    let mut taker = claim("taker", None);
    taker["spec"]["volumeName"] = json!("bound");
    create(&claims, taker).await;
    eventually("the volume is bound", async || {
        let phase = volumes.get("bound").await.unwrap().status?.phase?;
        (phase == "Bound").then_some(())
    })
    .await;
    // Also those from before the admission plugin are protected.
    merge(&volumes, "bound", false, json!({"metadata": {"finalizers": null}})).await;
    eventually("the finalizer is back", async || {
        let finalizers = volumes.get("bound").await.unwrap().finalizers().to_vec();
        (finalizers == ["kubernetes.io/pv-protection"]).then_some(())
    })
    .await;
    delete(&volumes, "bound").await;
    delete(&volumes, "free").await;
    gone(&volumes, "free").await;
    assert!(is_terminating(&volumes, "bound").await);
    delete(&claims, "taker").await;
    gone(&volumes, "bound").await;

    let classes: Api<VolumeAttributesClass> = Api::all(client);
    for name in ["named", "free"] {
        create(&classes, json!({"metadata": {"name": name}, "driverName": "d.example.com", "parameters": {"a": "b"}}))
            .await;
    }
    delete(&classes, "named").await;
    delete(&classes, "free").await;
    gone(&classes, "free").await;
    assert!(is_terminating(&classes, "named").await);
    delete(&claims, "gold").await;
    gone(&classes, "named").await;
    daemon.stop().await;
}
