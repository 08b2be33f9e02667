//! What must happen around a write of certain kinds beyond the object itself: Service addresses and ports.

use serde_json::Value;

use super::Target;
use crate::{
    request::{ApiError, ApiResult},
    resources::alloc::{AllocError, Transaction},
    server::ApiServer,
};

/// Allocations that belong to one attempt of a write.
#[derive(Default)]
pub struct Allocation(Option<Transaction>);

impl Allocation {
    /// Allocates what a new object needs, writing it into the object.
    ///
    /// # Errors
    /// 422 when it asks for what it cannot have.
    pub async fn for_create(
        server: &ApiServer,
        target: Target<'_>,
        object: &mut Value,
        dry_run: bool,
    ) -> ApiResult<Self> {
        if !is_service(target) {
            return Ok(Self::default());
        }
        let allocators = server.allocators().await?;
        let result = allocators.allocate_create(object, dry_run).await;
        result.map(|t| Self(Some(t))).map_err(|e| refused(object, e))
    }

    /// Allocates what a changed object needs.
    ///
    /// # Errors
    /// 422 when it asks for what it cannot have.
    pub async fn for_update(
        server: &ApiServer,
        target: Target<'_>,
        object: &mut Value,
        old: &Value,
        dry_run: bool,
    ) -> ApiResult<Self> {
        if !is_service(target) || target.sub.is_some() {
            return Ok(Self::default());
        }
        let allocators = server.allocators().await?;
        let result = allocators.allocate_update(object, old, dry_run).await;
        result.map(|t| Self(Some(t))).map_err(|e| refused(object, e))
    }

    /// Keeps the allocations if the object was stored, gives them back if not.
    pub async fn settle(&mut self, server: &ApiServer, stored: bool) {
        let Some(transaction) = self.0.take() else { return };
        let Ok(allocators) = server.allocators().await else { return };
        if stored {
            allocators.commit(transaction).await;
        } else {
            allocators.revert(transaction).await;
        }
    }
}

/// Called once an object is gone from the store.
pub async fn after_delete(server: &ApiServer, target: Target<'_>, object: &Value) {
    if is_service(target)
        && let Ok(allocators) = server.allocators().await
    {
        allocators.release(object).await;
    }
}

fn is_service(target: Target<'_>) -> bool {
    target.store.resource.kind == "Service" && target.store.resource.group.is_empty()
}

fn refused(object: &Value, error: AllocError) -> ApiError {
    match error {
        AllocError::Invalid(errors) => {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            ApiError::invalid_fields("", "Service", name, errors)
        }
        AllocError::Internal(text) => ApiError::internal(text),
    }
}
