//! The namespaces that every cluster has.

use std::sync::Arc;

use futures::future::try_join_all;
use serde_json::json;

use super::ensure::ensure as ensure_object;
use crate::{request::ApiResult, server::ApiServer};

/// Creates the missing ones.
///
/// # Errors
/// The store is unavailable.
pub async fn ensure(server: Arc<ApiServer>) -> ApiResult<()> {
    let names = ["default", "kube-system", "kube-public", "kube-node-lease"];
    let objects = names.map(|name| json!({"metadata": {"name": name}}));
    try_join_all(objects.map(|object| ensure_object(&server, "", "namespaces", object))).await?;
    Ok(())
}
