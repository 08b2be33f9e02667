//! Subresources and resources that are only ever created (reviews, bindings).

mod binding;
mod component_status;
mod eviction;
mod guard;
mod review_rules;
mod reviews;
mod scale;
mod token;

use common::api::Resource;
use http::{Method, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};

pub use guard::rbac_guard;

use super::{Target, get, not_served, patch, update};
use crate::{
    patch::PatchError,
    request::{
        ApiError, ApiResult,
        status::{StatusCause, StatusDetails},
    },
    server::{Call, response::Body},
};

/// Serves a subresource of a stored object.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>, body: Incoming) -> ApiResult<Response<Body>> {
    let Some(sub) = target.sub else { return Ok(not_served()) };
    let verb = call.info.verb.as_str();
    if !sub.allows(verb) && sub.name != "proxy" {
        return Err(ApiError::method_not_allowed());
    }
    match (sub.name, verb) {
        ("scale", _) => scale::serve(call, target, body).await,
        ("binding", "create") => binding::serve(call, target, body).await,
        ("eviction", "create") => eviction::serve(call, target, body).await,
        ("token", "create") => token::serve(call, target, body).await,
        (_, "get") if is_object(target) => get::serve(call, target).await,
        (_, "update") if is_object(target) => update::serve(call, target, body).await,
        (_, "patch") if is_object(target) => patch::serve(call, target, body).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Subresources that are the object itself with other rules: status, finalize, ephemeralcontainers, ...
fn is_object(target: Target<'_>) -> bool {
    target.sub.is_some_and(|s| s.kind == target.resource.kind)
}

/// Serves POST to resources that are never stored.
///
/// # Errors
/// What the client is to hear.
pub async fn virtual_create(call: &Call, resource: &'static Resource, body: Incoming) -> ApiResult<Response<Body>> {
    if resource.plural == "componentstatuses" {
        return component_status::serve(call).await;
    }
    if call.info.names_object() || resource.namespaced && call.info.namespace.is_empty() {
        return Err(ApiError::unknown_resource());
    }
    if call.method != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    match resource.plural {
        "bindings" => binding::serve_collection(call, body).await,
        _ => reviews::serve(call, resource, body).await,
    }
}

/// The Status of a subresource's success.
#[must_use]
pub fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}

/// The client's error for a patch that does not apply.
#[must_use]
pub fn patch_error(error: PatchError) -> ApiError {
    match &error {
        PatchError::Invalid { value, detail } => ApiError::invalid(
            "",
            "",
            "",
            vec![StatusCause {
                cause_type: "FieldValueInvalid".to_owned(),
                message: format!("Invalid value: {value:?}: {detail}"),
                field: "patch".to_owned(),
            }],
        ),
        PatchError::Internal(text) => ApiError::new(500, "", text, None),
        PatchError::Unprocessable(_) => {
            ApiError::new(error.code(), error.reason(), error.to_string(), Some(StatusDetails::default()))
        }
        _ => ApiError::new(error.code(), error.reason(), error.to_string(), None),
    }
}
