//! Claims find volumes, and released volumes are taken back.

use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::loops::start;
use crate::neighbour::{add_node, create, delete, eventually, merge};

fn volume(name: &str, size: &str, class: &str, policy: &str, path: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
        "storageClassName": class, "persistentVolumeReclaimPolicy": policy, "hostPath": {"path": path}}})
}

fn claim(name: &str, size: &str, class: Option<&str>) -> Value {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
    if let Some(class) = class {
        spec["storageClassName"] = json!(class);
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn in_phase(api: &Api<PersistentVolume>, name: &str, phase: &str) -> PersistentVolume {
    eventually(&format!("{name} is {phase}"), async || {
        let found = api.get(name).await.unwrap();
        (found.status.as_ref()?.phase.as_deref() == Some(phase)).then_some(found)
    })
    .await
}

async fn claim_in_phase(api: &Api<PersistentVolumeClaim>, name: &str, phase: &str) -> PersistentVolumeClaim {
    eventually(&format!("{name} is {phase}"), async || {
        let found = api.get(name).await.unwrap();
        (found.status.as_ref()?.phase.as_deref() == Some(phase)).then_some(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_bound_and_volumes_taken_back() {
    let (_server, client, daemon) = start().await;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let directory = tempfile::Builder::new().prefix("corten-volume-").tempdir_in("/tmp").unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // The smallest that is large enough, whichever comes first.
    create(&volumes, volume("large", "9Gi", "manual", "Retain", "/tmp/large")).await;
    create(&volumes, volume("right", "2Gi", "manual", "Delete", &data.display().to_string())).await;
    create(&volumes, volume("small", "1Gi", "manual", "Retain", "/tmp/small")).await;
    for name in ["large", "right", "small"] {
        in_phase(&volumes, name, "Available").await;
    }
    create(&claims, claim("mine", "2Gi", Some("manual"))).await;
    let bound = claim_in_phase(&claims, "mine", "Bound").await;
    assert_eq!(bound.spec.as_ref().unwrap().volume_name.as_deref(), Some("right"));
    assert_eq!(bound.status.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0, "2Gi");
    let volume_of = in_phase(&volumes, "right", "Bound").await;
    assert_eq!(volume_of.spec.unwrap().claim_ref.unwrap().uid, bound.metadata.uid);
    delete(&claims, "mine").await;
    eventually("the volume is deleted", async || volumes.get_opt("right").await.unwrap().is_none().then_some(())).await;
    assert!(!data.exists(), "and its data");

    // One that is to be kept waits for a person.
    create(&claims, claim("kept", "2Gi", Some("manual"))).await;
    claim_in_phase(&claims, "kept", "Bound").await;
    delete(&claims, "kept").await;
    in_phase(&volumes, "large", "Released").await;
    create(&claims, claim("again", "2Gi", Some("manual"))).await;
    merge(&volumes, "large", false, json!({"spec": {"claimRef": null}})).await;
    let again = claim_in_phase(&claims, "again", "Bound").await;
    assert_eq!(again.spec.unwrap().volume_name.as_deref(), Some("large"));
    // Without its volume a claim is lost.
    merge(&volumes, "large", false, json!({"metadata": {"finalizers": null}})).await;
    delete(&volumes, "large").await;
    eventually("the protection lets go", async || merge_finalizers(&volumes, "large").await.is_none().then_some(()))
        .await;
    claim_in_phase(&claims, "again", "Lost").await;
    daemon.stop().await;
}

/// Takes the finalizers away for as long as the volume is there.
async fn merge_finalizers(volumes: &Api<PersistentVolume>, name: &str) -> Option<PersistentVolume> {
    let patch = kube::api::Patch::Merge(json!({"metadata": {"finalizers": null}}));
    volumes.patch(name, &kube::api::PatchParams::default(), &patch).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_decide_who_makes_the_volume() {
    let (_server, client, daemon) = start().await;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let classes: Api<StorageClass> = Api::all(client.clone());
    let events: Api<Event> = Api::default_namespaced(client.clone());
    let told = async |claim: &str, reason: &str| {
        eventually(&format!("{reason} is told of {claim}"), async || {
            let of = ListParams::default().fields(&format!("involvedObject.name={claim}"));
            let all = events.list(&of).await.unwrap().items;
            all.into_iter().find(|event| event.reason.as_deref() == Some(reason))
        })
        .await
    };
    // Before there is any class.
    create(&claims, claim("early", "1Gi", None)).await;
    told("early", "FailedBinding").await;
    let default = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    create(
        &classes,
        json!({"metadata": {"name": "fast", "annotations": default}, "provisioner": "d.example.com",
        "volumeBindingMode": "Immediate"}),
    )
    .await;
    create(
        &classes,
        json!({"metadata": {"name": "late"}, "provisioner": "d.example.com",
        "volumeBindingMode": "WaitForFirstConsumer"}),
    )
    .await;
    let asked = eventually("the provisioner is asked", async || {
        let annotations = claims.get("early").await.unwrap().metadata.annotations?;
        annotations.get("volume.kubernetes.io/storage-provisioner").cloned()
    })
    .await;
    assert_eq!(asked, "d.example.com");
    told("early", "ExternalProvisioning").await;
    let with_class = claims.get("early").await.unwrap();
    assert_eq!(with_class.spec.unwrap().storage_class_name.as_deref(), Some("fast"));
    // The provisioner makes the volume for this claim.
    let uid = with_class.metadata.uid.unwrap();
    let mut made = volume("pvc-1", "1Gi", "fast", "Delete", "/unused");
    made["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": "d.example.com"});
    made["spec"]["hostPath"] = Value::Null;
    made["spec"]["csi"] = json!({"driver": "d.example.com", "volumeHandle": "h"});
    made["spec"]["claimRef"] = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default", "name": "early", "uid": uid});
    create(&volumes, made).await;
    claim_in_phase(&claims, "early", "Bound").await;
    // The driver outside removes it, not we.
    delete(&claims, "early").await;
    in_phase(&volumes, "pvc-1", "Released").await;

    create(&claims, claim("lazy", "1Gi", Some("late"))).await;
    told("lazy", "WaitForFirstConsumer").await;
    merge(&claims, "lazy", false, json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}}))
        .await;
    told("lazy", "ExternalProvisioning").await;
    create(&claims, claim("wrong", "1Gi", Some("missing"))).await;
    let failed = told("wrong", "ProvisioningFailed").await;
    assert_eq!(failed.message.as_deref(), Some("storageclass.storage.k8s.io \"missing\" not found"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_follow_their_pods_to_nodes() {
    let (_server, client, daemon) = start().await;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let nodes: Api<Node> = Api::all(client.clone());
    let attachments: Api<VolumeAttachment> = Api::all(client.clone());
    let managed =
        json!({"metadata": {"annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}});
    for name in ["n1", "n2"] {
        add_node(&client, name, 8).await;
        merge(&nodes, name, false, managed.clone()).await;
    }
    let mut made = volume("pv", "1Gi", "csi", "Retain", "/unused");
    made["spec"]["hostPath"] = Value::Null;
    made["spec"]["csi"] = json!({"driver": "d.example.com", "volumeHandle": "h"});
    create(&volumes, made).await;
    // The claim of an ephemeral volume is made with its pod.
    let template = json!({"spec": claim("x", "1Gi", Some("csi"))["spec"]});
    let pod = |name: &str, node: &str, source: Value| json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}], "volumes": [source]}});
    let ephemeral = json!({"name": "data", "ephemeral": {"volumeClaimTemplate": template}});
    create(&pods, pod("first", "n1", ephemeral)).await;
    eventually("the claim is made", async || claims.get_opt("first-data").await.unwrap()).await;
    claim_in_phase(&claims, "first-data", "Bound").await;
    let attached_to = async |node: &str| {
        eventually(&format!("the volume is to be attached to {node}"), async || {
            let all = attachments.list(&ListParams::default()).await.unwrap().items;
            all.into_iter().find(|attachment| attachment.spec.node_name == node)
        })
        .await
    };
    let attachment = attached_to("n1").await;
    assert_eq!(attachment.spec.attacher, "d.example.com");
    // sha256 of "hd.example.comn1": where the kubelet looks.
    let name = attachment.metadata.name.unwrap();
    assert_eq!(name, format!("csi-{}", sha256("hd.example.comn1")));
    // The driver attaches.
    merge(&attachments, &name, true, json!({"status": {"attached": true}})).await;
    let reported = async |node: &str, wanted: &[&str]| {
        eventually(&format!("{node} is told of {wanted:?}"), async || {
            let list = nodes.get(node).await.unwrap().status?.volumes_attached.unwrap_or_default();
            let names: Vec<&str> = list.iter().map(|volume| volume.name.as_str()).collect();
            (names == wanted).then_some(())
        })
        .await;
    };
    let unique = "kubernetes.io/csi/d.example.com^h";
    reported("n1", &[unique]).await;
    // Mounted: it stays until the kubelet let go, and nobody else gets it.
    merge(&nodes, "n1", true, json!({"status": {"volumesInUse": [unique]}})).await;
    let source = json!({"name": "data", "persistentVolumeClaim": {"claimName": "first-data"}});
    create(&pods, pod("second", "n2", source)).await;
    let events: Api<Event> = Api::default_namespaced(client.clone());
    eventually("the second pod is told why it waits", async || {
        let all = events.list(&ListParams::default().fields("involvedObject.name=second")).await.unwrap().items;
        all.into_iter()
            .find(|event| event.message.as_deref().is_some_and(|text| text.starts_with("Multi-Attach error")))
    })
    .await;
    merge(&pods, "first", true, json!({"status": {"phase": "Succeeded"}})).await;
    merge(&nodes, "n1", true, json!({"status": {"volumesInUse": null}})).await;
    attached_to("n2").await;
    reported("n1", &[]).await;
    assert!(attachments.get_opt(&name).await.unwrap().is_none());
    daemon.stop().await;
}

fn sha256(text: &str) -> String {
    use std::io::Write as _;
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn device_claims_live_with_their_pods() {
    let (_server, client, daemon) = start().await;
    let templates: Api<ResourceClaimTemplate> = Api::default_namespaced(client.clone());
    let claims: Api<ResourceClaim> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    add_node(&client, "n1", 8).await;
    let device = json!({"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}});
    let spec = json!({"metadata": {"labels": {"made": "yes"}}, "spec": {"devices": {"requests": [device]}}});
    create(&templates, json!({"metadata": {"name": "gpu"}, "spec": spec})).await;
    let entry = json!({"name": "gpu", "resourceClaimTemplateName": "gpu"});
    let container = json!({"name": "c", "image": "i", "resources": {"claims": [{"name": "gpu"}]}});
    create(&pods, json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [container], "resourceClaims": [entry]}})).await;
    let name = eventually("the pod knows its claim", async || {
        let statuses = pods.get("p").await.unwrap().status?.resource_claim_statuses?;
        statuses.into_iter().find_map(|status| status.resource_claim_name)
    })
    .await;
    let made = claims.get(&name).await.unwrap();
    assert_eq!(made.metadata.labels.unwrap()["made"], "yes");
    // The scheduler was passed over: once allocated, the claim is reserved for the pod.
    let result = json!({"request": "gpu", "driver": "gpu.example.com", "pool": "n1", "device": "gpu-0"});
    merge(&claims, &name, true, json!({"status": {"allocation": {"devices": {"results": [result]}}}})).await;
    eventually("the claim is reserved", async || {
        let consumers = claims.get(&name).await.unwrap().status?.reserved_for?;
        consumers.into_iter().find(|consumer| consumer.name == "p").map(drop)
    })
    .await;
    // The device turns bad: its pod has to go.
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    let taint = json!({"key": "bad", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"});
    create(&slices, json!({"metadata": {"name": "n1-gpu"}, "spec": {"driver": "gpu.example.com", "nodeName": "n1",
        "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "gpu-0", "taints": [taint]}]}}))
    .await;
    eventually("the pod is evicted", async || {
        let pod = pods.get("p").await.unwrap();
        let conditions = pod.status?.conditions?;
        let told = conditions.iter().any(|c| c.reason.as_deref() == Some("DeletionByDeviceTaintManager"));
        (told && pod.metadata.deletion_timestamp.is_some()).then_some(())
    })
    .await;
    merge(&pods, "p", true, json!({"status": {"phase": "Succeeded"}})).await;
    eventually("the claim goes when the pod has ended", async || {
        claims.get_opt(&name).await.unwrap().is_none().then_some(())
    })
    .await;
    daemon.stop().await;
}
