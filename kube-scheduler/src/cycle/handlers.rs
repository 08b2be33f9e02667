//! From watch events to cache and queue.

use std::sync::Arc;
use std::time::Instant;

use common::informer::{Event, Object};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::{Scheduler, freed};
use crate::framework::events::{AnyObject, ClusterEvent, Objects, Resource, action, node_changes, pod_changes};
use crate::framework::pod::PodInfo;
use crate::metrics;

fn observe(label: &str, started: Instant) {
    metrics::EVENT_DURATION.with_label_values(&[label]).observe(started.elapsed().as_secs_f64());
}

impl Scheduler {
    fn info(&self, pod: &Pod) -> Arc<PodInfo> {
        Arc::new(PodInfo::new(pod, &self.interner))
    }

    /// A node came, changed or went.
    pub fn on_node(&self, event: &Event<Node>) {
        let started = Instant::now();
        match event {
            Event::Added(node) => {
                self.cache.set_node(node.clone());
                self.tell_node(action::ADD, "NodeAdd", None, Some(node.clone()));
                observe("NodeAdd", started);
            }
            Event::Updated { old, new } => {
                self.cache.set_node(new.clone());
                for change in node_changes(old, new) {
                    self.queue.on_event(&change, |_| true);
                    observe(change.label, started);
                }
            }
            Event::Deleted(node) => {
                self.tell_node(action::DELETE, "NodeDelete", Some(node.clone()), None);
                self.cache.remove_node(node.metadata.name.as_deref().unwrap_or_default());
                observe("NodeDelete", started);
            }
        }
    }

    fn tell_node(&self, action: u32, label: &'static str, old: Option<Arc<Node>>, new: Option<Arc<Node>>) {
        let event = ClusterEvent { resource: Resource::Node, action, label, objects: Objects::Node(old, new) };
        self.queue.on_event(&event, |_| true);
    }

    /// An object of another kind came, changed or went. `labels` are upstream's for the three events.
    pub fn on_object<K: Object>(&self, resource: Resource, labels: [&'static str; 3], event: &Event<K>) {
        let any = |object: &Arc<K>| -> AnyObject { object.clone() };
        let (action, label, old, new) = match event {
            Event::Added(new) => (action::ADD, labels[0], None, Some(any(new))),
            Event::Updated { old, new } => (action::UPDATE, labels[1], Some(any(old)), Some(any(new))),
            Event::Deleted(old) => (action::DELETE, labels[2], Some(any(old)), None),
        };
        let started = Instant::now();
        self.queue.on_event(&ClusterEvent { resource, action, label, objects: Objects::Other(old, new) }, |_| true);
        observe(label, started);
    }

    /// A pod came, changed or went.
    pub fn on_pod(&self, event: &Event<Pod>) {
        let started = Instant::now();
        let label = match event {
            Event::Added(pod) => self.pod_added(self.info(pod)),
            Event::Updated { old, new } => self.pod_updated(&self.info(old), self.info(new)),
            Event::Deleted(pod) => self.pod_deleted(&self.info(pod)),
        };
        observe(label, started);
    }

    fn pod_added(&self, pod: Arc<PodInfo>) -> &'static str {
        self.groups.observe(&pod);
        if pod.node_name.is_some() {
            self.pod_assigned(pod);
            return "AssignedPodAdd";
        }
        if self.profiles.responsible_for(&pod) {
            self.queue.add(pod.clone());
        }
        if self.groups.of(&pod).is_some() {
            // It may be the one that others of its gang wait for.
            let objects = Objects::Pod(None, Some(pod));
            let (resource, label) = (Resource::UnscheduledPod, "UnschedulablePodAdd");
            self.queue.on_event(&ClusterEvent { resource, action: action::ADD, label, objects }, |_| true);
        }
        "UnschedulablePodAdd"
    }

    fn pod_assigned(&self, pod: Arc<PodInfo>) {
        if let Err(error) = self.cache.add_pod(pod.clone()) {
            tracing::warn!(%error, "a pod runs elsewhere than assumed");
        }
        let event = ClusterEvent {
            resource: Resource::AssignedPod,
            action: action::ADD,
            label: "AssignedPodAdd",
            objects: Objects::Pod(None, Some(pod)),
        };
        self.queue.on_event(&event, |_| true);
    }

    fn pod_updated(&self, old: &Arc<PodInfo>, new: Arc<PodInfo>) -> &'static str {
        if old.uid != new.uid {
            // Deleted and created again between two looks.
            self.pod_deleted(old);
            return self.pod_added(new);
        }
        self.groups.observe(&new);
        match (&old.node_name, &new.node_name) {
            (Some(_), _) => {
                if let Err(error) = self.cache.add_pod(new.clone()) {
                    tracing::warn!(%error, "a pod runs elsewhere than assumed");
                }
                for change in pod_changes(old, &new) {
                    self.queue.on_event(&change, |_| true);
                }
                "AssignedPodUpdate"
            }
            (None, Some(_)) => {
                self.pod_assigned(new.clone());
                if self.profiles.responsible_for(old) {
                    self.queue.delete(&new.uid);
                }
                "AssignedPodAdd"
            }
            (None, None) => {
                if self.profiles.responsible_for(old) && old.resource_version != new.resource_version {
                    self.waiting_pod_updated(old, new);
                }
                "UnschedulablePodUpdate"
            }
        }
    }

    fn waiting_pod_updated(&self, old: &Arc<PodInfo>, new: Arc<PodInfo>) {
        if self.cache.is_assumed(&new.uid) {
            if new.deleting && !old.deleting {
                self.assumed_pod_deleted(&new);
            }
            return;
        }
        self.queue.update(old, new.clone());
        if old.nominated.is_some() && old.nominated != new.nominated {
            self.room_freed(old);
        }
    }

    /// A nomination ended: pods of no higher priority may take the room.
    fn room_freed(&self, pod: &Arc<PodInfo>) {
        let priority = pod.template.priority;
        self.queue.on_event(&freed(pod), |other| other.template.priority <= priority);
    }

    /// An assumed pod is being deleted before its binding: stop it if it waits, and give back its room.
    fn assumed_pod_deleted(&self, pod: &Arc<PodInfo>) {
        let Some(assumed) = self.cache.pod(&pod.uid) else { return };
        let held = self.waiting.reject(&assumed.uid, "", "removed");
        if !held && let Err(error) = self.cache.forget(&assumed) {
            tracing::debug!(%error, "the assumption is gone already");
        }
        self.queue.on_event(&freed(&assumed), |_| true);
    }

    fn pod_deleted(&self, pod: &Arc<PodInfo>) -> &'static str {
        self.groups.remove(pod);
        if pod.node_name.is_some() {
            self.cache.remove_pod(&pod.uid);
            self.queue.on_event(&freed(pod), |_| true);
            return "AssignedPodDelete";
        }
        if self.profiles.responsible_for(pod) {
            self.queue.delete(&pod.uid);
            if self.cache.is_assumed(&pod.uid) {
                self.assumed_pod_deleted(pod);
            } else if pod.nominated.is_some() {
                self.room_freed(pod);
            }
        }
        "UnschedulablePodDelete"
    }
}
