//! Cluster events: what changed, told to the plugins that rejected a pod so that they say whether it may fit now.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::pod::PodInfo;

/// The kind of object that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// A pod bound to a node.
    AssignedPod,
    /// A pod waiting in the queue.
    UnscheduledPod,
    /// A node.
    Node,
    /// A namespace.
    Namespace,
    /// A PersistentVolumeClaim.
    PersistentVolumeClaim,
    /// A PersistentVolume.
    PersistentVolume,
    /// A StorageClass.
    StorageClass,
    /// A CSINode.
    CsiNode,
    /// A CSIDriver.
    CsiDriver,
    /// A CSIStorageCapacity.
    CsiStorageCapacity,
    /// A VolumeAttachment.
    VolumeAttachment,
    /// A ResourceClaim.
    ResourceClaim,
    /// A ResourceSlice.
    ResourceSlice,
    /// A DeviceClass.
    DeviceClass,
    /// A PodGroup.
    PodGroup,
    /// Anything: forces every pod concerned.
    WildCard,
}

/// Bits of what happened. A plugin's registration matches an event when it covers all of the event's bits; a general
/// update has them all, so only who listens to every update hears of it.
pub type Action = u32;

/// Upstream's action types.
pub mod action {
    use super::Action;
    /// Added.
    pub const ADD: Action = 1;
    /// Deleted.
    pub const DELETE: Action = 1 << 1;
    /// node.status.allocatable changed.
    pub const NODE_ALLOCATABLE: Action = 1 << 2;
    /// Node labels changed.
    pub const NODE_LABEL: Action = 1 << 3;
    /// Node taints changed, or the node became schedulable.
    pub const NODE_TAINT: Action = 1 << 4;
    /// Node conditions changed.
    pub const NODE_CONDITION: Action = 1 << 5;
    /// Node annotations changed.
    pub const NODE_ANNOTATION: Action = 1 << 6;
    /// Pod labels changed.
    pub const POD_LABEL: Action = 1 << 7;
    /// A pod asks for less.
    pub const POD_SCALE_DOWN: Action = 1 << 8;
    /// A pod's tolerations changed.
    pub const POD_TOLERATION: Action = 1 << 9;
    /// The last scheduling gate went.
    pub const POD_GATES_GONE: Action = 1 << 10;
    /// Any other update.
    pub const UPDATE_OTHER: Action = 1 << 11;
    /// The features that a node declares changed.
    pub const NODE_FEATURES: Action = 1 << 12;
    /// The claims made for a pod changed.
    pub const POD_CLAIMS: Action = 1 << 13;
    /// Every kind of update.
    pub const UPDATE: Action = 0b11_1111_1111_1100;
    /// Everything.
    pub const ALL: Action = ADD | DELETE | UPDATE;
}

/// Something that happened, with the objects before and after.
#[derive(Clone, Debug)]
pub struct ClusterEvent {
    /// To what kind of object.
    pub resource: Resource,
    /// What.
    pub action: Action,
    /// Upstream's label, as in logs and metrics.
    pub label: &'static str,
    /// The objects.
    pub objects: Objects,
}

/// The objects of an event.
#[derive(Clone, Debug)]
pub enum Objects {
    /// None (time-outs and the like).
    None,
    /// A node before and after.
    Node(Option<Arc<Node>>, Option<Arc<Node>>),
    /// A pod before and after.
    Pod(Option<Arc<PodInfo>>, Option<Arc<PodInfo>>),
    /// An object of any other kind before and after.
    Other(Option<AnyObject>, Option<AnyObject>),
}

/// An API object of a kind that the event's resource tells.
pub type AnyObject = Arc<dyn Any + Send + Sync>;

impl ClusterEvent {
    /// An event without objects.
    pub fn bare(resource: Resource, action: Action, label: &'static str) -> Self {
        Self { resource, action, label, objects: Objects::None }
    }

    /// The old and new pod.
    pub fn pods(&self) -> (Option<&Arc<PodInfo>>, Option<&Arc<PodInfo>>) {
        match &self.objects {
            Objects::Pod(old, new) => (old.as_ref(), new.as_ref()),
            _ => (None, None),
        }
    }

    /// The old and new object, if they are of this type.
    pub fn objects_of<K: 'static>(&self) -> (Option<&K>, Option<&K>) {
        match &self.objects {
            Objects::Other(old, new) => (
                old.as_ref().and_then(|object| object.downcast_ref()),
                new.as_ref().and_then(|object| object.downcast_ref()),
            ),
            _ => (None, None),
        }
    }

    /// The old and new node.
    pub fn nodes(&self) -> (Option<&Arc<Node>>, Option<&Arc<Node>>) {
        match &self.objects {
            Objects::Node(old, new) => (old.as_ref(), new.as_ref()),
            _ => (None, None),
        }
    }
}

/// What a plugin wants to hear about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Kind of object; `AssignedPod` stands for any pod, as upstream's `Pod`.
    pub resource: Resource,
    /// Bits.
    pub action: Action,
}

