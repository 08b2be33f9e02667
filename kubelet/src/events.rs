//! Events about pods, containers and the node: to the API when there is one, to the log always.

use common::events::{EventType, Recorder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::pods::spec;

/// Where events go.
pub(crate) struct Events {
    recorder: Option<Recorder>,
    node: ObjectReference,
}

impl Events {
    pub(crate) fn new(recorder: Option<Recorder>, node_name: &str) -> Self {
        // Upstream refers to the node by name in place of its UID, so that events survive a re-registration.
        let node = ObjectReference {
            kind: Some("Node".into()),
            name: Some(node_name.to_owned()),
            uid: Some(node_name.to_owned()),
            ..ObjectReference::default()
        };
        Self { recorder, node }
    }

    fn send(&self, about: &ObjectReference, warning: bool, reason: &str, message: &str) {
        let field = about.field_path.as_deref().unwrap_or_default();
        match &self.recorder {
            // It logs, too.
            Some(recorder) => {
                recorder.event(about, if warning { EventType::Warning } else { EventType::Normal }, reason, message);
            }
            None => tracing::info!(object = about.name.as_deref(), field, reason, "event: {message}"),
        }
    }

    /// About the node.
    pub(crate) fn node(&self, warning: bool, reason: &str, message: &str) {
        self.send(&self.node, warning, reason, message);
    }

    /// About another object.
    pub(crate) fn object(&self, about: &ObjectReference, warning: bool, reason: &str, message: &str) {
        self.send(about, warning, reason, message);
    }

    /// About a pod.
    pub(crate) fn pod(&self, pod: &Pod, warning: bool, reason: &str, message: &str) {
        self.send(&reference(pod, None), warning, reason, message);
    }

    /// About a container of a pod.
    pub(crate) fn container(&self, pod: &Pod, container: &str, warning: bool, reason: &str, message: &str) {
        self.send(&reference(pod, Some(container)), warning, reason, message);
    }
}

fn reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    let field_path = container.map(|name| {
        let spec = pod.spec.as_ref();
        let in_list = |list: Option<&Vec<_>>| {
            list.is_some_and(|list: &Vec<k8s_openapi::api::core::v1::Container>| list.iter().any(|c| c.name == name))
        };
        let list = if in_list(spec.map(|spec| &spec.containers)) {
            "containers"
        } else if in_list(spec.and_then(|spec| spec.init_containers.as_ref())) {
            "initContainers"
        } else {
            "ephemeralContainers"
        };
        format!("spec.{list}{{{name}}}")
    });
    // A static pod is known to the API by its mirror, whose UID it does not share: events name the pod's own.
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(spec::namespace(pod).to_owned()),
        name: Some(spec::name(pod).to_owned()),
        uid: Some(spec::uid(pod).to_owned()),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}
