use serde_json::{Value, json};

use super::*;
use crate::testing::{Cluster, NodeBuilder, PodBuilder, claim, node, pod, pod_info, storage_class, volume};

const NONE: &str = "node(s) didn't find available persistent volumes to bind";
const FAR: &str = "node(s) didn't match PersistentVolume's node affinity";
const FULL: &str = "node(s) did not have enough free storage";

fn plugin(storage: Storage) -> VolumeBinding {
    let services = Services { storage: Arc::new(storage), ..Services::default() };
    VolumeBinding::new(&VolumeBindingArgs::default(), &services)
}

fn sized(name: &str, class: &str, size: &str) -> PersistentVolumeClaim {
    claim(
        name,
        json!({"storageClassName": class, "resources": {"requests": {"storage": size}},
                       "accessModes": ["ReadWriteOnce"]}),
        json!({}),
    )
}

fn disk(name: &str, size: &str, host: Option<&str>) -> Value {
    let mut spec = json!({"storageClassName": "local", "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
                          "local": {"path": format!("/{name}")}});
    if let Some(host) = host {
        spec["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}});
    }
    spec
}

fn storage() -> Storage {
    let storage = Storage::detached();
    storage.classes.apply(storage_class("local", "WaitForFirstConsumer", "kubernetes.io/no-provisioner"));
    storage.classes.apply(storage_class("made", "WaitForFirstConsumer", "d"));
    storage.classes.apply(storage_class("now", "Immediate", "d"));
    for (name, size, host) in [("s1", "1Gi", "n1"), ("m1", "5Gi", "n1"), ("l2", "10Gi", "n2")] {
        storage.volumes.informer.apply(volume(name, json!({}), disk(name, size, Some(host))));
    }
    storage
}

fn nodes() -> Vec<NodeBuilder> {
    vec![node("n1").label("zone", "a"), node("n2").label("zone", "b"), node("n3")]
}

fn verdicts(plugin: &VolumeBinding, pod: &PodBuilder) -> Vec<String> {
    Cluster::new(&nodes()).verdicts(plugin, &pod_info(pod))
}

#[test]
fn what_a_claim_must_be() {
    let storage = storage();
    storage.claims.informer.apply(claim("now", json!({"storageClassName": "now"}), json!({})));
    storage.claims.informer.apply(claim("classless", json!({}), json!({})));
    let mut lost = claim("lost", json!({"volumeName": "x"}), json!({}));
    lost.status.get_or_insert_default().phase = Some("Lost".into());
    storage.claims.informer.apply(lost);
    storage.claims.informer.apply(claim("p-scratch", json!({"volumeName": "s1"}), json!({})));
    storage.claims.informer.apply(claim("orphan", json!({"volumeName": "gone"}), json!({})));
    let plugin = plugin(storage);
    let ephemeral = |name: &str| pod(name).spec("volumes", json!([{"name": "scratch", "ephemeral": {}}]));
    for (pod, expected) in [
        (pod("p").claim("none"), "persistentvolumeclaim \"none\" not found"),
        (pod("p").claim("now"), "pod has unbound immediate PersistentVolumeClaims"),
        (pod("p").claim("classless"), "pod has unbound immediate PersistentVolumeClaims"),
        (pod("p").claim("lost"), "persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"x\""),
        (ephemeral("q"), "waiting for ephemeral volume controller to create the persistentvolumeclaim \"q-scratch\""),
        (ephemeral("p"), "PVC default/p-scratch was not created for pod default/p (pod is not owner)"),
        (pod("p").claim("orphan"), "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
        (pod("p"), ""),
    ] {
        assert_eq!(verdicts(&plugin, &pod), [expected; 3], "{pod:?}", pod = pod.build().spec);
    }
}

#[test]
fn bound_volumes_must_be_in_reach() {
    let storage = storage();
    storage.claims.informer.apply(claim("data", json!({"volumeName": "m1"}), json!({})));
    assert_eq!(verdicts(&plugin(storage), &pod("p").claim("data")), ["", FAR, FAR]);
}

#[test]
fn static_volumes_are_matched_smallest_first() {
    let storage = storage();
    storage.claims.informer.apply(sized("small", "local", "1Gi"));
    storage.claims.informer.apply(sized("large", "local", "2Gi"));
    storage.claims.informer.apply(sized("huge", "local", "100Gi"));
    let plugin = plugin(storage);
    let both = pod("p").claim("large").claim("small");
    assert_eq!(verdicts(&plugin, &pod("p").claim("small")), ["", "", NONE]);
    assert_eq!(verdicts(&plugin, &both), ["", NONE, NONE]);
    assert_eq!(verdicts(&plugin, &pod("p").claim("huge")), [NONE; 3]);
    let cluster = Cluster::new(&nodes());
    let found = plugin.search(&pod_info(&both)).unwrap().on(&cluster.snapshot.node(0)).unwrap();
    let chosen: Vec<_> = found
        .bindings
        .iter()
        .map(|(volume, claim)| (volume.metadata.name.as_deref().unwrap(), claim.metadata.name.as_deref().unwrap()))
        .collect();
    assert_eq!(chosen, [("s1", "small"), ("m1", "large")]);
}

#[test]
fn a_reserved_volume_is_the_only_one() {
    let storage = storage();
    storage.claims.informer.apply(sized("small", "local", "1Gi"));
    let mut spec = disk("mine", "1Gi", Some("n3"));
    spec["claimRef"] = json!({"name": "small", "namespace": "default"});
    storage.volumes.informer.apply(volume("mine", json!({}), spec));
    assert_eq!(verdicts(&plugin(storage), &pod("p").claim("small")), [NONE, NONE, ""]);
}

#[test]
fn volumes_are_made_where_class_and_room_allow() {
    let storage = storage();
    storage.claims.informer.apply(sized("data", "made", "5Gi"));
    storage.claims.informer.apply(claim(
        "chosen",
        json!({"storageClassName": "made"}),
        json!({facts::SELECTED_NODE: "n2"}),
    ));
    let plugin = plugin(storage);
    let data = pod("p").claim("data");
    assert_eq!(verdicts(&plugin, &data), ["", "", ""]);
    assert_eq!(verdicts(&plugin, &pod("p").claim("chosen")), [NONE, "", NONE]);
    let driver = json!({"metadata": {"name": "d"}, "spec": {"storageCapacity": true}});
    plugin.storage.csi_drivers.apply(serde_json::from_value(driver).unwrap());
    for (name, zone, capacity) in [("a", "a", "10Gi"), ("b", "b", "1Gi")] {
        let pool = json!({"metadata": {"name": name, "namespace": "kube-system"}, "storageClassName": "made",
            "nodeTopology": {"matchLabels": {"zone": zone}}, "capacity": capacity});
        plugin.storage.capacities.apply(serde_json::from_value(pool).unwrap());
    }
    assert_eq!(verdicts(&plugin, &data), ["", FULL, FULL]);
    let mut class = storage_class("made", "WaitForFirstConsumer", "d");
    let term = json!({"matchLabelExpressions": [{"key": "zone", "values": ["b"]}]});
    class.allowed_topologies = Some(vec![serde_json::from_value(term).unwrap()]);
    plugin.storage.classes.apply(class);
    assert_eq!(verdicts(&plugin, &data), [NONE, FULL, NONE]);
}

/// Reserves for a pod on the node of a slot.
fn reserve(plugin: &VolumeBinding, cluster: &Cluster, pod: &PodInfo, slot: u32) -> Verdict {
    plugin.reserve(&cluster.context(pod), pod, &cluster.snapshot.node(slot))
}

#[test]
fn a_volume_is_promised_once_and_given_back() {
    let storage = storage();
    storage.claims.informer.apply(sized("one", "local", "8Gi"));
    storage.claims.informer.apply(sized("two", "local", "8Gi"));
    storage.claims.informer.apply(sized("data", "made", "5Gi"));
    let plugin = plugin(storage);
    let cluster = Cluster::new(&nodes());
    let (first, second) = (pod_info(&pod("first").claim("one")), pod("second").claim("two"));
    reserve(&plugin, &cluster, &first, 1).unwrap();
    assert_eq!(verdicts(&plugin, &second), [NONE; 3], "l2 is promised");
    let promised = plugin.storage.volumes.get("l2").unwrap();
    let reference = promised.spec.as_ref().unwrap().claim_ref.as_ref().unwrap();
    assert_eq!((reference.name.as_deref(), reference.uid.as_deref()), (Some("one"), Some("one")));
    assert_eq!(facts::annotation(&promised.metadata, facts::BOUND_BY_CONTROLLER), Some("yes"));
    plugin.unreserve(&first, "n2");
    assert_eq!(verdicts(&plugin, &second), [NONE, "", NONE]);
    let third = pod_info(&pod("third").claim("data"));
    reserve(&plugin, &cluster, &third, 2).unwrap();
    assert_eq!(
        verdicts(&plugin, &pod("other").claim("data")),
        [NONE, NONE, ""],
        "the claim goes where its first pod goes"
    );
}

#[tokio::test]
async fn without_a_server_nothing_stays_assumed() {
    let storage = storage();
    storage.claims.informer.apply(sized("one", "local", "8Gi"));
    let plugin = plugin(storage);
    let cluster = Cluster::new(&nodes());
    let first = pod_info(&pod("first").claim("one"));
    reserve(&plugin, &cluster, &first, 1).unwrap();
    let status = plugin.pre_bind(&first, "n2").await.unwrap_err();
    assert_eq!(status.code, Code::Error);
    assert!(plugin.storage.volumes.get("l2").unwrap().spec.as_ref().unwrap().claim_ref.is_none());
}

#[test]
fn hints_ask_whether_the_pod_is_concerned() {
    let plugin = plugin(storage());
    let waiting = pod_info(&pod("p").claim("data"));
    let other = |old: Option<PersistentVolumeClaim>, new| ClusterEvent {
        resource: Resource::PersistentVolumeClaim,
        action: action::ADD,
        label: "PersistentVolumeClaimAdd",
        objects: crate::framework::events::Objects::Other(old.map(|c| Arc::new(c) as _), Some(Arc::new(new) as _)),
    };
    assert_eq!(plugin.hint(&waiting, &other(None, sized("data", "made", "1"))), Hint::Queue);
    assert_eq!(plugin.hint(&waiting, &other(None, sized("else", "made", "1"))), Hint::Skip);
}
