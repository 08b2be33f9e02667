//! The type table compiled for the codecs: by protobuf number and by JSON name, with everything that can be written
//! without looking at a value (keys, tags, zero values) written beforehand.

use std::sync::LazyLock;

use super::bytes::put_varint;
use crate::schema::{self, Scalar, Shape, Type, WireForm};

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int32,
    Int64,
    Double,
    String,
    Bytes,
    Time,
    MicroTime,
    Duration,
    Quantity,
    IntOrString,
    /// JSON in the first field of a message.
    Raw,
    /// A message of the plan.
    Message(usize),
    /// A schema (a message of the plan) or something else.
    SchemaOr(Alternative, usize),
}

/// What may stand instead of a JSON schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alternative {
    Array,
    Bool,
    Strings,
}

/// How often a field may occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    One,
    Many,
    /// One message that holds a list of strings.
    Wrapped,
    Map,
    /// A map whose values are such messages.
    WrappedMap,
}

/// A field that JSON objects have.
#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    /// `"name":`
    pub key: Box<str>,
    pub kind: Kind,
    pub label: Label,
    /// JSON leaves a zero scalar out.
    pub drop_zero: bool,
    /// The JSON of an absent value, where JSON never leaves the field out.
    pub absent_json: Option<Box<str>>,
    /// The encoded tag.
    pub tag: Box<[u8]>,
    /// Tag and value of an absent value, where protobuf never leaves the field out.
    pub absent_wire: Box<[u8]>,
}

/// Where a protobuf field goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A field of the object.
    Field(usize),
    /// An embedded message, whose fields are the object's own.
    Layer(usize),
}

/// One protobuf field.
#[derive(Debug)]
pub(super) struct Slot {
    pub tag: Box<[u8]>,
    pub target: Target,
}

/// The object's message (the first) or one embedded in it.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// By number.
    pub slots: Vec<Slot>,
    /// Index + 1 of the slot of each number.
    lookup: Vec<u16>,
}

impl Layer {
    pub fn slot(&self, number: u32) -> Option<&Slot> {
        let at = *self.lookup.get(number as usize)?;
        self.slots.get(usize::from(at).checked_sub(1)?)
    }
}

/// The type of an object.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub name: String,
    /// In the order in which they are on the wire.
    pub fields: Vec<Field>,
    pub layers: Vec<Layer>,
    /// Index + 1 of the field in the bucket of its name, or behind it.
    by_name: Vec<u16>,
    /// Indices of the fields with `absent_json`.
    pub shown: Vec<u16>,
    /// Whether every field has a number (but `kind` and `apiVersion`, which the envelope holds).
    pub marshalable: bool,
    zero_json: Box<str>,
    zero_wire: Box<[u8]>,
}

impl Message {
    pub fn field(&self, name: &str) -> Option<usize> {
        let mask = self.by_name.len().checked_sub(1)?;
        let mut at = bucket(name) & mask;
        loop {
            let field = usize::from(self.by_name[at]).checked_sub(1)?;
            if self.fields[field].name == name {
                return Some(field);
            }
            at = (at + 1) & mask;
        }
    }
}

/// All messages.
pub(super) struct Plan {
    messages: Vec<Message>,
}

/// More fields than this would not fit the set of fields that were seen.
pub(super) const MAX_FIELDS: usize = 128;

impl Plan {
    pub fn message(&self, index: usize) -> &Message {
        &self.messages[index]
    }

    /// Appends what stands behind the tag of a zero value.
    pub fn put_zero(&self, kind: Kind, out: &mut Vec<u8>) {
        zero_wire(&self.messages, kind, out);
    }
}

fn zero_wire(messages: &[Message], kind: Kind, out: &mut Vec<u8>) {
    let bytes: &[u8] = match kind {
        Kind::Double => &[0; 8],
        Kind::Duration => &[2, 8, 0],
        Kind::Quantity => &[3, 10, 1, b'0'],
        Kind::IntOrString => &[6, 8, 0, 16, 0, 26, 0],
        Kind::SchemaOr(Alternative::Bool, _) => &[2, 8, 0],
        Kind::Message(at) => {
            let zero = &messages[at].zero_wire;
            put_varint(out, zero.len() as u64);
            zero
        }
        _ => &[0],
    };
    out.extend_from_slice(bytes);
}

/// The plan of the built-in table.
pub(super) fn plan() -> &'static Plan {
    static PLAN: LazyLock<Plan> = LazyLock::new(compile);
    &PLAN
}

