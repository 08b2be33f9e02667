//! Labels and annotations on sandboxes and containers: how a restarted kubelet (ours or upstream's) recognises its own.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use super::hash;

/// Pod name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Pod namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Pod UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Container name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
const HASH: &str = "io.kubernetes.container.hash";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
const PORTS: &str = "io.kubernetes.container.ports";
const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Labels of a pod's sandbox: the pod's own and its identity.
pub(crate) fn sandbox_labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(identity(pod));
    labels
}

fn identity(pod: &Pod) -> [(String, String); 3] {
    let of = |value: &Option<String>| value.clone().unwrap_or_default();
    [
        (POD_NAME.to_owned(), of(&pod.metadata.name)),
        (POD_NAMESPACE.to_owned(), of(&pod.metadata.namespace)),
        (POD_UID.to_owned(), of(&pod.metadata.uid)),
    ]
}

/// Labels of a container.
pub(crate) fn container_labels(pod: &Pod, container: &str) -> HashMap<String, String> {
    let mut labels = HashMap::from(identity(pod));
    labels.insert(CONTAINER_NAME.to_owned(), container.to_owned());
    labels
}

/// Annotations of a container: what is needed to stop and report it when its pod's spec is gone.
pub(crate) fn container_annotations(pod: &Pod, container: &Container, restart_count: i32) -> HashMap<String, String> {
    let mut annotations = HashMap::from([
        (HASH.to_owned(), hash::container(container)),
        (RESTART_COUNT.to_owned(), restart_count.to_string()),
        (MESSAGE_PATH.to_owned(), container.termination_message_path.clone().unwrap_or_default()),
        (MESSAGE_POLICY.to_owned(), container.termination_message_policy.clone().unwrap_or_default()),
    ]);
    if let Some(grace) = pod.metadata.deletion_grace_period_seconds {
        annotations.insert(DELETION_GRACE.to_owned(), grace.to_string());
    }
    if let Some(grace) = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds) {
        annotations.insert(TERMINATION_GRACE.to_owned(), grace.to_string());
    }
    let pre_stop = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(Ok(text)) = pre_stop.map(serde_json::to_string) {
        annotations.insert(PRE_STOP.to_owned(), text);
    }
    if let Some(Ok(text)) = container.ports.as_ref().filter(|ports| !ports.is_empty()).map(serde_json::to_string) {
        annotations.insert(PORTS.to_owned(), text);
    }
    annotations
}

/// What [`container_annotations`] wrote.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerAnnotations {
    /// Hash of the container's spec.
    pub hash: String,
    /// Restarts before this one.
    pub restart_count: i32,
    /// Path of the termination message in the container.
    pub termination_message_path: String,
    /// `File` or `FallbackToLogsOnError`.
    pub termination_message_policy: String,
    /// Grace at termination.
    pub grace: Option<i64>,
    /// Hook to run before the stop signal.
    pub pre_stop: Option<LifecycleHandler>,
}

impl ContainerAnnotations {
    pub(crate) fn parse(annotations: &HashMap<String, String>) -> Self {
        let text = |key: &str| annotations.get(key).cloned().unwrap_or_default();
        let number = |key: &str| annotations.get(key).and_then(|value| value.parse().ok());
        Self {
            hash: text(HASH),
            restart_count: annotations.get(RESTART_COUNT).and_then(|value| value.parse().ok()).unwrap_or_default(),
            termination_message_path: text(MESSAGE_PATH),
            termination_message_policy: text(MESSAGE_POLICY),
            grace: number(DELETION_GRACE).or_else(|| number(TERMINATION_GRACE)),
            pre_stop: annotations.get(PRE_STOP).and_then(|value| serde_json::from_str(value).ok()),
        }
    }
}
