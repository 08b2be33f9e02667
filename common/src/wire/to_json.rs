//! Protobuf to JSON in one pass, as Go's encoder would write the decoded object: zero values that it leaves out are
//! left out, those that it shows are shown, embedded messages are part of the object.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    WireError,
    bytes::Reader,
    plan::{Alternative, Field, Kind, Label, Message, Target, message_of, plan},
    raw, sort, text,
};
use crate::schema::Type;

/// Deeper messages are refused; no API type comes near it but JSON schemas.
pub(super) const MAX_DEPTH: usize = 100;

/// Appends the JSON of a message; `type_meta` (`apiVersion` and `kind`) comes first.
///
/// # Errors
/// The type has no protobuf form, or the bytes don't fit it. What was appended then means nothing.
pub fn protobuf_to_json(
    ty: Type<'_>,
    raw: &[u8],
    type_meta: Option<(&str, &str)>,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    let unknown = || WireError::NotMarshalable(ty.name().unwrap_or_default());
    let message = message_of(ty).filter(|m| m.marshalable).ok_or_else(unknown)?;
    let start = out.len();
    out.reserve(raw.len() + raw.len() / 2 + 64);
    match root(message, raw, type_meta, out) {
        Err(WireError::Disordered) => {
            out.truncate(start);
            root(message, &sort::sorted(message, raw)?, type_meta, out)
        }
        done => done,
    }
}

fn root(message: &Message, raw: &[u8], type_meta: Option<(&str, &str)>, out: &mut Vec<u8>) -> Result<(), WireError> {
    out.push(b'{');
    if let Some((api_version, kind)) = type_meta {
        for (key, value) in [("\"kind\":", kind), (",\"apiVersion\":", api_version)] {
            out.extend_from_slice(key.as_bytes());
            text::put_str(out, value);
        }
    }
    members(message, raw, out, 0, type_meta.is_none())
}

fn object(message: &Message, raw: &[u8], out: &mut Vec<u8>, depth: usize) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::TooDeep);
    }
    out.push(b'{');
    members(message, raw, out, depth, true)
}

/// The members of an object and the closing brace.
fn members(message: &Message, raw: &[u8], out: &mut Vec<u8>, depth: usize, first: bool) -> Result<(), WireError> {
    let mut walk = Walk { message, out, depth, first, seen: 0 };
    walk.layer(0, raw)?;
    for at in &message.shown {
        if walk.seen & (1 << at) == 0 {
            let field = &message.fields[usize::from(*at)];
            walk.key(usize::from(*at));
            walk.out.extend_from_slice(field.absent_json.as_deref().unwrap_or("null").as_bytes());
        }
    }
    walk.out.push(b'}');
    Ok(())
}

struct Walk<'m, 'o> {
    message: &'m Message,
    out: &'o mut Vec<u8>,
    depth: usize,
    first: bool,
    /// Bit per field.
    seen: u128,
}

