//! Builders for table tests: nodes, pods and a small cluster to ask a plugin about.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::cache::snapshot::Snapshot;
use crate::framework::plugin::{CycleContext, Plugin, PreFiltered, PreScored};
use crate::framework::pod::PodInfo;
use crate::framework::status::Code;
use crate::framework::template::Interner;

pub static INTERNER: LazyLock<Interner> = LazyLock::new(Interner::default);

/// A node under construction.
#[derive(Clone)]
pub struct NodeBuilder(Value);

/// A node with 32 cores, 64Gi and 110 pods.
pub fn node(name: &str) -> NodeBuilder {
    NodeBuilder(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"taints": []},
        "status": {"allocatable": {"cpu": "32", "memory": "64Gi", "pods": "110"}, "images": []},
    }))
}

impl NodeBuilder {
    pub fn allocatable(mut self, resource: &str, amount: &str) -> Self {
        self.0["status"]["allocatable"][resource] = json!(amount);
        self
    }
    pub fn cpu(self, amount: &str) -> Self {
        self.allocatable("cpu", amount)
    }
    pub fn memory(self, amount: &str) -> Self {
        self.allocatable("memory", amount)
    }
    pub fn pods(self, amount: &str) -> Self {
        self.allocatable("pods", amount)
    }
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = json!(value);
        self
    }
    pub fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        let taints = self.0["spec"]["taints"].as_array_mut().unwrap();
        taints.push(json!({"key": key, "value": value, "effect": effect}));
        self
    }
    pub fn features(mut self, names: &[&str]) -> Self {
        self.0["status"]["declaredFeatures"] = json!(names);
        self
    }
    pub fn cordoned(mut self) -> Self {
        self.0["spec"]["unschedulable"] = json!(true);
        self
    }
    pub fn image(mut self, name: &str, size: i64) -> Self {
        let images = self.0["status"]["images"].as_array_mut().unwrap();
        images.push(json!({"names": [name], "sizeBytes": size}));
        self
    }
    pub fn build(&self) -> Arc<Node> {
        Arc::new(serde_json::from_value(self.0.clone()).unwrap())
    }
}

/// A pod under construction.
#[derive(Clone)]
pub struct PodBuilder(Value);

/// A pod with one container that requests nothing.
pub fn pod(name: &str) -> PodBuilder {
    PodBuilder(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {}}, "ports": []}]},
    }))
}

impl PodBuilder {
    pub fn spec(mut self, field: &str, value: Value) -> Self {
        self.0["spec"][field] = value;
        self
    }
    pub fn status(mut self, field: &str, value: Value) -> Self {
        self.0["status"][field] = value;
        self
    }
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.0["metadata"]["namespace"] = json!(namespace);
        self
    }
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = json!(value);
        self
    }
    pub fn priority(self, priority: i32) -> Self {
        self.spec("priority", json!(priority))
    }
    pub fn scheduler(self, name: &str) -> Self {
        self.spec("schedulerName", json!(name))
    }
    pub fn gates(self, gates: &[&str]) -> Self {
        self.spec("schedulingGates", gates.iter().map(|gate| json!({"name": gate})).collect())
    }
    pub fn toleration(mut self, key: &str, operator: &str, value: &str, effect: &str) -> Self {
        let toleration = json!({"key": key, "operator": operator, "value": value, "effect": effect});
        match self.0["spec"]["tolerations"].as_array_mut() {
            Some(list) => list.push(toleration),
            None => self.0["spec"]["tolerations"] = json!([toleration]),
        }
        self
    }
    pub fn request(mut self, resource: &str, amount: &str) -> Self {
        self.0["spec"]["containers"][0]["resources"]["requests"][resource] = json!(amount);
        self
    }
    pub fn requests(self, cpu: &str, memory: &str) -> Self {
        self.request("cpu", cpu).request("memory", memory)
    }
    pub fn images(self, images: &[&str]) -> Self {
        let containers = images.iter().enumerate().map(|(at, image)| json!({"name": format!("c{at}"), "image": image}));
        self.spec("containers", containers.collect())
    }
    pub fn host_port(mut self, protocol: &str, ip: &str, port: i32) -> Self {
        let ports = self.0["spec"]["containers"][0]["ports"].as_array_mut().unwrap();
        ports.push(json!({"protocol": protocol, "hostIP": ip, "hostPort": port, "containerPort": port}));
        self
    }
    pub fn node_selector(mut self, key: &str, value: &str) -> Self {
        self.0["spec"]["nodeSelector"] = json!({key: value});
        self
    }
    pub fn claim(mut self, name: &str) -> Self {
        let volume = json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        match self.0["spec"]["volumes"].as_array_mut() {
            Some(list) => list.push(volume),
            None => self.0["spec"]["volumes"] = json!([volume]),
        }
        self
    }
    pub fn node_affinity(mut self, affinity: Value) -> Self {
        self.0["spec"]["affinity"]["nodeAffinity"] = affinity;
        self
    }
    pub fn affinity(mut self, kind: &str, affinity: Value) -> Self {
        self.0["spec"]["affinity"][kind] = affinity;
        self
    }
    pub fn build(&self) -> Pod {
        serde_json::from_value(self.0.clone()).unwrap()
    }
}

