//! Which form of a document a client wants, and the responses that carry it.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

/// The forms of the root documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    AggregatedV2,
    AggregatedV2Beta1,
}

/// The first acceptable form, by quality; `None` when there is none.
pub(super) fn choose<'a>(accept: impl Iterator<Item = &'a str>, root: bool) -> Option<Form> {
    let mut clauses: Vec<(f32, Form)> = Vec::new();
    let mut any = false;
    for clause in accept.flat_map(|value| value.split(',')) {
        any = true;
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or("");
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
        if !matches!(media, "application/json" | "application/*" | "*/*" | "") {
            continue;
        }
        let form = match (group, version, kind) {
            ("", _, "") => Form::Plain,
            ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") if root => Form::AggregatedV2,
            ("apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList") if root => Form::AggregatedV2Beta1,
            _ => continue,
        };
        clauses.push((quality, form));
    }
    if !any {
        return Some(Form::Plain);
    }
    // A stable sort keeps the client's order among equals.
    clauses.sort_by(|left, right| right.0.total_cmp(&left.0));
    clauses.first().filter(|(quality, _)| *quality > 0.0).map(|(_, form)| *form)
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

pub(super) fn not_acceptable() -> Response<Bytes> {
    let message = "only the following media types are accepted: application/json";
    status(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
}

pub(super) fn method_not_allowed() -> Response<Bytes> {
    let message = "the server does not allow this method on the requested resource";
    status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response<Bytes> {
    let value = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "details": {}, "code": code.as_u16(),
    });
    json(code, &value)
}