impl Walk<'_, '_> {
    fn key(&mut self, at: usize) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        self.seen |= 1 << at;
        self.out.extend_from_slice(self.message.fields[at].key.as_bytes());
    }

    fn layer(&mut self, layer: usize, raw: &[u8]) -> Result<(), WireError> {
        let message = self.message;
        let mut reader = Reader(raw);
        let mut last = 0;
        while let Some((number, wire)) = reader.tag()? {
            let Some(slot) = message.layers[layer].slot(number) else {
                reader.skip(wire)?;
                continue;
            };
            if number <= last {
                return Err(WireError::Disordered);
            }
            last = number;
            match slot.target {
                Target::Layer(inner) => {
                    expect(wire, 2, "embedded message")?;
                    self.layer(inner, reader.bytes()?)?;
                }
                Target::Field(at) => self.field(at, &message.fields[at], number, wire, &mut reader)?,
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        at: usize,
        field: &Field,
        number: u32,
        wire: u8,
        reader: &mut Reader<'_>,
    ) -> Result<(), WireError> {
        match field.label {
            Label::One => {
                let value = Value::read(field, wire, reader)?;
                if !(field.drop_zero && value.is_zero()) {
                    self.key(at);
                    value.put(field.kind, self.out, self.depth)?;
                }
            }
            Label::Many => {
                self.key(at);
                self.list(field, number, wire, reader)?;
            }
            Label::Wrapped => {
                self.key(at);
                expect(wire, 2, field.name)?;
                wrapped(reader.bytes()?, self.out)?;
            }
            Label::Map | Label::WrappedMap => {
                self.key(at);
                self.map(field, number, wire, reader)?;
            }
        }
        Ok(())
    }

    fn list(&mut self, field: &Field, number: u32, wire: u8, reader: &mut Reader<'_>) -> Result<(), WireError> {
        self.out.push(b'[');
        let mut wire = wire;
        let mut first = true;
        loop {
            if wire == 2 && field.kind.is_packable() {
                let mut packed = Reader(reader.bytes()?);
                while !packed.0.is_empty() {
                    self.comma(&mut first);
                    Value::read(field, field.kind.wire(), &mut packed)?.put(field.kind, self.out, self.depth)?;
                }
            } else {
                self.comma(&mut first);
                Value::read(field, wire, reader)?.put(field.kind, self.out, self.depth)?;
            }
            match following(reader, number)? {
                Some(next) => wire = next,
                None => break,
            }
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, field: &Field, number: u32, wire: u8, reader: &mut Reader<'_>) -> Result<(), WireError> {
        self.out.push(b'{');
        let mut wire = wire;
        let mut first = true;
        loop {
            expect(wire, 2, field.name)?;
            self.comma(&mut first);
            self.entry(field, reader.bytes()?)?;
            match following(reader, number)? {
                Some(next) => wire = next,
                None => break,
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn entry(&mut self, field: &Field, raw: &[u8]) -> Result<(), WireError> {
        let mut reader = Reader(raw);
        let (mut key, mut value): (&[u8], Option<(u8, Reader<'_>)>) = (&[], None);
        while let Some((number, wire)) = reader.tag()? {
            match (number, wire) {
                (1, 2) => key = reader.bytes()?,
                (2, wire) => {
                    value = Some((wire, reader));
                    reader.skip(wire)?;
                }
                _ => reader.skip(wire)?,
            }
        }
        text::put_string(self.out, key);
        self.out.push(b':');
        match value {
            Some((wire, mut reader)) if field.label == Label::WrappedMap => {
                expect(wire, 2, field.name)?;
                wrapped(reader.bytes()?, self.out)
            }
            Some((wire, mut reader)) => Value::read(field, wire, &mut reader)?.put(field.kind, self.out, self.depth),
            None if field.label == Label::WrappedMap || matches!(field.kind, Kind::Bytes | Kind::Raw) => {
                self.out.extend_from_slice(b"null");
                Ok(())
            }
            None => Value::zero(field.kind).put(field.kind, self.out, self.depth),
        }
    }

    fn comma(&mut self, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(b',');
        }
    }
}

impl Kind {
    /// The wire type of its values.
    fn wire(self) -> u8 {
        match self {
            Kind::Bool | Kind::Int32 | Kind::Int64 => 0,
            Kind::Double => 1,
            _ => 2,
        }
    }

    fn is_packable(self) -> bool {
        self.wire() != 2
    }
}

/// A value as it is on the wire.
enum Value<'a> {
    Int(u64),
    Double(f64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn read(field: &Field, wire: u8, reader: &mut Reader<'a>) -> Result<Self, WireError> {
        expect(wire, field.kind.wire(), field.name)?;
        Ok(match wire {
            0 => Value::Int(reader.varint()?),
            1 => Value::Double(reader.double()?),
            _ => Value::Bytes(reader.bytes()?),
        })
    }

    fn zero(kind: Kind) -> Self {
        match kind.wire() {
            0 => Value::Int(0),
            1 => Value::Double(0.0),
            _ => Value::Bytes(&[]),
        }
    }

    fn is_zero(&self) -> bool {
        match self {
            Value::Int(value) => *value == 0,
            Value::Double(value) => *value == 0.0,
            Value::Bytes(bytes) => bytes.is_empty(),
        }
    }

    fn put(self, kind: Kind, out: &mut Vec<u8>, depth: usize) -> Result<(), WireError> {
        match (kind, self) {
            (Kind::Bool, Value::Int(value)) => out.extend_from_slice(if value == 0 { b"false" } else { b"true" }),
            (Kind::Int32, Value::Int(value)) => text::put_int(out, i64::from(value as i32)),
            (_, Value::Int(value)) => text::put_int(out, value as i64),
            (_, Value::Double(value)) => put_double(out, value)?,
            (Kind::String, Value::Bytes(bytes)) => text::put_string(out, bytes),
            (Kind::Bytes, Value::Bytes(bytes)) => put_base64(out, bytes),
            (Kind::Message(at), Value::Bytes(bytes)) => object(plan().message(at), bytes, out, depth + 1)?,
            (kind, Value::Bytes(bytes)) => special(kind, bytes, out, depth)?,
        }
        Ok(())
    }
}

fn put_double(out: &mut Vec<u8>, value: f64) -> Result<(), WireError> {
    if !value.is_finite() {
        return Err(WireError::Json(format!("unsupported value: {value}")));
    }
    // Go writes whole numbers without a fraction.
    let text = if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value:.0}") } else { format!("{value:?}") };
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The buffer has the exact size, so encoding can't fail.
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
    out.push(b'"');
}

fn expect(wire: u8, wanted: u8, name: &str) -> Result<(), WireError> {
    if wire == wanted {
        return Ok(());
    }
    // Go's name, as far as it follows from JSON's.
    let go_name = match name {
        "metadata" => "ObjectMeta".to_owned(),
        name => name[..1].to_uppercase() + &name[1..],
    };
    Err(WireError::malformed(format!("wrong wireType = {wire} for field {go_name}")))
}

/// Steps over the next tag when it is that of the same field again.
fn following(reader: &mut Reader<'_>, number: u32) -> Result<Option<u8>, WireError> {
    let mut ahead = *reader;
    match ahead.tag()? {
        Some((next, wire)) if next == number => {
            *reader = ahead;
            Ok(Some(wire))
        }
        _ => Ok(None),
    }
}

/// A list of strings in a message of its own; an empty one is null, as Go reads it.
fn wrapped(raw: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
    let mut reader = Reader(raw);
    let mut mark = b'[';
    while let Some((number, wire)) = reader.tag()? {
        match (number, wire) {
            (1, 2) => {
                out.push(std::mem::replace(&mut mark, b','));
                text::put_string(out, reader.bytes()?);
            }
            _ => reader.skip(wire)?,
        }
    }
    out.extend_from_slice(if mark == b'[' { b"null" } else { b"]" });
    Ok(())
}

/// Messages that are no objects in JSON: the last of each of their fields counts.
fn special(kind: Kind, raw: &[u8], out: &mut Vec<u8>, depth: usize) -> Result<(), WireError> {
    let mut reader = Reader(raw);
    let mut numbers = [0u64; 4];
    let mut bytes: [Option<&[u8]>; 4] = [None; 4];
    let mut many = Vec::new();
    while let Some((number, wire)) = reader.tag()? {
        match (number as usize, wire) {
            (at @ 1..4, 0) => numbers[at] = reader.varint()?,
            (at @ 1..4, 2) => {
                let value = reader.bytes()?;
                bytes[at] = Some(value);
                if at == 2 && matches!(kind, Kind::SchemaOr(Alternative::Array | Alternative::Strings, _)) {
                    many.push(value);
                }
            }
            _ => reader.skip(wire)?,
        }
    }
    let first = bytes[1].unwrap_or_default();
    match kind {
        Kind::Quantity => text::put_string(out, first),
        Kind::IntOrString if numbers[1] == 1 => text::put_string(out, bytes[3].unwrap_or_default()),
        Kind::IntOrString => text::put_int(out, i64::from(numbers[2] as i32)),
        Kind::Duration => text::put_str(out, &text::go_duration(numbers[1] as i64)),
        // An empty message is Go's zero time.
        Kind::Time | Kind::MicroTime if raw.is_empty() => out.extend_from_slice(b"null"),
        Kind::Time => text::put_time(out, numbers[1] as i64, None)?,
        Kind::MicroTime => {
            let nanos = u32::try_from(numbers[2]).ok().filter(|nanos| *nanos < 1_000_000_000);
            let nanos = nanos.ok_or_else(|| WireError::malformed("nanoseconds out of range"))?;
            text::put_time(out, numbers[1] as i64, Some(nanos / 1000))?;
        }
        Kind::Raw if first.is_empty() => out.extend_from_slice(b"null"),
        Kind::Raw => raw::put_compact(out, first)?,
        Kind::SchemaOr(alternative, schema) => {
            let schema = plan().message(schema);
            let nested = |raw, out: &mut Vec<u8>| object(schema, raw, out, depth + 1);
            match (alternative, if alternative == Alternative::Bool { bytes[2] } else { bytes[1] }) {
                (Alternative::Array, _) if !many.is_empty() => list(many, out, nested)?,
                (Alternative::Strings, _) if !many.is_empty() => {
                    list(many, out, |item, out| {
                        text::put_string(out, item);
                        Ok(())
                    })?;
                }
                (_, Some(raw)) => nested(raw, out)?,
                (Alternative::Bool, None) => out.extend_from_slice(if numbers[1] == 0 { b"false" } else { b"true" }),
                (_, None) => out.extend_from_slice(b"null"),
            }
        }
        _ => {}
    }
    Ok(())
}

fn list<'a>(
    items: Vec<&'a [u8]>,
    out: &mut Vec<u8>,
    mut put: impl FnMut(&'a [u8], &mut Vec<u8>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let mut mark = b'[';
    for item in items {
        out.push(std::mem::replace(&mut mark, b','));
        put(item, out)?;
    }
    out.push(b']');
    Ok(())
}
