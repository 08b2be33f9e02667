//! Why bytes can't be read or written.

/// An error of a codec. The texts are those that upstream's decoders give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Nothing at all.
    #[error("empty data")]
    Empty,
    /// The four magic bytes are missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// Nothing behind the magic bytes.
    #[error("empty body")]
    EmptyBody,
    /// The bytes end too early.
    #[error("unexpected EOF")]
    Truncated,
    /// The bytes are no protobuf of this type.
    #[error("proto: {0}")]
    Malformed(String),
    /// Objects or lists are nested too deeply.
    #[error("exceeded max depth")]
    TooDeep,
    /// The type has no protobuf form.
    #[error(
        "object {0} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
    )]
    NotMarshalable(String),
    /// The JSON does not fit the type.
    #[error("json: {0}")]
    Json(String),
    /// No CBOR, or CBOR that has no JSON form.
    #[error("cbor: {0}")]
    Cbor(String),
    /// No YAML, or more of it than is read.
    #[error("{0}")]
    Yaml(String),
    /// A message whose fields are not in the order of their numbers; sorted and read again.
    #[error("proto: fields are not in order")]
    Disordered,
}

impl WireError {
    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::Malformed(text.into())
    }
}
