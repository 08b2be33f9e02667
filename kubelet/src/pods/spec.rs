//! Small questions about a pod's spec and identity. Pure.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec};

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

/// All containers of the pod start anew.
pub(crate) const RESTART_ALL: &str = "RestartAllContainers";

/// What the container's own rules want done after that exit code: `Restart` or [`RESTART_ALL`].
pub(crate) fn restart_rule(container: &Container, exit_code: i32) -> Option<&str> {
    let matches = |rule: &&ContainerRestartRule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    };
    container.restart_policy_rules.iter().flatten().find(matches).map(|rule| rule.action.as_str())
}

/// Whether a container that ended with that code is started again: by its rules, or else by its policy.
pub(crate) fn restarts_after(spec: &PodSpec, container: &Container, exit_code: i32) -> bool {
    restart_rule(container, exit_code).is_some()
        || match restart_policy(spec, container) {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
}

/// Whether some container's end can make all start anew.
pub(crate) fn may_restart_all(spec: &PodSpec) -> bool {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers
        .flat_map(|container| container.restart_policy_rules.iter().flatten())
        .any(|rule| rule.action == RESTART_ALL)
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
