//! The verbs, one file each, generic over resources.

pub mod convert;
pub mod create;
pub mod delete;
pub mod get;
pub mod hooks;
pub mod list;
pub mod not_yet;
pub mod output;
pub mod ownership;
pub mod patch;
mod pieces;
mod rows;
pub mod subresources;
pub mod update;
pub mod watch;
pub mod write;

use common::api::{Resource, catalog::Subresource};
use http::{Method, Response};
use hyper::body::Incoming;

use crate::{
    request::{ApiError, ApiResult, body::Expected},
    resources::Strategy,
    server::{
        Call, Mutation, Outcome, ResourceStore,
        response::{self, Body},
    },
};

/// What a request is about.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The resource in the version asked for.
    pub resource: &'static Resource,
    /// Its subresource.
    pub sub: Option<&'static Subresource>,
    /// Where it is stored.
    pub store: &'a ResourceStore,
}

impl Target<'_> {
    /// The kind that bodies of the main resource have.
    #[must_use]
    pub fn expected(&self) -> Expected<'static> {
        Expected { group: self.resource.group, version: self.resource.version, kind: self.resource.kind }
    }

    /// Whether clients see the object as it is stored.
    #[must_use]
    pub fn is_stored_form(&self) -> bool {
        self.resource.group == self.store.resource.group && self.resource.version == self.store.resource.version
    }

    /// The members that objects of this resource begin with in JSON, as the store's encoder writes them.
    fn type_meta(&self) -> String {
        format!(r#""kind":"{}","apiVersion":"{}","#, self.resource.kind, self.resource.api_version())
    }

    /// The rules of the kind. Events of events.k8s.io have stricter ones than those that they are stored as.
    #[must_use]
    pub fn strategy(&self) -> &'static dyn Strategy {
        match (self.resource.group, self.resource.plural) {
            (group @ "events.k8s.io", plural) => crate::resources::strategy(group, plural),
            _ => self.store.strategy,
        }
    }

    /// Runs a mutation on the stored object; who asked for another group hears of that one.
    ///
    /// # Errors
    /// 404, what the mutation answers, or the store is unavailable.
    pub async fn modify(&self, namespace: &str, name: &str, mutation: &mut dyn Mutation) -> ApiResult<Outcome> {
        let outcome = self.store.modify(namespace, name, mutation).await;
        let other = self.resource.group != self.store.resource.group;
        outcome.map_err(|error| if other && error.is_not_found() { self.not_found(name) } else { error })
    }

    /// 404 for this resource.
    #[must_use]
    pub fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(self.resource.group, self.resource.plural, name)
    }
}

/// Serves a request to a resource.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, body: Incoming) -> ApiResult<Response<Body>> {
    let info = &call.info;
    let Some(resource) = call.registry.resolve(&info.group, &info.version, &info.resource) else {
        return unknown(call);
    };
    if !resource.namespaced && !info.namespace.is_empty() && info.resource != "namespaces" || info.parts.len() > 3 {
        return Err(ApiError::unknown_resource());
    }
    if resource.storage.is_none() {
        return subresources::virtual_create(call, resource, body).await;
    }
    if resource.namespaced && info.namespace.is_empty() {
        if info.names_object() {
            return Err(ApiError::unknown_resource());
        }
        // All namespaces can be read, but neither written to nor emptied at once.
        if !matches!(verb_of(call), "list" | "watch") {
            return Err(ApiError::method_not_allowed());
        }
    }
    if call.method == Method::HEAD {
        return Err(ApiError::method_not_allowed());
    }
    if info.names_object() {
        check_segment(&info.name)?;
    }
    if resource.group.is_empty() && resource.plural == "endpoints" {
        call.warn("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice");
    }
    let Some(store) = call.registry.store_of(resource) else { return Ok(not_served()) };
    if !info.subresource.is_empty() {
        let Some(sub) = resource.subresource(&info.subresource) else { return Err(ApiError::unknown_resource()) };
        return subresources::serve(call, Target { resource, sub: Some(sub), store }, body).await;
    }
    let target = Target { resource, sub: None, store };
    if !resource.allows(if info.watch_prefix { "watch" } else { verb_of(call) }) {
        return Err(ApiError::method_not_allowed());
    }
    match verb_of(call) {
        "get" => get::serve(call, target).await,
        "list" => list::serve(call, target).await,
        "watch" => watch::serve(call, target).await,
        "create" => create::serve(call, target, body).await,
        "update" => update::serve(call, target, body).await,
        "patch" => patch::serve(call, target, body).await,
        "delete" => delete::serve(call, target, body).await,
        "deletecollection" => delete::collection(call, target, body).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// No object can have a name that means something in a path.
fn check_segment(name: &str) -> ApiResult<()> {
    let wrong: Vec<String> = match name {
        "." | ".." => vec![format!("may not be '{name}'")],
        _ => ['/', '%'].iter().filter(|c| name.contains(**c)).map(|c| format!("may not contain '{c}'")).collect(),
    };
    if wrong.is_empty() {
        return Ok(());
    }
    Err(ApiError::bad_request(format!("Name parameter invalid: {name:?}: {}", wrong.join(";"))))
}

/// The verb as the path tells it: a collection is listed even when a field selector names one object.
fn verb_of(call: &Call) -> &str {
    match (call.info.verb.as_str(), call.info.names_object()) {
        ("create", true) => "",
        ("update" | "patch", false) => "",
        (verb, _) => verb,
    }
}

/// A path below a group that is served answers a Status, any other the text of the outermost server.
fn unknown(call: &Call) -> ApiResult<Response<Body>> {
    if common::api::catalog().group(&call.info.group).is_some() {
        return Err(ApiError::unknown_resource());
    }
    Ok(not_served())
}

/// What an unknown path answers.
#[must_use]
pub fn not_served() -> Response<Body> {
    response::text(404, "404 page not found\n")
}
