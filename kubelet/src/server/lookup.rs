//! Which pod and which container a request means, and upstream's words when there is none.

use common::serving::{Body, text};
use http::{Response, StatusCode};
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use crate::pods::{PodRecord, spec};
use crate::runtime::RuntimeError;
use crate::shared::Kubelet;

/// A refused request: status code and text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

impl Refusal {
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, message.into())
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, message.into())
    }

    pub(super) fn response(&self) -> Response<Body> {
        text(self.0, &self.1)
    }
}

impl From<RuntimeError> for Refusal {
    fn from(error: RuntimeError) -> Self {
        if error.is_not_found() { Self::not_found(error.to_string()) } else { Self::internal(error.to_string()) }
    }
}

/// The pod of an exec, attach or port-forward.
pub(super) fn pod(kubelet: &Kubelet, namespace: &str, name: &str, uid: Option<&str>) -> Result<PodRecord, Refusal> {
    kubelet.pods.find(namespace, name, uid).ok_or_else(|| Refusal::not_found("pod does not exist"))
}

/// Id of the running container to exec in or attach to, asked of the runtime.
pub(super) async fn running_container(
    kubelet: &Kubelet,
    record: &PodRecord,
    container: &str,
) -> Result<String, Refusal> {
    let held = kubelet.runtime.pod(spec::uid(&record.pod)).await?;
    let found = held.running().find(|view| view.name == container).map(|view| view.id.clone());
    found.ok_or_else(|| Refusal::internal(format!("container not found ({container:?})")))
}

/// Id of the container whose log is meant: the one that runs or ended last, or with `previous` the one before it.
pub(super) fn logged_container(
    pod: &str,
    status: &PodStatus,
    container: &str,
    previous: bool,
) -> Result<String, Refusal> {
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|status| status.name == container);
    let Some(status) = found else {
        return Err(Refusal::bad(format!("container {container:?} in pod {pod:?} is not available")));
    };
    choose(status, previous)
        .map(|id| id.split_once("://").map_or(id.clone(), |(_, id)| id.to_owned()))
        .map_err(|problem| Refusal::bad(problem.message(container, pod)))
}

enum Problem {
    NoPrevious,
    Terminated,
    Waiting(String),
    Unknown,
}

impl Problem {
    fn message(&self, container: &str, pod: &str) -> String {
        let subject = format!("container {container:?} in pod {pod:?}");
        match self {
            Self::NoPrevious => format!("previous terminated {subject} not found"),
            Self::Terminated => format!("{subject} is terminated"),
            Self::Waiting(reason) => match reason.as_str() {
                "ErrImagePull" => format!("{subject} is waiting to start: image can't be pulled"),
                "ImagePullBackOff" => format!("{subject} is waiting to start: trying and failing to pull image"),
                reason => format!("{subject} is waiting to start: {reason}"),
            },
            Self::Unknown => format!("{subject} is waiting to start - no logs yet"),
        }
    }
}

fn choose(status: &ContainerStatus, previous: bool) -> Result<String, Problem> {
    let state = status.state.as_ref();
    let before = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let before_id = before.and_then(|ended| ended.container_id.clone()).filter(|id| !id.is_empty());
    if previous {
        return before_id.ok_or(Problem::NoPrevious);
    }
    if state.is_some_and(|state| state.running.is_some()) {
        return status.container_id.clone().ok_or(Problem::Unknown);
    }
    if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        let own = ended.container_id.clone().filter(|id| !id.is_empty());
        return own.or(before_id).ok_or(Problem::Terminated);
    }
    if before.is_some() {
        return before_id.ok_or(Problem::Terminated);
    }
    match state.and_then(|state| state.waiting.as_ref()) {
        Some(waiting) => Err(Problem::Waiting(waiting.reason.clone().unwrap_or_default())),
        None => Err(Problem::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn choice(state: Value, last: Value, previous: bool) -> Result<String, String> {
        let status = json!({"containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "containerID": "containerd://now", "state": state, "lastState": last
        }]});
        let status: PodStatus = serde_json::from_value(status).unwrap();
        logged_container("p", &status, "c", previous).map_err(|refusal| refusal.1)
    }

    #[test]
    fn the_meant_container() {
        let none = json!({});
        let ended = |id: &str| json!({"terminated": {"exitCode": 0, "containerID": id}});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let running = json!({"running": {}});
        for (state, last, previous, want) in [
            (running.clone(), ended("containerd://old"), false, Ok("now")),
            (running.clone(), ended("containerd://old"), true, Ok("old")),
            (running, none.clone(), true, Err("previous terminated container \"c\" in pod \"p\" not found")),
            (ended("containerd://now"), none.clone(), false, Ok("now")),
            (ended(""), ended("containerd://old"), false, Ok("old")),
            (ended(""), none.clone(), false, Err("container \"c\" in pod \"p\" is terminated")),
            (waiting("CrashLoopBackOff"), ended("containerd://old"), false, Ok("old")),
            (
                waiting("ContainerCreating"),
                none.clone(),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
            ),
            (
                waiting("ErrImagePull"),
                none.clone(),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled"),
            ),
            (
                waiting("ImagePullBackOff"),
                none.clone(),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"),
            ),
            (none.clone(), none, false, Err("container \"c\" in pod \"p\" is waiting to start - no logs yet")),
        ] {
            let got = choice(state, last, previous);
            assert_eq!(got.as_deref().map_err(String::as_str), want);
        }
    }
}
