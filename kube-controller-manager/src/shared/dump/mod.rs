//! Pod templates printed as upstream prints them before hashing: the Go value with the names of its types and fields in Go's order
//! (go-spew's `%#v` with sorted keys). The printed text decides names of ReplicaSets and revisions, so it must be equal byte by byte.

mod quantity;
mod table;

use std::fmt::{self, Write};

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

use table::{Declared, declared};

const NIL: &str = "<nil>";

/// Prints a template.
///
/// # Errors
/// Those of the writer, and values that a template cannot have.
pub(super) fn print(template: &PodTemplateSpec, out: &mut impl Write) -> fmt::Result {
    let value = serde_json::to_value(template).map_err(|_| fmt::Error)?;
    Printer { out }.value("v1.PodTemplateSpec", &value, true)
}

struct Printer<'a, W> {
    out: &'a mut W,
}

impl<W: Write> Printer<'_, W> {
    /// Prints a value of a Go type. Elements of lists and maps are `named` by their container already.
    fn value(&mut self, ty: &str, value: &Value, named: bool) -> fmt::Result {
        if let Some(target) = ty.strip_prefix('*') {
            return self.pointer(target, value, named);
        }
        if named {
            write!(self.out, "({ty})")?;
        }
        self.bare(ty, value)
    }

    fn pointer(&mut self, target: &str, value: &Value, named: bool) -> fmt::Result {
        match (value.is_null(), named) {
            (true, false) => self.out.write_str(NIL),
            (true, true) => write!(self.out, "(*{target}){NIL}"),
            (false, true) => {
                write!(self.out, "(*{target})")?;
                self.bare(target, value)
            }
            (false, false) => {
                self.out.write_str("<*>")?;
                self.bare(target, value)
            }
        }
    }

    /// Prints a value without the name of its type.
    fn bare(&mut self, ty: &str, value: &Value) -> fmt::Result {
        if let Some(element) = ty.strip_prefix("[]") {
            return self.list(element, value);
        }
        if let Some((_, element)) = ty.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
            return self.map(element, value);
        }
        match ty {
            "resource.Quantity" => return quantity::print(value.as_str().unwrap_or(""), self.out),
            "intstr.IntOrString" => return self.int_or_string(value),
            "v1.Time" => return self.time(value),
            // Managed fields are in no template; this keeps the table closed.
            "v1.FieldsV1" => return write!(self.out, "{{Raw:([]uint8){NIL}}}"),
            _ => {}
        }
        match declared(ty) {
            Some(Declared::Struct(fields)) => {
                let none = Map::new();
                let object = value.as_object().unwrap_or(&none);
                self.fields(fields, value, object)
            }
            Some(Declared::As(underlying)) => self.bare(underlying, value),
            None => self.scalar(ty, value),
        }
    }

    fn fields(&mut self, fields: &[table::Field], whole: &Value, object: &Map<String, Value>) -> fmt::Result {
        self.out.write_char('{')?;
        for (i, field) in fields.iter().enumerate() {
            self.space(i)?;
            write!(self.out, "{}:", field.name)?;
            let value = match field.json {
                Some(name) => object.get(name).unwrap_or(&Value::Null),
                None => whole,
            };
            self.value(field.ty, value, true)?;
        }
        self.out.write_char('}')
    }

    /// Empty lists and maps do not survive protobuf, in which controllers read objects: they are nil.
    fn list(&mut self, element: &str, value: &Value) -> fmt::Result {
        let Some(items) = value.as_array().filter(|items| !items.is_empty()) else { return self.out.write_str(NIL) };
        self.out.write_char('[')?;
        for (i, item) in items.iter().enumerate() {
            self.space(i)?;
            self.value(element, item, false)?;
        }
        self.out.write_char(']')
    }

    fn map(&mut self, element: &str, value: &Value) -> fmt::Result {
        let Some(map) = value.as_object().filter(|map| !map.is_empty()) else { return self.out.write_str(NIL) };
        let mut entries: Vec<_> = map.iter().collect();
        entries.sort_by_key(|(key, _)| key.as_str());
        self.out.write_str("map[")?;
        for (i, (key, value)) in entries.into_iter().enumerate() {
            self.space(i)?;
            write!(self.out, "{key}:")?;
            self.value(element, value, false)?;
        }
        self.out.write_char(']')
    }

    fn int_or_string(&mut self, value: &Value) -> fmt::Result {
        let (kind, number, text) = match value {
            Value::String(text) => (1, 0, text.as_str()),
            other => (0, other.as_i64().unwrap_or(0), ""),
        };
        write!(self.out, "{{Type:(intstr.Type){kind} IntVal:(int32){number} StrVal:(string){text}}}")
    }

    /// Go counts seconds from the year 1. Its location depends on the machine that upstream runs on; here it is UTC.
    fn time(&mut self, value: &Value) -> fmt::Result {
        const UNIX_TO_GO: i64 = 62_135_596_800;
        let time = value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let seconds = time.map_or(0, |time| time.as_second() + UNIX_TO_GO);
        write!(self.out, "{{Time:(time.Time){{wall:(uint64)0 ext:(int64){seconds} loc:(*time.Location){NIL}}}}}")
    }

    fn scalar(&mut self, ty: &str, value: &Value) -> fmt::Result {
        match (value, ty) {
            (Value::String(text), _) => self.out.write_str(text),
            (Value::Bool(value), _) => write!(self.out, "{value}"),
            (Value::Number(number), _) => write!(self.out, "{number}"),
            (_, "string") => Ok(()),
            (_, "bool") => self.out.write_str("false"),
            _ => self.out.write_char('0'),
        }
    }

    fn space(&mut self, index: usize) -> fmt::Result {
        if index > 0 { self.out.write_char(' ') } else { Ok(()) }
    }
}
