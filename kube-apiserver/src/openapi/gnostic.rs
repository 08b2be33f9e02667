//! OpenAPI v2 in the protobuf form of gnostic's `openapi.v2.Document`, which client-go asks for.
//!
//! The numbers are those of the published OpenAPIv2.proto; only the parts that [`super::v2`] writes are covered.

use std::io::{self, Write};

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;

use super::v2::Document;

/// A message being written.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn text(mut self, number: u32, value: Option<&Value>) -> Self {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
        self
    }

    pub(super) fn texts(mut self, number: u32, value: Option<&Value>) -> Self {
        for text in value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
        self
    }

    pub(super) fn flag(mut self, number: u32, value: Option<&Value>) -> Self {
        if value.and_then(Value::as_bool) == Some(true) {
            encode_key(number, WireType::Varint, &mut self.0);
            encode_varint(1, &mut self.0);
        }
        self
    }

    pub(super) fn message(mut self, number: u32, message: &Message) -> Self {
        self.bytes(number, &message.0);
        self
    }

    pub(super) fn optional(self, number: u32, value: Option<&Value>, write: fn(&Value) -> Message) -> Self {
        match value {
            Some(value) => self.message(number, &write(value)),
            None => self,
        }
    }

    pub(super) fn each(self, number: u32, value: Option<&Value>, write: fn(&Value) -> Message) -> Self {
        let list = value.and_then(Value::as_array).into_iter().flatten();
        list.fold(self, |message, value| message.message(number, &write(value)))
    }

    /// Name and value of every entry of an object that `wanted` admits.
    pub(super) fn named(
        self,
        number: u32,
        value: Option<&Value>,
        wanted: fn(&str) -> bool,
        write: fn(&Value) -> Message,
    ) -> Self {
        let entries = value.and_then(Value::as_object).into_iter().flatten();
        let wanted = entries.filter(|(name, _)| wanted(name));
        wanted.fold(self, |message, (name, value)| message.entry(number, name, &write(value)))
    }

    pub(super) fn double(mut self, number: u32, value: f64) -> Self {
        encode_key(number, WireType::SixtyFourBit, &mut self.0);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn entry(self, number: u32, name: &str, value: &Message) -> Self {
        let mut entry = Message::default();
        entry.bytes(1, name.as_bytes());
        self.message(number, &entry.message(2, value))
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        encode_key(number, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
    }
}

/// Writes a document.
pub(super) fn write(document: &Document, out: &mut dyn Write) -> io::Result<()> {
    let collect = |number, entries: &mut dyn Iterator<Item = (String, Value)>, write: fn(&Value) -> Message| {
        entries.fold(Message::default(), |message, (name, value)| message.entry(number, &name, &write(&value)))
    };
    let definitions = collect(1, &mut document.definitions(), schema);
    let paths = collect(2, &mut document.paths(), path_item);
    let security = |value: &Value| Message::default().message(2, &api_key(value));
    let head = document.head();
    let message = Message::default()
        .text(1, head.get("swagger"))
        .optional(2, head.get("info"), |info| {
            Message::default().text(1, info.get("title")).text(2, info.get("version"))
        })
        .message(8, &paths)
        .message(9, &definitions)
        .each(12, head.get("security"), |requirement| {
            Message::default().named(1, Some(requirement), any, |scopes| Message::default().texts(1, Some(scopes)))
        })
        .message(13, &Message::default().named(1, head.get("securityDefinitions"), any, security));
    out.write_all(&message.0)
}

pub(super) fn any(_: &str) -> bool {
    true
}

pub(super) fn extension(name: &str) -> bool {
    name.starts_with("x-")
}

/// An extension's value: YAML, of which JSON is a part.
pub(super) fn yaml(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, format!("{value}\n").as_bytes());
    message
}

fn api_key(value: &Value) -> Message {
    Message::default()
        .text(1, value.get("type"))
        .text(2, value.get("name"))
        .text(3, value.get("in"))
        .text(4, value.get("description"))
}

fn path_item(item: &Value) -> Message {
    let methods = ["get", "put", "post", "delete", "options", "head", "patch"];
    let message = methods
        .iter()
        .zip(2..)
        .fold(Message::default(), |message, (method, number)| message.optional(number, item.get(method), operation));
    message.each(9, item.get("parameters"), parameter)
}

fn operation(operation: &Value) -> Message {
    Message::default()
        .texts(1, operation.get("tags"))
        .text(3, operation.get("description"))
        .text(5, operation.get("operationId"))
        .texts(6, operation.get("produces"))
        .texts(7, operation.get("consumes"))
        .each(8, operation.get("parameters"), parameter)
        .optional(9, operation.get("responses"), |responses| {
            Message::default().named(1, Some(responses), any, response)
        })
        .texts(10, operation.get("schemes"))
        .named(13, Some(operation), extension, yaml)
}

/// `ParametersItem { Parameter { body | non-body { query | path } } }`.
fn parameter(value: &Value) -> Message {
    let parameter = match value.get("in").and_then(Value::as_str) {
        Some("body") => {
            let body = Message::default()
                .text(2, value.get("name"))
                .text(3, value.get("in"))
                .flag(4, value.get("required"))
                .optional(5, value.get("schema"), schema);
            Message::default().message(1, &body)
        }
        place => {
            let head =
                Message::default().flag(1, value.get("required")).text(2, value.get("in")).text(4, value.get("name"));
            let inner = if place == Some("path") {
                let path = head.text(5, value.get("type")).flag(19, value.get("uniqueItems"));
                Message::default().message(4, &path)
            } else {
                let query = head.text(6, value.get("type")).flag(20, value.get("uniqueItems"));
                Message::default().message(3, &query)
            };
            Message::default().message(2, &inner)
        }
    };
    Message::default().message(1, &parameter)
}

/// `ResponseValue { Response { description, SchemaItem { schema } } }`.
fn response(value: &Value) -> Message {
    let response = Message::default()
        .text(1, value.get("description"))
        .optional(2, value.get("schema"), |item| Message::default().message(1, &schema(item)));
    Message::default().message(1, &response)
}

fn schema(value: &Value) -> Message {
    let mut message = Message::default()
        .text(1, value.get("$ref"))
        .text(2, value.get("format"))
        .text(4, value.get("description"))
        .texts(19, value.get("required"))
        .optional(21, value.get("additionalProperties"), |inner| Message::default().message(1, &schema(inner)));
    if value.get("type").is_some() {
        message = message.message(22, &Message::default().text(1, value.get("type")));
    }
    message
        .optional(23, value.get("items"), |inner| Message::default().message(1, &schema(inner)))
        .optional(25, value.get("properties"), |fields| Message::default().named(1, Some(fields), any, schema))
        .named(31, Some(value), extension, yaml)
}
