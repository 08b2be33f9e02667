//! What the API server stores, and whether it keeps the scheduler's promises.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, api::ListParams};

const POLL: Duration = Duration::from_millis(500);

/// The stored nodes and pods.
pub struct Truth {
    nodes: Api<Node>,
    pods: Api<Pod>,
}

/// What a pod takes, or a node holds.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    milli_cpu: i64,
    mebibytes: i64,
    pods: i64,
}

impl Room {
    fn of(node: &Node) -> Self {
        let listed = node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default();
        let text = |name: &str| listed.get(name).map_or("", |quantity| quantity.0.as_str());
        Self { milli_cpu: cpu(text("cpu")), mebibytes: memory(text("memory")), pods: text("pods").parse().unwrap_or(0) }
    }

    fn asked(pod: &Pod) -> Self {
        let mut room = Self { pods: 1, ..Self::default() };
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let text = |name: &str| {
                requests.and_then(|requests| requests.get(name)).map_or("", |quantity| quantity.0.as_str())
            };
            room.milli_cpu += cpu(text("cpu"));
            room.mebibytes += memory(text("memory"));
        }
        room
    }

    fn add(&mut self, other: Self) {
        self.milli_cpu += other.milli_cpu;
        self.mebibytes += other.mebibytes;
        self.pods += other.pods;
    }

    fn within(self, other: Self) -> bool {
        self.milli_cpu <= other.milli_cpu && self.mebibytes <= other.mebibytes && self.pods <= other.pods
    }
}

/// Only what this program itself asks for: `2` or `100m`.
fn cpu(text: &str) -> i64 {
    match text.strip_suffix('m') {
        Some(milli) => milli.parse().unwrap_or(0),
        None => text.parse::<i64>().unwrap_or(0) * 1000,
    }
}

/// `64Mi` or `8Gi`, in MiB.
fn memory(text: &str) -> i64 {
    match (text.strip_suffix("Mi"), text.strip_suffix("Gi")) {
        (Some(mebi), _) => mebi.parse().unwrap_or(0),
        (_, Some(gibi)) => gibi.parse::<i64>().unwrap_or(0) * 1024,
        _ => 0,
    }
}

fn ports(pod: &Pod) -> BTreeSet<i32> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| port.host_port).collect()
}

fn on(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Everything on each node.
fn used(pods: &[Pod]) -> BTreeMap<&str, (Room, Vec<i32>)> {
    let mut used: BTreeMap<&str, (Room, Vec<i32>)> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = on(pod) {
            let (room, taken) = used.entry(node).or_default();
            room.add(Room::asked(pod));
            taken.extend(ports(pod));
        }
    }
    used
}

impl Truth {
    /// As this client sees it.
    pub fn new(client: Client) -> Self {
        Self { nodes: Api::all(client.clone()), pods: Api::all(client) }
    }

    /// Whether it could be checked that no node has more than it can hold; an error if one has.
    pub async fn check(&self) -> Result<bool> {
        // Pods first: a node that is gone by then has no say.
        let (Ok(pods), Ok(nodes)) =
            (self.pods.list(&ListParams::default()).await, self.nodes.list(&ListParams::default()).await)
        else {
            return Ok(false);
        };
        let used = used(&pods.items);
        for node in &nodes.items {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let Some((room, taken)) = used.get(name) else { continue };
            ensure!(room.within(Room::of(node)), "{name} holds {:?} but was given {room:?}", Room::of(node));
            let distinct: BTreeSet<_> = taken.iter().collect();
            ensure!(distinct.len() == taken.len(), "{name} was given a host port twice: {taken:?}");
        }
        Ok(true)
    }

    /// Waits until no pod is without a node that has room for it; how many wait rightly.
    pub async fn settled(&self, limit: Duration) -> Result<usize> {
        let end = Instant::now() + limit;
        loop {
            self.check().await?;
            let pods = self.pods.list(&ListParams::default()).await?.items;
            let nodes = self.nodes.list(&ListParams::default()).await?.items;
            let used = used(&pods);
            let fits = |pod: &Pod, node: &Node| {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                let (mut room, taken) = used.get(name).cloned().unwrap_or_default();
                room.add(Room::asked(pod));
                room.within(Room::of(node)) && !ports(pod).iter().any(|port| taken.contains(port))
            };
            let waiting: Vec<&Pod> = pods.iter().filter(|pod| on(pod).is_none()).collect();
            let wrongly = waiting.iter().find(|pod| nodes.iter().any(|node| fits(pod, node)));
            let Some(pod) = wrongly else { return Ok(waiting.len()) };
            if Instant::now() >= end {
                bail!("{} waits though there is room for it", pod.metadata.name.as_deref().unwrap_or_default());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// How many pods have a node.
    pub async fn bound(&self) -> Result<usize> {
        Ok(self.pods.list(&ListParams::default()).await?.iter().filter(|pod| on(pod).is_some()).count())
    }
}
