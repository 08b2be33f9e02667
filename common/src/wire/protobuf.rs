//! Protobuf to JSON trees, as Go's JSON encoder would write the decoded object.
//!
//! Go marks every plain field on the wire, also empty ones; what is a zero value and no pointer in Go is left out here.
//! Structs that Go embeds are messages of their own on the wire; their members belong to the embedding object.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::table::{Field, Kind, Message, message};
use crate::schema::{self, Shape, Type};

/// What precedes every protobuf object.
const MAGIC: &[u8] = b"k8s\0";
/// Deeper nesting is refused; no API type comes near it but JSON schemas.
const MAX_DEPTH: usize = 64;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Why bytes are no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The four magic bytes are missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    Prefix,
    /// The bytes end too early.
    #[error("unexpected EOF")]
    Truncated,
    /// The bytes are no protobuf of this type.
    #[error("proto: {0}")]
    Malformed(String),
    /// The type is not in the table.
    #[error("no protobuf definition of {0}")]
    Unknown(String),
}

/// The outer message: what kind of object the payload is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// `group/version`; may be empty.
    pub api_version: String,
    /// Kind; may be empty.
    pub kind: String,
    /// The object.
    pub raw: Vec<u8>,
}

/// Opens the envelope.
///
/// # Errors
/// The bytes are no envelope.
pub fn open(bytes: &[u8]) -> Result<Envelope, WireError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(WireError::Prefix)?;
    let mut envelope = Envelope::default();
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.tag()? {
        match (number, wire) {
            (1, 2) => {
                let mut meta = Reader(reader.bytes()?);
                while let Some((number, wire)) = meta.tag()? {
                    match (number, wire) {
                        (1, 2) => envelope.api_version = meta.string()?,
                        (2, 2) => envelope.kind = meta.string()?,
                        _ => meta.skip(wire)?,
                    }
                }
            }
            (2, 2) => envelope.raw = reader.bytes()?.to_vec(),
            _ => reader.skip(wire)?,
        }
    }
    Ok(envelope)
}

/// Decodes an object of a kind. The tree carries no `kind` and `apiVersion`.
///
/// # Errors
/// The type is unknown or the bytes do not fit it.
pub fn decode(group: &str, version: &str, kind: &str, raw: &[u8]) -> Result<Value, WireError> {
    let unknown = || WireError::Unknown(format!("{group}/{version} {kind}"));
    let ty = schema::lookup(group, version, kind).ok_or_else(unknown)?;
    let (package, name) = (ty.package().unwrap_or_default(), ty.short_name().unwrap_or_default());
    let found = message(package, name).ok_or_else(unknown)?;
    let mut out = Map::new();
    fields(found, Some(ty), raw, &mut out, 0)?;
    Ok(Value::Object(out))
}

