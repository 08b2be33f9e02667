//! DefaultBinder: posts the Binding to the API server.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Binding, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::framework::plugin::{Bind, Plugin};
use crate::framework::pod::PodInfo;
use crate::framework::status::Status;

/// The plugin. Without a client (tests of the decision alone) every binding fails.
pub struct DefaultBinder {
    /// The API server.
    pub client: Option<kube::Client>,
}

/// Upstream's name.
pub const NAME: &str = "DefaultBinder";

extension_points!(DefaultBinder { as_bind: Bind });

#[async_trait]
impl Bind for DefaultBinder {
    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<bool, Arc<Status>> {
        let client = self.client.as_ref().ok_or_else(|| Status::error(NAME, "no API server to bind with"))?;
        let binding = Binding {
            metadata: ObjectMeta {
                namespace: Some(pod.namespace().to_owned()),
                name: Some(pod.name.to_string()),
                uid: Some(pod.uid.to_string()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let failed = |error: &dyn std::fmt::Display| Status::error(NAME, error.to_string());
        let body = serde_json::to_vec(&binding).map_err(|error| failed(&error))?;
        let request = http::Request::post(format!("/api/v1/namespaces/{}/pods/{}/binding", pod.namespace(), pod.name))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| failed(&error))?;
        client.request_text(request).await.map_err(|error| failed(&error))?;
        Ok(true)
    }
}
