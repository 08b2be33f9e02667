//! Responses: negotiation, hashes, compression.

use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

pub(super) const JSON: &str = "application/json";
pub(super) const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

pub(super) const PROTOBUF_V3: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";

/// A document to be sent.
pub(super) struct Document<'d> {
    pub content_type: &'static str,
    pub hash: &'d str,
    /// The URL names the hash: what it answers never changes.
    pub immutable: bool,
}

/// Sends a document, of which `gzip` gives the compressed form, unless the client has it.
pub(super) fn document(document: &Document<'_>, headers: &HeaderMap, gzip: impl FnOnce() -> Bytes) -> Response<Bytes> {
    let etag = format!("\"{}\"", document.hash);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|tags| {
        tags.to_str().unwrap_or("").split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag)
    });
    let mut response = if known {
        with(StatusCode::NOT_MODIFIED, Bytes::new(), None)
    } else {
        let packed = gzip();
        if accepts_gzip(headers) {
            let mut response = with(StatusCode::OK, packed, Some(document.content_type));
            set(&mut response, header::CONTENT_ENCODING, "gzip");
            response
        } else {
            let mut plain = Vec::new();
            match GzDecoder::new(packed.as_ref()).read_to_end(&mut plain) {
                Ok(_) => with(StatusCode::OK, plain.into(), Some(document.content_type)),
                Err(error) => return status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &error.to_string()),
            }
        }
    };
    set(&mut response, header::ETAG, &etag);
    set(&mut response, header::VARY, "Accept, Accept-Encoding");
    if document.immutable {
        set(&mut response, header::CACHE_CONTROL, "public, immutable");
        // As good as never, for caches that do not know `immutable`.
        set(&mut response, header::EXPIRES, "Fri, 31 Dec 2999 23:59:59 GMT");
    } else {
        set(&mut response, header::CACHE_CONTROL, "no-cache, private");
    }
    response
}

/// The list of documents (small, sent as it is).
pub(super) fn index(value: &Value, hash: &str, headers: &HeaderMap) -> Response<Bytes> {
    let etag = format!("\"{hash}\"");
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == etag.as_bytes());
    let mut response = match known {
        true => with(StatusCode::NOT_MODIFIED, Bytes::new(), None),
        false => with(StatusCode::OK, value.to_string().into(), Some(JSON)),
    };
    set(&mut response, header::ETAG, &etag);
    response
}

/// To the URL with the right hash, if the client asked for another.
pub(super) fn redirect(path: &str, query: Option<&str>, hash: &str) -> Option<Response<Bytes>> {
    let asked = query?.split('&').find_map(|part| part.strip_prefix("hash="))?;
    if asked == hash {
        return None;
    }
    let mut response = with(StatusCode::MOVED_PERMANENTLY, Bytes::new(), None);
    set(&mut response, header::LOCATION, &format!("{path}?hash={hash}"));
    Some(response)
}

/// The form of v2 that a client wants.
pub(super) fn second_form(headers: &HeaderMap) -> Option<&'static str> {
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if accept.is_empty() {
        return Some(JSON);
    }
    accept.iter().flat_map(|value| value.split(',')).find_map(|clause| {
        match clause.split(';').next().unwrap_or("").trim() {
            "application/json" | "application/*" | "*/*" => Some(JSON),
            PROTOBUF | "application/com.github.proto-openapi.spec.v2@v1.0+protobuf" => Some(PROTOBUF),
            _ => None,
        }
    })
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|part| part == "q=0")
    })
}

/// The form of v3 that a client wants.
pub(super) fn third_form(headers: &HeaderMap) -> Option<&'static str> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut clauses = values.flat_map(|value| value.split(',')).peekable();
    if clauses.peek().is_none() {
        return Some(JSON);
    }
    clauses.find_map(|clause| match clause.split(';').next().unwrap_or_default().trim() {
        JSON | "application/*" | "*/*" => Some(JSON),
        PROTOBUF_V3 | "application/com.github.proto-openapi.spec.v3@v1.0+protobuf" => Some(PROTOBUF_V3),
        _ => None,
    })
}

/// An answer that says no more than its code.
pub(super) fn nothing(code: StatusCode) -> Response<Bytes> {
    with(code, Bytes::new(), None)
}

pub(super) fn method_not_allowed() -> Response<Bytes> {
    let message = "the server does not allow this method on the requested resource";
    status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response<Bytes> {
    let value = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    });
    with(code, value.to_string().into(), Some(JSON))
}

fn with(code: StatusCode, body: Bytes, content_type: Option<&'static str>) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    if let Some(content_type) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}

fn set(response: &mut Response<Bytes>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
