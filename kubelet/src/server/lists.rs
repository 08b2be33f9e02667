//! `/pods` and `/runningpods`: what should run here, and what the runtime says does.

use common::serving::{Body, json};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::lookup::Refusal;
use crate::runtime::labels;
use crate::shared::Kubelet;

fn pod_list(items: Vec<Value>) -> Response<Body> {
    json(StatusCode::OK, &json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// The pods of this node with their statuses.
pub(super) fn pods(kubelet: &Kubelet) -> Result<Response<Body>, Refusal> {
    let mut items = Vec::new();
    for record in kubelet.pods.list() {
        let mut item = serde_json::to_value(record.merged()).map_err(|error| Refusal::internal(error.to_string()))?;
        if let Some(item) = item.as_object_mut() {
            item.remove("kind");
            item.remove("apiVersion");
        }
        items.push(item);
    }
    Ok(pod_list(items))
}

/// Pods with at least one running container, as the runtime knows them.
pub(super) async fn running(kubelet: &Kubelet) -> Result<Response<Body>, Refusal> {
    let containers = kubelet.runtime.containers(None).await.map_err(|error| Refusal::internal(error.to_string()))?;
    let mut pods: std::collections::BTreeMap<String, Value> = std::collections::BTreeMap::new();
    for container in containers {
        if container.state != k8s_cri::v1::ContainerState::ContainerRunning as i32 {
            continue;
        }
        let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        let uid = label(labels::POD_UID);
        let pod = pods.entry(uid.clone()).or_insert_with(|| {
            let (name, namespace) = (label(labels::POD_NAME), label(labels::POD_NAMESPACE));
            json!({
                "metadata": {"name": name, "namespace": namespace, "uid": uid, "creationTimestamp": null},
                "spec": {"containers": []}, "status": {}
            })
        });
        let image = container.image.map(|image| image.image).unwrap_or_default();
        let entry = json!({"name": label(labels::CONTAINER_NAME), "image": image, "resources": {}});
        if let Some(list) = pod.pointer_mut("/spec/containers").and_then(Value::as_array_mut) {
            list.push(entry);
        }
    }
    Ok(pod_list(pods.into_values().collect()))
}
