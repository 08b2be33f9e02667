//! OpenAPI documents (/openapi/v2, /openapi/v3 and below) from the type table, the catalog and k8s-openapi's texts.

mod cache;
mod descriptions;
mod gnostic;
mod gnostic_v3;
mod operations;
mod parameters;
mod respond;
mod schemas;
mod v2;
mod v3;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use common::api::{GroupVersion, catalog};
use common::config::version::GIT_VERSION;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Map, Value, json};

use cache::Cache;
use operations::Media;
use respond::Document;

/// Which group versions are served.
pub type Served = Arc<dyn Fn(&GroupVersion) -> bool + Send + Sync>;

/// Answers OpenAPI requests; documents are built when first asked for and kept compressed.
pub struct OpenApi {
    served: Served,
    cache: Cache,
}

/// Part of every hash: to be raised when documents change without their sources changing.
const REVISION: u32 = 2;

impl OpenApi {
    /// Documents for the group versions that `served` admits.
    pub fn new(served: Served) -> Self {
        Self { served, cache: Cache::default() }
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
        let name = path.strip_prefix("/openapi/")?.trim_end_matches('/');
        let (name, known) = match name {
            "v2" => (name, true),
            "v3" => (name, true),
            other => (
                other.strip_prefix("v3/")?,
                self.documents().iter().any(|known| Some(known.as_str()) == other.strip_prefix("v3/")),
            ),
        };
        if !known {
            return Some(respond::nothing(StatusCode::NOT_FOUND));
        }
        // Upstream answers v2 whatever the method is.
        if method != Method::GET && method != Method::HEAD && name != "v2" {
            return Some(respond::method_not_allowed());
        }
        self.cache.trim();
        Some(match name {
            "v2" => self.second(headers),
            "v3" => respond::index(&self.index(), &self.hash("index"), headers),
            name => {
                let Some(form) = respond::third_form(headers) else {
                    return Some(respond::nothing(StatusCode::NOT_ACCEPTABLE));
                };
                let hash = self.hash(name);
                if let Some(response) = respond::redirect(path, query, &hash) {
                    return Some(response);
                }
                // Two forms of a document have two tags.
                let tag = if form == respond::JSON { hash } else { self.hash(&format!("{name} {form}")) };
                let document = Document { content_type: form, hash: &tag, immutable: query.is_some() };
                let key = if form == respond::JSON { name.to_owned() } else { format!("{name} {form}") };
                respond::document(&document, headers, || {
                    self.cache.get(&key, |out| match form {
                        respond::JSON => self.third(name, out),
                        _ => self.third_in_protobuf(name, out),
                    })
                })
            }
        })
    }

    /// Drops documents that nobody has asked for lately.
    pub fn trim(&self) {
        self.cache.trim();
    }

    fn second(&self, headers: &HeaderMap) -> Response<Bytes> {
        let Some(form) = respond::second_form(headers) else { return respond::nothing(StatusCode::NOT_ACCEPTABLE) };
        let hash = self.hash(form);
        let versions: Vec<&GroupVersion> =
            catalog().group_versions().filter(|version| (self.served)(version)).collect();
        let document = Document { content_type: form, hash: &hash, immutable: false };
        respond::document(&document, headers, || {
            self.cache.get(form, |out| {
                let singles = self.documents().iter().filter_map(|name| single(name)).collect();
                let document = v2::Document::new(&versions, singles);
                if form == respond::JSON { document.write_json(out) } else { gnostic::write(&document, out) }
            })
        })
    }

