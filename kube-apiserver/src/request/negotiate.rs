//! Content negotiation: which form of an object or list a client wants, and in which encoding.

use http::{HeaderMap, header};

use super::{ApiError, ApiResult};

/// The media types that objects can be written in.
pub const SERIALIZED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Protobuf in its envelope; only request bodies so far.
    Protobuf,
}

/// What an object is turned into before it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The object itself.
    Object,
    /// `meta.k8s.io` Table of this version.
    Table(&'static str),
    /// `meta.k8s.io` PartialObjectMetadata (or its list) of this version.
    Metadata(&'static str),
}

/// The answer's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Encoding.
    pub encoding: Encoding,
    /// Form.
    pub form: Form,
}

impl Output {
    /// Whether stored JSON bytes can be sent as they are.
    #[must_use]
    pub fn is_plain_json(self) -> bool {
        self.encoding == Encoding::Json && self.form == Form::Object
    }
}

/// Chooses the first acceptable media type of `Accept`.
///
/// # Errors
/// 406 when nothing acceptable can be produced.
pub fn output(headers: &HeaderMap, list: bool) -> ApiResult<Output> {
    let plain = Output { encoding: Encoding::Json, form: Form::Object };
    let mut any = false;
    for value in headers.get_all(header::ACCEPT) {
        for clause in value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|c| !c.is_empty()) {
            any = true;
            if let Some(output) = clause_output(clause, list) {
                return Ok(output);
            }
        }
    }
    if any { Err(ApiError::not_acceptable(&SERIALIZED)) } else { Ok(plain) }
}

fn clause_output(clause: &str, list: bool) -> Option<Output> {
    let mut parts = clause.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "*/*" | "application/*" | "application/json" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        _ => return None,
    };
    let (mut kind, mut version, mut group) = ("", "", "");
    for (key, value) in parts.filter_map(|p| p.split_once('=')) {
        match key.trim() {
            "as" => kind = value.trim(),
            "v" => version = value.trim(),
            "g" => group = value.trim(),
            "q" if value.trim().parse() == Ok(0.0) => return None,
            _ => {}
        }
    }
    if kind.is_empty() {
        return Some(Output { encoding, form: Form::Object });
    }
    let version = match (group, version) {
        ("meta.k8s.io", "v1") => "v1",
        ("meta.k8s.io", "v1beta1") => "v1beta1",
        _ => return None,
    };
    let form = match (kind, list) {
        ("Table", _) => Form::Table(version),
        ("PartialObjectMetadata", false) | ("PartialObjectMetadataList", true) => Form::Metadata(version),
        _ => return None,
    };
    Some(Output { encoding, form })
}

/// The encoding of a request body.
///
/// # Errors
/// 415 for encodings that are not understood.
pub fn input(headers: &HeaderMap) -> ApiResult<Encoding> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match value.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        _ => Err(ApiError::unsupported_media_type(&SERIALIZED)),
    }
}

/// Whether JSON is to be indented: asked for, or the client is a person with a browser or curl.
#[must_use]
pub fn is_pretty(query: &super::Query, headers: &HeaderMap) -> bool {
    if let Some(value) = query.get("pretty") {
        return matches!(value, "1" | "true" | "t" | "T" | "TRUE" | "True");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    agent.starts_with("curl") || agent.starts_with("Wget") || agent.starts_with("Mozilla/5.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str, list: bool) -> ApiResult<Output> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        output(&headers, list)
    }

    #[test]
    fn first_acceptable_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl, true).unwrap().form, Form::Table("v1"));
        let client = "application/vnd.kubernetes.protobuf,application/json";
        assert!(accept(client, false).unwrap().is_plain_json());
        let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(accept(partial, true).unwrap().form, Form::Metadata("v1"));
        assert_eq!(accept(partial, false).unwrap_err().code(), 406);
        assert_eq!(accept("text/html", false).unwrap_err().code(), 406);
        assert_eq!(accept("application/yaml", false).unwrap().encoding, Encoding::Yaml);
    }
}
