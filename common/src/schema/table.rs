//! The table's form: types and fields in two flat vectors, strings as spans of one text.

use std::borrow::Cow;
use std::collections::HashMap;

/// A type's place in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TypeId(pub(super) u32);

impl TypeId {
    /// The place as a number below [`Table::len`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A piece of the table's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub at: u32,
    pub len: u32,
}

/// Values that are no objects, lists or maps in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// A string.
    String,
    /// Base64 text.
    Bytes,
    /// A boolean.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A floating-point number.
    Double,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Go's duration text.
    Duration,
    /// A quantity: string or number.
    Quantity,
    /// A 32-bit integer or a string.
    IntOrString,
}

/// How lists merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ListKind {
    /// Not stated; server-side apply treats it as atomic.
    #[default]
    Unstated,
    /// Replaced as a whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Objects identified by key fields.
    Map,
}

/// How maps merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MapKind {
    /// Not stated: by key.
    #[default]
    Unstated,
    /// By key.
    Granular,
    /// Replaced as a whole.
    Atomic,
}

/// What strategic merge patch does with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    /// Lists merge by key (or as a set) instead of being replaced.
    pub merge: bool,
    /// Only the keys listed in `$retainKeys` survive.
    pub retain_keys: bool,
    /// Maps are replaced as a whole.
    pub replace: bool,
}

/// How values travel in protobuf that are no plain messages there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WireForm {
    /// A message whose first field holds JSON.
    Raw,
    /// A message without fields.
    Empty,
    /// A JSON schema or a list of them.
    SchemaOrArray,
    /// A JSON schema or a boolean.
    SchemaOrBool,
    /// A JSON schema or a list of strings.
    SchemaOrStrings,
}

/// What Go does with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GoFacts {
    /// A pointer: absent differs from zero.
    pub pointer: bool,
    /// `omitempty`: JSON leaves out zero scalars and empty lists and maps, but never structs.
    pub omitempty: bool,
    /// `omitzero`: JSON leaves out zero structs too.
    pub omitzero: bool,
    /// Its lists are messages of their own in protobuf.
    pub wrapped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Struct { first: u32, count: u32, kind: MapKind },
    List { element: TypeId, kind: ListKind, keys: u32 },
    Map { value: TypeId, kind: MapKind },
    Scalar(Scalar),
    Any { object: bool },
}

#[derive(Debug, Clone, Default)]
pub(super) struct FieldRow {
    pub name: Span,
    pub ty: TypeId,
    pub required: bool,
    pub default: Option<Span>,
    pub strategy: PatchStrategy,
    pub merge_key: Option<Span>,
    pub go_type: Option<Span>,
    pub map_kind: Option<Span>,
    pub list_kind: Option<Span>,
    pub bare: bool,
    /// One more than the place in [`Table::enums`].
    pub enumeration: u16,
    pub facts: Option<GoFacts>,
    pub numbers: Span,
}

/// Types that refer to each other.
#[derive(Debug, Default)]
pub struct Table {
    pub(super) text: Cow<'static, str>,
    pub(super) nodes: Vec<Node>,
    /// Package and short name of the named types.
    pub(super) names: Vec<Option<(Span, Span)>>,
    pub(super) fields: Vec<FieldRow>,
    pub(super) keys: Vec<Vec<Span>>,
    /// The values of enumerations, each list as one text.
    pub(super) enums: Vec<Span>,
    pub(super) by_name: HashMap<Box<str>, TypeId>,
    pub(super) by_kind: HashMap<Box<str>, TypeId>,
    pub(super) kinds_of: HashMap<TypeId, Vec<Span>>,
    pub(super) unions: HashMap<TypeId, Span>,
    pub(super) wire_forms: HashMap<TypeId, WireForm>,
}

impl Table {
    /// The type with an OpenAPI definition name.
    pub fn by_name(&self, name: &str) -> Option<Type<'_>> {
        self.by_name.get(name).map(|&id| Type { table: self, id })
    }

    /// The type of objects of a kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<Type<'_>> {
        let full = format!("{group}/{version}/{kind}");
        let found = self.by_kind.get(full.as_str()).or_else(|| self.by_kind.get(format!("*/*/{kind}").as_str()));
        found.map(|&id| Type { table: self, id })
    }

    /// How many types there are, those without a name included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All named types.
    pub fn definitions(&self) -> impl Iterator<Item = Type<'_>> {
        let named = self.names.iter().enumerate().filter(|(_, name)| name.is_some());
        named.map(|(i, _)| Type { table: self, id: TypeId(i as u32) })
    }

    pub(super) fn str(&self, span: Span) -> &str {
        self.text.get(span.at as usize..(span.at + span.len) as usize).unwrap_or("")
    }
}

/// A type of a table.
#[derive(Debug, Clone, Copy)]
pub struct Type<'t> {
    table: &'t Table,
    id: TypeId,
}

/// What a type's values look like in JSON.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'t> {
    /// An object with known fields.
    Struct(Struct<'t>),
    /// A list.
    List(List<'t>),
    /// An object with any keys and values of one type.
    Map(Type<'t>, MapKind),
    /// A scalar.
    Scalar(Scalar),
    /// Any JSON, kept as it is; `true` when OpenAPI calls it an object.
    Any(bool),
}

/// An object with known fields.
#[derive(Debug, Clone, Copy)]
pub struct Struct<'t> {
    table: &'t Table,
    rows: &'t [FieldRow],
    /// How server-side apply merges it.
    pub map_kind: MapKind,
}

/// A list type.
#[derive(Debug, Clone, Copy)]
pub struct List<'t> {
    table: &'t Table,
    keys: &'t [Span],
    /// The type of its elements.
    pub element: Type<'t>,
    /// How it merges.
    pub kind: ListKind,
}

