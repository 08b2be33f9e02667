//! JSON to protobuf in one pass over the text (or over a tree, which is read the same way).
//!
//! JSON has its members in any order and protobuf in that of their numbers, behind lengths that are known only
//! afterwards. So the fields of an object are encoded one behind the other as they come, then put in order once.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    WireError,
    bytes::{put_varint, varint_len},
    plan::{Alternative, Field, Kind, Label, Message, Target, message_of, plan},
    raw::Copy,
    text,
};
use crate::schema::Type;

/// Appends the protobuf message of an object in JSON text. Members that the type does not have are left out; so are
/// `kind` and `apiVersion`, which belong into the envelope.
///
/// # Errors
/// The type has no protobuf form, or the text is no JSON of it. What was appended then means nothing.
pub fn json_to_protobuf(ty: Type<'_>, json: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    out.reserve(json.len());
    encode(ty, &mut deserializer, out)?;
    deserializer.end().map_err(|error| WireError::Json(error.to_string()))
}

/// As [`json_to_protobuf`], from a tree.
///
/// # Errors
/// As there.
pub fn tree_to_protobuf(ty: Type<'_>, tree: &serde_json::Value, out: &mut Vec<u8>) -> Result<(), WireError> {
    encode(ty, tree, out)
}

fn encode<'de, D: Deserializer<'de>>(ty: Type<'_>, from: D, out: &mut Vec<u8>) -> Result<(), WireError> {
    let unknown = || WireError::NotMarshalable(ty.name().unwrap_or_default());
    let message = message_of(ty).filter(|m| m.marshalable).ok_or_else(unknown)?;
    let mut encoder = Encoder { out: std::mem::take(out), scratch: Vec::new(), parts: Vec::new() };
    let done = Object { encoder: &mut encoder, message, length: false }.deserialize(from);
    *out = encoder.out;
    match done {
        Ok(true) => Ok(()),
        Ok(false) => Err(WireError::Json("an object was expected".to_owned())),
        Err(error) => Err(WireError::Json(error.to_string())),
    }
}

struct Encoder {
    out: Vec<u8>,
    /// Where an object is put in order; only in use between two reads.
    scratch: Vec<u8>,
    /// The fields of the objects that are being read, outermost first.
    parts: Vec<Part>,
}

/// A field with its tag, as it stands in `out`.
#[derive(Clone, Copy)]
struct Part {
    field: usize,
    start: usize,
    end: usize,
}

impl Encoder {
    /// Puts the fields read since `base` (which stand from `start` on) in order, adds what is never left out, and
    /// writes the length first when the message is not the outermost.
    fn finish(&mut self, message: &Message, base: usize, start: usize, length: bool) {
        let parts = &mut self.parts[base..];
        if !parts.is_sorted_by_key(|part| part.field) {
            // Stable: of a member that occurs twice the last counts.
            parts.sort_by_key(|part| part.field);
        }
        self.scratch.clear();
        let mut next = 0;
        assemble(message, 0, &self.parts[base..], &mut next, &self.out, &mut self.scratch);
        self.out.truncate(start);
        if length {
            put_varint(&mut self.out, self.scratch.len() as u64);
        }
        self.out.extend_from_slice(&self.scratch);
        self.parts.truncate(base);
    }

