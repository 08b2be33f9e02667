//! What SIGUSR2 tells: cache and queue into the log, and where the cache differs from what the API server shows.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::Scheduler;
use crate::cache::NodeDump;
use crate::framework::pod::PodInfo;

/// What is there but not cached, and what is cached but not there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Not cached.
    pub missed: Vec<String>,
    /// Not there.
    pub redundant: Vec<String>,
}

impl Mismatch {
    fn of(actual: BTreeSet<String>, cached: BTreeSet<String>) -> Self {
        let less = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect();
        Self { missed: less(&actual, &cached), redundant: less(&cached, &actual) }
    }

    /// Whether both sides agree.
    pub fn is_empty(&self) -> bool {
        self.missed.is_empty() && self.redundant.is_empty()
    }
}

fn print_pod(pod: &PodInfo) -> String {
    let nominated = pod.nominated.as_deref().unwrap_or_default();
    format!("name: {}, namespace: {}, uid: {}, nominated node: {nominated}\n", pod.name, pod.namespace(), pod.uid)
}

fn print_node(node: &NodeDump, nominated: &[Arc<PodInfo>]) -> String {
    let amounts = |list: &[(Arc<str>, i64)]| {
        let each: Vec<String> = list.iter().map(|(name, amount)| format!("{name}: {amount}")).collect();
        each.join(", ")
    };
    let mut text = format!(
        "Node name: {}\nDeleted: {}\nRequested Resources: {}\nAllocatable Resources: {}\nScheduled Pods(number: {}):\n",
        node.name,
        node.deleted,
        amounts(&node.requested),
        amounts(&node.allocatable),
        node.pods.len()
    );
    text.extend(node.pods.iter().map(|pod| print_pod(pod)));
    if !nominated.is_empty() {
        text.push_str(&format!("Nominated Pods(number: {}):\n", nominated.len()));
        text.extend(nominated.iter().map(|pod| print_pod(pod)));
    }
    text
}

impl Scheduler {
    /// Writes cache and queue to the log.
    pub fn dump(&self) {
        let nodes = self.cache.dump();
        let texts: Vec<String> =
            nodes.iter().map(|node| print_node(node, &self.queue.nominator.pods_on(&node.name))).collect();
        tracing::info!(nodes = texts.join("\n\n"), "Dump of cached NodeInfo");
        let sizes: Vec<String> = self.queue.sizes().iter().map(|(pool, size)| format!("{pool}:{size}")).collect();
        let pods: String = self.queue.pending().iter().map(|pod| print_pod(pod)).collect();
        tracing::info!(summary = sizes.join("; "), pods, "Dump of scheduling queue");
    }

    /// Compares the cache with the API server's nodes and pods.
    pub fn compare(&self, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> [(&'static str, Mismatch); 2] {
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        let dump = self.cache.dump();
        let cached_nodes = dump.iter().filter(|node| !node.deleted).map(|node| node.name.to_string()).collect();
        let placed = dump.iter().flat_map(|node| node.pods.iter().map(|pod| pod.uid.to_string()));
        let waiting: Vec<_> = self.queue.pending();
        let cached_pods = placed.chain(waiting.iter().map(|pod| pod.uid.to_string())).collect();
        [
            ("nodes", Mismatch::of(nodes.iter().map(|node| name(&node.metadata.name)).collect(), cached_nodes)),
            ("pods", Mismatch::of(pods.iter().map(|pod| name(&pod.metadata.uid)).collect(), cached_pods)),
        ]
    }
}
