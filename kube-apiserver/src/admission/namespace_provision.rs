//! NamespaceAutoProvision: whoever creates an object makes its namespace, if it is missing.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::{bootstrap::ensure, request::ApiResult};

pub(super) struct NamespaceAutoProvision;

#[async_trait]
impl Plugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    async fn admit(&self, request: &Attributes<'_>, _object: &mut Value) -> ApiResult<()> {
        let about_namespaces = request.group.is_empty() && request.resource == "namespaces";
        if request.operation != Operation::Create || request.dry_run || request.namespace.is_empty() || about_namespaces
        {
            return Ok(());
        }
        let store = request.call.registry.core("namespaces")?;
        if store.glance("", request.namespace).await?.is_some() {
            return Ok(());
        }
        let namespace = json!({"metadata": {"name": request.namespace}});
        let made = ensure::ensure(&request.call.server, "", "namespaces", namespace).await;
        made.map(|_| ()).map_err(|error| request.forbidden(error))
    }
}
