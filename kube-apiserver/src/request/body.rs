//! Request bodies: read within a limit, decoded into the type that the URL asks for.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use common::{
    schema::{self, Decoded, Problem, Type},
    wire::{self, yaml},
};
use http_body_util::BodyExt;
use serde_json::Value;

use super::{
    ApiError, ApiResult,
    negotiate::Encoding,
    options::FieldValidation,
    type_meta::{Mismatch, TypeMeta},
};

/// Upstream's limit of resource request bodies.
pub const MAX_BODY: usize = 3 * 1024 * 1024;
/// So much of a larger body is still read (and thrown away), for the client to hear the answer at all.
const MAX_DRAINED: usize = 4 * MAX_BODY;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Reads a whole body.
///
/// # Errors
/// 413 beyond the limit, 400 when the connection breaks.
pub async fn read<B>(body: B) -> ApiResult<Bytes>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    let mut bytes = BytesMut::new();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| {
            ApiError::bad_request(format!("unable to read request body: {}", Into::<BoxError>::into(e)))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        total += data.len();
        if total <= MAX_BODY {
            bytes.extend_from_slice(&data);
        } else if total > MAX_DRAINED {
            break;
        } else {
            bytes = BytesMut::new();
        }
    }
    if total > MAX_BODY { Err(too_large()) } else { Ok(bytes.freeze()) }
}

fn too_large() -> ApiError {
    ApiError::too_large(&format!("limit is {MAX_BODY}"))
}

/// Group, version and kind that a body is expected to have.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Group.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
}

impl Expected<'_> {
    /// `group/version`.
    #[must_use]
    pub fn api_version(&self) -> String {
        common::api::catalog::api_version(self.group, self.version)
    }
}

/// A decoded body and what to warn about.
#[derive(Debug)]
pub struct Body {
    /// The object.
    pub object: Value,
    /// Texts of `Warning` headers.
    pub warnings: Vec<String>,
}

/// Decodes an object.
///
/// # Errors
/// 400 with upstream's texts.
pub fn decode(bytes: &[u8], encoding: Encoding, expected: Expected<'_>, mode: FieldValidation) -> ApiResult<Body> {
    let unrecognized = |error: &str| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {error} ({})",
            expected.kind,
            summarize(bytes)
        ))
    };
    if encoding == Encoding::Protobuf {
        return decode_protobuf(bytes, expected, unrecognized);
    }
    let document = match encoding {
        Encoding::Json | Encoding::Protobuf => None,
        Encoding::Yaml => Some(yaml::read(bytes).map_err(|error| unrecognized(&error))?),
    };
    // Bytes that are no UTF-8 become U+FFFD, as in Go.
    let text = match &document {
        Some(document) => Cow::Owned(document.value.to_string()),
        None => String::from_utf8_lossy(bytes),
    };
    let json = text.as_bytes();
    let unreadable = |error: String| unrecognized(&format!("couldn't get version/kind; json parse error: {error}"));
    TypeMeta::read(json)
        .map_err(unreadable)?
        .check(expected)
        .map_err(|wrong| refused(wrong, expected, unrecognized))?;
    let Some(ty) = schema::lookup(expected.group, expected.version, expected.kind) else {
        let object = serde_json::from_slice(json).map_err(|e| unrecognized(&e.to_string()))?;
        return Ok(Body { object, warnings: Vec::new() });
    };
    // Go takes null for an object without fields.
    let mut decoded = schema::decode(ty, if json.trim_ascii() == b"null" { b"{}" } else { json });
    if decoded.error.is_some() {
        // What is no JSON anywhere is found before anything is decoded.
        schema::check_syntax(json).map_err(unreadable)?;
    }
    if let Some(document) = document.filter(|document| !document.twice.is_empty()) {
        decoded.problems.insert(0, Problem::Other(document.strict_error()));
    }
    settle(decoded, expected, mode)
}

/// The typed commands of kubectl send protobuf. Unknown fields cannot be told from newer ones there.
fn decode_protobuf(bytes: &[u8], expected: Expected<'_>, unrecognized: impl Fn(&str) -> ApiError) -> ApiResult<Body> {
    let envelope = wire::open(bytes).map_err(|e| unrecognized(&e.to_string()))?;
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let meta = TypeMeta { kind: text(envelope.kind), api_version: text(envelope.api_version) };
    // Upstream falls back to what it expects when the envelope's version is none.
    if meta.api_version.as_deref().is_none_or(|version| version.matches('/').count() < 2) {
        meta.check(expected).map_err(|wrong| refused(wrong, expected, &unrecognized))?;
    }
    let ty = type_of(expected).ok_or_else(|| unrecognized(&format!("no kind {:?} is registered", expected.kind)))?;
    let json = protobuf_to_json(ty, envelope.raw, expected)
        .map_err(|e| ApiError::bad_request(schema::cannot_be_handled(expected.kind, expected.version, &e)))?;
    settle(schema::decode(ty, &json), expected, FieldValidation::Ignore)
}

fn protobuf_to_json(ty: Type<'_>, raw: &[u8], expected: Expected<'_>) -> Result<Vec<u8>, String> {
    let mut json = Vec::new();
    let meta = (expected.api_version(), expected.kind);
    wire::protobuf_to_json(ty, raw, Some((&meta.0, meta.1)), &mut json).map_err(|e| e.to_string())?;
    Ok(json)
}

