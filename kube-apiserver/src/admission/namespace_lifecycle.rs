//! NamespaceLifecycle: nothing is created in namespaces that are missing or on their way out.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::request::{ApiError, ApiResult};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
/// How long a namespace that was just created elsewhere may take to arrive.
const PATIENCE: Duration = Duration::from_millis(50);

pub(super) struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn admit(&self, request: &Attributes<'_>, _object: &mut Value) -> ApiResult<()> {
        check(request).await
    }

    async fn validate(&self, request: &Attributes<'_>, _object: Option<&Value>) -> ApiResult<()> {
        if request.operation == Operation::Delete && request.is("", "namespaces") && IMMORTAL.contains(&request.name) {
            return Err(request.forbidden("this namespace may not be deleted"));
        }
        Ok(())
    }
}

async fn check(request: &Attributes<'_>) -> ApiResult<()> {
    let namespace = request.namespace;
    if namespace.is_empty()
        || (request.group.is_empty() && request.resource == "namespaces")
        || request.operation != Operation::Create
        || request.resource == "localsubjectaccessreviews"
    {
        return Ok(());
    }
    let store = request.call.registry.core("namespaces")?;
    let mut found = store.glance("", namespace).await?;
    if found.is_none() {
        tokio::time::sleep(PATIENCE).await;
        found = store.find("", namespace).await?;
    }
    let found = found.ok_or_else(|| ApiError::not_found("", "namespaces", namespace))?;
    if found.object["status"]["phase"] != "Terminating" {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let cause = format!("namespace {namespace} is being terminated");
    Err(request.forbidden(why).with_cause("NamespaceTerminating", "metadata.namespace", cause))
}
