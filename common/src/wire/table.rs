//! Field numbers of the API types (`proto.txt`), parsed at first use; all names are slices of the text.

use std::{collections::HashMap, sync::LazyLock};

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    Bytes,
    /// Package (empty: the owner's) and name.
    Message(&'static str, &'static str),
}

/// A field of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub number: u32,
    pub name: &'static str,
    pub kind: Kind,
    pub repeated: bool,
    pub map: bool,
    /// A pointer in Go: zero differs from absent.
    pub pointer: bool,
}

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    pub package: &'static str,
    pub fields: Vec<Field>,
}

impl Message {
    pub fn field(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|f| f.number == number)
    }
}

/// By package, then by name.
type Messages = HashMap<&'static str, HashMap<&'static str, Message>>;

static MESSAGES: LazyLock<Messages> = LazyLock::new(|| parse(include_str!("proto.txt")));

/// The message of a package.
pub(super) fn message(package: &str, name: &str) -> Option<&'static Message> {
    MESSAGES.get(package)?.get(name)
}

fn parse(text: &'static str) -> Messages {
    let mut messages = Messages::new();
    let (mut package, mut current) = ("", "");
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        match line.split_once(' ') {
            Some(("p", name)) => package = name,
            Some(("m", name)) => {
                messages.entry(package).or_default().insert(name, Message { package, fields: Vec::new() });
                current = name;
            }
            Some((number, rest)) => {
                if let Some(message) = messages.get_mut(package).and_then(|m| m.get_mut(current)) {
                    message.fields.extend(field(number, rest));
                }
            }
            None => {}
        }
    }
    messages
}

fn field(number: &str, rest: &'static str) -> Option<Field> {
    let (name, mut ty) = rest.split_once(' ')?;
    let mut strip = |mark: &str| match ty.strip_prefix(mark) {
        Some(rest) => {
            ty = rest;
            true
        }
        None => false,
    };
    let (repeated, map, pointer) = (strip("*"), strip("{}"), strip("?"));
    let kind = match ty {
        "s" => Kind::String,
        "b" => Kind::Bool,
        "i" => Kind::Int32,
        "l" => Kind::Int64,
        "d" => Kind::Double,
        "y" => Kind::Bytes,
        message => {
            let path = message.strip_prefix('@')?;
            let (package, name) = path.rsplit_once('.').unwrap_or(("", path));
            Kind::Message(package, name)
        }
    };
    Some(Field { number: number.parse().ok()?, name, kind, repeated, map, pointer })
}