    /// Writes the length of everything from `start` on in front of it.
    fn insert_length(&mut self, start: usize) {
        let length = self.out.len() - start;
        let width = varint_len(length as u64);
        self.out.resize(start + length + width, 0);
        self.out.copy_within(start..start + length, start + width);
        self.scratch.clear();
        put_varint(&mut self.scratch, length as u64);
        self.out[start..start + width].copy_from_slice(&self.scratch);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        put_varint(&mut self.out, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }
}

fn assemble(message: &Message, layer: usize, parts: &[Part], next: &mut usize, from: &[u8], out: &mut Vec<u8>) {
    for slot in &message.layers[layer].slots {
        match slot.target {
            Target::Field(at) => {
                let mut found = None;
                while let Some(part) = parts.get(*next).filter(|part| part.field == at) {
                    found = Some(part);
                    *next += 1;
                }
                match found {
                    Some(part) => out.extend_from_slice(&from[part.start..part.end]),
                    None => out.extend_from_slice(&message.fields[at].absent_wire),
                }
            }
            Target::Layer(inner) => {
                out.extend_from_slice(&slot.tag);
                let start = out.len();
                assemble(message, inner, parts, next, from, out);
                let mut length = Vec::with_capacity(5);
                put_varint(&mut length, (out.len() - start) as u64);
                out.splice(start..start, length);
            }
        }
    }
}

/// Reads one object into its message; false for null.
struct Object<'e> {
    encoder: &'e mut Encoder,
    message: &'e Message,
    /// Whether the length comes first.
    length: bool,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of type {}", self.message.name)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let Object { encoder, message, length } = self;
        let (base, start) = (encoder.parts.len(), encoder.out.len());
        while let Some(found) = map.next_key_seed(Key(message))? {
            let Some(at) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let from = encoder.out.len();
            if map.next_value_seed(Member { encoder, field: &message.fields[at] })? {
                encoder.parts.push(Part { field: at, start: from, end: encoder.out.len() });
            } else {
                encoder.out.truncate(from);
            }
        }
        encoder.finish(message, base, start, length);
        Ok(true)
    }
}

/// The name of a member, as a field.
struct Key<'m>(&'m Message);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.field(name))
    }
}

/// The value of a member, with its tag before every element; false for null.
struct Member<'e> {
    encoder: &'e mut Encoder,
    field: &'e Field,
}

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        match self.field.label {
            Label::One => {
                self.encoder.out.extend_from_slice(&self.field.tag);
                Single { encoder: self.encoder, kind: self.field.kind }.deserialize(deserializer)
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if matches!(self.field.label, Label::Many | Label::Wrapped) { "a list" } else { "a map" };
        write!(f, "{what} for {}", self.field.name)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<bool, A::Error> {
        if !matches!(self.field.label, Label::Many | Label::Wrapped) {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        }
        let Member { encoder, field } = self;
        match field.label {
            Label::Many => {
                elements(encoder, &field.tag, field.kind, seq)?;
                Ok(true)
            }
            _ => {
                encoder.out.extend_from_slice(&field.tag);
                Strings(encoder).visit_seq(seq)
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        if matches!(self.field.label, Label::Many | Label::Wrapped) {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Map, &self));
        }
        let Member { encoder, field } = self;
        let start = encoder.out.len();
        let mut entries: Vec<(String, usize, usize)> = Vec::new();
        let mut sorted = true;
        while let Some(key) = map.next_key::<String>()? {
            let from = encoder.out.len();
            encoder.out.extend_from_slice(&field.tag);
            let content = encoder.out.len();
            encoder.out.push(10);
            encoder.put_bytes(key.as_bytes());
            let value = encoder.out.len();
            encoder.out.push(field.kind.value_tag(field.label));
            let present = match field.label {
                Label::WrappedMap => map.next_value_seed(Strings(encoder))?,
                _ => map.next_value_seed(Single { encoder, kind: field.kind })?,
            };
            if !present {
                encoder.out.truncate(value);
                if field.label == Label::Map && field.kind != Kind::Bytes {
                    encoder.out.push(field.kind.value_tag(field.label));
                    plan().put_zero(field.kind, &mut encoder.out);
                }
            }
            encoder.insert_length(content);
            sorted &= entries.last().is_none_or(|(last, ..)| *last < key);
            entries.push((key, from, encoder.out.len()));
        }
        if !sorted {
            sort_entries(encoder, entries, start);
        }
        Ok(true)
    }
}

/// Protobuf written by Go has the entries of maps in the order of their keys.
fn sort_entries(encoder: &mut Encoder, mut entries: Vec<(String, usize, usize)>, start: usize) {
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    encoder.scratch.clear();
    for same in entries.chunk_by(|a, b| a.0 == b.0) {
        if let Some((_, from, to)) = same.last() {
            encoder.scratch.extend_from_slice(&encoder.out[*from..*to]);
        }
    }
    encoder.out.truncate(start);
    encoder.out.extend_from_slice(&encoder.scratch);
}

impl Kind {
    /// The tag of the second field, the value of a map's entry.
    fn value_tag(self, label: Label) -> u8 {
        match self {
            _ if label == Label::WrappedMap => 18,
            Kind::Bool | Kind::Int32 | Kind::Int64 => 16,
            Kind::Double => 17,
            _ => 18,
        }
    }
}

fn elements<'de, A: SeqAccess<'de>>(encoder: &mut Encoder, tag: &[u8], kind: Kind, mut seq: A) -> Result<(), A::Error> {
    while seq.next_element_seed(Element { encoder: &mut *encoder, tag, kind })?.is_some() {}
    Ok(())
}

/// An element of a list; null is Go's zero value.
struct Element<'e> {
    encoder: &'e mut Encoder,
    tag: &'e [u8],
    kind: Kind,
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Element { encoder, tag, kind } = self;
        encoder.out.extend_from_slice(tag);
        let from = encoder.out.len();
        if !(Single { encoder: &mut *encoder, kind }).deserialize(deserializer)? {
            encoder.out.truncate(from);
            plan().put_zero(kind, &mut encoder.out);
        }
        Ok(())
    }
}

