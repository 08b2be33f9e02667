//! How Go declares the types of a pod template. Facts are data, written by `hack/gen-go-structs.py`.

use std::collections::HashMap;
use std::sync::LazyLock;

const TEXT: &str = include_str!("go_structs.txt");

/// What a named type is.
pub(super) enum Declared {
    /// Fields in Go's order.
    Struct(Vec<Field>),
    /// Another name of a type.
    As(&'static str),
}

/// A field of a struct.
pub(super) struct Field {
    /// Go's name.
    pub(super) name: &'static str,
    /// Its name in JSON; None: an embedded struct whose fields are members of the same JSON object.
    pub(super) json: Option<&'static str>,
    /// Its type as Go prints it.
    pub(super) ty: &'static str,
}

/// The declaration of a named type; None for what Go has built in.
pub(super) fn declared(name: &str) -> Option<&'static Declared> {
    static TABLE: LazyLock<HashMap<&'static str, Declared>> = LazyLock::new(|| parse(TEXT));
    TABLE.get(name)
}

fn parse(text: &'static str) -> HashMap<&'static str, Declared> {
    let mut table = HashMap::new();
    let mut current = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let (Some(first), Some(second), third) = (words.next(), words.next(), words.next()) else { continue };
        match (first, third) {
            ("t", Some("struct")) => {
                current = second;
                table.insert(current, Declared::Struct(Vec::new()));
            }
            ("t", Some(underlying)) => drop(table.insert(second, Declared::As(underlying))),
            (name, Some(ty)) => {
                if let Some(Declared::Struct(fields)) = table.get_mut(current) {
                    fields.push(Field { name, json: Some(second).filter(|json| *json != "-"), ty });
                }
            }
            _ => {}
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(ty: &'static str) -> &'static str {
        let ty = ty.rsplit_once(']').map_or(ty, |(_, element)| element);
        ty.trim_start_matches('*')
    }

    #[test]
    fn every_type_is_known() {
        let special = ["resource.Quantity", "intstr.IntOrString", "v1.Time", "v1.FieldsV1"];
        let table = parse(TEXT);
        assert!(table.len() > 100);
        for declared in table.values() {
            let types: Vec<&str> = match declared {
                Declared::Struct(fields) => fields.iter().map(|f| named(f.ty)).collect(),
                Declared::As(ty) => vec![named(ty)],
            };
            for ty in types.into_iter().filter(|ty| ty.contains('.') && !special.contains(ty)) {
                assert!(table.contains_key(ty), "{ty}");
            }
        }
    }
}
