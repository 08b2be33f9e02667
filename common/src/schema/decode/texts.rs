//! Upstream's messages about values of a wrong type.

use super::super::table::{Scalar, Shape, Type};

/// Which of upstream's two decoders speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// The JSON decoder.
    Json,
    /// The converter from untyped trees.
    Unstructured,
}

/// What stands where something else should.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    String,
    Bool,
    Integer(String),
    Float(String),
    Array,
    Object,
}

impl Found {
    fn json(&self, wanted: &str) -> String {
        match self {
            Found::String => "string".into(),
            Found::Bool => "bool".into(),
            // The number itself appears where a number was wanted, but not this one.
            Found::Integer(text) | Found::Float(text) if is_number(wanted) => format!("number {text}"),
            Found::Integer(_) | Found::Float(_) => "number".into(),
            Found::Array => "array".into(),
            Found::Object => "object".into(),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Found::String => "string",
            Found::Bool => "bool",
            Found::Integer(_) => "int64",
            Found::Float(_) => "float64",
            Found::Array => "slice",
            Found::Object => "map",
        }
    }
}

fn is_number(go_type: &str) -> bool {
    matches!(go_type, "int32" | "int64" | "float64")
}

/// Where a value stands, as the JSON decoder tells it: the innermost struct and the fields on the way there.
pub(super) struct Place<'a> {
    pub owner: &'a str,
    pub fields: String,
}

/// The message about `found` standing where a `wanted` (Go's name) should.
pub(super) fn wrong_type(style: Style, found: &Found, ty: Type<'_>, wanted: &str, place: Option<&Place<'_>>) -> String {
    match (style, place) {
        (Style::Unstructured, _) => unstructured(found, ty, wanted),
        (Style::Json, Some(Place { owner, fields })) => {
            format!(
                "json: cannot unmarshal {} into Go struct field {owner}.{fields} of type {wanted}",
                found.json(wanted)
            )
        }
        (Style::Json, None) => {
            format!("json: cannot unmarshal {} into Go value of type {wanted}", found.json(wanted))
        }
    }
}

fn unstructured(found: &Found, ty: Type<'_>, wanted: &str) -> String {
    match (ty.shape(), found) {
        (Shape::Struct(_), _) => format!("cannot restore struct from: {}", found.kind()),
        (Shape::List(_) | Shape::Scalar(Scalar::Bytes), _) => format!("cannot restore slice from {}", found.kind()),
        (Shape::Map(..), _) => format!("cannot restore map from {}", found.kind()),
        (Shape::Scalar(Scalar::String), Found::Integer(_)) => format!("cannot convert int64 to {wanted}"),
        (Shape::Scalar(Scalar::Int32 | Scalar::Int64), Found::Float(_)) => {
            format!("cannot convert float64 to {wanted}")
        }
        (Shape::Scalar(scalar), _) => format!("unrecognized type: {}", scalar_name(scalar)),
        (Shape::Any(_), _) => format!("cannot restore struct from: {}", found.kind()),
    }
}

/// Go's name of a type; `named` is that of a scalar type with a name of its own.
pub(super) fn go_name(ty: Type<'_>, named: Option<&str>) -> String {
    match ty.shape() {
        Shape::Scalar(scalar) => named.map_or_else(|| scalar_name(scalar).to_owned(), str::to_owned),
        Shape::List(list) => format!("[]{}", go_name(list.element, named)),
        Shape::Map(value, _) => format!("map[string]{}", go_name(value, named)),
        Shape::Struct(_) | Shape::Any(_) => {
            let package = ty.package().and_then(|package| package.rsplit('.').next()).unwrap_or("interface {}");
            ty.short_name().map_or_else(|| package.to_owned(), |short| format!("{package}.{short}"))
        }
    }
}

fn scalar_name(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::String => "string",
        Scalar::Bytes => "[]uint8",
        Scalar::Bool => "bool",
        Scalar::Int32 => "int32",
        Scalar::Int64 => "int64",
        Scalar::Double => "float64",
        Scalar::Time => "v1.Time",
        Scalar::MicroTime => "v1.MicroTime",
        Scalar::Duration => "v1.Duration",
        Scalar::Quantity => "resource.Quantity",
        Scalar::IntOrString => "intstr.IntOrString",
    }
}
