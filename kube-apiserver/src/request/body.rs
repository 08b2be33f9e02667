//! Request bodies: read within a limit, decoded into the type that the URL asks for.

use bytes::{Bytes, BytesMut};
use common::{
    schema::{self, Decoded, Problem, Type},
    wire,
};
use http_body_util::BodyExt;
use serde_json::Value;

use super::{ApiError, ApiResult, negotiate::Encoding, options::FieldValidation, yaml};

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
            summarize(bytes, encoding)
        ))
    };
    if encoding == Encoding::Protobuf {
        return decode_protobuf(bytes, expected, unrecognized);
    }
    let document = match encoding {
        Encoding::Json | Encoding::Protobuf => None,
        Encoding::Yaml => Some(yaml::read(bytes).map_err(|e| unrecognized(&format!("error parsing YAML: {e}")))?),
    };
    let text = document.as_ref().map(|document| document.value.to_string());
    let json = text.as_deref().map_or(bytes, str::as_bytes);
    let meta: TypeMeta = serde_json::from_slice(json).map_err(|e| {
        unrecognized(&format!("couldn't get version/kind; json parse error: {}", go_json_error(&e, json)))
    })?;
    meta.check(expected)?;
    let Some(ty) = schema::lookup(expected.group, expected.version, expected.kind) else {
        let object = serde_json::from_slice(json).map_err(|e| unrecognized(&e.to_string()))?;
        return Ok(Body { object, warnings: Vec::new() });
    };
    let mut decoded = schema::decode(ty, json);
    if let Some(document) = document.filter(|document| !document.twice.is_empty()) {
        decoded.problems.insert(0, Problem::Other(document.strict_error()));
    }
    settle(decoded, expected, mode)
}

/// The typed commands of kubectl send protobuf. Unknown fields cannot be told from newer ones there.
fn decode_protobuf(bytes: &[u8], expected: Expected<'_>, unrecognized: impl Fn(&str) -> ApiError) -> ApiResult<Body> {
    let envelope = wire::open(bytes).map_err(|e| unrecognized(&e.to_string()))?;
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    TypeMeta { kind: text(envelope.kind), api_version: text(envelope.api_version) }.check(expected)?;
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

/// JSON text of a body in any encoding, for objects that are read without a type table (`DeleteOptions`).
///
/// # Errors
/// 400.
pub fn to_json(bytes: &[u8], encoding: Encoding, expected: Expected<'_>) -> ApiResult<Vec<u8>> {
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

/// The type of a kind, if the table knows it.
#[must_use]
pub fn type_of(expected: Expected<'_>) -> Option<Type<'static>> {
    schema::lookup(expected.group, expected.version, expected.kind)
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

#[derive(serde::Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct TypeMeta {
    kind: Option<String>,
    api_version: Option<String>,
}

impl TypeMeta {
    fn check(&self, expected: Expected<'_>) -> ApiResult<()> {
        let wanted = expected.api_version();
        let kind = self.kind.as_deref().filter(|k| !k.is_empty()).unwrap_or(expected.kind);
        let version = self.api_version.as_deref().filter(|v| !v.is_empty()).unwrap_or(&wanted);
        if version == wanted && kind == expected.kind {
            return Ok(());
        }
        if kind == expected.kind {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({wanted})"
            )));
        }
        let (group, short) = common::api::catalog::split_api_version(version);
        let error = if common::api::catalog().by_kind(group, short, kind).is_some() {
            format!(
                "converting ({short}.{kind}) to ({}.{}): unknown conversion",
                if expected.group.is_empty() { "core" } else { expected.group.split('.').next().unwrap_or_default() },
                expected.kind
            )
        } else {
            format!(
                "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
            )
        };
        Err(ApiError::bad_request(format!(
            "{kind} in version {short:?} cannot be handled as a {}: {error}",
            expected.kind
        )))
    }
}

/// The first bytes of a body for an error, as upstream shows them.
fn summarize(bytes: &[u8], encoding: Encoding) -> String {
    if bytes.is_empty() {
        return "<empty>".to_owned();
    }
    let is_text = encoding == Encoding::Yaml || bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    let cut = &bytes[..bytes.len().min(30)];
    let more = bytes.len() > 30;
    if is_text {
        format!("{}{}", String::from_utf8_lossy(cut), if more { " ..." } else { "" })
    } else {
        let hex: String = cut.iter().map(|b| format!("{b:02x}")).collect();
        format!("{hex}{}", if more { " ..." } else { "" })
    }
}

/// Go's words for the common JSON syntax errors.
#[must_use]
pub fn go_json_error(error: &serde_json::Error, text: &[u8]) -> String {
    use serde_json::error::Category;
    match error.classify() {
        Category::Eof => "unexpected end of JSON input".to_owned(),
        Category::Syntax => {
            let offset = offset_of(text, error.line(), error.column());
            let found = text.get(offset).copied().unwrap_or_default();
            let place = if error.to_string().starts_with("expected value") {
                "looking for beginning of value"
            } else if error.to_string().starts_with("key must be a string") {
                "looking for beginning of object key string"
            } else if error.to_string().contains("expected `,` or `}`") {
                "after object key:value pair"
            } else if error.to_string().contains("expected `,` or `]`") {
                "after array element"
            } else if error.to_string().contains("expected `:`") {
                "after object key"
            } else if error.to_string().starts_with("trailing characters") {
                "after top-level value"
            } else {
                "looking for beginning of value"
            };
            format!("invalid character {} {place}", go_char(found))
        }
        _ => error.to_string(),
    }
}

fn go_char(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        byte => format!("'{}'", char::from(byte)),
    }
}

fn offset_of(text: &[u8], line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive(|b| *b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    start + column.saturating_sub(1)
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
            "the API version in the data (v2) does not match the expected API version (v1)"
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
