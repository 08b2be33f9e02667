//! The type table: one compact table of facts about every API type, and what reads it generically.
//!
//! Facts are data (`types.txt`, written by `hack/gen-types.py` from published API definitions, no prose), parsed at
//! first use. A [`Type`] is a handle into a [`Table`]; custom resources compile into tables of the same form.

mod decode;
mod load;
mod table;

pub use decode::{Decoded, Problem, cannot_be_handled, decode, prune, strict_decoding_error};
pub use table::{Field, List, ListKind, PatchStrategy, Scalar, Shape, Struct, Table, Type, TypeId};

use std::sync::LazyLock;

/// The table of the built-in types.
pub fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| load::parse(include_str!("types.txt")));
    &TABLE
}

/// The built-in type of objects of a kind; options kinds such as `DeleteOptions` exist in every group version.
pub fn lookup(group: &str, version: &str, kind: &str) -> Option<Type<'static>> {
    table().by_kind(group, version, kind)
}

/// The built-in type with an OpenAPI definition name, such as `io.k8s.api.core.v1.PodSpec`.
pub fn definition(name: &str) -> Option<Type<'static>> {
    table().by_name(name)
}
