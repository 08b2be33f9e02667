//! The workloads: numbers of nodes and pods, and what pods and nodes look like, as upstream's scheduler_perf has them.

use serde_json::{Value, json};

/// A kind of pod.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// 100m and 500Mi.
    Plain,
    /// 900m, of priority 0, may be ended at once.
    Low,
    /// 3 cores, of priority 10.
    High,
    /// 9 cores, which no node has, of priority 10.
    TooLarge,
    /// In a zone that is one of two.
    OnZones,
    /// In the zone of another of its kind.
    Near,
    /// Never on the node of another of its kind.
    Apart,
    /// Rather on the node of another of its kind.
    RatherNear,
    /// Rather not on the node of another of its kind.
    RatherApart,
    /// Evenly spread over zones.
    Spread,
    /// Rather evenly spread over zones.
    RatherSpread,
    /// On one node by its name.
    Pinned,
    /// With a claim that is bound to a CSI volume.
    WithVolume,
    /// With a device from a claim template.
    WithDevice,
}

/// Pods of a kind, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Pods {
    /// How many, before scaling.
    pub count: usize,
    /// Which.
    pub shape: Shape,
    /// Where.
    pub namespace: &'static str,
}

/// A workload.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Upstream's name.
    pub name: &'static str,
    /// Nodes, before scaling.
    pub nodes: usize,
    /// The zones that nodes are in by turns.
    pub zones: &'static [&'static str],
    /// Pods that are there before anything is measured.
    pub before: Vec<Pods>,
    /// One of these more every 200 ms while it is measured.
    pub churn: Option<Shape>,
    /// The pods whose placing is measured.
    pub measured: Pods,
}

/// The node that pinned pods want.
pub const PINNED: &str = "scheduler-perf-node";
/// The driver of volumes.
pub const VOLUMES: &str = "ebs.csi.aws.com";
/// The driver of devices.
pub const DEVICES: &str = "test-driver.cdi.k8s.io";
/// Where pods are.
pub const NAMESPACES: [&str; 2] = ["sched-0", "sched-1"];

/// All of them.
pub fn all() -> Vec<Workload> {
    use Shape::{
        Apart, High, Low, Near, OnZones, Pinned, Plain, RatherApart, RatherNear, RatherSpread, Spread, TooLarge,
        WithDevice, WithVolume,
    };
    const ONE: &[&str] = &["zone1"];
    const THREE: &[&str] = &["moon-1", "moon-2", "moon-3"];
    let first = |count, shape| Pods { count, shape, namespace: NAMESPACES[0] };
    let of = |name, nodes, zones, before: &[Pods], churn, count, shape| Workload {
        name,
        nodes,
        zones,
        before: before.to_vec(),
        churn,
        measured: Pods { count, shape, namespace: NAMESPACES[1] },
    };
    let mixed: Vec<Pods> = [Plain, Near, Apart, RatherNear, RatherApart].map(|shape| first(2000, shape)).into();
    vec![
        of("SchedulingBasic", 5000, &[], &[first(1000, Plain)], None, 10_000, Plain),
        of("SchedulingPodAntiAffinity", 5000, &[], &[first(1000, Apart)], None, 2000, Apart),
        of("SchedulingPodAffinity", 5000, ONE, &[first(5000, Near)], None, 5000, Near),
        of("TopologySpreading", 5000, THREE, &[first(5000, Plain)], None, 5000, Spread),
        of("PreferredTopologySpreading", 5000, THREE, &[first(5000, Plain)], None, 5000, RatherSpread),
        of("SchedulingNodeAffinity", 5000, ONE, &[first(5000, OnZones)], None, 10_000, OnZones),
        of("PreemptionAsync", 5000, &[], &[first(20_000, Low)], Some(High), 5000, Plain),
        of("Unschedulable", 5000, &[], &[first(100, Plain)], Some(TooLarge), 10_000, Plain),
        of("SchedulingDaemonset", 15_000, &[], &[], None, 30_000, Pinned),
        of("MixedSchedulingBasePod", 5000, ONE, &mixed, None, 5000, Plain),
        of("SchedulingCSIPVs", 5000, &[], &[first(5000, WithVolume)], None, 5000, WithVolume),
        of("SchedulingWithResourceClaimTemplate", 500, &[], &[first(2500, WithDevice)], None, 2500, WithDevice),
    ]
}

