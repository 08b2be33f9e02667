//! Mirror pods: how static pods show in the API.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, PostParams, Preconditions};

use super::spec;
use crate::shared::Kubelet;

/// Makes the static pod's mirror, or replaces one of another version.
pub(crate) async fn ensure(kubelet: &Kubelet, pod: &Pod) {
    let Some(client) = &kubelet.client else { return };
    if !kubelet.pods.api_synced() {
        return;
    }
    let hash = spec::annotation(pod, spec::CONFIG_HASH).unwrap_or_default();
    if let Some(mirror) = kubelet.pods.mirror(pod) {
        let same = spec::annotation(&mirror, spec::CONFIG_MIRROR) == Some(hash);
        if same && mirror.metadata.deletion_timestamp.is_none() {
            return;
        }
        delete(client, &mirror).await;
        return; // the deletion's event brings us back
    }
    let Some(node_uid) = kubelet.node.object().and_then(|node| node.metadata.uid.clone()) else { return };
    let mut mirror = Pod { status: None, ..pod.clone() };
    mirror.metadata.uid = None;
    mirror.metadata.resource_version = None;
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    annotations.insert(spec::CONFIG_MIRROR.into(), hash.to_owned());
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: kubelet.config.node_name.clone(),
        uid: node_uid,
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    let api: kube::Api<Pod> = kube::Api::namespaced(client.clone(), spec::namespace(pod));
    match api.create(&PostParams::default(), &mirror).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => {
            tracing::warn!(pod = %spec::describe(pod), %error, "failed creating a mirror pod");
        }
    }
}

/// Deletes a mirror at once.
pub(crate) async fn delete(client: &kube::Client, mirror: &Pod) {
    let api: kube::Api<Pod> = kube::Api::namespaced(client.clone(), spec::namespace(mirror));
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(spec::name(mirror), &params).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => tracing::warn!(pod = %spec::describe(mirror), %error, "failed deleting a mirror pod"),
    }
}
