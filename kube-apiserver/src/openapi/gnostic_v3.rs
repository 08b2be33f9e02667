//! OpenAPI v3 in the protobuf form of gnostic's `openapi.v3.Document`.
//!
//! The numbers are those of the published OpenAPIv3.proto; only the parts that [`super::v3`] writes are covered.

use serde_json::Value;

use super::gnostic::{Message, any, extension, yaml};

/// A document.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let info = |info: &Value| Message::default().text(1, info.get("title")).text(6, info.get("version"));
    let message = Message::default()
        .text(1, document.get("openapi"))
        .optional(2, document.get("info"), info)
        .optional(4, document.get("paths"), |paths| Message::default().named(1, Some(paths), any, path_item))
        .optional(5, document.get("components"), components);
    message.into_bytes()
}

fn components(components: &Value) -> Message {
    let entries =
        |entries: &Value, write: fn(&Value) -> Message| Message::default().named(1, Some(entries), any, write);
    let mut message = Message::default();
    if let Some(schemas) = components.get("schemas") {
        message = message.message(1, &entries(schemas, schema_or_reference));
    }
    if let Some(schemes) = components.get("securitySchemes") {
        message = message.message(7, &entries(schemes, security_scheme));
    }
    message
}

fn security_scheme(scheme: &Value) -> Message {
    let scheme = Message::default()
        .text(1, scheme.get("type"))
        .text(2, scheme.get("description"))
        .text(3, scheme.get("name"))
        .text(4, scheme.get("in"));
    Message::default().message(1, &scheme)
}

fn path_item(item: &Value) -> Message {
    let methods = ["get", "put", "post", "delete", "options", "head", "patch"];
    let message = methods
        .iter()
        .zip(4..)
        .fold(Message::default(), |message, (method, number)| message.optional(number, item.get(method), operation));
    message.each(13, item.get("parameters"), parameter)
}

fn operation(operation: &Value) -> Message {
    let body = |body: &Value| {
        let body = Message::default().optional(2, body.get("content"), content).flag(3, body.get("required"));
        Message::default().message(1, &body)
    };
    Message::default()
        .texts(1, operation.get("tags"))
        .text(3, operation.get("description"))
        .text(5, operation.get("operationId"))
        .each(6, operation.get("parameters"), parameter)
        .optional(7, operation.get("requestBody"), body)
        .optional(8, operation.get("responses"), |responses| {
            Message::default().named(2, Some(responses), any, response)
        })
        .named(13, Some(operation), extension, yaml)
}

fn parameter(value: &Value) -> Message {
    let parameter = Message::default()
        .text(1, value.get("name"))
        .text(2, value.get("in"))
        .text(3, value.get("description"))
        .flag(4, value.get("required"))
        .optional(10, value.get("schema"), schema_or_reference);
    Message::default().message(1, &parameter)
}

fn response(value: &Value) -> Message {
    let response = Message::default().text(1, value.get("description")).optional(3, value.get("content"), content);
    Message::default().message(1, &response)
}

/// The schema of each media type.
fn content(content: &Value) -> Message {
    Message::default()
        .named(1, Some(content), any, |media| Message::default().optional(1, media.get("schema"), schema_or_reference))
}

fn schema_or_reference(value: &Value) -> Message {
    match value.get("$ref") {
        Some(_) => Message::default().message(2, &Message::default().text(1, value.get("$ref"))),
        None => Message::default().message(1, &schema(value)),
    }
}

fn schema(value: &Value) -> Message {
    let one = |inner: &Value| Message::default().message(1, &schema_or_reference(inner));
    Message::default()
        .flag(20, value.get("uniqueItems"))
        .texts(23, value.get("required"))
        .each(24, value.get("enum"), yaml)
        .text(25, value.get("type"))
        .each(26, value.get("allOf"), schema_or_reference)
        .each(27, value.get("oneOf"), schema_or_reference)
        .optional(30, value.get("items"), one)
        .optional(31, value.get("properties"), |fields| {
            Message::default().named(1, Some(fields), any, schema_or_reference)
        })
        .optional(32, value.get("additionalProperties"), one)
        .optional(33, value.get("default"), default)
        .text(34, value.get("description"))
        .text(35, value.get("format"))
        .named(36, Some(value), extension, yaml)
}

/// A number, a boolean or a string; other defaults are there without a value.
fn default(value: &Value) -> Message {
    let message = match value.as_f64() {
        Some(number) => Message::default().double(1, number),
        None => Message::default(),
    };
    message.flag(2, Some(value)).text(3, Some(value))
}
