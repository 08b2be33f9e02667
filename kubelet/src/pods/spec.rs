//! Small questions about a pod's spec and identity. Pure.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// Where a pod came from.
pub(crate) const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Hash of a static pod's file.
pub(crate) const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Marks a mirror pod; its value is the static pod's hash.
pub(crate) const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// When the kubelet first saw the pod.
pub(crate) const CONFIG_SEEN: &str = "kubernetes.io/config.seen";

/// When an ended container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// An init container that keeps running beside the others.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The policy that holds for one container: its own or the pod's. An init container of an `Always` pod is retried until
/// it succeeds.
pub(crate) fn restart_policy(spec: &PodSpec, container: &Container) -> RestartPolicy {
    let own = container.restart_policy.as_deref();
    match own.or(spec.restart_policy.as_deref()).unwrap_or("Always") {
        "Never" => RestartPolicy::Never,
        "OnFailure" => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// An ephemeral container in the form of the others.
pub(crate) fn from_ephemeral(container: &EphemeralContainer) -> Container {
    let mut tree = serde_json::to_value(container).unwrap_or_default();
    if let Some(object) = tree.as_object_mut() {
        object.remove("targetContainerName");
    }
    serde_json::from_value(tree).unwrap_or_default()
}

/// A container of any kind by name.
pub(crate) fn container(spec: &PodSpec, name: &str) -> Option<Container> {
    let regular = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    regular.into_iter().find(|container| container.name == name).cloned().or_else(|| {
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        ephemeral.into_iter().find(|container| container.name == name).map(from_ephemeral)
    })
}

/// UID, or nothing.
pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Name, or nothing.
pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Namespace, or nothing.
pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as upstream prints pods in messages.
pub(crate) fn describe(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// An annotation.
pub(crate) fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(key)).map(String::as_str)
}

/// The pod came from a file on this node.
pub(crate) fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE).is_some_and(|source| source != "api")
}

/// The pod stands for a static pod in the API.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR).is_some()
}

/// Grace at termination.
pub(crate) fn grace(pod: &Pod) -> i64 {
    let of_spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    pod.metadata.deletion_grace_period_seconds.or(of_spec).unwrap_or(30)
}
