//! The scale subresource of whatever kind serves one.

use std::sync::Arc;

use k8s_openapi::api::autoscaling::v1::Scale;
use kube::Client;
use parking_lot::Mutex;

use super::apierr;
use super::discovery::{self, Discovered, Served};

/// Reads and writes scales; remembers what the server serves.
pub(crate) struct Scaler {
    client: Client,
    served: Mutex<Arc<Discovered>>,
}

impl Scaler {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, served: Mutex::default() }
    }

    /// The resource of a kind. A kind that is not known yet is looked up again; None: the server does not serve it.
    ///
    /// # Errors
    /// The server does not tell what it serves.
    pub(crate) async fn resource(&self, group: &str, kind: &str) -> Result<Option<Served>, kube::Error> {
        let find = |discovered: &Discovered| {
            discovered.resources.iter().find(|r| r.kind == kind && r.group == group && r.namespaced).cloned()
        };
        let known = self.served.lock().clone();
        if let Some(found) = find(&known) {
            return Ok(Some(found));
        }
        let fresh = discovery::discover(&self.client).await?;
        let found = find(&fresh);
        *self.served.lock() = Arc::new(fresh);
        Ok(found)
    }

    /// The scale of one object.
    pub(crate) async fn get(&self, resource: &Served, namespace: &str, name: &str) -> Result<Scale, kube::Error> {
        let request = http::Request::get(path(resource, namespace, name)).body(Vec::new());
        self.client.request(request.map_err(kube::Error::HttpError)?).await
    }

    /// Sets the scale; on a conflict once more over the fresh one.
    pub(crate) async fn set(
        &self,
        resource: &Served,
        mut scale: Scale,
        (namespace, name): (&str, &str),
        replicas: i32,
    ) -> Result<(), kube::Error> {
        for last in [false, true] {
            scale.spec.get_or_insert_default().replicas = Some(replicas);
            let body = serde_json::to_vec(&scale).map_err(kube::Error::SerdeError)?;
            let request =
                http::Request::put(path(resource, namespace, name)).header("content-type", "application/json");
            let request = request.body(body).map_err(kube::Error::HttpError)?;
            match self.client.request::<Scale>(request).await {
                Ok(_) => break,
                Err(error) if last || !apierr::is_conflict(&error) => return Err(error),
                Err(_) => scale = self.get(resource, namespace, name).await?,
            }
        }
        Ok(())
    }
}

fn path(resource: &Served, namespace: &str, name: &str) -> String {
    let root = if resource.group.is_empty() { "api" } else { "apis" };
    format!("/{root}/{}/namespaces/{namespace}/{}/{name}/scale", resource.api_version(), resource.plural)
}
