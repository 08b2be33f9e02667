//! Trees as Go's encoder would write the typed object: what `omitempty` leaves out is left out, what it does not is
//! there.

use serde_json::{Map, Value};

use super::table::{Field, GoFacts, Scalar, Shape, Struct, Type};

/// Leaves out empty values that Go leaves out, and adds those that it always writes.
pub fn normalize(ty: Type<'_>, value: &mut Value) {
    match (ty.shape(), value) {
        (Shape::Struct(fields), Value::Object(object)) => members(fields, object),
        (Shape::List(list), Value::Array(items)) => items.iter_mut().for_each(|item| normalize(list.element, item)),
        (Shape::Map(element, _), Value::Object(object)) => {
            object.values_mut().for_each(|value| normalize(element, value));
        }
        _ => {}
    }
}

fn members(fields: Struct<'_>, object: &mut Map<String, Value>) {
    for field in fields.fields() {
        let Some(facts) = field.go_facts() else { continue };
        match object.get_mut(field.name()) {
            Some(value) if !value.is_null() => {
                normalize(field.ty(), value);
                if !facts.pointer && facts.omitempty && is_empty(field.ty(), value) {
                    object.remove(field.name());
                }
            }
            found => {
                let was_null = found.is_some();
                match absent(field, facts) {
                    Some(value) => drop(object.insert(field.name().to_owned(), value)),
                    None if was_null => drop(object.remove(field.name())),
                    None => {}
                }
            }
        }
    }
}

/// What `omitempty` takes for empty: never structs.
fn is_empty(ty: Type<'_>, value: &Value) -> bool {
    match (ty.shape(), value) {
        (Shape::List(_), Value::Array(items)) => items.is_empty(),
        (Shape::Map(..), Value::Object(object)) => object.is_empty(),
        (Shape::Scalar(Scalar::String | Scalar::Bytes), Value::String(text)) => text.is_empty(),
        (Shape::Scalar(Scalar::Bool), Value::Bool(value)) => !value,
        (Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double), Value::Number(number)) => {
            number.as_f64() == Some(0.0)
        }
        _ => false,
    }
}

/// What Go writes for a field that was never set, if anything.
fn absent(field: Field<'_>, facts: GoFacts) -> Option<Value> {
    let plain = match field.ty().shape() {
        Shape::List(_) | Shape::Map(..) => true,
        Shape::Scalar(scalar) => matches!(
            scalar,
            Scalar::String | Scalar::Bytes | Scalar::Bool | Scalar::Int32 | Scalar::Int64 | Scalar::Double
        ),
        Shape::Struct(_) | Shape::Any(_) => false,
    };
    if facts.omitempty && (facts.pointer || plain || facts.omitzero) {
        return None;
    }
    Some(if facts.pointer { Value::Null } else { zero(field.ty()) })
}

fn zero(ty: Type<'_>) -> Value {
    match ty.shape() {
        Shape::Struct(fields) => {
            let mut object = Map::new();
            members(fields, &mut object);
            Value::Object(object)
        }
        Shape::Any(_) if ty.wire_form() == Some(super::WireForm::Empty) => Value::Object(Map::new()),
        Shape::List(_) | Shape::Map(..) | Shape::Any(_) => Value::Null,
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => "".into(),
            Scalar::Bool => false.into(),
            Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString => 0.into(),
            Scalar::Quantity => "0".into(),
            Scalar::Duration => "0s".into(),
            Scalar::Bytes | Scalar::Time | Scalar::MicroTime => Value::Null,
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{schema, wire};

    #[test]
    fn empty_values_are_as_go_writes_them() {
        let ty = schema::lookup("apps", "v1", "Deployment").unwrap();
        let mut object = json!({
            "metadata": {"name": "a", "labels": {}, "generation": 0, "deletionTimestamp": null},
            "spec": {
                "replicas": 0, "paused": false, "selector": {"matchLabels": {}},
                "template": {"metadata": {}, "spec": {"containers": [{"name": "c", "tty": false, "ports": []}]}},
            },
            "unknown": {"stays": null},
        });
        normalize(ty, &mut object);
        assert_eq!(
            object,
            json!({
                "metadata": {"name": "a"},
                "spec": {
                    "replicas": 0, "selector": {}, "strategy": {},
                    "template": {"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {}}]}},
                },
                "status": {},
                "unknown": {"stays": null},
            })
        );
        let ty = schema::lookup("rbac.authorization.k8s.io", "v1", "ClusterRole").unwrap();
        let mut object = json!({"metadata": {"name": "a"}, "aggregationRule": null});
        normalize(ty, &mut object);
        assert_eq!(object, json!({"metadata": {"name": "a"}, "rules": null}));
    }

    /// Both ways to Go's form agree for every kind, empty or full.
    #[test]
    fn protobuf_and_back_changes_nothing_more() {
        let through = |ty, object: &Value| -> Value {
            let (mut raw, mut text) = (Vec::new(), Vec::new());
            wire::tree_to_protobuf(ty, object, &mut raw).unwrap();
            wire::protobuf_to_json(ty, &raw, None, &mut text).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        for resource in crate::api::catalog().resources() {
            let ty = schema::lookup(resource.group, resource.version, resource.kind).unwrap();
            let mut object = json!({"metadata": {"name": "a", "labels": {}}, "spec": {}, "status": {}});
            normalize(ty, &mut object);
            let mut clean = object.clone();
            clean.as_object_mut().unwrap().retain(|name, _| ty.field(name).is_some());
            assert_eq!(through(ty, &clean), clean, "{}", resource.kind);
        }
    }
}
