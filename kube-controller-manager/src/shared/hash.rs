//! The short hashes that name ReplicaSets, in upstream's form: FNV-1a 32 bits, printed in decimal,
//! in an alphabet without vowels so that no word appears by accident.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Writes each byte as one character of the safe alphabet.
pub(crate) fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// FNV-1a over 32 bits.
pub(crate) fn fnv1a32(parts: &[&[u8]]) -> u32 {
    parts
        .iter()
        .flat_map(|p| p.iter())
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The `pod-template-hash` of a template. Equal templates give equal hashes, also when one of them
/// spells out an empty list that the other leaves out. Upstream hashes a dump of its Go structs, so
/// the value differs from upstream's; ReplicaSets are found by their template, never by this value.
pub(crate) fn pod_template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let canonical = normal(template).to_string();
    let salt = collisions.map(|c| {
        let mut bytes = [0_u8; 8];
        bytes[..4].copy_from_slice(&c.to_le_bytes());
        bytes
    });
    let salt: &[u8] = salt.as_ref().map_or(&[], |s| s.as_slice());
    safe_encode(&fnv1a32(&[canonical.as_bytes(), salt]).to_string())
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
        assert_eq!(fnv1a32(&[b""]), 0x811c_9dc5);
        assert_eq!(fnv1a32(&[b"a"]), 0xe40c_292c);
        assert_eq!(fnv1a32(&[b"foo", b"bar"]), 0xbf9c_f968);
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }

    #[test]
    fn stable_for_equal_templates() {
        let a = template(
            json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        );
        let b = template(json!({"metadata": {"labels": {"app": "x"}, "annotations": {}},
            "spec": {"containers": [{"name": "c", "image": "i", "env": [], "resources": {"limits": {}}}], "volumes": []}}));
        assert_ne!(normal(&a), Value::Null);
        assert_eq!(pod_template_hash(&a, None), pod_template_hash(&a.clone(), None));
        assert_ne!(pod_template_hash(&a, None), pod_template_hash(&a, Some(1)));
        assert_ne!(pod_template_hash(&a, Some(1)), pod_template_hash(&a, Some(2)));
        let c = template(
            json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "j"}]}}),
        );
        assert_ne!(pod_template_hash(&a, None), pod_template_hash(&c, None));
        // `resources: {}` against `resources` absent stays visible only as an empty object.
        let stripped = normal(&b);
        assert!(stripped["spec"].get("volumes").is_none());
        assert!(stripped["spec"]["containers"][0].get("env").is_none());
    }
}