/// The message of a type; an error for lists, scalars and types that protobuf does not know.
pub(super) fn message_of(ty: Type<'_>) -> Option<&'static Message> {
    let message = plan().messages.get(ty.id().index())?;
    (!message.layers.is_empty()).then_some(message)
}

fn compile() -> Plan {
    let mut compiler = Compiler { messages: Vec::new() };
    compiler.messages.resize_with(schema::table().len(), Message::default);
    for ty in schema::table().definitions() {
        compiler.message(ty);
    }
    Plan { messages: compiler.messages }
}

struct Compiler {
    messages: Vec<Message>,
}

impl Compiler {
    /// Compiles a type, after those that it holds by value.
    fn message(&mut self, ty: Type<'static>) {
        let at = ty.id().index();
        let is_empty = ty.wire_form() == Some(WireForm::Empty);
        let Shape::Struct(shape) = ty.shape() else {
            if is_empty {
                self.messages[at] = Message { layers: vec![Layer::default()], ..finish(Message::default()) };
            }
            return;
        };
        if !self.messages[at].layers.is_empty() {
            return;
        }
        let mut message = Message { name: ty.name().unwrap_or_default(), marshalable: true, ..Message::default() };
        let mut fields: Vec<(Vec<u32>, schema::Field<'static>)> = Vec::new();
        for field in shape.fields() {
            let numbers: Vec<u32> = field.numbers().collect();
            let is_type_meta = matches!(field.name(), "kind" | "apiVersion");
            match numbers.is_empty() {
                true => message.marshalable &= is_type_meta,
                false => fields.push((numbers, field)),
            }
        }
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        message.layers.push(Layer::default());
        for (numbers, field) in fields.into_iter().take(MAX_FIELDS) {
            self.add(&mut message, &numbers, field);
        }
        self.messages[at] = finish(message);
    }

    fn add(&mut self, message: &mut Message, numbers: &[u32], field: schema::Field<'static>) {
        let mut layer = 0;
        let Some((number, embedded)) = numbers.split_last() else { return };
        for number in embedded {
            layer = match message.layers[layer].slot(*number).map(|slot| slot.target) {
                Some(Target::Layer(inner)) => inner,
                _ => {
                    message.layers.push(Layer::default());
                    let inner = message.layers.len() - 1;
                    push(&mut message.layers[layer], *number, tag(*number, 2), Target::Layer(inner));
                    inner
                }
            };
        }
        let Some(field) = self.field(*number, field) else {
            message.marshalable = false;
            return;
        };
        push(&mut message.layers[layer], *number, field.tag.clone(), Target::Field(message.fields.len()));
        message.fields.push(field);
    }

    fn field(&mut self, number: u32, field: schema::Field<'static>) -> Option<Field> {
        let facts = field.go_facts().unwrap_or_default();
        let (label, element) = match field.ty().shape() {
            Shape::List(list) if facts.wrapped => (Label::Wrapped, list.element),
            Shape::List(list) => (Label::Many, list.element),
            Shape::Map(value, _) => match value.shape() {
                Shape::List(list) if facts.wrapped => (Label::WrappedMap, list.element),
                _ => (Label::Map, value),
            },
            _ => (Label::One, field.ty()),
        };
        let kind = kind(element)?;
        if let (Kind::Message(_), Label::One) = (kind, label) {
            // A struct that holds itself does so through a pointer.
            if !facts.pointer {
                self.message(element);
            }
        }
        let wire = match kind {
            _ if label != Label::One && label != Label::Many => 2,
            Kind::Bool | Kind::Int32 | Kind::Int64 => 0,
            Kind::Double => 1,
            _ => 2,
        };
        let tag = tag(number, wire);
        let by_value = label == Label::One && !facts.pointer;
        let mut absent_wire = Vec::new();
        if by_value && kind != Kind::Bytes {
            absent_wire.extend_from_slice(&tag);
            zero_wire(&self.messages, kind, &mut absent_wire);
        }
        let is_struct = matches!(kind, Kind::Message(_) | Kind::Time | Kind::MicroTime | Kind::Raw | Kind::Quantity)
            || matches!(kind, Kind::IntOrString | Kind::Duration | Kind::SchemaOr(..));
        let shown = match facts.omitempty {
            true => by_value && is_struct && !facts.omitzero,
            false => true,
        };
        let absent = if by_value { self.zero_json(kind) } else { "null" };
        Some(Field {
            name: field.name(),
            key: format!("{:?}:", field.name()).into(),
            kind,
            label,
            drop_zero: !facts.pointer && (facts.omitempty && !is_struct || facts.omitzero),
            absent_json: shown.then(|| absent.into()),
            tag,
            absent_wire: absent_wire.into(),
        })
    }

    fn zero_json(&self, kind: Kind) -> &str {
        match kind {
            Kind::Bool => "false",
            Kind::Int32 | Kind::Int64 | Kind::Double | Kind::IntOrString => "0",
            Kind::String => "\"\"",
            Kind::Duration => "\"0s\"",
            Kind::Quantity => "\"0\"",
            Kind::Message(at) => &self.messages[at].zero_json,
            Kind::SchemaOr(Alternative::Bool, _) => "false",
            Kind::Bytes | Kind::Time | Kind::MicroTime | Kind::Raw | Kind::SchemaOr(..) => "null",
        }
    }
}

fn push(layer: &mut Layer, number: u32, tag: Box<[u8]>, target: Target) {
    layer.slots.push(Slot { tag, target });
    let at = number as usize;
    if layer.lookup.len() <= at {
        layer.lookup.resize(at + 1, 0);
    }
    layer.lookup[at] = layer.slots.len() as u16;
}

fn finish(mut message: Message) -> Message {
    let count = message.fields.len() as u16;
    message.by_name = index(&message.fields);
    message.shown = (0..count).filter(|at| message.fields[usize::from(*at)].absent_json.is_some()).collect();
    let members = message.shown.iter().map(|at| &message.fields[usize::from(*at)]);
    let members: Vec<String> =
        members.map(|field| format!("{}{}", field.key, field.absent_json.as_deref().unwrap_or_default())).collect();
    message.zero_json = format!("{{{}}}", members.join(",")).into();
    let mut wire = Vec::new();
    if !message.layers.is_empty() {
        zero_layer(&message, 0, &mut wire);
    }
    message.zero_wire = wire.into();
    message
}

/// Where a name is looked for first: its length and three of its bytes tell most names of a type apart.
fn bucket(name: &str) -> usize {
    let bytes = name.as_bytes();
    let byte = |at: usize| bytes.get(at).copied().map_or(0, usize::from);
    let (first, middle, last) = (byte(0), byte(bytes.len() / 2), byte(bytes.len().saturating_sub(1)));
    (bytes.len() + first * 7 + middle * 31 + last * 131).wrapping_mul(0x9e37_79b1) >> 7
}

/// At most a third of the buckets is taken, so every search ends.
fn index(fields: &[Field]) -> Vec<u16> {
    if fields.is_empty() {
        return Vec::new();
    }
    let size = (fields.len() * 3).next_power_of_two();
    let mut buckets = vec![0u16; size];
    for (at, field) in fields.iter().enumerate() {
        let mut bucket = bucket(field.name) & (size - 1);
        while buckets[bucket] != 0 {
            bucket = (bucket + 1) & (size - 1);
        }
        buckets[bucket] = at as u16 + 1;
    }
    buckets
}

fn zero_layer(message: &Message, layer: usize, out: &mut Vec<u8>) {
    for slot in &message.layers[layer].slots {
        match slot.target {
            Target::Field(at) => out.extend_from_slice(&message.fields[at].absent_wire),
            Target::Layer(inner) => {
                let mut bytes = Vec::new();
                zero_layer(message, inner, &mut bytes);
                out.extend_from_slice(&slot.tag);
                put_varint(out, bytes.len() as u64);
                out.extend_from_slice(&bytes);
            }
        }
    }
}

fn tag(number: u32, wire: u8) -> Box<[u8]> {
    let mut out = Vec::new();
    put_varint(&mut out, u64::from(number) << 3 | u64::from(wire));
    out.into()
}

fn kind(ty: Type<'static>) -> Option<Kind> {
    let schema = || ty.package().and_then(|p| schema::definition(&format!("{p}.JSONSchemaProps")));
    let or = |alternative| schema().map(|ty| Kind::SchemaOr(alternative, ty.id().index()));
    Some(match ty.wire_form() {
        Some(WireForm::Raw) => Kind::Raw,
        Some(WireForm::SchemaOrArray) => or(Alternative::Array)?,
        Some(WireForm::SchemaOrBool) => or(Alternative::Bool)?,
        Some(WireForm::SchemaOrStrings) => or(Alternative::Strings)?,
        Some(WireForm::Empty) => Kind::Message(ty.id().index()),
        None => match ty.shape() {
            Shape::Struct(_) => Kind::Message(ty.id().index()),
            Shape::Scalar(scalar) => scalar_kind(scalar),
            _ => return None,
        },
    })
}

fn scalar_kind(scalar: Scalar) -> Kind {
    match scalar {
        Scalar::String => Kind::String,
        Scalar::Bytes => Kind::Bytes,
        Scalar::Bool => Kind::Bool,
        Scalar::Int32 => Kind::Int32,
        Scalar::Int64 => Kind::Int64,
        Scalar::Double => Kind::Double,
        Scalar::Time => Kind::Time,
        Scalar::MicroTime => Kind::MicroTime,
        Scalar::Duration => Kind::Duration,
        Scalar::Quantity => Kind::Quantity,
        Scalar::IntOrString => Kind::IntOrString,
    }
}