/// The scheduler's form of a pod.
pub fn pod_info(builder: &PodBuilder) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(&builder.build(), &INTERNER))
}

/// A claim of the default namespace; bound for good when its spec names a volume.
pub fn claim(name: &str, spec: Value, annotations: Value) -> PersistentVolumeClaim {
    let mut claim = json!({"metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1",
                                        "annotations": annotations}, "spec": spec});
    if claim["spec"]["volumeName"].is_string() {
        claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = json!("yes");
    }
    serde_json::from_value(claim).unwrap()
}

/// An available volume.
pub fn volume(name: &str, labels: Value, spec: Value) -> PersistentVolume {
    let meta = json!({"name": name, "uid": name, "resourceVersion": "1", "labels": labels});
    serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": {"phase": "Available"}})).unwrap()
}

pub fn storage_class(name: &str, mode: &str, provisioner: &str) -> StorageClass {
    let class = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
    serde_json::from_value(class).unwrap()
}

/// A cluster to ask plugins about; slots follow the order given.
pub struct Cluster {
    pub cache: Cache,
    pub snapshot: Snapshot,
    nodes: usize,
}

impl Cluster {
    pub fn new(nodes: &[NodeBuilder]) -> Self {
        let cache = Cache::new(Duration::ZERO);
        nodes.iter().for_each(|node| cache.set_node(node.build()));
        let mut cluster = Self { cache, snapshot: Snapshot::default(), nodes: nodes.len() };
        cluster.refresh();
        cluster
    }

    pub fn refresh(&mut self) {
        self.cache.update_snapshot(&mut self.snapshot);
    }

    pub fn place(&mut self, pod: &PodBuilder, node: &str) {
        let info = pod_info(pod).on_node(node.into());
        self.cache.add_pod(Arc::new(info)).unwrap();
        self.refresh();
    }

    pub fn context<'a>(&'a self, pod: &'a PodInfo) -> CycleContext<'a> {
        CycleContext { pod, snapshot: &self.snapshot }
    }

    /// The reasons of PreFilter and Filter per node, in the order given; empty means yes.
    pub fn verdicts(&self, plugin: &dyn Plugin, pod: &PodInfo) -> Vec<String> {
        (0..self.nodes as u32)
            .map(|slot| self.verdict(plugin, pod, slot).map_or_else(|s| s.message(), |()| String::new()))
            .collect()
    }

    /// The code of the verdict on a node.
    pub fn code(&self, plugin: &dyn Plugin, pod: &PodInfo, node: &str) -> Option<Code> {
        self.verdict(plugin, pod, self.snapshot.by_name[node]).err().map(|status| status.code)
    }

    fn verdict(&self, plugin: &dyn Plugin, pod: &PodInfo, slot: u32) -> crate::framework::status::Verdict {
        let cx = self.context(pod);
        let mut state = None;
        if let Some(pre_filter) = plugin.as_pre_filter() {
            match pre_filter.pre_filter(&cx)? {
                PreFiltered::Skip => return Ok(()),
                PreFiltered::Continue { state: made, .. } => state = made,
            }
        }
        plugin.as_filter().unwrap().filter(&cx, state.as_deref(), &self.snapshot.node(slot))
    }

    /// The normalised scores of all nodes.
    pub fn scores(&self, plugin: &dyn Plugin, pod: &PodInfo) -> Vec<i64> {
        let cx = self.context(pod);
        let nodes: Vec<u32> = (0..self.nodes as u32).collect();
        let mut scores = vec![0; nodes.len()];
        let mut state = None;
        if let Some(pre_score) = plugin.as_pre_score() {
            match pre_score.pre_score(&cx, &nodes).unwrap() {
                PreScored::Skip => return scores,
                PreScored::Continue(made) => state = made,
            }
        }
        let score = plugin.as_score().unwrap();
        score.score(&cx, state.as_deref(), &nodes, &mut scores).unwrap();
        score.normalize(&cx, state.as_deref(), &nodes, &mut scores);
        scores
    }
}
