//! Definitions: the type table in OpenAPI's words.

use std::collections::BTreeSet;

use common::schema::{self, Field, ListKind, MapKind, Scalar, Shape, Type};
use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;

/// The two dialects differ in references, unions of types and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// A reference to a definition.
    pub(super) fn reference(self, name: &str) -> Value {
        match self {
            Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// All definitions that the given ones refer to, themselves included.
pub(super) fn closure(roots: BTreeSet<String>) -> Vec<Type<'static>> {
    let mut open: Vec<Type<'static>> = roots.iter().filter_map(|name| schema::definition(name)).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(ty) = open.pop() {
        if ty.name().is_some() {
            if !seen.insert(ty.id()) {
                continue;
            }
            found.push(ty);
        }
        match ty.shape() {
            Shape::Struct(fields) => open.extend(fields.fields().map(Field::ty)),
            Shape::List(list) => open.push(list.element),
            Shape::Map(value, _) => open.push(value),
            Shape::Scalar(_) | Shape::Any(_) => {}
        }
    }
    found
}

/// Writes definitions in one dialect.
pub(super) struct Writer<'d> {
    pub dialect: Dialect,
    pub texts: &'d Descriptions,
    /// The group versions that options kinds are said to belong to.
    pub group_versions: &'d [(&'d str, &'d str)],
}

impl Writer<'_> {
    /// A named definition.
    pub(super) fn definition(&self, ty: Type<'_>, name: &str) -> Value {
        let mut schema = match ty.shape() {
            Shape::Struct(fields) => {
                let mut schema = json!({"type": "object"});
                let properties: Map<String, Value> =
                    fields.fields().map(|field| (field.name().to_owned(), self.property(name, field))).collect();
                let required: Vec<&str> = fields.fields().filter(|field| field.required()).map(Field::name).collect();
                schema["properties"] = properties.into();
                if !required.is_empty() {
                    schema["required"] = required.into();
                }
                if let Some(kind) = map_kind(fields.map_kind) {
                    schema["x-kubernetes-map-type"] = kind.into();
                }
                schema
            }
            _ => self.shape(ty),
        };
        if let Some(text) = self.texts.of_type(name) {
            schema["description"] = text.into();
        }
        let kinds = self.kinds(ty);
        if !kinds.is_empty() {
            schema["x-kubernetes-group-version-kind"] = kinds.into();
        }
        if let Some(unions) = ty.unions().and_then(|json| serde_json::from_str::<Value>(json).ok()) {
            schema["x-kubernetes-unions"] = unions;
        }
        schema
    }

    fn kinds(&self, ty: Type<'_>) -> Vec<Value> {
        let entry = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
        let mut kinds = Vec::new();
        for full in ty.kinds() {
            let mut parts = full.split('/');
            let (Some(group), Some(version), Some(kind)) = (parts.next(), parts.next(), parts.next()) else { continue };
            match group {
                "*" => kinds.extend(self.group_versions.iter().map(|(group, version)| entry(group, version, kind))),
                _ => kinds.push(entry(group, version, kind)),
            }
        }
        kinds
    }

    fn property(&self, owner: &str, field: Field<'_>) -> Value {
        let text = self.texts.of_field(owner, field.name());
        let default = match self.dialect {
            Dialect::V2 => None,
            Dialect::V3 => field.default().and_then(|json| serde_json::from_str::<Value>(json).ok()),
        };
        let mut extras = Map::new();
        extras.extend(text.map(|text| ("description".to_owned(), text.into())));
        extras.extend(default.map(|default| ("default".to_owned(), default)));
        extras.extend(strategy(field).map(|strategy| ("x-kubernetes-patch-strategy".to_owned(), strategy.into())));
        extras.extend(field.merge_key().map(|key| ("x-kubernetes-patch-merge-key".to_owned(), key.into())));
        extras.extend(field.map_kind().map(|kind| ("x-kubernetes-map-type".to_owned(), kind.into())));
        extras.extend(field.list_kind().map(|kind| ("x-kubernetes-list-type".to_owned(), kind.into())));
        let mut schema = self.value(field.ty());
        if let Some(values) = field.values() {
            let of = ["items", "additionalProperties"].into_iter().find(|of| schema.get(of).is_some());
            let of = if let Some(of) = of { &mut schema[of] } else { &mut schema };
            of["enum"] = values.map(Value::from).collect();
        }
        // In v3 nothing may stand beside a reference.
        if self.dialect == Dialect::V3 && schema.get("$ref").is_some() && !field.bare() {
            schema = json!({"allOf": [schema]});
        }
        if let Value::Object(schema) = &mut schema {
            schema.extend(extras);
        }
        schema
    }

    /// A value: a reference if its type has a name.
    fn value(&self, ty: Type<'_>) -> Value {
        match ty.name() {
            Some(name) => self.dialect.reference(&name),
            None => self.shape(ty),
        }
    }

    fn shape(&self, ty: Type<'_>) -> Value {
        match ty.shape() {
            Shape::Struct(_) | Shape::Any(true) => json!({"type": "object"}),
            Shape::Any(false) => json!({}),
            Shape::Map(value, kind) => {
                let mut schema = json!({"type": "object", "additionalProperties": self.value(value)});
                if let Some(kind) = map_kind(kind) {
                    schema["x-kubernetes-map-type"] = kind.into();
                }
                schema
            }
            Shape::List(list) => {
                let mut schema = json!({"type": "array", "items": self.value(list.element)});
                if let Some(kind) = list_kind(list.kind) {
                    schema["x-kubernetes-list-type"] = kind.into();
                }
                let keys: Vec<&str> = list.keys().collect();
                if !keys.is_empty() {
                    schema["x-kubernetes-list-map-keys"] = keys.into();
                }
                schema
            }
            Shape::Scalar(scalar) => self.scalar(scalar),
        }
    }

    fn scalar(&self, scalar: Scalar) -> Value {
        match (scalar, self.dialect) {
            (Scalar::String | Scalar::Duration, _) => json!({"type": "string"}),
            (Scalar::Bytes, _) => json!({"type": "string", "format": "byte"}),
            (Scalar::Bool, _) => json!({"type": "boolean"}),
            (Scalar::Int32, _) => json!({"type": "integer", "format": "int32"}),
            (Scalar::Int64, _) => json!({"type": "integer", "format": "int64"}),
            (Scalar::Double, _) => json!({"type": "number", "format": "double"}),
            (Scalar::Time | Scalar::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
            (Scalar::Quantity, Dialect::V2) => json!({"type": "string"}),
            (Scalar::Quantity, Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            (Scalar::IntOrString, Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
            (Scalar::IntOrString, Dialect::V3) => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
        }
    }
}

fn strategy(field: Field<'_>) -> Option<String> {
    let strategy = field.strategy();
    let words = [(strategy.merge, "merge"), (strategy.retain_keys, "retainKeys"), (strategy.replace, "replace")];
    let words: Vec<&str> = words.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect();
    (!words.is_empty()).then(|| words.join(","))
}

fn map_kind(kind: MapKind) -> Option<&'static str> {
    match kind {
        MapKind::Unstated => None,
        MapKind::Granular => Some("granular"),
        MapKind::Atomic => Some("atomic"),
    }
}

fn list_kind(kind: ListKind) -> Option<&'static str> {
    match kind {
        ListKind::Unstated => None,
        ListKind::Atomic => Some("atomic"),
        ListKind::Set => Some("set"),
        ListKind::Map => Some("map"),
    }
}
