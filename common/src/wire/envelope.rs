//! What surrounds a protobuf object: four magic bytes, a message that names the kind, and the framing of watches.

use super::{
    WireError,
    bytes::{Reader, put_varint, varint_len},
};

/// What precedes every protobuf object.
pub const MAGIC: &[u8; 4] = b"k8s\0";
/// The empty content encoding and type behind the object, as upstream writes them.
const TAIL: &[u8] = &[26, 0, 34, 0];

/// What kind of object the payload is, and the payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `group/version`; may be empty.
    pub api_version: &'a str,
    /// Kind; may be empty.
    pub kind: &'a str,
    /// The object.
    pub raw: &'a [u8],
    /// The encoding of the object when it isn't protobuf, such as `application/json`.
    pub content_type: &'a str,
}

/// Opens an envelope.
///
/// # Errors
/// The bytes are no envelope.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, WireError> {
    if bytes.is_empty() {
        return Err(WireError::Empty);
    }
    let body = bytes.strip_prefix(MAGIC).ok_or(WireError::Prefix)?;
    if body.is_empty() {
        return Err(WireError::EmptyBody);
    }
    let mut envelope = Envelope::default();
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.tag()? {
        match (number, wire) {
            (1, 2) => {
                let mut meta = Reader(reader.bytes()?);
                while let Some((number, wire)) = meta.tag()? {
                    match (number, wire) {
                        (1, 2) => envelope.api_version = string(&mut meta)?,
                        (2, 2) => envelope.kind = string(&mut meta)?,
                        _ => meta.skip(wire)?,
                    }
                }
            }
            (2, 2) => envelope.raw = reader.bytes()?,
            (4, 2) => envelope.content_type = string(&mut reader)?,
            _ => reader.skip(wire)?,
        }
    }
    Ok(envelope)
}

fn string<'a>(reader: &mut Reader<'a>) -> Result<&'a str, WireError> {
    let invalid = |_| WireError::malformed("string field contains invalid UTF-8");
    std::str::from_utf8(reader.bytes()?).map_err(invalid)
}

/// The envelope around an object of `length` bytes: what comes before it and behind it.
pub fn envelope(api_version: &str, kind: &str, length: usize) -> (Vec<u8>, &'static [u8]) {
    let strings = api_version.len() + kind.len();
    let mut head = Vec::with_capacity(MAGIC.len() + strings + 24);
    head.extend_from_slice(MAGIC);
    let meta = 2 + varint_len(api_version.len() as u64) + varint_len(kind.len() as u64) + strings;
    head.push(10);
    put_varint(&mut head, meta as u64);
    for (tag, text) in [(10, api_version), (18, kind)] {
        head.push(tag);
        put_varint(&mut head, text.len() as u64);
        head.extend_from_slice(text.as_bytes());
    }
    head.push(18);
    put_varint(&mut head, length as u64);
    (head, TAIL)
}

/// Puts an object into an envelope.
pub fn seal(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let (mut out, tail) = envelope(api_version, kind, raw.len());
    out.reserve_exact(raw.len() + tail.len());
    out.extend_from_slice(raw);
    out.extend_from_slice(tail);
    out
}

/// What precedes a sealed object of `length` bytes in a watch: the frame's length in four bytes, then a message of the
/// event's type and the object. Nothing follows.
pub fn frame_head(event: &str, length: usize) -> Vec<u8> {
    let object = 1 + varint_len(length as u64) + length;
    let message = 1 + varint_len(event.len() as u64) + event.len() + 1 + varint_len(object as u64) + object;
    let mut out = Vec::with_capacity(event.len() + 24);
    out.extend_from_slice(&u32::try_from(message).unwrap_or(u32::MAX).to_be_bytes());
    out.push(10);
    put_varint(&mut out, event.len() as u64);
    out.extend_from_slice(event.as_bytes());
    out.push(18);
    put_varint(&mut out, object as u64);
    out.push(10);
    put_varint(&mut out, length as u64);
    out
}

/// How long the first field of a message is, tag included, when it has this number and a length.
pub fn first_field_len(message: &[u8], number: u32) -> Option<usize> {
    let mut reader = Reader(message);
    let tag = reader.tag().ok()?;
    (tag == Some((number, 2))).then(|| reader.bytes().ok())??;
    Some(message.len() - reader.0.len())
}

/// The head of an element of a message's repeated field, such as the items of a list.
pub fn element_head(number: u32, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(8);
    put_varint(&mut out, u64::from(number) << 3 | 2);
    put_varint(&mut out, length as u64);
    out
}
