//! Pods by their pod group (KEP-4671), and which of them have a node.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::informer::Informer;
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use parking_lot::Mutex;

use super::pod::PodInfo;

/// Namespace and name of a group.
type Key = (Arc<str>, Arc<str>);

/// All groups. Without the gate GenericWorkload there is no informer, and pods are placed one by one.
#[derive(Default)]
pub struct Groups {
    /// PodGroups, as the API server shows them.
    pub informer: Option<Arc<Informer<PodGroup>>>,
    /// The pods of each, by uid: whether they are bound or assumed to be.
    members: Mutex<HashMap<Key, BTreeMap<Arc<str>, bool>>>,
}

fn key(pod: &PodInfo) -> Option<Key> {
    Some((pod.template.namespace.clone(), pod.template.group.clone()?))
}

impl Groups {
    /// Over an informer.
    pub fn new(informer: Arc<Informer<PodGroup>>) -> Self {
        Self { informer: Some(informer), members: Mutex::default() }
    }

    /// The group that a pod is placed with, if groups are.
    pub fn of<'p>(&self, pod: &'p PodInfo) -> Option<&'p Arc<str>> {
        pod.template.group.as_ref().filter(|_| self.informer.is_some())
    }

    /// The object of a pod's group.
    pub fn object(&self, pod: &PodInfo) -> Option<Arc<PodGroup>> {
        self.informer.as_ref()?.get(pod.namespace(), pod.template.group.as_ref()?)
    }

    /// A pod was seen. One that was assumed stays so until it is forgotten.
    pub fn observe(&self, pod: &PodInfo) {
        let Some(key) = key(pod) else { return };
        let mut members = self.members.lock();
        let scheduled = members.entry(key).or_default().entry(pod.uid.clone()).or_default();
        *scheduled |= pod.node_name.is_some();
    }

    /// A pod is assumed on a node, or no longer.
    pub fn assume(&self, pod: &PodInfo, assumed: bool) {
        let Some(key) = key(pod) else { return };
        if let Some(scheduled) = self.members.lock().get_mut(&key).and_then(|pods| pods.get_mut(&pod.uid)) {
            *scheduled = assumed;
        }
    }

    /// A pod is gone.
    pub fn remove(&self, pod: &PodInfo) {
        let Some(key) = key(pod) else { return };
        let mut members = self.members.lock();
        if let Some(pods) = members.get_mut(&key) {
            pods.remove(&pod.uid);
            if pods.is_empty() {
                members.remove(&key);
            }
        }
    }

    /// How many pods the group of this one has, and how many of them have a node.
    pub fn counts(&self, pod: &PodInfo) -> (usize, usize) {
        let Some(key) = key(pod) else { return (0, 0) };
        let members = self.members.lock();
        members.get(&key).map_or((0, 0), |pods| (pods.len(), pods.values().filter(|scheduled| **scheduled).count()))
    }

    /// The pods of a group that have no node, in a fixed order.
    pub fn waiting(&self, pod: &PodInfo) -> Vec<Arc<str>> {
        let Some(key) = key(pod) else { return Vec::new() };
        let members = self.members.lock();
        let pods = members.get(&key).into_iter().flatten();
        pods.filter(|(_, scheduled)| !**scheduled).map(|(uid, _)| uid.clone()).collect()
    }
}
