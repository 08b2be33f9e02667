//! Responses: bodies, JSON and YAML, pretty printing, compression.

use std::{convert::Infallible, io::Write};

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use serde_json::Value;

use crate::{
    request::{
        ApiError, Query,
        negotiate::{self, Encoding},
    },
    storage::codec,
};

/// Why a body broke off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Every response's body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Bodies beyond this are compressed when the client takes gzip.
const GZIP_THRESHOLD: usize = 128 * 1024;

/// A body that is there already.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|e: Infallible| match e {}).boxed_unsync()
}

/// No body.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|e: Infallible| match e {}).boxed_unsync()
}

/// A body that is made while it is sent.
pub fn stream<S>(stream: S) -> Body
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    use futures::StreamExt;
    StreamBody::new(stream.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// Keeps `guard` until the last byte of a response is sent.
#[must_use]
pub fn holding<G: Send + Unpin + 'static>(guard: G, response: Response<Body>) -> Response<Body> {
    response.map(|body| {
        let mut guard = Some(guard);
        body.map_frame(move |frame| {
            let _ = &mut guard;
            frame
        })
        .boxed_unsync()
    })
}

/// A response with a content type.
#[must_use]
pub fn with_type(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Plain text.
#[must_use]
pub fn text(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = with_type(code, "text/plain; charset=utf-8", full(text.into()));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// What of a request shapes the encoding of its answer.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// The encoding.
    pub encoding: Encoding,
    /// Indented JSON.
    pub pretty: bool,
    /// The client takes gzip.
    pub gzip: bool,
}

impl Style {
    /// The style that a request asks for.
    #[must_use]
    pub fn of(encoding: Encoding, query: &Query, headers: &HeaderMap) -> Self {
        let accepts = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
        Self {
            encoding,
            pretty: negotiate::is_pretty(query, headers),
            gzip: accepts.flat_map(|v| v.split(',')).any(|v| v.trim().starts_with("gzip")),
        }
    }

    /// Stored bytes may go out untouched.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.encoding == Encoding::Json && !self.pretty
    }
}

/// Encodes a tree.
#[must_use]
pub fn object(code: u16, value: &Value, style: Style) -> Response<Body> {
    match style.encoding {
        Encoding::Yaml => {
            let yaml = serde_saphyr::to_string(value).unwrap_or_default();
            with_type(code, "application/yaml", full(yaml))
        }
        Encoding::Json if style.pretty => {
            let mut json = serde_json::to_vec_pretty(&Ordered(value)).unwrap_or_default();
            json.push(b'\n');
            with_type(code, "application/json", full(json))
        }
        Encoding::Json => {
            json(code, Bytes::from(super::registry::encode_ordered(value).unwrap_or_default()), style.gzip)
        }
        Encoding::Protobuf => protobuf(code, value, style),
    }
}

/// A tree in protobuf; a Status where it has no such form.
fn protobuf(code: u16, value: &Value, style: Style) -> Response<Body> {
    let text = |member: &str| value[member].as_str().unwrap_or_default();
    match codec::to_protobuf(value, text("apiVersion"), text("kind")) {
        Ok(bytes) => bytes_of(code, Encoding::Protobuf, bytes.into(), style.gzip),
        Err(why) => {
            let status = ApiError::not_acceptable_form(&why.to_string()).to_value();
            let bytes = codec::to_protobuf(&status, "v1", "Status").unwrap_or_default();
            bytes_of(if code < 400 { 406 } else { code }, Encoding::Protobuf, bytes.into(), style.gzip)
        }
    }
}

/// An object with `kind`, `apiVersion` and `metadata` first, as upstream's types have them.
struct Ordered<'a>(&'a Value);

impl serde::Serialize for Ordered<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const FIRST: [&str; 3] = ["kind", "apiVersion", "metadata"];
        let Value::Object(map) = self.0 else { return self.0.serialize(serializer) };
        let head = FIRST.iter().filter_map(|key| map.get_key_value(*key));
        serializer.collect_map(head.chain(map.iter().filter(|(key, _)| !FIRST.contains(&key.as_str()))))
    }
}

/// JSON bytes, compressed when that pays.
#[must_use]
pub fn json(code: u16, bytes: Bytes, gzip: bool) -> Response<Body> {
    bytes_of(code, Encoding::Json, bytes, gzip)
}

/// Encoded bytes, compressed when that pays.
#[must_use]
pub fn bytes_of(code: u16, encoding: Encoding, bytes: Bytes, gzip: bool) -> Response<Body> {
    let media_type = encoding.media_type();
    if !gzip || bytes.len() < GZIP_THRESHOLD {
        return with_type(code, media_type, full(bytes));
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(bytes.len() / 6), flate2::Compression::fast());
    let compressed = encoder.write_all(&bytes).and_then(|()| encoder.finish());
    let Ok(compressed) = compressed else { return with_type(code, media_type, full(bytes)) };
    let mut response = with_type(code, media_type, full(compressed));
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// The response for an error.
#[must_use]
pub fn error(error: &ApiError, style: Style) -> Response<Body> {
    let mut response = object(error.code(), &error.to_value(), style);
    if let Some(details) = &error.status().details
        && details.retry_after_seconds > 0
    {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(details.retry_after_seconds));
    }
    response
}