impl Workload {
    /// A smaller (or larger) one of its kind.
    pub fn scaled(mut self, scale: f64) -> Self {
        let scaled = |count: usize| ((count as f64 * scale).ceil() as usize).max(1);
        self.nodes = scaled(self.nodes);
        self.before.iter_mut().for_each(|pods| pods.count = scaled(pods.count));
        self.measured.count = scaled(self.measured.count);
        self
    }

    /// All kinds of pods in it.
    pub fn shapes(&self) -> impl Iterator<Item = Shape> + '_ {
        self.before.iter().map(|pods| pods.shape).chain(self.churn).chain([self.measured.shape])
    }

    /// Whether claims must be made from templates by a controller.
    pub fn needs_controllers(&self) -> bool {
        self.shapes().any(|shape| matches!(shape, Shape::WithDevice))
    }

    /// The name of a node; the last one is there to be pinned to, if anything is.
    pub fn node_name(&self, number: usize) -> String {
        let pinned = number + 1 == self.nodes && matches!(self.measured.shape, Shape::Pinned);
        if pinned { PINNED.to_owned() } else { format!("scheduler-perf-{number}") }
    }

    /// A node.
    pub fn node(&self, number: usize) -> Value {
        let name = self.node_name(number);
        let pods = if name == PINNED { "90000" } else { "110" };
        let room = json!({"cpu": "4", "memory": "32Gi", "pods": pods});
        let mut labels = json!({"kubernetes.io/hostname": name});
        if !self.zones.is_empty() {
            labels["topology.kubernetes.io/zone"] = json!(self.zones[number % self.zones.len()]);
        }
        json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": name, "labels": labels},
            "status": {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}})
    }
}

/// A pod.
pub fn pod(shape: Shape, namespace: &str, name: &str) -> Value {
    let (cpu, memory) = match shape {
        Shape::Low => ("900m", "500Mi"),
        Shape::High => ("3", "500Mi"),
        Shape::TooLarge => ("9", "500Mi"),
        Shape::Pinned | Shape::WithDevice => ("0", "0"),
        _ => ("100m", "500Mi"),
    };
    let mut container =
        json!({"name": "pause", "image": "registry.k8s.io/pause:3.10.2", "ports": [{"containerPort": 80}]});
    if cpu != "0" {
        container["resources"] =
            json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}});
    }
    let mut spec = json!({"containers": [container], "terminationGracePeriodSeconds": 0});
    let mut labels = json!({});
    constrain(shape, name, &mut spec, &mut labels);
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": spec})
}