/// A field of a struct.
#[derive(Debug, Clone, Copy)]
pub struct Field<'t> {
    table: &'t Table,
    row: &'t FieldRow,
}

impl<'t> Type<'t> {
    /// Its place in its table.
    pub fn id(self) -> TypeId {
        self.id
    }

    /// The OpenAPI definition name; `None` for lists, maps and plain scalars.
    pub fn name(self) -> Option<String> {
        Some(format!("{}.{}", self.package()?, self.short_name()?))
    }

    /// The definition name without its last part.
    pub fn package(self) -> Option<&'t str> {
        Some(self.table.str(self.spans()?.0))
    }

    /// The last part of the definition name: Go's type name.
    pub fn short_name(self) -> Option<&'t str> {
        Some(self.table.str(self.spans()?.1))
    }

    fn spans(self) -> Option<(Span, Span)> {
        self.table.names.get(self.id.0 as usize).copied().flatten()
    }

    /// The `group/version/kind`s whose objects have this type; `*/*/kind` for options known to every group version.
    pub fn kinds(self) -> impl Iterator<Item = &'t str> {
        self.table.kinds_of.get(&self.id).into_iter().flatten().map(move |span| self.table.str(*span))
    }

    /// OpenAPI's `x-kubernetes-unions`, as JSON text.
    pub fn unions(self) -> Option<&'t str> {
        self.table.unions.get(&self.id).map(|span| self.table.str(*span))
    }

    /// How its values travel in protobuf when they are no plain messages.
    pub fn wire_form(self) -> Option<WireForm> {
        self.table.wire_forms.get(&self.id).copied()
    }

    /// What its values look like.
    pub fn shape(self) -> Shape<'t> {
        let table = self.table;
        match table.nodes.get(self.id.0 as usize).copied().unwrap_or(Node::Any { object: false }) {
            Node::Struct { first, count, kind } => {
                let rows = table.fields.get(first as usize..(first + count) as usize).unwrap_or(&[]);
                Shape::Struct(Struct { table, rows, map_kind: kind })
            }
            Node::List { element, kind, keys } => {
                let keys = table.keys.get(keys as usize).map_or(&[][..], Vec::as_slice);
                Shape::List(List { table, keys, element: Type { table, id: element }, kind })
            }
            Node::Map { value, kind } => Shape::Map(Type { table, id: value }, kind),
            Node::Scalar(scalar) => Shape::Scalar(scalar),
            Node::Any { object } => Shape::Any(object),
        }
    }

    /// The field of a struct type.
    pub fn field(self, name: &str) -> Option<Field<'t>> {
        match self.shape() {
            Shape::Struct(s) => s.field(name),
            _ => None,
        }
    }
}

impl<'t> Struct<'t> {
    /// The field called `name` (case matters).
    pub fn field(self, name: &str) -> Option<Field<'t>> {
        let found = self.rows.binary_search_by(|row| self.table.str(row.name).cmp(name)).ok()?;
        Some(Field { table: self.table, row: &self.rows[found] })
    }

    /// All fields, by name.
    pub fn fields(self) -> impl Iterator<Item = Field<'t>> {
        self.rows.iter().map(move |row| Field { table: self.table, row })
    }
}

impl<'t> List<'t> {
    /// The fields that identify an element of a [`ListKind::Map`].
    pub fn keys(self) -> impl Iterator<Item = &'t str> {
        self.keys.iter().map(move |span| self.table.str(*span))
    }
}

impl<'t> Field<'t> {
    /// JSON name.
    pub fn name(self) -> &'t str {
        self.table.str(self.row.name)
    }

    /// Its type.
    pub fn ty(self) -> Type<'t> {
        Type { table: self.table, id: self.row.ty }
    }

    /// Whether OpenAPI calls it required.
    pub fn required(self) -> bool {
        self.row.required
    }

    /// The default OpenAPI states, as JSON text.
    pub fn default(self) -> Option<&'t str> {
        self.row.default.map(|span| self.table.str(span))
    }

    /// What strategic merge patch does with it.
    pub fn strategy(self) -> PatchStrategy {
        self.row.strategy
    }

    /// Go's name of a scalar type (of the field, or of its list's elements) where it has one, such as `v1.Protocol`.
    pub fn go_type(self) -> Option<&'t str> {
        self.row.go_type.map(|span| self.table.str(span))
    }

    /// The values that it, or its elements, can have, if they are known.
    pub fn values(self) -> Option<impl Iterator<Item = String>> {
        let span = self.table.enums.get(usize::from(self.row.enumeration).checked_sub(1)?)?;
        Some(self.table.str(*span).split('|').map(|value| value.replace('~', " ")))
    }

    /// `x-kubernetes-map-type` stated at the field instead of its type.
    pub fn map_kind(self) -> Option<&'t str> {
        self.row.map_kind.map(|span| self.table.str(span))
    }

    /// `x-kubernetes-list-type` stated at a field that is no list in JSON.
    pub fn list_kind(self) -> Option<&'t str> {
        self.row.list_kind.map(|span| self.table.str(span))
    }

    /// Whether OpenAPI v3 writes nothing beside the reference to its type.
    pub fn bare(self) -> bool {
        self.row.bare
    }

    /// What Go does with it; `None` for types that Go's source was not read for, such as custom resources.
    pub fn go_facts(self) -> Option<GoFacts> {
        self.row.facts
    }

    /// Its protobuf number, preceded by those of the embedded messages it is in; empty when it has none.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        self.table.str(self.row.numbers).split('.').filter_map(|number| number.parse().ok())
    }

    /// The field that identifies list elements for strategic merge patch.
    pub fn merge_key(self) -> Option<&'t str> {
        self.row.merge_key.map(|span| self.table.str(span))
    }
}
