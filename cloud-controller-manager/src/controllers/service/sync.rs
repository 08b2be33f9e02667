//! One Service: load balancer, finalizer and status brought in line.

use std::sync::Arc;

use common::informer::split_key;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Service};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::decide::{FINALIZER, Operation, eligible, has_finalizer, node_set, operation, wants_balancer};
use super::{Controller, Known};
use crate::apierr;
use crate::provider::ProviderError;

/// Why a Service is not in line yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum SyncError {
    #[error("failed to check if load balancer exists before cleanup: {0}")]
    Check(ProviderError),
    #[error("failed to delete load balancer: {0}")]
    Delete(ProviderError),
    #[error("failed to remove load balancer cleanup finalizer: {0}")]
    RemoveFinalizer(String),
    #[error("failed to add load balancer cleanup finalizer: {0}")]
    AddFinalizer(String),
    #[error("failed to ensure load balancer: {0}")]
    Ensure(ProviderError),
    #[error("failed to update load balancer status: {0}")]
    Status(String),
}

impl Controller {
    /// Brings the Service of this key in line, or takes away what a vanished one had.
    pub(super) async fn sync(&self, key: &str) -> Result<(), SyncError> {
        let Some(service) = self.services.get_by_key(key) else { return self.forget_vanished(key).await };
        let replaced = self.known.lock().get(key).map(|known| known.service.clone());
        if let Some(old) = replaced.filter(|old| old.metadata.uid != service.metadata.uid) {
            // Deleted and made again without the finalizer's protection.
            self.delete_vanished(&old).await?;
        }
        self.remember(key, &service);
        let operation = operation(&service);
        let done = match operation {
            Operation::Delete => self.delete(&service).await,
            Operation::Ensure => self.ensure(&service, key).await,
        };
        if let Err(error) = done {
            self.warning(&service, "SyncLoadBalancerFailed", format!("Error syncing load balancer: {error}"));
            return Err(error);
        }
        if operation == Operation::Delete {
            self.known.lock().remove(key);
        }
        Ok(())
    }

    fn remember(&self, key: &str, service: &Arc<Service>) {
        let mut known = self.known.lock();
        match known.get_mut(key) {
            Some(known) => known.service = service.clone(),
            None => {
                known.insert(key.to_owned(), Known { service: service.clone(), nodes: super::NodeSet::new() });
            }
        }
    }

    async fn forget_vanished(&self, key: &str) -> Result<(), SyncError> {
        let Some(service) = self.known.lock().get(key).map(|known| known.service.clone()) else { return Ok(()) };
        tracing::info!(service = key, "the service is gone; cleaning its load balancer up");
        self.delete_vanished(&service).await?;
        self.known.lock().remove(key);
        Ok(())
    }

    async fn delete_vanished(&self, service: &Service) -> Result<(), SyncError> {
        if !wants_balancer(service) {
            return Ok(());
        }
        self.normal(service, "DeletingLoadBalancer", "Deleting load balancer");
        if let Err(error) = self.balancer.ensure_deleted(service).await {
            self.warning(service, "DeleteLoadBalancerFailed", format!("Error deleting load balancer: {error}"));
            return Err(SyncError::Delete(error));
        }
        self.normal(service, "DeletedLoadBalancer", "Deleted load balancer");
        Ok(())
    }

    async fn delete(&self, service: &Service) -> Result<(), SyncError> {
        if self.balancer.exists(service).await.map_err(SyncError::Check)? {
            self.normal(service, "DeletingLoadBalancer", "Deleting load balancer");
            self.balancer.ensure_deleted(service).await.map_err(SyncError::Delete)?;
        }
        if has_finalizer(service) {
            // The status goes first: without the finalizer the object may be gone.
            self.write_status(service, &LoadBalancerStatus::default()).await?;
            let patch = self.patch(service, finalizer_patch(service, false)).await;
            patch.or_else(ignore_not_found).map_err(|e| SyncError::RemoveFinalizer(apierr::message(&e)))?;
        } else {
            self.write_status(service, &LoadBalancerStatus::default()).await?;
        }
        self.normal(service, "DeletedLoadBalancer", "Deleted load balancer");
        Ok(())
    }

    async fn ensure(&self, service: &Service, key: &str) -> Result<(), SyncError> {
        self.normal(service, "EnsuringLoadBalancer", "Ensuring load balancer");
        if !has_finalizer(service) {
            let patch = self.patch(service, finalizer_patch(service, true)).await;
            patch.map_err(|e| SyncError::AddFinalizer(apierr::message(&e)))?;
        }
        let nodes = eligible(self.nodes.list());
        if nodes.is_empty() {
            self.warning(
                service,
                "UnAvailableLoadBalancer",
                "There are no available nodes for LoadBalancer".to_owned(),
            );
        }
        if let Some(known) = self.known.lock().get_mut(key) {
            known.nodes = node_set(&nodes);
        }
        let status = self.balancer.ensure(service, &nodes).await.map_err(SyncError::Ensure)?;
        self.normal(service, "EnsuredLoadBalancer", "Ensured load balancer");
        self.write_status(service, &status).await
    }

    async fn write_status(&self, service: &Service, status: &LoadBalancerStatus) -> Result<(), SyncError> {
        let Some(patch) = status_patch(service, status) else { return Ok(()) };
        let written = self.patch(service, patch).await;
        written.or_else(ignore_not_found).map_err(|e| SyncError::Status(apierr::message(&e)))
    }

    /// Through the status subresource, which is what providers' roles allow.
    async fn patch(&self, service: &Service, patch: Value) -> Result<(), kube::Error> {
        let key = common::informer::object_key(service);
        let (namespace, name) = split_key(&key);
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(|_| ())
    }
}

fn ignore_not_found(error: kube::Error) -> Result<(), kube::Error> {
    if apierr::is_not_found(&error) { Ok(()) } else { Err(error) }
}

/// Adds or removes our finalizer alone, whatever others do to the list meanwhile. The UID keeps a stale cache from
/// touching a successor of the same name.
fn finalizer_patch(service: &Service, present: bool) -> Value {
    let uid = &service.metadata.uid;
    if present {
        json!({"metadata": {"uid": uid, "finalizers": [FINALIZER]}})
    } else {
        json!({"metadata": {"uid": uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}})
    }
}

/// The patch of the status, if it has to change.
fn status_patch(service: &Service, wanted: &LoadBalancerStatus) -> Option<Value> {
    let current = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.clone());
    let wanted = wanted.ingress.clone().unwrap_or_default();
    if current.unwrap_or_default() == wanted {
        return None;
    }
    let ingress = if wanted.is_empty() { Value::Null } else { json!(wanted) };
    Some(json!({"metadata": {"uid": service.metadata.uid}, "status": {"loadBalancer": {"ingress": ingress}}}))
}