/// Reads all fields of a message into `out`.
fn fields(
    message: &Message,
    ty: Option<Type<'static>>,
    raw: &[u8],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::Malformed("nesting too deep".to_owned()));
    }
    let mut reader = Reader(raw);
    while let Some((number, wire)) = reader.tag()? {
        let Some(field) = message.field(number) else {
            reader.skip(wire)?;
            continue;
        };
        let inner = ty.and_then(|t| t.field(field.name)).map(|f| f.ty());
        if let (Kind::Message(package, name), true, None) = (field.kind, ty.is_some(), inner)
            && !is_special(resolve(message, package), name)
        {
            // Embedded in Go: its members are ours.
            fields(lookup(message, package, name)?, ty, reader.bytes()?, out, depth + 1)?;
            continue;
        }
        let element = inner.and_then(element_type);
        if field.map {
            let (key, value) = entry(message, field, element, reader.bytes()?, depth)?;
            member(out, field.name, json!({}))[key] = value;
        } else if field.repeated {
            let value = single(message, field, element, wire, &mut reader, depth)?;
            if let Some(list) = member(out, field.name, json!([])).as_array_mut() {
                list.push(value);
            }
        } else {
            let value = single(message, field, inner, wire, &mut reader, depth)?;
            if field.pointer || !is_zero(&value) {
                out.insert(field.name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn member<'a>(out: &'a mut Map<String, Value>, name: &str, empty: Value) -> &'a mut Value {
    out.entry(name.to_owned()).or_insert(empty)
}

/// The type of a list's or map's elements.
fn element_type(ty: Type<'static>) -> Option<Type<'static>> {
    match ty.shape() {
        Shape::List(list) => Some(list.element),
        Shape::Map(value, _) => Some(value),
        _ => None,
    }
}

fn resolve(owner: &Message, package: &'static str) -> &'static str {
    if package.is_empty() { owner.package } else { package }
}

fn lookup(owner: &Message, package: &'static str, name: &str) -> Result<&'static Message, WireError> {
    let package = resolve(owner, package);
    message(package, name).ok_or_else(|| WireError::Unknown(format!("{package}.{name}")))
}

/// Messages that are no objects in JSON.
fn is_special(package: &str, name: &str) -> bool {
    matches!(name, "Time" | "MicroTime" | "Duration" | "FieldsV1" | "Verbs" if package == META)
        || matches!(name, "Quantity" | "RawExtension" | "IntOrString" | "ExtraValue")
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// One value, of a plain field or of an element.
fn single(
    owner: &Message,
    field: &Field,
    ty: Option<Type<'static>>,
    wire: u8,
    reader: &mut Reader<'_>,
    depth: usize,
) -> Result<Value, WireError> {
    let expected = match field.kind {
        Kind::Bool | Kind::Int32 | Kind::Int64 => 0,
        Kind::Double => 1,
        Kind::String | Kind::Bytes | Kind::Message(..) => 2,
    };
    if wire != expected {
        return Err(WireError::Malformed(format!("wrong wireType = {wire} for field {}", field.name)));
    }
    Ok(match field.kind {
        Kind::Bool => (reader.varint()? != 0).into(),
        Kind::Int32 => (reader.varint()? as i32).into(),
        Kind::Int64 => (reader.varint()? as i64).into(),
        Kind::Double => json!(reader.double()?),
        Kind::String => reader.string()?.into(),
        Kind::Bytes => STANDARD.encode(reader.bytes()?).into(),
        Kind::Message(package, name) => {
            let raw = reader.bytes()?;
            if is_special(resolve(owner, package), name) {
                return special(name, raw);
            }
            let mut out = Map::new();
            fields(lookup(owner, package, name)?, ty, raw, &mut out, depth + 1)?;
            Value::Object(out)
        }
    })
}

/// One entry of a map.
fn entry(
    owner: &Message,
    field: &Field,
    ty: Option<Type<'static>>,
    raw: &[u8],
    depth: usize,
) -> Result<(String, Value), WireError> {
    let mut reader = Reader(raw);
    let mut key = String::new();
    let mut value = match field.kind {
        Kind::String | Kind::Bytes => Value::String(String::new()),
        Kind::Bool => false.into(),
        Kind::Int32 | Kind::Int64 | Kind::Double => 0.into(),
        Kind::Message(..) => json!({}),
    };
    while let Some((number, wire)) = reader.tag()? {
        match (number, wire) {
            (1, 2) => key = reader.string()?,
            (2, _) => value = single(owner, field, ty, wire, &mut reader, depth)?,
            _ => reader.skip(wire)?,
        }
    }
    Ok((key, value))
}

/// The JSON of a special message.
fn special(name: &str, raw: &[u8]) -> Result<Value, WireError> {
    let mut reader = Reader(raw);
    let (mut numbers, mut texts, mut bytes) = ([0i64; 4], Vec::new(), None);
    let mut text = String::new();
    while let Some((number, wire)) = reader.tag()? {
        match wire {
            0 => {
                let value = reader.varint()? as i64;
                if let Some(slot) = numbers.get_mut(number as usize) {
                    *slot = value;
                }
            }
            2 if matches!(name, "RawExtension" | "FieldsV1") => bytes = Some(reader.bytes()?),
            2 => {
                text = reader.string()?;
                texts.push(text.clone());
            }
            _ => reader.skip(wire)?,
        }
    }
    Ok(match name {
        "Quantity" => text.into(),
        "Verbs" | "ExtraValue" => texts.into(),
        "IntOrString" if numbers[1] == 1 => text.into(),
        "IntOrString" => (numbers[2] as i32).into(),
        "Duration" => go_duration(numbers[1]).into(),
        "Time" | "MicroTime" => time(numbers[1], numbers[2], name == "MicroTime"),
        _ => match bytes {
            None | Some([]) => Value::Null,
            Some(raw) => serde_json::from_slice(raw).map_err(|e| WireError::Malformed(e.to_string()))?,
        },
    })
}

fn time(seconds: i64, nanos: i64, micro: bool) -> Value {
    // Go's zero time is null in JSON.
    if seconds == 0 && nanos == 0 {
        return Value::Null;
    }
    let format = if micro { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Timestamp::new(seconds, nanos as i32).map_or(Value::Null, |t| t.strftime(format).to_string().into())
}

/// Go's text of a duration in nanoseconds.
fn go_duration(nanos: i64) -> String {
    let (sign, total) = if nanos < 0 { ("-", nanos.unsigned_abs()) } else { ("", nanos.unsigned_abs()) };
    let fraction = |value: u64, unit: u64, suffix: &str| {
        let (whole, rest) = (value / unit, value % unit);
        let width = unit.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() { format!("{whole}{suffix}") } else { format!("{whole}.{digits}{suffix}") }
    };
    let text = match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => fraction(total, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(total, 1_000_000, "ms"),
        _ => {
            let (hours, minutes) = (total / 3_600_000_000_000, total / 60_000_000_000 % 60);
            let seconds = fraction(total % 60_000_000_000, 1_000_000_000, "s");
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

/// A position in protobuf bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first().ok_or(WireError::Truncated)?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Malformed("integer overflow".to_owned()))
    }

    /// Field number and wire type; none at the end.
    fn tag(&mut self) -> Result<Option<(u32, u8)>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| *n > 0);
        let number = number.ok_or_else(|| WireError::Malformed("illegal tag".to_owned()))?;
        Ok(Some((number, (tag & 7) as u8)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        if length > self.0.len() {
            return Err(WireError::Truncated);
        }
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(head)
    }

    fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
        self.take(length)
    }

    fn string(&mut self) -> Result<String, WireError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| WireError::Malformed("string field contains invalid UTF-8".to_owned()))
    }

    fn double(&mut self) -> Result<f64, WireError> {
        let bytes = self.take(8)?;
        Ok(f64::from_le_bytes(bytes.try_into().map_err(|_| WireError::Truncated)?))
    }

    fn skip(&mut self, wire: u8) -> Result<(), WireError> {
        match wire {
            0 => self.varint().map(drop),
            1 => self.take(8).map(drop),
            2 => self.bytes().map(drop),
            5 => self.take(4).map(drop),
            other => Err(WireError::Malformed(format!("illegal wireType {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_gos() {
        for (nanos, want) in [
            (0, "0s"),
            (1_500, "1.5µs"),
            (2_000_000, "2ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(nanos), want);
        }
    }

    /// Upstream's golden serializations, every field filled, when the machine has them.
    #[test]
    fn golden_files_decode_to_their_json() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/api-fixtures");
        let Ok(files) = std::fs::read_dir(&dir) else {
            eprintln!("skipped: no fixtures at {}", dir.display());
            return;
        };
        let (mut checked, mut wrong) = (0, Vec::new());
        for path in files.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "pb")) {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let envelope = open(&std::fs::read(&path).unwrap()).unwrap();
            let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", &envelope.api_version));
            let got = match decode(group, version, &envelope.kind, &envelope.raw) {
                Ok(got) => got,
                Err(WireError::Unknown(_)) => continue,
                Err(error) => panic!("{name}: {error}"),
            };
            let mut want: Value = serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
            for field in ["kind", "apiVersion"] {
                want.as_object_mut().unwrap().remove(field);
            }
            checked += 1;
            if got != want {
                wrong.push(format!("{name}: {}", first_difference(&got, &want, "")));
            }
        }
        assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong.join("\n"));
        assert!(checked > 50, "{checked}");
    }

    fn first_difference(got: &Value, want: &Value, path: &str) -> String {
        match (got, want) {
            (Value::Object(a), Value::Object(b)) => {
                let keys = a.keys().chain(b.keys());
                let found = keys.map(|k| (k, a.get(k).unwrap_or(&Value::Null), b.get(k).unwrap_or(&Value::Null)));
                let found = found.into_iter().find(|(_, x, y)| x != y);
                found.map_or_else(|| path.to_owned(), |(k, x, y)| first_difference(x, y, &format!("{path}.{k}")))
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                let found = a.iter().zip(b).enumerate().find(|(_, (x, y))| x != y);
                found.map_or_else(|| path.to_owned(), |(i, (x, y))| first_difference(x, y, &format!("{path}[{i}]")))
            }
            _ => format!("{path}: got {got}, want {want}"),
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode("", "v1", "Pod", &bytes);
            let _ = open(&[MAGIC, &bytes].concat());
        }
    }
}
