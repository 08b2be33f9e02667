//! Volumes from elsewhere: a CSI driver's, and local ones.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node as NodeObject, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kubelet::wire::csi::capability::Kind;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::{FakeDriver, Node, Trouble, eventually};

const DRIVER: &str = "d.example.com";
const ALL: [Kind; 3] = [Kind::StageUnstageVolume, Kind::ExpandVolume, Kind::GetVolumeStats];

/// A CSIDriver of these wishes; without attaching, if nothing else is said.
async fn describe_driver(node: &Node, spec: Value) {
    let mut object = json!({"metadata": {"name": DRIVER}, "spec": {"attachRequired": false}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    let api: Api<CSIDriver> = Api::all(node.client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

async fn registered(node: &Node) {
    let api: Api<CSINode> = Api::all(node.client.clone());
    eventually("the driver to be in the CSINode", async || {
        let found = api.get_opt("n1").await.map_err(|error| error.to_string())?.ok_or("no CSINode")?;
        match found.spec.drivers.iter().any(|driver| driver.name == DRIVER) {
            true => Ok(()),
            false => Err(format!("{:?}", found.spec.drivers)),
        }
    })
    .await;
}

fn claims(node: &Node) -> Api<PersistentVolumeClaim> {
    Api::namespaced(node.client.clone(), "default")
}

async fn set_claim_status(node: &Node, name: &str, status: Value) {
    let patch = Patch::Merge(json!({"status": status}));
    claims(node).patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

/// A claim, and a volume of the same name that it is bound to.
async fn volume(node: &Node, name: &str, source: Value) {
    let mut claim = json!({
        "metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "volumeName": name, "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}}
        }
    });
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
        "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "default", "name": name}
    });
    for (key, value) in source.as_object().unwrap() {
        spec[key] = value.clone();
        if key == "accessModes" || key == "volumeMode" {
            claim["spec"][key] = value.clone();
        }
    }
    let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
    let claim = claims(node).create(&PostParams::default(), &claim).await.unwrap();
    spec["claimRef"]["uid"] = json!(claim.metadata.uid);
    let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    Api::all(node.client.clone()).create(&PostParams::default(), &volume).await.unwrap();
    set_claim_status(node, name, json!({"phase": "Bound", "capacity": {"storage": "1Gi"}})).await;
}

fn csi(handle: &str) -> Value {
    json!({"csi": {"driver": DRIVER, "volumeHandle": handle, "fsType": "ext4", "volumeAttributes": {"color": "blue"}}})
}

fn using(claim: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}],
    })
}

async fn calls(driver: &FakeDriver, want: &[&str]) {
    eventually(&format!("the calls {want:?}"), async || {
        let have: Vec<_> = driver.calls().into_iter().filter(|call| call != "info").collect();
        if have == want { Ok(()) } else { Err(format!("{have:?}")) }
    })
    .await;
}

