//! How server-side apply looks at a value: the type table's shapes, reduced to what merges and what is replaced whole.

use std::borrow::Cow;
use std::sync::LazyLock;

use common::schema::{Field, List, ListKind, MapKind, Scalar, Shape, Struct, Type};
use serde_json::{Map, Value};

use super::element::Element;

/// A place in a type: its type and what the field that leads there says about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'t> {
    /// `None` below values without a known type.
    ty: Option<Type<'t>>,
    /// `x-kubernetes-map-type` stated at the field.
    atomic: Option<bool>,
}

/// What a value at a place is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Atom<'t> {
    /// One value.
    Scalar(Scalar),
    /// A value of no declared type.
    Untyped,
    /// A list that is replaced as a whole.
    Whole(Option<Place<'t>>),
    /// A list whose elements are told apart.
    Associative(Associative<'t>),
    /// An object.
    Object(Members<'t>),
}

/// A list whose elements are told apart by key fields, or by their values when there are none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Associative<'t> {
    pub list: List<'t>,
    pub element: Place<'t>,
}

/// The members of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Members<'t> {
    declared: Option<Struct<'t>>,
    /// The place of members that are not declared; `None` when there may be none.
    pub others: Option<Place<'t>>,
    /// Replaced as a whole.
    pub atomic: bool,
}

impl<'t> Place<'t> {
    /// The place of whole objects of a type.
    pub(super) fn root(ty: Type<'t>) -> Self {
        Self { ty: Some(ty), atomic: None }
    }

    fn plain(ty: Type<'t>) -> Self {
        Self { ty: Some(ty), atomic: None }
    }

    const UNTYPED: Self = Self { ty: None, atomic: None };

    /// What is here, as far as the type tells. `value` decides where the type leaves it open.
    pub(super) fn atom(self, value: Option<&Value>) -> Atom<'t> {
        let Some(ty) = self.ty else { return deduce(value) };
        match ty.shape() {
            Shape::Struct(declared) => Atom::Object(Members {
                declared: Some(declared),
                others: None,
                atomic: self.atomic.unwrap_or(declared.map_kind == MapKind::Atomic),
            }),
            Shape::Map(of, kind) => Atom::Object(Members {
                declared: None,
                others: Some(Self::plain(of)),
                atomic: self.atomic.unwrap_or(kind == MapKind::Atomic),
            }),
            Shape::List(list) => match list.kind {
                ListKind::Map | ListKind::Set => {
                    Atom::Associative(Associative { list, element: Self::plain(list.element) })
                }
                ListKind::Atomic | ListKind::Unstated => Atom::Whole(Some(Self::plain(list.element))),
            },
            Shape::Scalar(scalar) => Atom::Scalar(scalar),
            Shape::Any(_) => deduce(value),
        }
    }

    /// Where an element of a path leads; `None` when the type does not know it.
    pub(super) fn descend(self, element: &Element<'_>) -> Option<Self> {
        match (self.atom(None), element) {
            (Atom::Object(members), Element::Field(name)) => members.place(name),
            (Atom::Associative(list), Element::Key(_) | Element::Value(_)) => Some(list.element),
            _ => None,
        }
    }
}

/// Without a type, objects merge member by member and lists are replaced.
fn deduce<'t>(value: Option<&Value>) -> Atom<'t> {
    match value {
        Some(Value::Object(_)) => Atom::Object(Members { declared: None, others: Some(Place::UNTYPED), atomic: false }),
        Some(Value::Array(_)) => Atom::Whole(None),
        _ => Atom::Untyped,
    }
}

static OBJECT: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static STRING: LazyLock<Value> = LazyLock::new(|| Value::String(String::new()));
static NUMBER: LazyLock<Value> = LazyLock::new(|| Value::from(0));
static BOOL: Value = Value::Bool(false);

