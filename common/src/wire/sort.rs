//! Brings the fields of a message into the order of their numbers, as every Kubernetes encoder writes them. Protobuf
//! allows any order, and a message in several pieces; the streaming decoder does not, so what differs comes here first.

use super::{
    WireError,
    bytes::{Reader, put_varint},
    plan::{Field, Kind, Label, Message, Target, plan},
    to_json::MAX_DEPTH,
};

/// The same object with all fields in order.
pub(super) fn sorted(message: &Message, raw: &[u8]) -> Result<Vec<u8>, WireError> {
    layer(message, 0, raw, 0)
}

struct Entry<'a> {
    number: u32,
    target: Target,
    /// Tag and value.
    whole: &'a [u8],
    /// What is inside, for what has a length.
    inner: Option<&'a [u8]>,
}

fn layer(message: &Message, at: usize, raw: &[u8], depth: usize) -> Result<Vec<u8>, WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::TooDeep);
    }
    let mut entries = Vec::new();
    let mut reader = Reader(raw);
    loop {
        let before = reader.0;
        let Some((number, wire)) = reader.tag()? else { break };
        let mut inside = reader;
        reader.skip(wire)?;
        let Some(slot) = message.layers[at].slot(number) else { continue };
        let inner = if wire == 2 { Some(inside.bytes()?) } else { None };
        let whole = &before[..before.len() - reader.0.len()];
        entries.push(Entry { number, target: slot.target, whole, inner });
    }
    entries.sort_by_key(|entry| entry.number);
    let mut out = Vec::with_capacity(raw.len());
    for same in entries.chunk_by(|a, b| a.number == b.number) {
        group(message, same, depth, &mut out)?;
    }
    Ok(out)
}

/// All occurrences of one field: elements stay, pieces of one message are joined, of scalars the last counts.
fn group(message: &Message, entries: &[Entry<'_>], depth: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
    let Some(last) = entries.last() else { return Ok(()) };
    let joined = || entries.iter().filter_map(|entry| entry.inner).collect::<Vec<_>>().concat();
    match last.target {
        Target::Layer(inner) => put(last.number, &layer(message, inner, &joined(), depth + 1)?, out),
        Target::Field(at) => {
            let field = &message.fields[at];
            match (field.label, field.kind) {
                (Label::One, Kind::Message(inner)) => {
                    put(last.number, &layer(plan().message(inner), 0, &joined(), depth + 1)?, out);
                }
                (Label::One | Label::Wrapped, _) => out.extend_from_slice(last.whole),
                (Label::Many | Label::Map | Label::WrappedMap, _) => {
                    for entry in entries {
                        element(field, entry, depth, out)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn element(field: &Field, entry: &Entry<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
    let (Kind::Message(inner), Some(raw)) = (field.kind, entry.inner) else {
        out.extend_from_slice(entry.whole);
        return Ok(());
    };
    let inner = plan().message(inner);
    if field.label == Label::Many {
        put(entry.number, &layer(inner, 0, raw, depth + 1)?, out);
        return Ok(());
    }
    let mut reader = Reader(raw);
    let (mut key, mut value): (&[u8], Vec<u8>) = (&[], Vec::new());
    while let Some((number, wire)) = reader.tag()? {
        match (number, wire) {
            (1, 2) => key = reader.bytes()?,
            (2, 2) => value.extend_from_slice(reader.bytes()?),
            _ => reader.skip(wire)?,
        }
    }
    let mut pair = Vec::new();
    put(1, key, &mut pair);
    put(2, &layer(inner, 0, &value, depth + 1)?, &mut pair);
    put(entry.number, &pair, out);
    Ok(())
}

fn put(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
