//! Content negotiation: which form of an object or list a client wants, and in which encoding.

use http::{HeaderMap, header};

use super::{ApiError, ApiResult};

/// The media types that objects can be written in.
pub const SERIALIZED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// The media types of what can be listed and watched.
const LISTED: [&str; 5] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// The media types that watches can be written in.
const STREAMED: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// Encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Protobuf in its envelope.
    Protobuf,
}

impl Encoding {
    /// In the order in which the server prefers them.
    pub const ALL: [Self; 3] = [Self::Json, Self::Yaml, Self::Protobuf];

    /// The media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => SERIALIZED[0],
            Self::Yaml => SERIALIZED[1],
            Self::Protobuf => SERIALIZED[2],
        }
    }
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
    /// Whether the form was asked for as one of lists.
    pub of_list: bool,
}

impl Output {
    /// Whether stored JSON bytes can be sent as they are.
    #[must_use]
    pub fn is_plain_json(self) -> bool {
        self.encoding == Encoding::Json && self.form == Form::Object
    }
}

/// Chooses the most wanted acceptable media type of `Accept` for an object or, with `list`, for a list.
///
/// # Errors
/// 406 when nothing acceptable can be produced.
pub fn output(headers: &HeaderMap, list: bool) -> ApiResult<Output> {
    route(headers, if list { &LISTED } else { &SERIALIZED })?;
    choose(headers, true).ok_or_else(|| ApiError::not_acceptable(&SERIALIZED))
}

/// As [`output`], for a watch that turns out to be possible.
///
/// # Errors
/// 406 when watches don't come in the encoding.
pub fn stream(found: Output) -> ApiResult<Output> {
    if found.encoding == Encoding::Yaml { Err(ApiError::not_acceptable(&STREAMED)) } else { Ok(found) }
}

/// Upstream's router looks at the bare media types before any handler looks at their parameters.
///
/// # Errors
/// 406 with the list.
pub fn route(headers: &HeaderMap, produced: &[&str]) -> ApiResult<()> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let bare = |clause: &str| clause.split(';').next().unwrap_or_default().trim().to_owned();
    let routes = |clause: &str| matches!(bare(clause).as_str(), "*/*") || produced.contains(&bare(clause).as_str());
    match accept.is_empty() || accept.split(',').any(routes) {
        true => Ok(()),
        false => Err(ApiError::unroutable_accept(produced)),
    }
}

/// The encoding of a kind that has no other forms: tables and metadata are made of what is stored only.
///
/// # Errors
/// 406 when nothing acceptable can be produced.
pub fn plain(headers: &HeaderMap) -> ApiResult<Encoding> {
    choose(headers, false).map(|output| output.encoding).ok_or_else(|| ApiError::not_acceptable(&SERIALIZED))
}

/// The encoding of an error: other forms of objects don't count, and what can't be had is JSON.
#[must_use]
pub fn error(headers: &HeaderMap) -> Encoding {
    choose(headers, false).map_or(Encoding::Json, |output| output.encoding)
}

/// A clause of `Accept`.
struct Clause<'a> {
    kind: &'a str,
    sub: &'a str,
    quality: f64,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';');
        let (kind, sub) = match parts.next()?.trim().split_once('/') {
            Some((kind, sub)) => (kind.trim(), sub.trim()),
            None if text.trim() == "*" => ("*", "*"),
            None => return None,
        };
        let mut quality = 1.0;
        let mut parameters = Vec::new();
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match (key.trim(), value.trim()) {
                ("q", value) => quality = value.parse().unwrap_or(1.0),
                parameter => parameters.push(parameter),
            }
        }
        Some(Self { kind, sub, quality, parameters })
    }

    fn accepts(&self, media_type: &str) -> bool {
        let (kind, sub) = media_type.split_once('/').unwrap_or((media_type, ""));
        (self.kind == kind && (self.sub == sub || self.sub == "*")) || (self.kind == "*" && self.sub == "*")
    }

    /// The form asked for, and whether it is one of lists; `None` when this encoding does not have it.
    fn form(&self, encoding: Encoding, forms: bool) -> Option<(Form, bool)> {
        let (mut kind, mut version, mut group, mut converts) = ("", "", "", false);
        for (key, value) in &self.parameters {
            match *key {
                "as" => (kind, converts) = (value, true),
                "v" => (version, converts) = (value, true),
                "g" => (group, converts) = (value, true),
                "stream" if !value.is_empty() && (*value != "watch" || encoding == Encoding::Yaml) => return None,
                "sv" if !value.is_empty() && *value != "v1" => return None,
                _ => {}
            }
        }
        if !converts {
            return Some((Form::Object, false));
        }
        let version = match (group, version) {
            ("meta.k8s.io", "v1") => "v1",
            ("meta.k8s.io", "v1beta1") => "v1beta1",
            _ => return None,
        };
        match kind {
            _ if !forms => None,
            "Table" if encoding != Encoding::Protobuf => Some((Form::Table(version), false)),
            "PartialObjectMetadata" => Some((Form::Metadata(version), false)),
            "PartialObjectMetadataList" => Some((Form::Metadata(version), true)),
            _ => None,
        }
    }
}