    /// The names of the v3 documents.
    fn documents(&self) -> Vec<String> {
        let mut names = [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"]
            .map(str::to_owned)
            .to_vec();
        for group in &catalog().groups {
            let base = if group.name.is_empty() { "api".to_owned() } else { format!("apis/{}", group.name) };
            let versions: Vec<_> = group.versions.iter().filter(|version| (self.served)(version)).collect();
            names.extend(versions.iter().map(|version| format!("{base}/{}", version.version)));
            if !versions.is_empty() && !group.name.is_empty() {
                names.push(base);
            }
        }
        names.sort();
        names
    }

    fn index(&self) -> Value {
        let entry = |name: String| {
            let url = format!("/openapi/v3/{name}?hash={}", self.hash(&name));
            (name, json!({"serverRelativeURL": url}))
        };
        let paths: Map<String, Value> = self.documents().into_iter().map(entry).collect();
        json!({ "paths": paths })
    }

    /// Writes a document of v3.
    fn third(&self, name: &str, out: &mut dyn Write) -> io::Result<()> {
        if let Some(single) = single(name) {
            return v3::document(&[single], &[("", "v1")], out);
        }
        let mut parts = name.rsplit('/');
        let version = parts.next().unwrap_or_default();
        let group = parts.next().filter(|_| name.starts_with("apis/")).unwrap_or_default();
        match catalog().group_version(group, version) {
            Some(version) => v3::group_version(version, out),
            None => Ok(()),
        }
    }

    fn third_in_protobuf(&self, name: &str, out: &mut dyn Write) -> io::Result<()> {
        let mut json = Vec::new();
        self.third(name, &mut json)?;
        out.write_all(&gnostic_v3::document(&serde_json::from_slice(&json)?))
    }

    /// A document's hash, known without building it: documents follow from their sources.
    fn hash(&self, name: &str) -> String {
        let mut context = ring::digest::Context::new(&ring::digest::SHA512);
        context.update(format!("{REVISION} {GIT_VERSION} {} {name}", env!("CARGO_PKG_VERSION")).as_bytes());
        context.update(sources());
        // The index and v2 also depend on what is served.
        if matches!(name, "index" | respond::JSON | respond::PROTOBUF) {
            self.documents().iter().for_each(|name| context.update(name.as_bytes()));
        }
        context.finish().as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
    }
}

/// The one path of a document that is about no group version.
fn single(name: &str) -> Option<operations::Path> {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
    let versions = "get available API versions";
    Some(match name.split('/').collect::<Vec<_>>().as_slice() {
        ["api"] => {
            let answer = format!("{META}.APIVersions");
            operations::discovery("/api/", "getCoreAPIVersions", "core", versions, &answer, Media::Discovery)
        }
        ["apis"] => {
            let answer = format!("{META}.APIGroupList");
            operations::discovery("/apis/", "getAPIVersions", "apis", versions, &answer, Media::Discovery)
        }
        ["version"] => {
            let answer = "io.k8s.apimachinery.pkg.version.Info";
            let text = "get the version information for this server";
            operations::discovery("/version/", "getCodeVersion", "version", text, answer, Media::Json)
        }
        [".well-known", "openid-configuration"] => {
            let (id, text) = (
                "getServiceAccountIssuerOpenIDConfiguration",
                "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            );
            let path =
                operations::discovery("/.well-known/openid-configuration/", id, "WellKnown", text, "", Media::Json);
            operations::text(path)
        }
        ["openid", "v1", "jwks"] => {
            let (id, text) = (
                "getServiceAccountIssuerOpenIDKeyset",
                "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            );
            operations::text(operations::discovery("/openid/v1/jwks/", id, "openid", text, "", Media::Keys))
        }
        ["apis", group] => {
            let (path, id) = (format!("/apis/{group}/"), format!("get{}APIGroup", operations::group_name(group)));
            let (tag, answer) = (operations::tag_name(group), format!("{META}.APIGroup"));
            operations::discovery(&path, &id, &tag, "get information of a group", &answer, Media::Discovery)
        }
        _ => return None,
    })
}

/// The digest of the type table, computed once.
fn sources() -> &'static [u8] {
    static DIGEST: LazyLock<ring::digest::Digest> =
        LazyLock::new(|| ring::digest::digest(&ring::digest::SHA256, common::schema::fingerprint().as_bytes()));
    DIGEST.as_ref()
}
