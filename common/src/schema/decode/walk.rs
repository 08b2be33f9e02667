//! The walk over a document along its type.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::super::table::{Scalar, Shape, Struct, Type};
use super::texts::{Found, Place, Style, go_name, wrong_type};
use super::{Decoded, Problem, scalar};

/// More problems than anybody reads are not collected.
const MAX_PROBLEMS: usize = 100;

enum Step<'t> {
    /// A field of a struct of the given Go name.
    Field {
        owner: &'t str,
        name: &'t str,
    },
    /// A key of a map.
    Key(String),
    Index(usize),
}

/// What the walk has met so far.
pub(super) struct State<'t> {
    style: Style,
    path: Vec<Step<'t>>,
    problems: Vec<Problem>,
    error: Option<String>,
}

impl<'t> State<'t> {
    pub(super) fn new(style: Style) -> Self {
        Self { style, path: Vec::new(), problems: Vec::new(), error: None }
    }

    pub(super) fn finish(self, value: Option<Value>) -> Decoded {
        Decoded { value: value.unwrap_or(Value::Null), problems: self.problems, error: self.error }
    }

    /// The path as strict decoding errors tell it, ending in `last`.
    fn strict_path(&self, last: &str) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => text.push_str(&format!("[{index}]")),
                Step::Field { name, .. } => push_name(&mut text, name),
                Step::Key(name) => push_name(&mut text, name),
            }
        }
        if text.is_empty() { last.to_owned() } else { format!("{text}.{last}") }
    }

    fn report(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS && !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn fail(&mut self, message: String) {
        self.error.get_or_insert(message);
    }

    fn wrong_type(&mut self, found: &Found, ty: Type<'_>, named: Option<&str>) {
        if self.error.is_none() {
            let wanted = go_name(ty, named);
            self.error = Some(self.told(self.style, found, ty, &wanted));
        }
    }

    /// Of types that read JSON themselves: the converter of trees asks them too, but they don't know where they stand then.
    fn wrong_text(&mut self, found: &Found, ty: Type<'_>, wanted: &str) {
        let message = match self.style {
            Style::Json => self.told(Style::Json, found, ty, wanted),
            Style::Unstructured => wrong_type(Style::Json, found, ty, wanted, None),
        };
        self.fail(message);
    }

    fn told(&self, style: Style, found: &Found, ty: Type<'_>, wanted: &str) -> String {
        let mut names = self.path.iter().filter_map(|step| match step {
            Step::Field { owner, name } => Some((*owner, *name)),
            _ => None,
        });
        let fields = names.clone().map(|(_, name)| name).collect::<Vec<_>>().join(".");
        let place = names.next_back().map(|(owner, _)| Place { owner, fields });
        wrong_type(style, found, ty, wanted, place.as_ref())
    }
}

fn push_name(text: &mut String, name: &str) {
    if !text.is_empty() {
        text.push('.');
    }
    text.push_str(name);
}

/// Decodes one value; `None` comes out for nulls and for what could not be decoded.
pub(super) struct Seed<'s, 't> {
    state: &'s mut State<'t>,
    ty: Option<Type<'t>>,
    /// Go's name of the scalar type, where it has one.
    named: Option<&'t str>,
}

impl<'s, 't> Seed<'s, 't> {
    /// Without a type anything goes, and only duplicates are reported.
    pub(super) fn new(state: &'s mut State<'t>, ty: Option<Type<'t>>) -> Self {
        Self { state, ty, named: None }
    }

