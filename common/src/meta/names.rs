//! Upstream's rules for names, keys and values; each function answers upstream's texts for what is wrong, none if all is well.

fn regex_error(message: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    let quoted: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{format}')", quoted.join(" or "))
}

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Starts and ends with `edge`, and all bytes are `edge` or in `inner`.
fn shaped(value: &str, edge: fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = value.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    edge(*first) && edge(*last) && bytes.iter().all(|byte| edge(*byte) || inner.contains(byte))
}

const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

/// RFC 1123 label (namespaces, containers, ports of services).
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(too_long(63));
    }
    if !shaped(value, is_lower_alphanumeric, b"-") {
        if !dns1123_subdomain(value).is_empty() || !value.contains('.') {
            let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
            errors.push(regex_error(message, LABEL_FORMAT, &["my-name", "123-abc"]));
        } else {
            errors.push("must not contain dots".into());
        }
    }
    errors
}

/// RFC 1123 subdomain (most object names).
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 253 {
        errors.push(too_long(253));
    }
    if !value.split('.').all(|label| shaped(label, is_lower_alphanumeric, b"-")) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        errors.push(regex_error(message, &format!("{LABEL_FORMAT}(\\.{LABEL_FORMAT})*"), &["example.com"]));
    }
    errors
}

/// RFC 1035 label (Service names).
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(too_long(63));
    }
    if !(shaped(value, is_lower_alphanumeric, b"-") && value.starts_with(|char: char| char.is_ascii_lowercase())) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        errors.push(regex_error(message, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    errors
}

const KEY_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// `[prefix/]name`, as keys of labels, annotations and finalizers are.
pub fn label_key(value: &str) -> Vec<String> {
    let examples = ["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".into());
            } else {
                errors.extend(dns1123_subdomain(prefix).into_iter().map(|error| format!("prefix part {error}")));
            }
            name
        }
        _ => {
            let error = regex_error(KEY_MESSAGE, KEY_FORMAT, &examples);
            return vec![format!(
                "a valid label key {error} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", too_long(63)));
    }
    if !shaped(name, is_alphanumeric, b"-_.") {
        errors.push(format!("name part {}", regex_error(KEY_MESSAGE, KEY_FORMAT, &examples)));
    }
    errors
}

/// The same rule under its other name.
pub fn qualified_name(value: &str) -> Vec<String> {
    label_key(value)
}

/// The value of a label.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(too_long(63));
    }
    if !value.is_empty() && !shaped(value, is_alphanumeric, b"-_.") {
        let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
        errors.push(regex_error(message, &format!("({KEY_FORMAT})?"), &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 253 {
        errors.push("must be no more than 253 characters".into());
    }
    if value.is_empty() || !value.bytes().all(|byte| is_alphanumeric(byte) || b"-._".contains(&byte)) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(regex_error(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match value {
        "." => errors.push("must not be '.'".into()),
        ".." => errors.push("must not be '..'".into()),
        _ if value.starts_with("..") => errors.push("must not start with '..'".into()),
        _ => {}
    }
    errors
}

/// The name of a container port.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 15 {
        errors.push("must be no more than 15 characters".into());
    }
    if value.is_empty() || !value.bytes().all(|byte| is_lower_alphanumeric(byte) || byte == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|byte| byte.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// A segment of a URL path (names of RBAC objects).
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"].iter().filter(|bad| value.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_refuses_as_upstream() {
        type Rule = fn(&str) -> Vec<String>;
        let rules: [(Rule, &[&str], &[&str]); 6] = [
            (dns1123_label, &["a", "0a", "a-b"], &["", "A", "-a", "a-", "a.b", "a_b"]),
            (dns1123_subdomain, &["a", "a.b-c.d0"], &["", "a..b", ".a", "A.b", "a_b"]),
            (dns1035_label, &["a", "a0"], &["0a", "a-", ""]),
            (label_key, &["a", "A_b.c", "example.com/x"], &["", "/a", "a/", "a/b/c", "-a", "Example.com/x"]),
            (label_value, &["", "a", "A_b.c"], &["-", "a b", "é"]),
            (port_name, &["http", "a-1"], &["80", "a--b", "-a", "abcdefghijklmnop", "A"]),
        ];
        for (rule, good, bad) in rules {
            good.iter().for_each(|value| assert_eq!(rule(value), Vec::<String>::new(), "{value}"));
            bad.iter().for_each(|value| assert!(!rule(value).is_empty(), "{value}"));
        }
    }

    #[test]
    fn texts_are_upstreams() {
        assert_eq!(
            dns1123_subdomain("A"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
    }
}