async fn start() -> (Node, FakeDriver) {
    let node = Node::start().await;
    let driver = FakeDriver::start(&node.path("kubelet"), DRIVER, &ALL);
    registered(&node).await;
    (node, driver)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_is_shown_while_it_is_there() {
    let (node, mut driver) = start().await;
    let csi_nodes: Api<CSINode> = Api::all(node.client.clone());
    let nodes: Api<NodeObject> = Api::all(node.client.clone());
    let entry = csi_nodes.get("n1").await.unwrap().spec.drivers[0].clone();
    assert_eq!(entry.node_id, "node-id");
    assert_eq!(entry.topology_keys.as_deref(), Some(&["example.com/zone".to_owned()][..]));
    assert_eq!(entry.allocatable.and_then(|allocatable| allocatable.count), Some(7));
    let metadata = nodes.get("n1").await.unwrap().metadata;
    assert_eq!(metadata.labels.unwrap().get("example.com/zone").map(String::as_str), Some("z1"));
    let ids = metadata.annotations.unwrap().get("csi.volume.kubernetes.io/nodeid").cloned();
    assert_eq!(ids.as_deref(), Some("{\"d.example.com\":\"node-id\"}"));
    eventually("the driver to be told", async || match driver.told().as_slice() {
        [status] if status.plugin_registered => Ok(()),
        told => Err(format!("{told:?}")),
    })
    .await;
    // The number of volumes that fit is asked again and again when the cluster wants that.
    driver.set_max_volumes(9);
    describe_driver(&node, json!({"nodeAllocatableUpdatePeriodSeconds": 10})).await;
    eventually("the new limit", async || {
        let drivers = csi_nodes.get("n1").await.unwrap().spec.drivers;
        let count = drivers.first().and_then(|driver| driver.allocatable.clone()).and_then(|all| all.count);
        if count == Some(9) { Ok(()) } else { Err(format!("{count:?}")) }
    })
    .await;
    driver.go_away();
    eventually("the driver to be gone", async || {
        let drivers = csi_nodes.get("n1").await.unwrap().spec.drivers;
        let annotations = nodes.get("n1").await.unwrap().metadata.annotations.unwrap_or_default();
        let known = annotations.contains_key("csi.volume.kubernetes.io/nodeid");
        if drivers.is_empty() && !known { Ok(()) } else { Err(format!("{drivers:?} {annotations:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_staged_once_and_published_for_each_pod() {
    let (node, driver) = start().await;
    describe_driver(&node, json!({"podInfoOnMount": true})).await;
    volume(&node, "pv1", csi("h1")).await;
    node.run("a", using("pv1")).await;
    node.wait_for_pod_ready("a", "True").await;
    calls(&driver, &["stage h1", "publish h1"]).await;
    let uid = node.pod("a").await["metadata"]["uid"].as_str().unwrap().to_owned();
    let place = node.path(&format!("kubelet/pods/{uid}/volumes/kubernetes.io~csi/pv1/mount"));
    let request = driver.published().remove(0);
    assert_eq!(request.target_path, place.display().to_string());
    assert_eq!(request.staging_target_path, driver.staged()[0].staging_target_path);
    assert_eq!(request.volume_context["color"], "blue");
    assert_eq!(request.volume_context["csi.storage.k8s.io/pod.name"], "a");
    assert_eq!(request.volume_context["csi.storage.k8s.io/ephemeral"], "false");
    let mounts = node.runtime.config("main").unwrap().mounts;
    assert!(mounts.iter().any(|mount| mount.container_path == "/v" && mount.host_path == request.target_path));
    let facts: Value = serde_json::from_slice(&std::fs::read(place.with_file_name("vol_data.json")).unwrap()).unwrap();
    assert_eq!((&facts["specVolID"], &facts["volumeHandle"]), (&json!("pv1"), &json!("h1")));

    node.run("b", using("pv1")).await;
    node.wait_for_pod_ready("b", "True").await;
    calls(&driver, &["stage h1", "publish h1", "publish h1"]).await;
    node.delete("a", None).await;
    node.wait_until_gone("a").await;
    calls(&driver, &["stage h1", "publish h1", "publish h1", "unpublish h1"]).await;
    node.delete("b", None).await;
    node.wait_until_gone("b").await;
    calls(&driver, &["stage h1", "publish h1", "publish h1", "unpublish h1", "unpublish h1", "unstage h1"]).await;
    let staged = std::path::PathBuf::from(&driver.staged()[0].staging_target_path);
    eventually("the place to be cleaned", async || if staged.exists() { Err("it is there".into()) } else { Ok(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_in_use_before_it_is_attached_and_until_it_is_unstaged() {
    let (node, driver) = start().await;
    describe_driver(&node, json!({"attachRequired": true})).await;
    volume(&node, "pv1", csi("h1")).await;
    node.run("a", using("pv1")).await;
    let nodes: Api<NodeObject> = Api::all(node.client.clone());
    let unique = "kubernetes.io/csi/d.example.com^h1".to_owned();
    let in_use = async |want: &[String]| {
        eventually(&format!("volumesInUse {want:?}"), async || {
            let status = nodes.get("n1").await.unwrap().status.unwrap();
            let have = status.volumes_in_use.unwrap_or_default();
            if have == want { Ok(()) } else { Err(format!("{have:?}")) }
        })
        .await;
    };
    in_use(std::slice::from_ref(&unique)).await;
    // The controller's part.
    let digest = "csi-".to_owned() + &sha256(&format!("h1{DRIVER}n1"));
    let attachment = json!({
        "metadata": {"name": digest}, "spec": {
            "attacher": DRIVER, "nodeName": "n1", "source": {"persistentVolumeName": "pv1"}
        }
    });
    let attachments: Api<VolumeAttachment> = Api::all(node.client.clone());
    attachments.create(&PostParams::default(), &serde_json::from_value(attachment).unwrap()).await.unwrap();
    let attached = json!({"status": {"volumesAttached": [{"name": unique, "devicePath": ""}]}});
    nodes.patch_status("n1", &PatchParams::default(), &Patch::Strategic(attached)).await.unwrap();
    let message = node.wait_for_event("a", "FailedMount").await;
    let want = format!(
        "MountVolume.WaitForAttach failed for volume \"pv1\" : volume h1 is not attached for volume attachment {digest}"
    );
    assert_eq!(message, want);
    assert!(driver.staged().is_empty());
    let done = json!({"status": {"attached": true, "attachmentMetadata": {"lun": "5"}}});
    attachments.patch_status(&digest, &PatchParams::default(), &Patch::Merge(done)).await.unwrap();
    node.wait_for_pod_ready("a", "True").await;
    assert_eq!(driver.staged()[0].publish_context["lun"], "5");
    assert_eq!(driver.published()[0].publish_context["lun"], "5");
    let status = nodes.get("n1").await.unwrap().status.unwrap();
    assert_eq!(status.volumes_attached.unwrap()[0].name, unique, "the controller's list is left alone");
    node.delete("a", None).await;
    node.wait_until_gone("a").await;
    in_use(&[]).await;
    assert_eq!(driver.count("unstage h1"), 1);
}

fn sha256(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn troubles_of_a_driver_are_told_and_outlived() {
    let (node, mut driver) = start().await;
    describe_driver(&node, json!({})).await;
    volume(&node, "pv1", csi("h1")).await;
    volume(&node, "pv2", csi("h2")).await;
    driver.trouble("stage", Trouble::Fails(Code::Internal, "disk on fire"));
    driver.trouble("publish", Trouble::Fails(Code::Aborted, "still at it"));
    node.run("a", using("pv1")).await;
    let message = node.wait_for_event("a", "FailedMount").await;
    let want = "MountVolume.MountDevice failed for volume \"pv1\" : rpc error: code = Internal desc = disk on fire";
    assert_eq!(message, want);
    node.wait_for_pod_ready("a", "True").await;
    calls(&driver, &["stage h1", "stage h1", "publish h1", "publish h1"]).await;

    // A pod that is deleted while the driver dawdles: what it did in the end is undone.
    driver.forget_calls();
    driver.trouble("publish", Trouble::Takes(Duration::from_secs(3)));
    node.run("b", using("pv2")).await;
    eventually("the call", async || if driver.count("publish h2") == 1 { Ok(()) } else { Err(String::new()) }).await;
    node.delete("b", None).await;
    node.wait_until_gone("b").await;
    calls(&driver, &["stage h2", "publish h2", "unpublish h2", "unstage h2"]).await;

    // One that crashed keeps a pod from going, and nothing else from coming.
    driver.crash();
    node.delete("a", None).await;
    node.run("plain", json!({"containers": [{"name": "other"}]})).await;
    node.wait_for_pod_ready("plain", "True").await;
    assert!(!node.pod("a").await.is_null());
    driver.go_away();
    driver.forget_calls();
    driver.come_back();
    node.wait_until_gone("a").await;
    calls(&driver, &["unpublish h1", "unstage h1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_takes_volumes_over() {
    let (mut node, driver) = start().await;
    describe_driver(&node, json!({})).await;
    volume(&node, "pv1", csi("h1")).await;
    volume(&node, "pv2", csi("h2")).await;
    for (pod, claim) in [("a", "pv1"), ("b", "pv2")] {
        node.run(pod, using(claim)).await;
        node.wait_for_pod_ready(pod, "True").await;
    }
    let running = node.runtime.running("main");
    node.stop_kubelet().await;
    driver.forget_calls();
    node.delete("b", Some(0)).await;
    // Even a driver that refuses now takes nothing from a container that runs.
    driver.trouble("publish", Trouble::Fails(Code::Internal, "not now"));
    node.start_kubelet();
    eventually("the other pod's volume to go", async || {
        let calls = driver.calls();
        let gone = ["unpublish h2", "unstage h2"].iter().all(|call| calls.iter().any(|have| have == call));
        if gone { Ok(()) } else { Err(format!("{calls:?}")) }
    })
    .await;
    eventually("the volume to be taken over", async || {
        if driver.count("publish h1") >= 2 { Ok(()) } else { Err(format!("{:?}", driver.calls())) }
    })
    .await;
    assert_eq!((driver.count("unpublish h1"), driver.count("unstage h1")), (0, 0), "{:?}", driver.calls());
    assert!(running.iter().any(|id| node.runtime.running("main").contains(id)));
    let uid = node.pod("a").await["metadata"]["uid"].as_str().unwrap().to_owned();
    let data = node.path(&format!("kubelet/pods/{uid}/volumes/kubernetes.io~csi/pv1/mount/data"));
    assert!(data.exists());
    node.delete("a", None).await;
    node.wait_until_gone("a").await;
    eventually("the rest to go", async || {
        if driver.count("unstage h1") == 1 { Ok(()) } else { Err(format!("{:?}", driver.calls())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_may_bring_its_own_volume() {
    let (node, driver) = start().await;
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "csi": {"driver": DRIVER, "volumeAttributes": {"size": "1"}}}],
    });
    describe_driver(&node, json!({"podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"]})).await;
    node.run("a", spec).await;
    node.wait_for_pod_ready("a", "True").await;
    let uid = node.pod("a").await["metadata"]["uid"].as_str().unwrap().to_owned();
    let request = driver.published().remove(0);
    assert_eq!(request.volume_id, format!("csi-{}", sha256(&format!("{uid}v"))));
    assert_eq!(request.volume_context["csi.storage.k8s.io/ephemeral"], "true");
    assert!(request.staging_target_path.is_empty() && driver.staged().is_empty());
    // Claims are not for this driver.
    volume(&node, "pv1", csi("h1")).await;
    node.run("b", using("pv1")).await;
    let message = node.wait_for_event("b", "FailedMount").await;
    assert!(message.contains("not supported by driver d.example.com (only supports [\"Ephemeral\"])"), "{message}");
    node.delete("a", None).await;
    node.wait_until_gone("a").await;
    assert!(driver.calls().iter().any(|call| call.starts_with("unpublish csi-")), "{:?}", driver.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_with_its_claim() {
    let mut node = Node::prepare(json!({"syncFrequency": "1s"})).await;
    node.api_server.boot().await;
    node.start_kubelet();
    node.wait_for_ready("True").await;
    let driver = FakeDriver::start(&node.path("kubelet"), DRIVER, &ALL);
    registered(&node).await;
    describe_driver(&node, json!({})).await;
    volume(&node, "pv1", csi("h1")).await;
    node.run("a", using("pv1")).await;
    node.wait_for_pod_ready("a", "True").await;
    assert!(driver.expanded().is_empty());
    // The controller's part.
    let volumes: Api<PersistentVolume> = Api::all(node.client.clone());
    let larger = Patch::Merge(json!({"spec": {"capacity": {"storage": "2Gi"}}}));
    volumes.patch("pv1", &PatchParams::default(), &larger).await.unwrap();
    let status = json!({
        "allocatedResources": {"storage": "2Gi"}, "allocatedResourceStatuses": {"storage": "NodeResizePending"},
        "conditions": [{"type": "FileSystemResizePending", "status": "True"}]
    });
    set_claim_status(&node, "pv1", status).await;
    eventually("the claim to be told", async || {
        let status = claims(&node).get("pv1").await.unwrap().status.unwrap();
        let size = status.capacity.as_ref().and_then(|capacity| capacity.get("storage")).map(|size| size.0.clone());
        let pending = !status.conditions.clone().unwrap_or_default().is_empty();
        let done = size.as_deref() == Some("2Gi") && status.allocated_resource_statuses.is_none() && !pending;
        if done { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let request = driver.expanded().remove(0);
    assert_eq!(request.capacity_range.unwrap().required_bytes, 2 << 30);
    assert_eq!(request.volume_path, driver.published()[0].target_path);
    node.wait_for_event("a", "FileSystemResizeSuccessful").await;
    node.wait_for_event("pv1", "FileSystemResizeSuccessful").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pod_at_a_time_and_bound_claims_only() {
    let (node, _driver) = start().await;
    describe_driver(&node, json!({})).await;
    let mut source = csi("h1");
    source["accessModes"] = json!(["ReadWriteOncePod"]);
    volume(&node, "pv1", source).await;
    node.run("a", using("pv1")).await;
    node.wait_for_pod_ready("a", "True").await;
    node.run("b", using("pv1")).await;
    let message = node.wait_for_event("b", "FailedMount").await;
    let want = "MountVolume.SetUp failed for volume \"pv1\" : volume uses the ReadWriteOncePod access mode and is already in use by another pod";
    assert_eq!(message, want);
    node.delete("a", None).await;
    node.wait_for_pod_ready("b", "True").await;

    volume(&node, "pv2", csi("h2")).await;
    set_claim_status(&node, "pv2", json!({"phase": "Pending"})).await;
    node.run("c", using("pv2")).await;
    let message = node.wait_for_event("c", "FailedMount").await;
    let want = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: error processing PVC default/pv2: PVC is not bound";
    assert_eq!(message, want);
    set_claim_status(&node, "pv2", json!({"phase": "Bound"})).await;
    node.wait_for_pod_ready("c", "True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_measured() {
    let mut node = Node::prepare(json!({"volumeStatsAggPeriod": "1s"})).await;
    node.api_server.boot().await;
    node.start_kubelet();
    node.wait_for_ready("True").await;
    let driver = FakeDriver::start(&node.path("kubelet"), DRIVER, &ALL);
    registered(&node).await;
    describe_driver(&node, json!({})).await;
    volume(&node, "measured", csi("h1")).await;
    node.run("a", using("measured")).await;
    node.wait_for_pod_ready("a", "True").await;
    let metric = "kubelet_volume_stats_used_bytes{namespace=\"default\",persistentvolumeclaim=\"measured\"} 40";
    let text = || String::from_utf8(common::telemetry::gather_text()).unwrap();
    eventually("the metric", async || if text().contains(metric) { Ok(()) } else { Err("absent".into()) }).await;
    assert!(text().contains("csi_operations_seconds_count{driver_name=\"d.example.com\",grpc_status_code=\"OK\""));
    node.delete("a", None).await;
    node.wait_until_gone("a").await;
    eventually("the metric to go", async || if text().contains(metric) { Err("there".into()) } else { Ok(()) }).await;
    assert_eq!(driver.count("unstage h1"), 1);

    // Who writes more than allowed has to go.
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
    });
    node.run("greedy", spec).await;
    node.wait_for_pod_ready("greedy", "True").await;
    let mounts = node.runtime.config("main").unwrap().mounts;
    let place = mounts.iter().find(|mount| mount.container_path == "/v").unwrap().host_path.clone();
    std::fs::write(std::path::Path::new(&place).join("file"), vec![1; 2 << 20]).unwrap();
    let pod = node.wait_for_pod("greedy", "/status/reason", "Evicted").await;
    assert_eq!(pod["status"]["message"], "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
    assert_eq!(pod["status"]["phase"], "Failed");
}

/// Whether this process may mount; otherwise the test says that it was left out.
fn may_mount() -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !root {
        eprintln!("left out: mounting needs root");
    }
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_mapped() {
    if !may_mount() {
        return;
    }
    let (node, driver) = start().await;
    describe_driver(&node, json!({})).await;
    let mut source = csi("h1");
    source["volumeMode"] = json!("Block");
    volume(&node, "pv1", source).await;
    let mut spec = using("pv1");
    spec["containers"][0]["volumeMounts"] = Value::Null;
    spec["containers"][0]["volumeDevices"] = json!([{"name": "v", "devicePath": "/dev/v"}]);
    node.run("a", spec).await;
    node.wait_for_pod_ready("a", "True").await;
    let device = node.runtime.config("main").unwrap().devices.remove(0);
    assert_eq!((device.container_path.as_str(), device.permissions.as_str()), ("/dev/v", "mrw"));
    assert_eq!(std::fs::read_to_string(&device.host_path).unwrap(), "device");
    let published = driver.published().remove(0).target_path;
    assert_eq!(std::fs::read_link(&device.host_path).unwrap().display().to_string(), published);
    node.delete("a", None).await;
    node.wait_until_gone("a").await;
    calls(&driver, &["stage h1", "publish h1", "unpublish h1", "unstage h1"]).await;
    assert!(!std::path::Path::new(&published).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn local_volumes_are_bound_into_pods() {
    if !may_mount() {
        return;
    }
    let mut node = Node::start().await;
    std::fs::create_dir(node.path("disk")).unwrap();
    std::fs::write(node.path("disk/file"), "precious").unwrap();
    let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}
    ]}]}});
    let source = json!({"local": {"path": node.path("disk")}, "nodeAffinity": affinity});
    volume(&node, "pv1", source).await;
    node.run("a", using("pv1")).await;
    node.wait_for_pod_ready("a", "True").await;
    let uid = node.pod("a").await["metadata"]["uid"].as_str().unwrap().to_owned();
    let place = node.path(&format!("kubelet/pods/{uid}/volumes/kubernetes.io~local-volume/pv1"));
    assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "precious");
    let mounts = || {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(&place.display().to_string())).count()
    };
    assert_eq!(mounts(), 1);
    node.stop_kubelet().await;
    node.start_kubelet();
    node.run("b", json!({"containers": [{"name": "other"}]})).await;
    node.wait_for_pod_ready("b", "True").await;
    assert_eq!(mounts(), 1, "neither unmounted nor doubled");
    node.delete("a", None).await;
    node.wait_until_gone("a").await;
    assert_eq!(mounts(), 0);
    eventually("the pod's directory to go", async || if place.exists() { Err("there".into()) } else { Ok(()) }).await;
    assert_eq!(std::fs::read_to_string(node.path("disk/file")).unwrap(), "precious");
}
