//! Pods nominated to nodes: they will probably run there, so lower-priority pods must leave them room.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::framework::pod::PodInfo;

/// Nominations by node and by pod.
#[derive(Default)]
pub struct Nominator {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    by_node: HashMap<Arc<str>, Vec<Arc<PodInfo>>>,
    by_pod: HashMap<Arc<str>, Arc<str>>,
}

impl Nominator {
    /// Nominates a pod: to `node` when given, else to what its status says. An empty nomination removes it.
    pub fn set(&self, pod: &Arc<PodInfo>, node: Option<Option<Arc<str>>>) {
        let mut inner = self.inner.write();
        inner.remove(&pod.uid);
        let node = node.unwrap_or_else(|| pod.nominated.clone());
        if let Some(node) = node.filter(|_| pod.node_name.is_none()) {
            inner.by_pod.insert(pod.uid.clone(), node.clone());
            inner.by_node.entry(node).or_default().push(pod.clone());
        }
    }

    /// A pod changed. A nomination known only here (not yet in the status) is kept.
    pub fn update(&self, old: &PodInfo, new: &Arc<PodInfo>) {
        let kept = if old.nominated.is_none() && new.nominated.is_none() { self.node_of(&old.uid) } else { None };
        self.set(new, kept.map(Some));
    }

    /// Withdraws a nomination.
    pub fn remove(&self, uid: &str) {
        self.inner.write().remove(uid);
    }

    /// Where the pod is nominated to.
    pub fn node_of(&self, uid: &str) -> Option<Arc<str>> {
        self.inner.read().by_pod.get(uid).cloned()
    }

    /// The pods nominated to a node.
    pub fn pods_on(&self, node: &str) -> Vec<Arc<PodInfo>> {
        self.inner.read().by_node.get(node).cloned().unwrap_or_default()
    }

    /// Every nomination: node and pod.
    pub fn all(&self) -> Vec<(Arc<str>, Arc<PodInfo>)> {
        let inner = self.inner.read();
        inner.by_node.iter().flat_map(|(node, pods)| pods.iter().map(|pod| (node.clone(), pod.clone()))).collect()
    }

    /// Whether nobody is nominated anywhere.
    pub fn is_empty(&self) -> bool {
        self.inner.read().by_pod.is_empty()
    }
}

impl Inner {
    fn remove(&mut self, uid: &str) {
        let Some(node) = self.by_pod.remove(uid) else { return };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.retain(|pod| &*pod.uid != uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }
}
