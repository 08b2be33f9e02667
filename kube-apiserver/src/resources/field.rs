//! Field paths and field errors with upstream's wording, as they appear in the causes of an `Invalid` status.

use std::{collections::HashSet, fmt};

use serde_json::Value;

/// Where in an object a value sits. A chain of borrowed segments: building one costs nothing, only an error prints it.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The start of a path; `name` may be dotted (`"spec.template"`), or empty for the whole object.
    pub const fn root(name: &'a str) -> Path<'a> {
        Path { parent: None, segment: Segment::Name(name) }
    }

    /// A named field below this one; `name` may be dotted.
    pub fn child<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), segment: Segment::Name(name) }
    }

    /// An element of a list.
    pub fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    /// An entry of a map.
    pub fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_prefix = match self.parent {
            Some(Path { parent: None, segment: Segment::Name("") }) => false,
            Some(parent) => {
                parent.fmt(f)?;
                true
            }
            // As upstream prints what is about no field.
            None if matches!(self.segment, Segment::Name("")) => return f.write_str("[]"),
            None => false,
        };
        match self.segment {
            Segment::Name(name) if has_prefix => write!(f, ".{name}"),
            Segment::Name(name) => f.write_str(name),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What is wrong with a field. The names are the `reason` of a status cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are upstream's cause reasons, one to one")]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
}

impl ErrorKind {
    /// The machine readable reason, e.g. `FieldValueRequired`.
    pub const fn reason(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::Internal => "InternalError",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "Not found",
            ErrorKind::Required => "Required value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::Internal => "Internal error",
        }
    }
}

/// One complaint about one field. `Display` is upstream's full text, `body()` the text without the field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What sort of complaint.
    pub kind: ErrorKind,
    /// The printed path.
    pub field: String,
    /// The offending value as text, where the kind shows it.
    pub shown: Option<String>,
    /// Why; may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(kind: ErrorKind, path: &Path<'_>, bad_value: Option<Value>, detail: impl Into<String>) -> FieldError {
        let shown = bad_value.map(|value| match value {
            Value::String(s) => go_quote(&s),
            other => other.to_string(),
        });
        FieldError { kind, field: path.to_string(), shown, detail: detail.into() }
    }

    /// The text after the field: what a status cause carries as `message`.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_string();
        if let Some(value) = &self.shown {
            text.push_str(": ");
            text.push_str(value);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// Go's `%q` for the characters that occur in API values.
pub fn go_quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The complaints collected about one object; empty means valid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorList(pub Vec<FieldError>);

impl ErrorList {
    /// No complaints yet.
    pub const fn new() -> ErrorList {
        ErrorList(Vec::new())
    }

    /// True when the object is valid.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The complaints in order.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    /// Adds what another check found.
    pub fn extend(&mut self, other: ErrorList) {
        self.0.extend(other.0);
    }

    /// The aggregated text that follows `<Kind> "<name>" is invalid: `: one error as it is, several in brackets, repeats dropped.
    pub fn message(&self) -> String {
        let mut seen = HashSet::with_capacity(self.0.len());
        let texts = self.0.iter().map(ToString::to_string);
        let mut texts: Vec<String> = texts.filter(|text| seen.insert(text.clone())).collect();
        if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) }
    }

    /// A malformed value.
    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.0.push(FieldError::new(ErrorKind::Invalid, path, Some(value.into()), detail));
    }

    /// Any complaint that shows a struct of upstream's internal types: Go's field names in their order, each with its value.
    pub fn of_struct(&mut self, kind: ErrorKind, path: &Path<'_>, fields: &[(&str, Value)], detail: impl Into<String>) {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let mut error = FieldError::new(kind, path, None, detail);
        error.shown = Some(format!("{{{}}}", fields.join(",")));
        self.0.push(error);
    }

    /// Values that do not fit together: none of them is shown.
    pub fn invalid_shape(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.0.push(FieldError::new(ErrorKind::Invalid, path, None, detail));
    }

    /// A missing value.
    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.0.push(FieldError::new(ErrorKind::Required, path, None, detail));
    }

    /// A value that is not allowed here and now.
    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.0.push(FieldError::new(ErrorKind::Forbidden, path, None, detail));
    }

    /// A value that occurs twice.
    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.0.push(FieldError::new(ErrorKind::Duplicate, path, Some(value.into()), ""));
    }

    /// A reference to something that is not there.
    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.0.push(FieldError::new(ErrorKind::NotFound, path, Some(value.into()), ""));
    }

    /// A value outside an enumeration.
    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| go_quote(s)).collect();
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        self.0.push(FieldError::new(ErrorKind::NotSupported, path, Some(value.into()), detail));
    }

    /// A value longer than `max` bytes.
    pub fn too_long(&mut self, path: &Path<'_>, max: usize) {
        let unit = if max == 1 { "byte" } else { "bytes" };
        self.0.push(FieldError::new(ErrorKind::TooLong, path, None, format!("may not be more than {max} {unit}")));
    }

    /// A list with more than `max` items.
    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        self.0.push(FieldError::new(ErrorKind::TooMany, path, Some(Value::from(actual)), detail));
    }

    /// A failure of the server that concerns a field.
    pub fn internal(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.0.push(FieldError::new(ErrorKind::Internal, path, None, detail));
    }
}

impl IntoIterator for ErrorList {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_upstream() {
        let spec = Path::root("spec");
        let containers = spec.child("containers");
        assert_eq!(containers.index(2).child("image").to_string(), "spec.containers[2].image");
        assert_eq!(Path::root("metadata").child("labels").key("a/b").to_string(), "metadata.labels[a/b]");
        assert_eq!(Path::root("").child("type").to_string(), "type");
    }

    #[test]
    fn errors_print_as_upstream() {
        let mut errs = ErrorList::new();
        let path = Path::root("spec");
        errs.invalid(&path.child("a"), "x\"y", "why");
        errs.invalid(&path.child("n"), 3, "");
        errs.required(&path.child("b"), "");
        errs.not_supported(&path.child("c"), "Q", &["A", "B"]);
        errs.too_long(&path.child("d"), 63);
        let texts: Vec<String> = errs.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                r#"spec.a: Invalid value: "x\"y": why"#,
                "spec.n: Invalid value: 3",
                "spec.b: Required value",
                r#"spec.c: Unsupported value: "Q": supported values: "A", "B""#,
                "spec.d: Too long: may not be more than 63 bytes",
            ]
        );
        assert!(errs.message().starts_with("[spec.a: "));
    }
}