/// A message that holds a list of strings, with its length; false for null.
struct Strings<'e>(&'e mut Encoder);

impl<'de> DeserializeSeed<'de> for Strings<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strings<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<bool, A::Error> {
        let start = self.0.out.len();
        elements(self.0, &[10], Kind::String, seq)?;
        self.0.insert_length(start);
        Ok(true)
    }
}

/// A value without its tag; false for null.
struct Single<'e> {
    encoder: &'e mut Encoder,
    kind: Kind,
}

impl<'de> DeserializeSeed<'de> for Single<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        let Single { encoder, kind } = self;
        match kind {
            Kind::Message(at) => {
                Object { encoder, message: plan().message(at), length: true }.deserialize(deserializer)
            }
            Kind::Raw => {
                let start = encoder.out.len();
                encoder.out.push(10);
                let content = encoder.out.len();
                Copy { out: &mut encoder.out, limit: usize::MAX }.deserialize(deserializer)?;
                if &encoder.out[content..] == b"null" {
                    return Ok(false);
                }
                encoder.insert_length(content);
                encoder.insert_length(start);
                Ok(true)
            }
            _ => deserializer.deserialize_any(Single { encoder, kind }),
        }
    }
}

impl<'de> Visitor<'de> for Single<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of kind {:?}", self.kind)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        match self.kind {
            Kind::Bool => self.encoder.out.push(value.into()),
            Kind::SchemaOr(Alternative::Bool, _) => self.encoder.out.extend_from_slice(&[2, 8, value.into()]),
            _ => return Err(E::invalid_type(serde::de::Unexpected::Bool(value), &self)),
        }
        Ok(true)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
        let out = &mut self.encoder.out;
        match self.kind {
            Kind::Int32 if i32::try_from(value).is_ok() => put_varint(out, value as u64),
            Kind::Int64 => put_varint(out, value as u64),
            Kind::Double => out.extend_from_slice(&(value as f64).to_le_bytes()),
            Kind::IntOrString if i32::try_from(value).is_ok() => {
                out.extend_from_slice(&[(5 + varint_len(value as u64)) as u8, 8, 0, 16]);
                put_varint(out, value as u64);
                out.extend_from_slice(&[26, 0]);
            }
            Kind::Quantity => return self.visit_str(&value.to_string()),
            _ => return Err(E::invalid_type(serde::de::Unexpected::Signed(value), &self)),
        }
        Ok(true)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::invalid_type(serde::de::Unexpected::Unsigned(value), &self)),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        match self.kind {
            Kind::Double => {
                self.encoder.out.extend_from_slice(&value.to_le_bytes());
                Ok(true)
            }
            Kind::Quantity => self.visit_str(&value.to_string()),
            _ => Err(E::invalid_type(serde::de::Unexpected::Float(value), &self)),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<bool, E> {
        let Single { encoder, kind } = self;
        match kind {
            Kind::String => encoder.put_bytes(value.as_bytes()),
            Kind::Bytes => put_decoded(encoder, value).map_err(E::custom)?,
            Kind::Quantity => {
                put_varint(&mut encoder.out, (1 + varint_len(value.len() as u64) + value.len()) as u64);
                encoder.out.push(10);
                encoder.put_bytes(value.as_bytes());
            }
            Kind::IntOrString => {
                put_varint(&mut encoder.out, (5 + varint_len(value.len() as u64) + value.len()) as u64);
                encoder.out.extend_from_slice(&[8, 1, 16, 0, 26]);
                encoder.put_bytes(value.as_bytes());
            }
            Kind::Duration => {
                let nanos = text::parse_duration(value).map_err(E::custom)? as u64;
                encoder.out.extend_from_slice(&[1 + varint_len(nanos) as u8, 8]);
                put_varint(&mut encoder.out, nanos);
            }
            Kind::Time | Kind::MicroTime => put_time(&mut encoder.out, kind, value).map_err(E::custom)?,
            _ => return Err(E::invalid_type(serde::de::Unexpected::Str(value), &Single { encoder, kind })),
        }
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<bool, A::Error> {
        let Single { encoder, kind } = self;
        let element = match kind {
            Kind::SchemaOr(Alternative::Array, at) => Kind::Message(at),
            Kind::SchemaOr(Alternative::Strings, _) => Kind::String,
            _ => return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &Single { encoder, kind })),
        };
        let start = encoder.out.len();
        elements(encoder, &[18], element, seq)?;
        encoder.insert_length(start);
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        let Single { encoder, kind } = self;
        let Kind::SchemaOr(alternative, at) = kind else {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Map, &Single { encoder, kind }));
        };
        let start = encoder.out.len();
        let head: &[u8] = if alternative == Alternative::Bool { &[8, 1, 18] } else { &[10] };
        encoder.out.extend_from_slice(head);
        Object { encoder: &mut *encoder, message: plan().message(at), length: true }.visit_map(map)?;
        encoder.insert_length(start);
        Ok(true)
    }
}

