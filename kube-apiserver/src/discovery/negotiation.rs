//! Which form of a document a client wants, and the responses that carry it.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde_json::Value;

use crate::{
    request::{
        ApiError, ApiResult,
        negotiate::{self, Encoding},
    },
    storage::codec,
};

/// The aggregated form that a client of a root document likes best, if it likes one better than the plain one.
pub(super) fn aggregated_form(headers: &HeaderMap) -> Option<&'static str> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut clauses: Vec<(f32, Option<&'static str>)> = values.flat_map(|value| value.split(',')).map(clause).collect();
    // A stable sort keeps the client's order among equals.
    clauses.sort_by(|left, right| right.0.total_cmp(&left.0));
    clauses.first().and_then(|(_, form)| *form)
}

/// Quality and aggregated form of a clause of `Accept`.
fn clause(clause: &str) -> (f32, Option<&'static str>) {
    let mut parts = clause.split(';').map(str::trim);
    let json = matches!(parts.next().unwrap_or_default(), "application/json" | "application/*" | "*/*");
    let (mut quality, mut group, mut version, mut kind) = (1.0, "", "", "");
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        match key {
            "q" => quality = value.parse().unwrap_or(0.0),
            "g" => group = value,
            "v" => version = value,
            "as" => kind = value,
            _ => {}
        }
    }
    let form = match (json, group, version, kind) {
        (true, "apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") => Some("v2"),
        (true, "apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList") => Some("v2beta1"),
        _ => None,
    };
    (quality, form)
}

/// A document in the encoding that the client wants.
///
/// # Errors
/// 406.
pub(super) fn encoded(value: &Value, headers: &HeaderMap) -> ApiResult<Response<Bytes>> {
    negotiate::route(headers, &negotiate::SERIALIZED)?;
    let encoding = negotiate::plain(headers)?;
    let text = |member: &str| value[member].as_str().unwrap_or_default();
    // Some documents don't say their version.
    let version = Some(text("apiVersion")).filter(|version| !version.is_empty()).unwrap_or("v1");
    let bytes = match encoding {
        Encoding::Json => Bytes::from(value.to_string()),
        Encoding::Yaml => serde_saphyr::to_string(value).map_err(ApiError::internal)?.into(),
        Encoding::Protobuf => codec::to_protobuf(value, version, text("kind")).map_err(ApiError::internal)?.into(),
    };
    let mut response = Response::new(bytes);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(encoding.media_type()));
    Ok(response)
}

pub(super) fn json(status: StatusCode, value: &Value) -> Response<Bytes> {
    with_type(status, value, HeaderValue::from_static("application/json"))
}

fn with_type(status: StatusCode, value: &Value, content_type: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// An aggregated document, or 304 if the client has it.
pub(super) fn aggregated(value: &Value, etag: &str, version: &str, headers: &HeaderMap) -> Response<Bytes> {
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == etag.as_bytes());
    let mut response = if known {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let mut value = value.clone();
        value["apiVersion"] = format!("apidiscovery.k8s.io/{version}").into();
        let content_type = match version {
            "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        };
        with_type(StatusCode::OK, &value, HeaderValue::from_static(content_type))
    };
    let headers = response.headers_mut();
    headers.extend(HeaderValue::from_str(etag).map(|etag| (header::ETAG, etag)));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

/// The quoted hash of a document.
pub(super) fn etag(value: &Value) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA512, value.to_string().as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    format!("\"{hex}\"")
}
