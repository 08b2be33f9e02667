//! YAML bodies: turned into JSON text in one pass, with limits that no honest manifest reaches.

use serde::de::DeserializeSeed;

use super::{WireError, raw::Copy};

/// Aliases may make a document this many times larger than it is, or this large (bytes), whichever is more.
const MAX_GROWTH: usize = 8;
const MIN_OUTPUT: usize = 1 << 20;

/// The JSON text of a YAML document. Members that occur twice occur twice there too, for the decoder to tell.
///
/// # Errors
/// The parser's text, or what limit was exceeded.
pub fn yaml_to_json(bytes: &[u8]) -> Result<Vec<u8>, WireError> {
    let text = std::str::from_utf8(bytes).map_err(|_| WireError::Yaml("yaml: invalid UTF-8".to_owned()))?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 64,
            max_documents: 1,
            max_nodes: 1_000_000,
            max_events: 2_000_000,
            max_aliases: 10_000,
            max_anchors: 10_000,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let limit = MIN_OUTPUT.max(bytes.len().saturating_mul(MAX_GROWTH));
    let mut out = Vec::with_capacity(bytes.len());
    let copied = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        Copy { out: &mut out, limit }.deserialize(deserializer)
    });
    copied.map_err(|error| WireError::Yaml(error.to_string()))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str) -> Value {
        serde_json::from_slice(&yaml_to_json(text.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn documents_are_what_they_say() {
        let text = "# a comment\nkind: Pod\nspec:\n  list: [1, -2, 1.5, true, null, ~, \"1\"]\n  mode: 0644\n  80: port\n  text: |\n    a\n    b\n";
        let spec = json!({"list": [1, -2, 1.5, true, null, null, "1"], "mode": 420, "80": "port", "text": "a\nb\n"});
        assert_eq!(read(text), json!({"kind": "Pod", "spec": spec}));
        assert_eq!(read("{\"kind\": \"Pod\"}"), json!({"kind": "Pod"}));
        assert_eq!(read("a: &x {k: 1}\nb: *x\n"), json!({"a": {"k": 1}, "b": {"k": 1}}));
        assert_eq!(yaml_to_json(b"a: 1\na: 2\n").unwrap(), b"{\"a\":1,\"a\":2}");
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let last = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![last; 9].join(", "));
        }
        assert!(yaml_to_json(bomb.as_bytes()).is_err());
        // Few events, but each of them large.
        let large = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 2000].join(", "));
        assert!(yaml_to_json(large.as_bytes()).is_err());
        let deep = "[".repeat(100_000);
        assert!(yaml_to_json(deep.as_bytes()).is_err());
        let nested: String = (0..5000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert!(yaml_to_json(nested.as_bytes()).is_err());
        assert!(yaml_to_json(b"a: \xff").is_err());
        assert!(yaml_to_json(b"a: .nan").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[\\[\\]{}:,&*!|> a-c0-9\n\"'#%@`?-]{0,120}") {
            if let Ok(json) = yaml_to_json(text.as_bytes()) {
                prop_assert!(serde_json::from_slice::<Value>(&json).is_ok(), "{}", String::from_utf8_lossy(&json));
            }
        }
    }
}