fn put_decoded(encoder: &mut Encoder, text: &str) -> Result<(), WireError> {
    // Go ignores line breaks inside base64.
    let packed: String;
    let text = match text.contains(['\r', '\n']) {
        true => {
            packed = text.replace(['\r', '\n'], "");
            &packed
        }
        false => text,
    };
    encoder.scratch.clear();
    let decoded = STANDARD.decode_vec(text, &mut encoder.scratch);
    decoded.map_err(|_| WireError::Json("illegal base64 data".to_owned()))?;
    put_varint(&mut encoder.out, encoder.scratch.len() as u64);
    encoder.out.extend_from_slice(&encoder.scratch);
    Ok(())
}

fn put_time(out: &mut Vec<u8>, kind: Kind, text: &str) -> Result<(), WireError> {
    let (seconds, nanos) = text::parse_time(text)?;
    let nanos = if kind == Kind::MicroTime { nanos - nanos % 1000 } else { 0 };
    if text::is_zero_time(seconds, nanos) {
        out.push(0);
        return Ok(());
    }
    out.push((2 + varint_len(seconds as u64) + varint_len(nanos as u64)) as u8);
    out.push(8);
    put_varint(out, seconds as u64);
    out.push(16);
    put_varint(out, nanos as u64);
    Ok(())
}
