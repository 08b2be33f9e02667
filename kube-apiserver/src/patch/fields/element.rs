//! One step of a path into an object: a field, a list element by its key fields or by its value, an index.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde_json::{Number, Value};

use crate::resources::field::go_quote;

/// One step of a path. Elements order as they stand in `fieldsV1`: by kind, then by content.
#[derive(Debug, Clone)]
pub enum Element<'a> {
    /// A member of an object.
    Field(Cow<'a, str>),
    /// The element of a list whose key fields have these values, sorted by name.
    Key(Vec<(Cow<'a, str>, Cow<'a, Value>)>),
    /// The element of a set with this value.
    Value(Cow<'a, Value>),
    /// The element of a list at this place; only other writers make these.
    Index(i64),
}

impl<'a> Element<'a> {
    /// A member of an object.
    pub fn field(name: &'a str) -> Self {
        Self::Field(Cow::Borrowed(name))
    }

    /// Reads the text form (`f:spec`, `k:{"name":"a"}`, `v:1`, `i:0`); `None` for kinds of a future version.
    ///
    /// # Errors
    /// Why the text is malformed.
    pub fn parse(text: &'a str) -> Result<Option<Self>, String> {
        let (Some(kind), Some(b':')) = (text.as_bytes().first(), text.as_bytes().get(1)) else {
            return Err(if text.len() < 2 {
                "key must be 2 characters long:".to_owned()
            } else {
                format!("missing colon: {text}")
            });
        };
        let content = &text[2..];
        let json = || serde_json::from_str::<Value>(content).map_err(|error| error.to_string());
        Ok(Some(match kind {
            b'f' => Self::field(content),
            b'v' => Self::Value(Cow::Owned(json()?)),
            b'i' => Self::Index(content.parse().map_err(|_| format!("parsing {content:?}: invalid syntax"))?),
            b'k' => match json()? {
                // The map is sorted by name already.
                Value::Object(fields) => {
                    Self::Key(fields.into_iter().map(|(name, value)| (name.into(), Cow::Owned(value))).collect())
                }
                _ => return Err(format!("no key fields: {content}")),
            },
            _ => return Ok(None),
        }))
    }

    /// The text form.
    pub fn text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(fields) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| format!("{}:{}", go_json(&Value::from(name.as_ref())), go_json(value)))
                    .collect();
                format!("k:{{{}}}", fields.join(","))
            }
            Self::Value(value) => format!("v:{}", go_json(value)),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

/// JSON as Go writes it: without the characters that mean something in HTML.
fn go_json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The path as it stands in messages: `.spec.containers[name="a"].ports[containerPort=80,protocol="TCP"]`.
impl fmt::Display for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
                write!(f, "[{}]", fields.join(","))
            }
            Self::Value(value) => write!(f, "[={}]", shown(value)),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => go_quote(text),
        Value::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(",")),
        Value::Object(object) => object.iter().map(|(key, value)| format!("{key}={}", shown(value))).collect(),
        other => other.to_string(),
    }
}

impl Ord for Element<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                let fields = a.iter().zip(b).map(|(a, b)| a.0.cmp(&b.0).then_with(|| compare(&a.1, &b.1)));
                fields.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
            }
            (Self::Value(a), Self::Value(b)) => compare(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Element<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Element<'_> {}

/// A total order of values: numbers (whatever their form), strings, booleans, lists, objects, null.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => a
            .iter()
            .zip(b)
            .fold(Ordering::Equal, |so_far, (a, b)| so_far.then_with(|| compare(a, b)))
            .then(a.len().cmp(&b.len())),
        (Value::Object(a), Value::Object(b)) => a
            .iter()
            .zip(b)
            .fold(Ordering::Equal, |so_far, (a, b)| so_far.then_with(|| a.0.cmp(b.0).then_with(|| compare(a.1, b.1))))
            .then(a.len().cmp(&b.len())),
        _ => rank(a).cmp(&rank(b)),
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

fn numbers(a: &Number, b: &Number) -> Ordering {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
    }
}

/// Whether two values are the same to server-side apply: `1` and `1.0` are.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => numbers(a, b).is_eq(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && equal(a.1, b.1))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Element<'_> {
        Element::parse(text).unwrap().unwrap()
    }

    #[test]
    fn texts_round_trip_in_canonical_form() {
        for text in
            ["f:spec", "f:a:b", r#"k:{"containerPort":80,"protocol":"TCP"}"#, r#"v:"a""#, "v:1", "v:true", "i:3"]
        {
            assert_eq!(parsed(text).text(), text);
        }
        assert_eq!(parsed(r#"k:{"b": 1.0, "a": "<x>"}"#).text(), r#"k:{"a":"\u003cx\u003e","b":1.0}"#);
        assert_eq!(Element::parse("x:future").unwrap(), None);
        for bad in ["", "f", "fx", "k:", "k:[]", "v:{", "i:x"] {
            assert!(Element::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn order_is_by_kind_and_content() {
        let texts = [
            "f:a",
            "f:b",
            r#"k:{"port":80}"#,
            r#"k:{"port":443}"#,
            r#"k:{"port":8080}"#,
            r#"k:{"port":8080,"x":1}"#,
            "v:2",
            "v:10",
            r#"v:"a""#,
            "v:true",
            "i:1",
            "i:2",
        ];
        let elements: Vec<_> = texts.iter().map(|text| parsed(text)).collect();
        assert!(elements.is_sorted());
        assert_eq!(parsed("v:1"), parsed("v:1.0"));
    }

    #[test]
    fn paths_read_as_upstreams() {
        let shown = |text| parsed(text).to_string();
        assert_eq!(shown("f:spec"), ".spec");
        assert_eq!(shown(r#"k:{"protocol":"TCP","containerPort":80}"#), r#"[containerPort=80,protocol="TCP"]"#);
        assert_eq!(shown(r#"v:"a""#), r#"[="a"]"#);
        assert_eq!(shown("i:1"), "[1]");
    }
}
