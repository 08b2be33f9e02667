//! The type table: one compact table of facts about every API type, and what reads it generically.
//!
//! Facts are data (`types.txt`, written by `hack/gen-types.py` from published API definitions, no prose), parsed at
//! first use. A [`Type`] is a handle into a [`Table`]; custom resources compile into tables of the same form.

mod decode;
mod load;
mod normalize;
mod table;

pub use decode::{
    Decoded, Problem, cannot_be_handled, check_syntax, convert, decode, duplicate_fields, prune, strict_decoding_error,
    syntax_error,
};
pub use normalize::normalize;
pub use table::{
    Field, GoFacts, List, ListKind, MapKind, PatchStrategy, Scalar, Shape, Struct, Table, Type, TypeId, WireForm,
};

use std::sync::LazyLock;

const TEXT: &str = include_str!("types.txt");

/// The table of the built-in types.
pub fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| load::parse(TEXT));
    &TABLE
}

/// What the built-in table was read from: equal texts make equal documents.
pub fn fingerprint() -> &'static str {
    TEXT
}

/// The built-in type of objects of a kind; options kinds such as `DeleteOptions` exist in every group version.
pub fn lookup(group: &str, version: &str, kind: &str) -> Option<Type<'static>> {
    table().by_kind(group, version, kind)
}

/// The built-in type with an OpenAPI definition name, such as `io.k8s.api.core.v1.PodSpec`.
pub fn definition(name: &str) -> Option<Type<'static>> {
    table().by_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_fields_keys_and_strategies() {
        let deployment = lookup("apps", "v1", "Deployment").unwrap();
        assert_eq!(deployment.name().unwrap(), "io.k8s.api.apps.v1.Deployment");
        let strategy = deployment.field("spec").unwrap().ty().field("strategy").unwrap();
        assert!(strategy.strategy().retain_keys && !strategy.strategy().merge);
        assert_eq!(strategy.default(), Some("{}"));
        let pod = definition("io.k8s.api.core.v1.PodSpec").unwrap();
        let containers = pod.field("containers").unwrap();
        assert!(containers.required() && containers.strategy().merge);
        assert_eq!(containers.merge_key(), Some("name"));
        let Shape::List(list) = containers.ty().shape() else { panic!("containers is no list") };
        assert_eq!((list.kind, list.keys().collect::<Vec<_>>()), (ListKind::Map, vec!["name"]));
        let ports = list.element.field("ports").unwrap();
        let Shape::List(list) = ports.ty().shape() else { panic!("ports is no list") };
        assert_eq!(list.keys().collect::<Vec<_>>(), ["containerPort", "protocol"]);
        assert!(pod.field("Containers").is_none());
    }

    #[test]
    fn every_reference_resolves_and_every_kind_of_the_catalog_has_a_type() {
        for ty in table().definitions() {
            let open = matches!(ty.shape(), Shape::Any(false)) && ty.wire_form().is_none();
            assert!(!open || ty.short_name().unwrap().starts_with("JSON"), "{}", ty.name().unwrap());
        }
        for resource in crate::api::catalog().resources() {
            let found = lookup(resource.group, resource.version, resource.kind);
            assert!(found.is_some(), "{} {}", resource.api_version(), resource.kind);
        }
        assert!(lookup("apps", "v1", "DeleteOptions").is_some());
    }

    #[test]
    fn fields_are_sorted_for_binary_search() {
        for ty in table().definitions() {
            if let Shape::Struct(s) = ty.shape() {
                assert!(s.fields().map(Field::name).is_sorted(), "{}", ty.name().unwrap());
            }
        }
    }
}