/// JSON text of a body in any encoding.
///
/// # Errors
/// 400.
fn to_json(bytes: &[u8], encoding: Encoding, expected: Expected<'_>) -> ApiResult<Vec<u8>> {
    match encoding {
        Encoding::Json => Ok(bytes.to_vec()),
        Encoding::Yaml => {
            yaml::read(bytes).map(|document| document.value.to_string().into_bytes()).map_err(ApiError::bad_request)
        }
        Encoding::Protobuf => {
            let envelope = wire::open(bytes).map_err(|e| ApiError::bad_request(e.to_string()))?;
            let ty = type_of(expected).ok_or_else(|| ApiError::bad_request("unknown kind"))?;
            protobuf_to_json(ty, envelope.raw, expected).map_err(ApiError::bad_request)
        }
    }
}

/// `DeleteOptions` as JSON, of which only the members that it has in a right type are left.
///
/// # Errors
/// 400: it is another kind, or no JSON, or a member has a wrong type.
pub fn delete_options(bytes: &[u8], encoding: Encoding) -> ApiResult<Value> {
    const OPTIONS: Expected<'static> = Expected { group: "", version: "v1", kind: "DeleteOptions" };
    let json = to_json(bytes, encoding, OPTIONS)?;
    let json = String::from_utf8_lossy(&json);
    let unreadable = |error| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {error}"));
    let meta = TypeMeta::read(json.as_bytes()).map_err(unreadable)?;
    let (kind, version) = (meta.kind.unwrap_or_default(), meta.api_version.unwrap_or_default());
    if !matches!(kind.as_str(), "" | "DeleteOptions") {
        let version = if version.is_empty() { "v1" } else { &version };
        return Err(ApiError::bad_request(format!(
            "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/apis/meta/internalversion/scheme/register.go:27\""
        )));
    }
    let ty = type_of(OPTIONS).ok_or_else(|| ApiError::bad_request("unknown kind"))?;
    let text = if json.trim() == "null" { "{}" } else { json.trim() };
    let decoded = schema::decode(ty, text.as_bytes());
    if let Some(error) = decoded.error {
        schema::check_syntax(text.as_bytes()).map_err(unreadable)?;
        return Err(ApiError::bad_request(error));
    }
    Ok(decoded.value)
}

/// The type of a kind, if the table knows it.
#[must_use]
pub fn type_of(expected: Expected<'_>) -> Option<Type<'static>> {
    schema::lookup(expected.group, expected.version, expected.kind)
}

/// A body of another version or kind than the URL asks for.
fn refused(wrong: Mismatch, expected: Expected<'_>, unrecognized: impl Fn(&str) -> ApiError) -> ApiError {
    match wrong {
        Mismatch::Unreadable(error) => unrecognized(&error),
        Mismatch::Version(version) => ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            expected.api_version()
        )),
        Mismatch::Kind { kind, version, error } => ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: {error}",
            expected.kind
        )),
    }
}

fn settle(decoded: Decoded, expected: Expected<'_>, mode: FieldValidation) -> ApiResult<Body> {
    if let Some(error) = decoded.error {
        let message = schema::cannot_be_handled(expected.kind, expected.version, &error);
        return Err(ApiError::bad_request(message));
    }
    if mode == FieldValidation::Strict && !decoded.problems.is_empty() {
        let error = schema::strict_decoding_error(&decoded.problems);
        return Err(ApiError::bad_request(schema::cannot_be_handled(expected.kind, expected.version, &error)));
    }
    let mut object = decoded.value;
    if !object.is_object() {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {})",
            expected.kind
        )));
    }
    object["kind"] = expected.kind.into();
    object["apiVersion"] = expected.api_version().into();
    let warn = mode == FieldValidation::Warn;
    let warnings = if warn { decoded.problems.iter().flat_map(warnings_of).collect() } else { Vec::new() };
    Ok(Body { object, warnings })
}

/// A warning each; what the YAML reader says is one problem of many lines.
fn warnings_of(problem: &Problem) -> Vec<String> {
    let text = problem.to_string();
    match text.strip_prefix("yaml: unmarshal errors:") {
        Some(lines) => lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect(),
        None => vec![text],
    }
}

/// The first bytes of a body for an error, as upstream shows them.
fn summarize(bytes: &[u8]) -> String {
    const SHOWN: usize = 30;
    let cut = &bytes[..bytes.len().min(SHOWN)];
    let more = if bytes.len() > SHOWN { " ..." } else { "" };
    match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(cut)),
        Some(_) => format!("{}{more}", cut.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Expected<'_> = Expected { group: "", version: "v1", kind: "Pod" };

    fn error(text: &str) -> String {
        decode(text.as_bytes(), Encoding::Json, POD, FieldValidation::Warn).unwrap_err().to_string()
    }

    #[test]
    fn bodies_of_a_wrong_kind_are_refused() {
        assert_eq!(
            error(r#"{"kind":"Service","apiVersion":"v1"}"#),
            "Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown conversion"
        );
        assert_eq!(
            error(r#"{"kind":"Pod","apiVersion":"v2"}"#),
            "Pod in version \"v2\" cannot be handled as a Pod: no kind \"Pod\" is registered for version \"v2\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        );
        let old = Expected { group: "apps", version: "v1", kind: "Deployment" };
        let body = br#"{"kind":"Deployment","apiVersion":"apps/v1beta1"}"#;
        assert_eq!(
            decode(body, Encoding::Json, old, FieldValidation::Warn).unwrap_err().to_string(),
            "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)"
        );
        assert!(decode(b"{}", Encoding::Json, POD, FieldValidation::Warn).is_ok());
    }

    #[test]
    fn malformed_bodies_are_refused_with_gos_words() {
        assert_eq!(
            error("hello"),
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character 'h' looking for beginning of value (68656c6c6f)"
        );
        assert!(error("{\"kind\":").contains("unexpected end of JSON input ({\"kind\":)"));
    }
}
