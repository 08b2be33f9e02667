//! Nodes and pods that come and go. Requests that fail while the server is away are simply not made.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

/// Time between two changes.
const PAUSE: Duration = Duration::from_millis(15);
/// Pods at most, so that some always wait and most have a place.
const PODS_PER_NODE: usize = 10;

/// Repeatable random numbers (xorshift).
pub struct Dice(u64);

impl Dice {
    /// Of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What is there, as far as requests were answered.
pub struct Churn {
    nodes: Api<Node>,
    pods: Api<Pod>,
    most: usize,
    dice: Dice,
    known_nodes: BTreeSet<usize>,
    known_pods: Vec<String>,
    made: usize,
}

/// Rooms differ by name, but a node that comes back is as large as it was.
fn node(number: usize) -> Node {
    let name = format!("node-{number}");
    let room = json!({"cpu": (1 + number % 4).to_string(), "memory": "8Gi", "pods": (4 + number % 5).to_string()});
    let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", number % 3)}},
        "status": {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}});
    serde_json::from_value(node).unwrap_or_default()
}

impl Churn {
    /// Nothing is there yet.
    pub fn new(client: Client, most: usize, dice: Dice) -> Self {
        let (nodes, pods) = (Api::all(client.clone()), Api::default_namespaced(client));
        Self { nodes, pods, most, dice, known_nodes: BTreeSet::new(), known_pods: Vec::new(), made: 0 }
    }

    /// Pods made so far.
    pub fn made(&self) -> usize {
        self.made
    }

    /// One change.
    pub async fn step(&mut self) {
        match self.dice.below(20) {
            0 => self.add_node().await,
            1 if self.known_nodes.len() > self.most / 2 => self.remove_node().await,
            2 => self.cordon().await,
            3..9 => self.remove_pod().await,
            _ if self.known_pods.len() < self.most * PODS_PER_NODE => self.add_pod().await,
            _ => self.remove_pod().await,
        }
        tokio::time::sleep(PAUSE).await;
    }

    async fn add_node(&mut self) {
        let number = self.dice.below(self.most);
        if self.nodes.create(&PostParams::default(), &node(number)).await.is_ok() {
            self.known_nodes.insert(number);
        }
    }

    fn some_node(&mut self) -> Option<usize> {
        let at = self.dice.below(self.known_nodes.len());
        self.known_nodes.iter().nth(at).copied()
    }

    /// A node goes, and its pods with it, as garbage collection would have it.
    async fn remove_node(&mut self) {
        let Some(number) = self.some_node() else { return };
        let name = format!("node-{number}");
        if self.nodes.delete(&name, &DeleteParams::default()).await.is_err() {
            return;
        }
        self.known_nodes.remove(&number);
        let here = ListParams::default().fields(&format!("spec.nodeName={name}"));
        let Ok(orphans) = self.pods.list(&here).await else { return };
        for orphan in orphans {
            let name = orphan.metadata.name.unwrap_or_default();
            if self.pods.delete(&name, &now()).await.is_ok() {
                self.known_pods.retain(|known| *known != name);
            }
        }
    }

    async fn cordon(&mut self) {
        let Some(number) = self.some_node() else { return };
        let closed = self.dice.one_in(3);
        let patch = Patch::Merge(json!({"spec": {"unschedulable": closed}}));
        let _ = self.nodes.patch(&format!("node-{number}"), &PatchParams::default(), &patch).await;
    }

    async fn remove_pod(&mut self) {
        if self.known_pods.is_empty() {
            return;
        }
        let at = self.dice.below(self.known_pods.len());
        // A victim of preemption, and what went with its node, is gone already.
        match self.pods.delete(&self.known_pods[at], &now()).await {
            Ok(_) => drop(self.known_pods.swap_remove(at)),
            Err(kube::Error::Api(status)) if status.code == 404 => drop(self.known_pods.swap_remove(at)),
            Err(_) => {}
        }
    }

    async fn add_pod(&mut self) {
        self.made += 1;
        let name = format!("pod-{}", self.made);
        let cpu = ["100m", "250m", "500m", "1", "2"][self.dice.below(5)];
        let mut container =
            json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}});
        if self.dice.one_in(8) {
            container["ports"] = json!([{"containerPort": 80, "hostPort": 8080 + self.dice.below(2)}]);
        }
        let spec =
            json!({"containers": [container], "priority": self.dice.below(3), "terminationGracePeriodSeconds": 0});
        let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap_or_default();
        if self.pods.create(&PostParams::default(), &pod).await.is_ok() {
            self.known_pods.push(name);
        }
    }

    /// No more changes: every node is open, and no pod is on a node that is gone.
    pub async fn settle(&mut self) -> Result<()> {
        let open = Patch::Merge(json!({"spec": {"unschedulable": false}}));
        let nodes = self.nodes.list(&ListParams::default()).await?;
        let names: BTreeSet<String> = nodes.into_iter().filter_map(|node| node.metadata.name).collect();
        for name in &names {
            self.nodes.patch(name, &PatchParams::default(), &open).await?;
        }
        for pod in self.pods.list(&ListParams::default()).await? {
            let on = pod.spec.and_then(|spec| spec.node_name);
            if on.is_some_and(|on| !names.contains(&on)) {
                self.pods.delete(&pod.metadata.name.unwrap_or_default(), &now()).await?;
            }
        }
        Ok(())
    }
}

fn now() -> DeleteParams {
    DeleteParams::default().grace_period(0)
}