fn constrain(shape: Shape, name: &str, spec: &mut Value, labels: &mut Value) {
    const HOST: &str = "kubernetes.io/hostname";
    const ZONE: &str = "topology.kubernetes.io/zone";
    let term = |key: &str, color: &str| json!({"topologyKey": key, "namespaces": NAMESPACES, "labelSelector": {"matchLabels": {"color": color}}});
    let required = |term: Value| json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]});
    let preferred = |term: Value| json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]});
    let spread = |when: &str| {
        json!([{"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"color": "blue"}}}])
    };
    let on_nodes = |term: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}});
    let mut color = |name: &str| labels["color"] = json!(name);
    match shape {
        Shape::Plain | Shape::Low => {}
        Shape::High | Shape::TooLarge => spec["priority"] = json!(10),
        Shape::OnZones => {
            let zones = json!({"key": ZONE, "operator": "In", "values": ["zone1", "zone2"]});
            spec["affinity"] = on_nodes(json!({"matchExpressions": [zones]}));
        }
        Shape::Near => {
            color("blue");
            spec["affinity"] = json!({"podAffinity": required(term(ZONE, "blue"))});
        }
        Shape::Apart => {
            color("green");
            spec["affinity"] = json!({"podAntiAffinity": required(term(HOST, "green"))});
        }
        Shape::RatherNear => {
            color("red");
            spec["affinity"] = json!({"podAffinity": preferred(term(HOST, "red"))});
        }
        Shape::RatherApart => {
            color("yellow");
            spec["affinity"] = json!({"podAntiAffinity": preferred(term(HOST, "yellow"))});
        }
        Shape::Spread => {
            color("blue");
            spec["topologySpreadConstraints"] = spread("DoNotSchedule");
        }
        Shape::RatherSpread => {
            color("blue");
            spec["topologySpreadConstraints"] = spread("ScheduleAnyway");
        }
        Shape::Pinned => {
            let field = json!({"key": "metadata.name", "operator": "In", "values": [PINNED]});
            spec["affinity"] = on_nodes(json!({"matchFields": [field]}));
        }
        Shape::WithVolume => {
            spec["volumes"] = json!([{"name": "vol", "persistentVolumeClaim": {"claimName": name}}]);
        }
        Shape::WithDevice => {
            spec["resourceClaims"] = json!([{"name": "resource", "resourceClaimTemplateName": "test-claim-template"}]);
            spec["containers"][0]["resources"] = json!({"claims": [{"name": "resource"}]});
        }
    }
}

/// A volume and the claim that is bound to it, both of the pod's name.
pub fn volume_and_claim(namespace: &str, name: &str) -> (Value, Value) {
    let size = json!({"storage": "1Gi"});
    let volume = json!({"kind": "PersistentVolume", "apiVersion": "v1", "metadata": {"name": name}, "spec": {
        "accessModes": ["ReadOnlyMany"], "capacity": size, "persistentVolumeReclaimPolicy": "Retain",
        "csi": {"driver": VOLUMES, "volumeHandle": name},
        "claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": namespace, "name": name}}});
    let claim = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "annotations": {"pv.kubernetes.io/bind-completed": "true"}},
        "spec": {"accessModes": ["ReadOnlyMany"], "resources": {"requests": size}, "volumeName": name}});
    (volume, claim)
}

/// What a node's CSI driver says.
pub fn csi_node(name: &str) -> Value {
    json!({"kind": "CSINode", "apiVersion": "storage.k8s.io/v1", "metadata": {"name": name}, "spec": {"drivers": [
        {"name": VOLUMES, "nodeID": name, "allocatable": {"count": 39}}]}})
}

/// Ten devices of a node.
pub fn resource_slice(name: &str) -> Value {
    let devices: Vec<Value> = (0..10).map(|number| json!({"name": format!("instance-{number}")})).collect();
    json!({"kind": "ResourceSlice", "apiVersion": "resource.k8s.io/v1", "metadata": {"name": name}, "spec": {
        "driver": DEVICES, "nodeName": name, "devices": devices,
        "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}}})
}

/// The class of devices.
pub fn device_class() -> Value {
    let expression = format!("device.driver == {DEVICES:?}");
    json!({"kind": "DeviceClass", "apiVersion": "resource.k8s.io/v1", "metadata": {"name": "test-class"},
        "spec": {"selectors": [{"cel": {"expression": expression}}]}})
}

/// The template of claims for a device.
pub fn claim_template(namespace: &str) -> Value {
    let request = json!({"name": "req-0", "exactly": {"deviceClassName": "test-class"}});
    json!({"kind": "ResourceClaimTemplate", "apiVersion": "resource.k8s.io/v1",
        "metadata": {"name": "test-claim-template", "namespace": namespace},
        "spec": {"spec": {"devices": {"requests": [request]}}}})
}
