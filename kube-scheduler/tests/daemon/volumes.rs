//! Claims that wait for their first pod: the scheduler chooses volume and node together, and binds once the controller (the
//! test) has done its part.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::neighbour::{add_node, create, eventually};
use crate::placing::{bound, start, unschedulable};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_goes_where_its_volume_is() {
    let (_server, client, api, daemon) = start().await;
    for name in ["n1", "n2"] {
        add_node(&client, name, 4).await;
    }
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    create(
        &Api::<StorageClass>::all(client.clone()),
        json!({"metadata": {"name": "local"}, "provisioner": "kubernetes.io/no-provisioner",
               "volumeBindingMode": "WaitForFirstConsumer"}),
    )
    .await;
    let container = json!({"name": "c", "image": "i"});
    let mount = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    create(&api, json!({"metadata": {"name": "p"}, "spec": {"containers": [container], "volumes": mount}})).await;
    let message = unschedulable(&api, "p").await;
    assert!(message.contains("persistentvolumeclaim \"data\" not found"), "{message}");

    let claim = json!({"metadata": {"name": "data"}, "spec": {"storageClassName": "local",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    create(&claims, claim).await;
    let expression = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]});
    let volume = json!({"metadata": {"name": "disk"}, "spec": {"storageClassName": "local", "capacity": {"storage": "2Gi"},
        "accessModes": ["ReadWriteOnce"], "local": {"path": "/disk"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}});
    create(&volumes, volume).await;
    // The controller finds the volume usable ...
    let ready = json!({"status": {"phase": "Available"}});
    volumes.patch_status("disk", &PatchParams::default(), &Patch::Merge(ready)).await.unwrap();
    // ... the scheduler promises it to the claim ...
    eventually("the volume is promised to the claim", async || {
        volumes.get("disk").await.unwrap().spec?.claim_ref.filter(|claim| claim.name.as_deref() == Some("data"))
    })
    .await;
    assert!(api.get("p").await.unwrap().spec.unwrap().node_name.is_none(), "the claim is not bound yet");
    // ... and the controller binds it.
    let done = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "disk"}});
    claims.patch("data", &PatchParams::default(), &Patch::Merge(done)).await.unwrap();
    assert_eq!(bound(&api, "p").await, "n2");
    daemon.stop().await;
}
