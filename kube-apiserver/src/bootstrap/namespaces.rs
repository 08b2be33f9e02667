//! The namespaces that every cluster has.

use std::sync::Arc;

use serde_json::json;

use super::ensure::ensure as ensure_object;
use crate::{request::ApiResult, server::ApiServer};

/// Creates the missing ones.
///
/// # Errors
/// The store is unavailable.
pub async fn ensure(server: Arc<ApiServer>) -> ApiResult<()> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure_object(&server, "", "namespaces", json!({"metadata": {"name": name}})).await?;
    }
    Ok(())
}
