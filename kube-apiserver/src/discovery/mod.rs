//! Discovery documents: /, /version, /api, /apis and below, aggregated or not, all from the catalog.

mod documents;
mod negotiation;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use common::api::{Group, GroupVersion, Resource, catalog};
use http::{HeaderMap, Method, Response, StatusCode, header};
use serde_json::Value;

use documents::Aggregated;

use crate::request::{ApiError, ApiResult, negotiate};

/// Answers discovery requests for what this server serves.
pub struct Discovery {
    options: Options,
    aggregated: [OnceLock<Tagged>; 2],
}

/// A document that clients may already have.
struct Tagged {
    value: Value,
    etag: String,
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
    /// Prepares the documents (they are built when asked for).
    pub fn new(options: Options) -> Self {
        Self { options, aggregated: Default::default() }
    }

    /// Answers if `path` is one of discovery's.
    ///
    /// # Errors
    /// 405 for other methods than GET and HEAD, where upstream looks at them; 406.
    pub fn handle(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<ApiResult<Response<Bytes>>> {
        let (document, any_method) = self.document(path)?;
        if !any_method && method != Method::GET && method != Method::HEAD {
            return Some(Err(ApiError::method_not_allowed()));
        }
        Some(match document {
            Document::Root(part) => self.root(part, headers),
            Document::Encoded(value) => negotiation::encoded(&value, headers),
            Document::Json(value, produced) => produced
                .map_or(Ok(()), |produced| negotiate::route(headers, produced))
                .map(|()| negotiation::json(StatusCode::OK, &value)),
        })
    }

    /// The document at a path, and whether upstream answers with it whatever the method is.
    fn document(&self, path: &str) -> Option<(Document, bool)> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let any_method = matches!(parts.as_slice(), [""] | ["apis"] | ["apis", _]);
        let document = match parts.as_slice() {
            [""] => Document::Json(self.paths(), None),
            ["version"] => {
                let info = serde_json::to_value(common::config::version::info()).ok()?;
                Document::Json(info, Some(&["application/json"]))
            }
            ["api"] => Document::Root(Aggregated::Core),
            ["apis"] => Document::Root(Aggregated::Groups),
            ["api", version] => Document::Encoded(self.resources("", version)?),
            ["apis", group] => {
                let group = catalog().group(group).filter(|group| !group.name.is_empty())?;
                let served = self.versions(group);
                Document::Encoded(documents::group(group.name, &served).filter(|_| !served.is_empty())?)
            }
            ["apis", group, version] if !group.is_empty() => Document::Encoded(self.resources(group, version)?),
            _ => return None,
        };
        Some((document, any_method))
    }

    /// /api or /apis, in the form the client prefers.
    fn root(&self, part: Aggregated, headers: &HeaderMap) -> ApiResult<Response<Bytes>> {
        let groups = || catalog().groups.iter().filter(|group| !group.name.is_empty());
        let Some(version) = negotiation::aggregated_form(headers) else {
            let value = match part {
                Aggregated::Core => documents::core_versions(&self.options.server_address),
                Aggregated::Groups => documents::group_list(groups().map(|group| (group.name, self.versions(group)))),
            };
            let mut response = negotiation::encoded(&value, headers)?;
            response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("Accept"));
            return Ok(response);
        };
        let tagged = self.aggregated[part as usize].get_or_init(|| {
            let included = catalog().groups.iter().filter(|group| (part == Aggregated::Core) == group.name.is_empty());
            let value = documents::aggregated(
                included.map(|group| (group.name, self.versions(group))),
                &*self.options.resource,
            );
            let etag = negotiation::etag(&value);
            Tagged { value, etag }
        });
        Ok(negotiation::aggregated(&tagged.value, &tagged.etag, version, headers))
    }

    fn versions<'g>(&self, group: &'g Group) -> Vec<&'g GroupVersion> {
        group.versions.iter().filter(|version| (self.options.group_version)(version)).collect()
    }

    fn resources(&self, group: &str, version: &str) -> Option<Value> {
        let version =
            catalog().group_version(group, version).filter(|version| (self.options.group_version)(version))?;
        Some(documents::resource_list(version, &*self.options.resource))
    }

    /// What `/` lists: every path of discovery and those of others.
    fn paths(&self) -> Value {
        let mut paths: Vec<String> =
            ["/api", "/apis", "/apis/", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/version"]
                .into_iter()
                .map(str::to_owned)
                .chain(self.options.paths.iter().cloned())
                .collect();
        for group in &catalog().groups {
            let versions = self.versions(group);
            let base = if group.name.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.name) };
            paths.extend(versions.iter().map(|version| format!("{base}/{}", version.version)));
            if !versions.is_empty() {
                paths.push(base);
            }
        }
        paths.sort();
        paths.dedup();
        serde_json::json!({ "paths": paths })
    }
}

enum Document {
    /// JSON only, for clients that take one of these media types, or for all.
    Json(Value, Option<&'static [&'static str]>),
    /// One form only.
    Encoded(Value),
    /// /api or /apis: plain or aggregated.
    Root(Aggregated),
}