impl<'t> Members<'t> {
    /// The place of a member.
    pub(super) fn place(self, name: &str) -> Option<Place<'t>> {
        match self.declared.and_then(|declared| declared.field(name)) {
            Some(field) => Some(place_of(field)),
            None => self.others,
        }
    }

    /// Whether a member is a declared field.
    pub(super) fn declares(self, name: &str) -> bool {
        self.declared.is_some_and(|declared| declared.field(name).is_some())
    }

    /// The value of a member as Go's structs have it: with what they always have and, if `terse`, without the zero values
    /// that they leave out.
    pub(super) fn settled<'v>(
        self,
        name: &str,
        object: Option<&'v Map<String, Value>>,
        value: Option<&'v Value>,
        terse: bool,
    ) -> Option<&'v Value> {
        let Some(field) = self.declared.and_then(|declared| declared.field(name)) else { return value };
        let value = value.filter(|value| !terse || is_written(field, value));
        value.or_else(|| object.and_then(|_| implied(field)))
    }

    /// All members that stand for something when they are not there.
    pub(super) fn all_implied(self) -> impl Iterator<Item = (&'t str, &'static Value)> {
        let fields = self.declared.into_iter().flat_map(Struct::fields);
        fields.filter_map(|field| Some((field.name(), implied(field)?)))
    }
}

fn place_of(field: Field<'_>) -> Place<'_> {
    let atomic = field.map_kind().map(|kind| kind == "atomic");
    Place { ty: Some(field.ty()), atomic }
}

fn implied(field: Field<'_>) -> Option<&'static Value> {
    let facts = field.go_facts()?;
    if facts.pointer || facts.omitzero {
        return None;
    }
    match field.ty().shape() {
        Shape::Struct(_) => Some(&OBJECT),
        _ if facts.omitempty => None,
        Shape::Scalar(Scalar::String) => Some(&STRING),
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double) => Some(&NUMBER),
        Shape::Scalar(Scalar::Bool) => Some(&BOOL),
        Shape::List(_) | Shape::Map(..) => Some(&Value::Null),
        _ => None,
    }
}

/// Whether Go writes a field with this value at all.
fn is_written(field: Field<'_>, value: &Value) -> bool {
    let Some(facts) = field.go_facts().filter(|facts| facts.omitempty && !facts.pointer) else { return true };
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => {
            !object.is_empty() || matches!(field.ty().shape(), Shape::Struct(_)) && !facts.omitzero
        }
    }
}

impl<'t> Associative<'t> {
    /// The path element of a list's element.
    ///
    /// # Errors
    /// It cannot be told apart from others.
    pub(super) fn identify<'v>(self, value: &'v Value) -> Result<Element<'v>, String>
    where
        't: 'v,
    {
        if self.list.kind == ListKind::Set {
            return match value {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                scalar => Ok(Element::Value(Cow::Borrowed(scalar))),
            };
        }
        let object = match value {
            Value::Object(object) => object,
            Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
            _ => return Err("associative list with keys may not have non-map elements".to_owned()),
        };
        let default = |name| {
            let default = self.list.element.field(name)?.default()?;
            serde_json::from_str(default).ok().map(Cow::Owned)
        };
        let value_of =
            |name: &'t str| Some((Cow::Borrowed(name), object.get(name).map(Cow::Borrowed).or_else(|| default(name))?));
        let mut fields: Vec<(Cow<'v, str>, Cow<'v, Value>)> = self.list.keys().filter_map(value_of).collect();
        if fields.is_empty() {
            let keys: Vec<String> = self.list.keys().map(crate::resources::field::go_quote).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                keys.join(" ")
            ));
        }
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Element::Key(fields))
    }

    /// The elements with their path elements, in the list's order.
    ///
    /// # Errors
    /// One cannot be told apart from others.
    pub(super) fn index<'v>(self, list: &'v [Value]) -> Result<Vec<(Element<'v>, &'v Value)>, String>
    where
        't: 'v,
    {
        let indexed = list.iter().enumerate().map(|(at, value)| {
            let element = self.identify(value).map_err(|error| format!("element {at}: {error}"))?;
            Ok((element, value))
        });
        indexed.collect()
    }
}