/// The first acceptable form in the client's order.
fn choose(headers: &HeaderMap, forms: bool) -> Option<Output> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.is_empty() {
        return Some(Output { encoding: Encoding::Json, form: Form::Object, of_list: false });
    }
    let mut clauses: Vec<Clause<'_>> = accept.split(',').filter_map(Clause::parse).collect();
    // Stable: the client's order decides among equals.
    clauses.sort_by(|a, b| {
        b.quality
            .total_cmp(&a.quality)
            .then((a.kind == "*").cmp(&(b.kind == "*")))
            .then((a.sub == "*").cmp(&(b.sub == "*")))
    });
    clauses.iter().find_map(|clause| {
        let encodings = Encoding::ALL.into_iter().filter(|encoding| clause.accepts(encoding.media_type()));
        encodings.into_iter().find_map(|encoding| {
            let (form, of_list) = clause.form(encoding, forms)?;
            Some(Output { encoding, form, of_list })
        })
    })
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

    fn encoding(value: &str) -> Encoding {
        accept(value, false).unwrap().encoding
    }

    #[test]
    fn first_acceptable_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl, true).unwrap().form, Form::Table("v1"));
        assert_eq!(encoding("application/vnd.kubernetes.protobuf,application/json"), Encoding::Protobuf);
        let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(accept(partial, true).unwrap().form, Form::Metadata("v1"));
        assert!(accept(partial, false).unwrap().of_list);
        assert_eq!(accept("text/html", false).unwrap_err().code(), 406);
        assert_eq!(encoding("application/yaml"), Encoding::Yaml);
    }

    #[test]
    fn what_is_not_stored_has_no_tables() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let plain = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().unwrap());
            plain(&headers)
        };
        assert_eq!(plain(table).unwrap_err().code(), 406);
        assert_eq!(plain(&format!("{table},application/yaml")).unwrap(), Encoding::Yaml);
    }

    #[test]
    fn quality_then_precision_then_order_decides() {
        assert_eq!(encoding("application/yaml;q=0.5, application/json;q=0.1"), Encoding::Yaml);
        assert_eq!(encoding("application/json;q=0.1, application/vnd.kubernetes.protobuf"), Encoding::Protobuf);
        assert_eq!(encoding("*/*, application/yaml"), Encoding::Yaml);
        assert_eq!(encoding("text/html, application/*;q=0.2, */*;q=0.1"), Encoding::Json);
        // Protobuf has no Tables: the same clause is taken in the next encoding that has.
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        let found = accept(metadata, false).unwrap();
        assert_eq!((found.encoding, found.form), (Encoding::Protobuf, Form::Metadata("v1")));
        let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
        assert_eq!(accept(table, true).unwrap_err().code(), 406);
        assert_eq!(accept(&format!("{table},application/json"), true).unwrap().form, Form::Object);
    }

    #[test]
    fn watches_and_errors_have_lists_of_their_own() {
        let headers = |value: &str| HeaderMap::from_iter([(header::ACCEPT, value.parse().unwrap())]);
        let stream = |value: &str| output(&headers(value), true).and_then(stream);
        let refused = stream("application/yaml").unwrap_err().to_string();
        assert!(refused.ends_with("application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"));
        let found = stream("application/vnd.kubernetes.protobuf;stream=watch").unwrap();
        assert_eq!(found.encoding, Encoding::Protobuf);
        assert_eq!(error(&headers("application/json;as=Table;v=v1;g=meta.k8s.io,application/yaml")), Encoding::Yaml);
        assert_eq!(error(&headers("text/html")), Encoding::Json);
    }
}