    fn shape(&self) -> Shape<'t> {
        self.ty.map_or(Shape::Any(false), Type::shape)
    }

    fn nested<'n>(&'n mut self, ty: Option<Type<'t>>, named: Option<&'t str>) -> Seed<'n, 't> {
        Seed { state: &mut *self.state, ty, named }
    }

    fn mismatch(self, found: &Found) -> Option<Value> {
        if let Some(ty) = self.ty {
            // Types with a decoder of their own want what that reads.
            match (self.shape(), found) {
                (Shape::Scalar(Scalar::Time | Scalar::MicroTime | Scalar::Duration), _) => {
                    self.state.wrong_text(found, ty, "string");
                }
                (Shape::Scalar(Scalar::IntOrString), _) => self.state.wrong_text(found, ty, "int32"),
                (Shape::Scalar(Scalar::Quantity), _) => {
                    self.state.fail(scalar::quantity("").err().unwrap_or_default());
                }
                _ => self.state.wrong_type(found, ty, self.named),
            }
        }
        None
    }

    fn integer(self, value: i128, number: Number) -> Option<Value> {
        let fits = match self.shape() {
            Shape::Scalar(Scalar::Int32 | Scalar::IntOrString) => i32::try_from(value).is_ok(),
            Shape::Scalar(Scalar::Int64) => i64::try_from(value).is_ok(),
            Shape::Scalar(Scalar::Double) | Shape::Any(_) => true,
            Shape::Scalar(Scalar::Quantity) => return self.text(&value.to_string()),
            _ => false,
        };
        if fits { Some(Value::Number(number)) } else { self.mismatch(&Found::Integer(value.to_string())) }
    }

    fn float(self, value: f64) -> Option<Value> {
        let number = Number::from_f64(value)?;
        match self.shape() {
            Shape::Scalar(Scalar::Double) | Shape::Any(_) => Some(Value::Number(number)),
            Shape::Scalar(Scalar::Quantity) => self.text(&number.to_string()),
            Shape::Scalar(Scalar::Int32 | Scalar::Int64)
                if self.state.style == Style::Unstructured && value.fract() == 0.0 && value.abs() < 9e15 =>
            {
                let whole = value as i64;
                self.integer(whole.into(), whole.into())
            }
            _ => self.mismatch(&Found::Float(number.to_string())),
        }
    }

    fn text(self, value: &str) -> Option<Value> {
        match self.shape() {
            Shape::Any(_) | Shape::Scalar(Scalar::String | Scalar::IntOrString) => {
                Some(Value::String(value.to_owned()))
            }
            Shape::Scalar(
                kind @ (Scalar::Bytes | Scalar::Time | Scalar::MicroTime | Scalar::Duration | Scalar::Quantity),
            ) => scalar::from_text(kind, value).map_err(|message| self.state.fail(message)).ok(),
            _ => self.mismatch(&Found::String),
        }
    }

    fn fields<'de, A: MapAccess<'de>>(mut self, fields: Struct<'t>, mut map: A) -> Result<Option<Value>, A::Error> {
        let mut object = Map::new();
        let mut seen: Vec<&'t str> = Vec::new();
        let owner = self.ty.and_then(Type::short_name).unwrap_or_default();
        while let Some(key) = map.next_key::<String>()? {
            let Some(field) = fields.field(&key) else {
                let path = self.state.strict_path(&key);
                self.state.report(Problem::UnknownField(path));
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen.contains(&field.name()) {
                let path = self.state.strict_path(&key);
                self.state.report(Problem::DuplicateField(path));
            }
            seen.push(field.name());
            self.state.path.push(Step::Field { owner, name: field.name() });
            let value = map.next_value_seed(self.nested(Some(field.ty()), field.go_type()))?;
            self.state.path.pop();
            match value {
                Some(value) => object.insert(key, value),
                None => object.remove(&key),
            };
        }
        Ok(Some(Value::Object(object)))
    }

    fn entries<'de, A: MapAccess<'de>>(mut self, ty: Option<Type<'t>>, mut map: A) -> Result<Option<Value>, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                let path = self.state.strict_path(&key);
                self.state.report(Problem::DuplicateField(path));
            }
            self.state.path.push(Step::Key(key.clone()));
            let named = self.named;
            let value = map.next_value_seed(self.nested(ty, named))?;
            self.state.path.pop();
            object.insert(key, value.unwrap_or_else(|| null_in_container(ty)));
        }
        Ok(Some(Value::Object(object)))
    }
}

/// What a null inside a list or map becomes: Go's zero value, as Go writes it back (free-form JSON keeps its nulls).
fn null_in_container(ty: Option<Type<'_>>) -> Value {
    let scalar = match ty.map(Type::shape) {
        Some(Shape::Scalar(scalar)) => scalar,
        Some(Shape::Struct(_)) => return Value::Object(Map::new()),
        None | Some(Shape::Any(_) | Shape::List(_) | Shape::Map(..)) => return Value::Null,
    };
    match scalar {
        Scalar::String => Value::String(String::new()),
        Scalar::Bool => Value::Bool(false),
        Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString => Value::from(0),
        Scalar::Quantity => Value::from("0"),
        Scalar::Duration => Value::from("0s"),
        Scalar::Bytes | Scalar::Time | Scalar::MicroTime => Value::Null,
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(match self.shape() {
            Shape::Any(_) | Shape::Scalar(Scalar::Bool) => Some(Value::Bool(value)),
            _ => self.mismatch(&Found::Bool),
        })
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.integer(value.into(), value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(self.integer(value.into(), value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(self.float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Self::Value, A::Error> {
        let element = match self.shape() {
            Shape::List(list) => Some(list.element),
            Shape::Any(_) => None,
            _ => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(self.mismatch(&Found::Array));
            }
        };
        let mut list = Vec::new();
        let named = self.named;
        for index in 0.. {
            self.state.path.push(Step::Index(index));
            let value = seq.next_element_seed(self.nested(element, named))?;
            self.state.path.pop();
            match value {
                Some(value) => list.push(value.unwrap_or_else(|| null_in_container(element))),
                None => break,
            }
        }
        Ok(Some(Value::Array(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        match self.shape() {
            Shape::Struct(fields) => self.fields(fields, map),
            Shape::Map(value, _) => self.entries(Some(value), map),
            Shape::Any(_) => self.entries(None, map),
            _ => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(self.mismatch(&Found::Object))
            }
        }
    }
}