impl Interest {
    /// Whether the plugin wants to hear about the event.
    pub fn matches(&self, event: &ClusterEvent) -> bool {
        let is_pod = |resource| matches!(resource, Resource::AssignedPod | Resource::UnscheduledPod);
        event.resource == Resource::WildCard
            || ((self.resource == Resource::WildCard
                || self.resource == event.resource
                || (is_pod(self.resource) && is_pod(event.resource)))
                && self.action & event.action == event.action)
    }
}

/// The answer to "may this pod fit now?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// It may: try again.
    Queue,
    /// The event changes nothing for it.
    Skip,
}

type Map = BTreeMap<String, String>;

fn non_empty(map: &Option<Map>) -> Option<&Map> {
    map.as_ref().filter(|map| !map.is_empty())
}

/// What changed between two versions of a node, as far as scheduling cares: one event per aspect.
pub fn node_changes(old: &Arc<Node>, new: &Arc<Node>) -> Vec<ClusterEvent> {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    let spec = |node: &Node| node.spec.clone().unwrap_or_default();
    let conditions = |node: &Node| -> Vec<(String, String)> {
        let list = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        list.into_iter().flatten().map(|c| (c.type_.clone(), c.status.clone())).collect()
    };
    let (before, after) = (spec(old), spec(new));
    let released = before.unschedulable == Some(true) && after.unschedulable != Some(true);
    let taints = |spec: k8s_openapi::api::core::v1::NodeSpec| spec.taints.unwrap_or_default();
    let mut events = Vec::new();
    let mut note = |changed: bool, action: Action, label: &'static str| {
        if changed {
            let objects = Objects::Node(Some(old.clone()), Some(new.clone()));
            events.push(ClusterEvent { resource: Resource::Node, action, label, objects });
        }
    };
    let labels = non_empty(&old.metadata.labels) != non_empty(&new.metadata.labels);
    note(released, action::NODE_TAINT, "NodeTaintUpdate");
    note(allocatable(old) != allocatable(new), action::NODE_ALLOCATABLE, "NodeAllocatableUpdate");
    note(labels, action::NODE_LABEL, "NodeLabelUpdate");
    note(taints(before) != taints(after), action::NODE_TAINT, "NodeTaintUpdate");
    note(conditions(old) != conditions(new), action::NODE_CONDITION, "NodeConditionUpdate");
    let annotations = non_empty(&old.metadata.annotations) != non_empty(&new.metadata.annotations);
    note(annotations, action::NODE_ANNOTATION, "NodeAnnotationUpdate");
    let features = |node: &Node| node.status.as_ref().and_then(|status| status.declared_features.clone());
    let declared = features(old).unwrap_or_default() != features(new).unwrap_or_default();
    note(declared, action::NODE_FEATURES, "NodeUpdateNodeDeclaredFeature");
    events
}

/// What changed between two versions of a pod, as far as scheduling cares.
pub fn pod_changes(old: &Arc<PodInfo>, new: &Arc<PodInfo>) -> Vec<ClusterEvent> {
    let assigned = new.node_name.is_some();
    let resource = if assigned { Resource::AssignedPod } else { Resource::UnscheduledPod };
    let (before, after) = (&old.template, &new.template);
    let mut events = Vec::new();
    let mut note = |changed: bool, action: Action, label: &'static str| {
        if changed {
            let objects = Objects::Pod(Some(old.clone()), Some(new.clone()));
            events.push(ClusterEvent { resource, action, label, objects });
        }
    };
    let pick = |assigned_label, queued_label| if assigned { assigned_label } else { queued_label };
    note(
        before.labels != after.labels,
        action::POD_LABEL,
        pick("AssignedPodLabelUpdate", "UnschedulablePodLabelUpdate"),
    );
    let smaller = {
        let (b, a) = (&before.requests, &after.requests);
        a.cpu < b.cpu
            || a.memory < b.memory
            || a.ephemeral < b.ephemeral
            || b.scalars.iter().any(|(name, value)| a.get(name) < *value)
    };
    note(smaller, action::POD_SCALE_DOWN, pick("AssignedPodScaleDown", "UnschedulablePodScaleDown"));
    note(
        !before.gates.is_empty() && after.gates.is_empty(),
        action::POD_GATES_GONE,
        pick("AssignedPodSchedulingGatesEliminated", "UnschedulablePodSchedulingGatesEliminated"),
    );
    note(
        before.tolerations.len() != after.tolerations.len(),
        action::POD_TOLERATION,
        pick("AssignedPodToleration", "UnschedulablePodToleration"),
    );
    note(
        old.claims != new.claims,
        action::POD_CLAIMS,
        pick("AssignedPodUpdatePodGeneratedResourceClaim", "UnschedulablePodUpdatePodGeneratedResourceClaim"),
    );
    if events.is_empty() {
        let objects = Objects::Pod(Some(old.clone()), Some(new.clone()));
        let label = pick("AssignedPodUpdate", "UnschedulablePodUpdate");
        events.push(ClusterEvent { resource, action: action::UPDATE, label, objects });
    }
    events
}
