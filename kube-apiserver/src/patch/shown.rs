//! A patched document as upstream's refusals show it: what the patch went through has its keys in order, what it left alone
//! has them in the order of Go's fields.

use std::collections::HashSet;

use common::schema::{Field, Shape, Type};
use serde_json::Value;

use super::json;

/// What a patch did to a document.
pub(super) trait Touched {
    /// Whether it opened the object at a JSON pointer.
    fn opened(&self, pointer: &str) -> bool;
    /// Whether what is at a JSON pointer is the patch's.
    fn replaced(&self, pointer: &str) -> bool;
}

/// The document as text.
pub(super) fn shown(document: &Value, ty: Type<'_>, touched: &dyn Touched) -> String {
    let mut text = String::new();
    write(&mut text, document, Some(ty), &mut String::new(), touched);
    // As Go's encoder, which makes JSON safe to be put into a page.
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn write(text: &mut String, value: &Value, ty: Option<Type<'_>>, pointer: &mut String, touched: &dyn Touched) {
    let shape = ty.map(Type::shape);
    let below = pointer.len();
    let mut separator = "";
    match value {
        _ if touched.replaced(pointer) => text.push_str(&value.to_string()),
        Value::Array(items) => {
            let element = if let Some(Shape::List(list)) = shape { Some(list.element) } else { None };
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(separator);
                separator = ",";
                pointer.push_str(&format!("/{at}"));
                write(text, item, element, pointer, touched);
                pointer.truncate(below);
            }
            text.push(']');
        }
        Value::Object(object) => {
            let field = |name: &str| ty.and_then(|ty| ty.field(name));
            let mut members: Vec<_> = object.iter().map(|(name, value)| (field(name), name, value)).collect();
            if !touched.opened(pointer) {
                members.sort_by(|(a, ..), (b, ..)| a.map(place).cmp(&b.map(place)));
            }
            text.push('{');
            for (field, name, value) in members {
                text.push_str(separator);
                separator = ",";
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                pointer.push('/');
                pointer.push_str(name);
                let ty = if let Some(Shape::Map(element, _)) = shape { Some(element) } else { field.map(Field::ty) };
                write(text, value, ty, pointer, touched);
                pointer.truncate(below);
            }
            text.push('}');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

/// Where Go has a field: protobuf's numbers follow its order, after `kind` and `apiVersion`, which have none.
fn place(field: Field<'_>) -> (Vec<u32>, std::cmp::Reverse<&str>) {
    let numbers: Vec<u32> = field.numbers().collect();
    let unnumbered = if numbers.is_empty() { field.name() } else { "" };
    (numbers, std::cmp::Reverse(unnumbered))
}

/// A merge patch.
pub(super) struct Merged<'a> {
    pub original: &'a Value,
    pub patch: &'a Value,
}

impl Merged<'_> {
    fn at(&self, pointer: &str) -> (Option<&Value>, Option<&Value>) {
        let walk = |root| pointer.split('/').skip(1).try_fold(root, |value: &Value, key| value.get(key));
        (walk(self.original), walk(self.patch))
    }
}

impl Touched for Merged<'_> {
    fn opened(&self, pointer: &str) -> bool {
        matches!(self.at(pointer), (Some(Value::Object(_)), Some(Value::Object(_))))
    }

    fn replaced(&self, pointer: &str) -> bool {
        match self.at(pointer) {
            (_, None) | (Some(Value::Object(_)), Some(Value::Object(_))) => false,
            (_, Some(_)) => true,
        }
    }
}

/// A JSON patch: the containers that its pointers lead through, and where they end.
#[derive(Default)]
pub(super) struct Operated {
    through: HashSet<String>,
    ends: HashSet<String>,
}

impl Operated {
    pub(super) fn of(patch: &[u8]) -> Self {
        let mut operated = Self::default();
        operated.through.insert(String::new());
        for operation in json::operations(patch).unwrap_or_default() {
            for path in [operation.from, operation.path.clone()].into_iter().flatten() {
                let mut pointer = String::new();
                for part in path.split('/').skip(1) {
                    operated.through.insert(pointer.clone());
                    pointer.push('/');
                    pointer.push_str(&json::unescape(part));
                }
                if operation.path.as_deref() == Some(path.as_str()) {
                    operated.ends.insert(pointer);
                }
            }
        }
        operated
    }
}

impl Touched for Operated {
    fn opened(&self, pointer: &str) -> bool {
        self.through.contains(pointer)
    }

    fn replaced(&self, pointer: &str) -> bool {
        self.ends.contains(pointer) && !self.through.contains(pointer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_touched_is_sorted() {
        let ty = common::schema::lookup("", "v1", "ConfigMap").unwrap();
        let original = json!({"metadata": {"annotations": {"b": "<"}, "name": "n", "managedFields": [{"apiVersion": "v1",
            "manager": "m", "operation": "Update"}]}, "kind": "ConfigMap", "data": {"a": "1"}});
        let mut patched = original.clone();
        patched["data"] = json!(1);
        let patch = json!({"data": 1});
        let merged = shown(&patched, ty, &Merged { original: &original, patch: &patch });
        let managers = r#""managedFields":[{"manager":"m","operation":"Update","apiVersion":"v1"}]"#;
        assert_eq!(
            merged,
            format!(
                r#"{{"data":1,"kind":"ConfigMap","metadata":{{"name":"n","annotations":{{"b":"\u003c"}},{managers}}}}}"#
            )
        );
        let operated =
            Operated::of(br#"[{"op": "add", "path": "/data", "value": 1}, {"op": "test", "path": "/metadata/name"}]"#);
        assert_eq!(
            shown(&patched, ty, &operated),
            format!(
                r#"{{"data":1,"kind":"ConfigMap","metadata":{{"annotations":{{"b":"\u003c"}},{managers},"name":"n"}}}}"#
            )
        );
    }
}
