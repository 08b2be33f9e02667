//! The plugin's decisions, without an API server.

use serde_json::{Value, json};

use super::*;
use crate::framework::events::{ClusterEvent, Hint, Objects, Resource, action};
use crate::framework::status::Code;
use crate::testing::{Cluster, NodeBuilder, PodBuilder, node, pod as new_pod, pod_info};

struct World {
    plugin: DynamicResources,
    cluster: Cluster,
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl World {
    /// Nodes n1 and n2 with so many devices each, and the class `gpu`.
    fn new(devices: [usize; 2]) -> Self {
        Self::with([node("n1"), node("n2")], devices)
    }

    fn with(nodes: [NodeBuilder; 2], devices: [usize; 2]) -> Self {
        let services = Services::default();
        let plugin = DynamicResources::new(&DynamicResourcesArgs::default(), "default-scheduler", &services);
        for (number, count) in (1..).zip(devices) {
            let devices: Vec<_> = (0..count).map(|at| json!({"name": format!("d{at}")})).collect();
            let name = format!("n{number}");
            let pool = json!({"name": name, "generation": 1, "resourceSliceCount": 1});
            let spec = json!({"driver": "gpu.example.com", "pool": pool, "nodeName": name, "devices": devices});
            plugin.devices.slices.apply(parse(json!({"metadata": {"name": name}, "spec": spec})));
        }
        let spec = json!({"extendedResourceName": "example.com/gpu"});
        plugin.devices.classes.apply(parse(json!({"metadata": {"name": "gpu"}, "spec": spec})));
        Self { plugin, cluster: Cluster::new(&nodes) }
    }

    fn claim(&self, name: &str, status: Value) {
        let meta = json!({"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"});
        let exactly = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1});
        let spec = json!({"devices": {"requests": [{"name": "r", "exactly": exactly}]}});
        self.plugin.devices.claims.informer.apply(parse(json!({"metadata": meta, "spec": spec, "status": status})));
    }

    fn verdicts(&self, pod: &PodBuilder) -> Vec<String> {
        self.cluster.verdicts(&self.plugin, &pod_info(pod))
    }

    /// Filters all nodes and reserves one.
    fn place(&self, pod: &PodBuilder, on: &str) -> Arc<PodInfo> {
        let info = pod_info(pod);
        assert_eq!(self.verdict(&info, on), "");
        let cx = self.cluster.context(&info);
        let slot = self.cluster.snapshot.by_name[on];
        self.plugin.reserve(&cx, &info, &self.cluster.snapshot.node(slot)).unwrap();
        info
    }

    fn verdict(&self, pod: &PodInfo, on: &str) -> String {
        let at = ["n1", "n2"].iter().position(|name| *name == on).unwrap();
        // PreFilter once, then the one node: as a decision does.
        let cx = self.cluster.context(pod);
        let state = match self.plugin.pre_filter(&cx) {
            Ok(PreFiltered::Continue { state, .. }) => state,
            Ok(PreFiltered::Skip) => return String::new(),
            Err(status) => return status.message(),
        };
        let view = self.cluster.snapshot.node(at as u32);
        self.plugin.filter(&cx, state.as_deref(), &view).map_or_else(|status| status.message(), |()| String::new())
    }
}

fn using(name: &str, claim: &str) -> PodBuilder {
    new_pod(name).spec("resourceClaims", json!([{"name": "c", "resourceClaimName": claim}]))
}

fn allocated(node: &str, device: &str, reserved: Value) -> Value {
    let terms = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]);
    let results = json!([{"driver": "gpu.example.com", "pool": node, "device": device, "request": "r"}]);
    json!({"allocation": {"devices": {"results": results}, "nodeSelector": {"nodeSelectorTerms": terms}},
           "reservedFor": reserved})
}

#[test]
fn claims_must_be_there() {
    let world = World::new([1, 1]);
    let gate = |pod: &PodBuilder| world.plugin.pre_enqueue(&pod_info(pod)).map_err(|status| status.message());
    assert_eq!(gate(&using("p", "gone")), Err("could not find ResourceClaim \"default/gone\"".into()));
    let made = new_pod("p").spec("resourceClaims", json!([{"name": "c", "resourceClaimTemplateName": "t"}]));
    assert_eq!(gate(&made), Err("pod \"default/p\": ResourceClaim not created yet".into()));
    let named = made.clone().status("resourceClaimStatuses", json!([{"name": "c", "resourceClaimName": "p-c"}]));
    world.claim("p-c", json!({}));
    let other = "ResourceClaim default/p-c was not created for Pod default/p (Pod is not owner)";
    assert_eq!(gate(&named), Err(other.into()));
    assert_eq!(gate(&made.status("resourceClaimStatuses", json!([{"name": "c"}]))), Ok(()), "left out on purpose");
    assert_eq!(gate(&new_pod("p")), Ok(()));
    assert_eq!(gate(&using("p", "p-c")), Ok(()));
}

