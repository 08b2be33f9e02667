//! The short hashes that name ReplicaSets and revisions, upstream's: FNV-1a over 32 bits, printed in decimal, in an alphabet
//! without vowels so that no word appears by accident.

use std::fmt;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::dump;

const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Writes each byte as one character of the safe alphabet.
pub(crate) fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// FNV-1a over 32 bits, of text as it is written.
pub(crate) struct Fnv32a(u32);

impl Fnv32a {
    pub(crate) fn new() -> Self {
        Self(0x811c_9dc5)
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.add(bytes);
        self
    }

    /// The hash in decimal and the safe alphabet.
    pub(crate) fn name(&self) -> String {
        safe_encode(&self.0.to_string())
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    }
}

impl fmt::Write for Fnv32a {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.as_bytes());
        Ok(())
    }
}

/// The `pod-template-hash` of a template, and the `controller-revision-hash` of a DaemonSet: what upstream computes.
/// ReplicaSets and revisions are found by their template, never by this value.
pub(crate) fn pod_template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut hash = Fnv32a::new();
    if dump::print(template, &mut hash).is_err() {
        // The server admits no such value; any name that depends on the template will do.
        hash = Fnv32a::new().bytes(normal(template).to_string().as_bytes());
    }
    let salt = collisions.map(|count| u64::from(count.cast_unsigned()).to_le_bytes());
    hash.bytes(salt.as_ref().map_or(&[], |salt| salt.as_slice())).name()
}

/// A template as a JSON tree with everything empty left out, the form in which templates are equal
/// exactly when upstream's semantic comparison says so.
pub(crate) fn normal(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or(Value::Null);
    prune(&mut value);
    value
}

/// Removes nulls, empty lists and empty strings. Empty objects stay: `emptyDir: {}` has a meaning.
pub(crate) fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, v| match v {
                Value::Null => false,
                Value::Array(list) => !list.is_empty(),
                Value::String(text) => !text.is_empty(),
                _ => true,
            });
            // Maps that are only containers: upstream does not tell an empty one from an absent one.
            for key in ["metadata", "labels", "annotations", "nodeSelector", "limits", "requests"] {
                if map.get(key).is_some_and(|v| v.as_object().is_some_and(serde_json::Map::is_empty)) {
                    map.remove(key);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(v: Value) -> PodTemplateSpec {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn known_values() {
        // Published FNV-1a vectors, and the alphabet applied to a decimal number.
        let fnv = |text: &[u8]| Fnv32a::new().bytes(text).0;
        assert_eq!(fnv(b""), 0x811c_9dc5);
        assert_eq!(fnv(b"a"), 0xe40c_292c);
        assert_eq!(fnv(b"foobar"), 0xbf9c_f968);
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }

    /// Lines of template, collision count and the hash that upstream's function gave for them.
    #[test]
    fn hashes_are_upstreams() {
        let lines = include_str!("dump/upstream_hashes.jsonl").lines();
        let mut count = 0;
        for row in lines.map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            let collisions = row.get("collisions").map(|c| c.as_i64().unwrap() as i32);
            let template = template(row["template"].clone());
            let mut text = String::new();
            dump::print(&template, &mut text).unwrap();
            assert_eq!(pod_template_hash(&template, collisions), row["hash"], "{}: {text}", row["name"]);
            count += 1;
        }
        assert!(count > 40);
    }

    #[test]
    fn equal_templates_have_one_form() {
        let a = template(
            json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        );
        let b = template(json!({"metadata": {"labels": {"app": "x"}, "annotations": {}},
            "spec": {"containers": [{"name": "c", "image": "i", "env": [], "resources": {"limits": {}}}], "volumes": []}}));
        assert_ne!(normal(&a), Value::Null);
        assert_eq!(pod_template_hash(&a, None), pod_template_hash(&b, None), "empty lists and maps are none");
        assert_ne!(pod_template_hash(&a, None), pod_template_hash(&a, Some(0)));
        // `resources: {}` against `resources` absent stays visible only as an empty object.
        let stripped = normal(&b);
        assert!(stripped["spec"].get("volumes").is_none());
        assert!(stripped["spec"]["containers"][0].get("env").is_none());
    }
}
