//! Creating, adopting and deleting pods in the name of a controller, with upstream's events.

use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, Error};

use super::apierr;
use super::meta::MetaExt;
use crate::events::Events;

/// The pod that a template describes, owned by `owner`, its name to be generated from `owner_name`.
pub(crate) fn pod_from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    owner_name: &str,
    owner: OwnerReference,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(name_prefix(owner_name)),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// `name-`, as long as that may begin a pod's name.
fn name_prefix(owner_name: &str) -> String {
    if owner_name.len() < 253 { format!("{owner_name}-") } else { owner_name.to_owned() }
}

/// Writes pods for one controller.
pub(crate) struct PodControl {
    pub(crate) client: Client,
    pub(crate) events: Events,
}

impl PodControl {
    fn api(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates a pod and tells so on `owner`.
    pub(crate) async fn create(&self, namespace: &str, pod: &Pod, owner: &ObjectReference) -> Result<Pod, Error> {
        match self.api(namespace).create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.events.normal(owner, "SuccessfulCreate", format!("Created pod: {}", created.name_str()));
                Ok(created)
            }
            Err(error) => {
                if !apierr::is_namespace_terminating(&error) {
                    self.events.warning(owner, "FailedCreate", format!("Error creating: {}", apierr::message(&error)));
                }
                Err(error)
            }
        }
    }

    /// Deletes a pod and tells so on `owner`. The UID keeps it from hitting a successor of that name.
    pub(crate) async fn delete(&self, pod: &Pod, owner: &ObjectReference) -> Result<(), Error> {
        let params = uid_precondition(DeleteParams::default(), pod.uid_str());
        match self.api(pod.ns_str()).delete(pod.name_str(), &params).await {
            Ok(_) => {
                self.events.normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_str()));
                Ok(())
            }
            Err(error) => {
                if !apierr::is_not_found(&error) {
                    self.events.warning(owner, "FailedDelete", format!("Error deleting: {}", apierr::message(&error)));
                }
                Err(error)
            }
        }
    }
}

/// Delete only the object of this UID.
pub(crate) fn uid_precondition(mut params: DeleteParams, uid: &str) -> DeleteParams {
    params.preconditions = Some(kube::api::Preconditions { uid: Some(uid.to_owned()), resource_version: None });
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_takes_what_the_template_gives() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["e/f"], "name": "ignored"},
            "spec": {"containers": [{"name": "c"}]}}))
        .unwrap();
        let owner = OwnerReference { name: "web".into(), ..OwnerReference::default() };
        let pod = pod_from_template(&template, "ns", "web", owner.clone());
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-"));
        assert_eq!(pod.metadata.name, None);
        assert_eq!(pod.metadata.finalizers.as_deref(), Some(&["e/f".to_owned()][..]));
        assert_eq!(pod.metadata.owner_references, Some(vec![owner]));
        assert_eq!(name_prefix(&"x".repeat(253)), "x".repeat(253));
    }
}