#[test]
fn a_device_is_promised_once() {
    let world = World::new([1, 2]);
    let free = ["", ""];
    for name in ["a", "b", "c", "d"] {
        world.claim(name, json!({}));
    }
    assert_eq!(world.verdicts(&using("p", "a")), free);
    let first = world.place(&using("p", "a"), "n1");
    assert_eq!(world.verdicts(&using("q", "b")), ["cannot allocate all claims", ""]);
    let waits = "resource claim default/a is in the process of being allocated";
    assert_eq!(world.verdicts(&using("q", "a")), [waits, waits]);
    world.place(&using("q", "b"), "n2");
    world.place(&using("r", "c"), "n2");
    let none = ["cannot allocate all claims"; 2];
    assert_eq!(world.verdicts(&using("s", "d")), none);
    assert_eq!(
        world.cluster.code(&world.plugin, &pod_info(&using("s", "d")), "n1"),
        Some(Code::UnschedulableAndUnresolvable)
    );
    world.plugin.unreserve(&first, "n1");
    world.plugin.unreserve(&first, "n1");
    assert_eq!(world.verdicts(&using("s", "d")), ["", "cannot allocate all claims"]);
}

#[test]
fn allocated_claims_bind_pods_to_their_nodes() {
    let world = World::new([1, 1]);
    world.claim("a", allocated("n2", "d0", json!([])));
    let elsewhere = "resourceclaim not available on the node";
    assert_eq!(world.verdicts(&using("p", "a")), [elsewhere, ""]);
    world.claim("b", json!({}));
    assert_eq!(world.verdicts(&using("p", "b")), ["", "cannot allocate all claims"]);
    world.place(&using("p", "a"), "n2");
}

#[test]
fn missing_classes_are_named() {
    let world = World::new([1, 1]);
    world.claim("a", json!({}));
    world.plugin.devices.classes.remove("gpu", None);
    let text = "request r: device class gpu does not exist";
    assert_eq!(world.verdicts(&using("p", "a")), [text, text]);
}

#[test]
fn extended_resources_come_from_devices_where_the_node_has_none() {
    let world = World::with([node("n1"), node("n2").allocatable("example.com/gpu", "1")], [1, 1]);
    let pod = new_pod("p").request("example.com/gpu", "1");
    assert_eq!(world.verdicts(&pod), ["", ""]);
    world.place(&pod, "n1");
    assert_eq!(world.plugin.devices.claims.allocated().len(), 1);
    assert_eq!(world.verdicts(&new_pod("q").request("example.com/gpu", "1")), ["cannot allocate all claims", ""]);
    let by_class = new_pod("r").request("deviceclass.resource.kubernetes.io/gpu", "1");
    assert_eq!(world.verdicts(&by_class), ["cannot allocate all claims", ""]);
    world.place(&new_pod("q").request("example.com/gpu", "1"), "n2");
    assert_eq!(world.plugin.devices.claims.allocated().len(), 1, "the node's own were enough");
    assert_eq!(world.verdicts(&new_pod("s").request("other.example.com/x", "1")), ["", ""], "none of our business");
}

#[test]
fn events_that_help() {
    let world = World::new([1, 1]);
    world.claim("a", json!({}));
    let waiting = pod_info(&using("p", "a"));
    let claim = |name: &str, status: Value| -> Arc<ResourceClaim> {
        Arc::new(parse(
            json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {}, "status": status}),
        ))
    };
    let hint = |old: Option<Arc<ResourceClaim>>, new: Arc<ResourceClaim>| {
        let objects = Objects::Other(old.map(|old| old as _), Some(new as _));
        let event = ClusterEvent { resource: Resource::ResourceClaim, action: action::UPDATE, label: "", objects };
        world.plugin.hint(&waiting, &event)
    };
    let held = allocated("n1", "d0", json!([]));
    for (old, new, expected) in [
        (None, claim("a", json!({})), Hint::Queue),
        (None, claim("b", json!({})), Hint::Skip),
        (Some(claim("a", json!({}))), claim("a", json!({})), Hint::Skip),
        (Some(claim("a", json!({}))), claim("a", held.clone()), Hint::Queue),
        (Some(claim("b", json!({}))), claim("b", held.clone()), Hint::Skip),
        (Some(claim("b", held.clone())), claim("b", json!({})), Hint::Queue),
    ] {
        assert_eq!(hint(old.clone(), new.clone()), expected, "{old:?} {new:?}");
    }
    let template = new_pod("p").spec("resourceClaims", json!([{"name": "c", "resourceClaimTemplateName": "t"}]));
    let before = pod_info(&template);
    let after = pod_info(&template.status("resourceClaimStatuses", json!([{"name": "c"}])));
    let changes = crate::framework::events::pod_changes(&before, &after);
    assert_eq!(changes.len(), 1);
    assert!(world.plugin.interests().iter().any(|interest| interest.matches(&changes[0])));
    assert_eq!(world.plugin.hint(&before, &changes[0]), Hint::Queue);
}
