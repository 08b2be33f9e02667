use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn value(text: &str) -> Value {
    read(text.as_bytes()).unwrap().value
}

#[test]
fn documents_are_what_they_say() {
    let text = "# a comment\nkind: Pod\nspec:\n  list: [1, -2, 1.5, true, null, ~, \"1\"]\n  mode: 0644\n  80: port\n  text: |\n    a\n    b\n";
    let spec = json!({"list": [1, -2, 1.5, true, null, null, "1"], "mode": 420, "80": "port", "text": "a\nb\n"});
    assert_eq!(value(text), json!({"kind": "Pod", "spec": spec}));
    assert_eq!(value("{\"kind\": \"Pod\"}"), json!({"kind": "Pod"}));
    assert_eq!(value("a: &x {k: 1}\nb: *x\n"), json!({"a": {"k": 1}, "b": {"k": 1}}));
    for first in
        ["a: 1\n---\nb: 2", "--- # x\na: 1\n--- b", "%YAML 1.1\n---\na: 1\n...\nfoo", "# x\n\n---\na: 1\n---\n"]
    {
        assert_eq!(value(first), json!({"a": 1}), "{first}");
    }
    assert_eq!(value("a: |\n  ---\n  b\n"), json!({"a": "---\nb\n"}));
}

#[test]
fn keys_that_occur_twice_are_told_with_their_lines() {
    let yaml = "a: 1\nb:\n  c: x\n  d:\n  - e: 1\n    e: 2\n  c: z\n2: true\n";
    let read = read(yaml.as_bytes()).unwrap();
    assert_eq!(read.value, json!({"a": 1, "b": {"c": "z", "d": [{"e": 2}]}, "2": true}));
    assert_eq!(read.twice, ["line 6: key \"e\" already set in map", "line 7: key \"c\" already set in map"]);
    assert_eq!(
        read.strict_error(),
        "yaml: unmarshal errors:\n  line 6: key \"e\" already set in map\n  line 7: key \"c\" already set in map"
    );
}

#[test]
fn errors_have_upstreams_words() {
    for (text, error) in [
        ("{", "yaml: line 1: did not find expected node content"),
        ("a: {b: 1\n", "yaml: line 1: did not find expected ',' or '}'"),
        ("[a, b", "yaml: line 1: did not find expected ',' or ']'"),
        ("a: [1\nb: 2", "yaml: line 1: did not find expected ',' or ']'"),
        ("{a: 1, , b}", "yaml: did not find expected node content"),
        ("a: ]", "yaml: did not find expected node content"),
        ("- a\nb: 1", "yaml: line 1: did not find expected '-' indicator"),
        ("a: 1\n- b", "yaml: line 1: did not find expected key"),
        ("a:\n\tb: 1", "yaml: line 2: found character that cannot start any token"),
        ("a: @x", "yaml: found character that cannot start any token"),
        ("a: \"x", "yaml: found unexpected end of stream"),
        ("a: \"\\q\"", "yaml: found unknown escape character"),
        ("a: |x\n b", "yaml: did not find expected comment or line break"),
        ("a: b: c", "yaml: mapping values are not allowed in this context"),
        ("a: *b", "yaml: unknown anchor 'b' referenced"),
        ("a: &a [*a]", "yaml: anchor 'a' value contains itself"),
        ("a: !!binary x", "yaml: !!binary value contains invalid base64 data"),
        ("a: 0x1\n<<: 3", "yaml: map merge requires map or sequence of maps as the value"),
        ("a: .inf", "json: unsupported value: +Inf"),
        ("a: .nan", "json: unsupported value: NaN"),
    ] {
        assert_eq!(read(text.as_bytes()).unwrap_err(), error, "{text}");
    }
}

#[test]
fn bombs_are_refused() {
    let excessive = "yaml: document contains excessive aliasing";
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let last = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![last; 9].join(", "));
    }
    assert_eq!(read(bomb.as_bytes()).unwrap_err(), excessive);
    // Few events, but each of them large.
    let large = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 2000].join(", "));
    assert_eq!(read(large.as_bytes()).unwrap_err(), excessive);
    assert!(read("[".repeat(100_000).as_bytes()).is_err());
    let nested: String = (0..5000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(read(nested.as_bytes()).is_err());
    assert!(read(b"a: \xff").is_err());
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "[\\[\\]{}:,&*!|> a-c0-9\n\"'#%@`?-]{0,120}") {
        let _ = read(text.as_bytes());
    }
}
