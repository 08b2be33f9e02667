//! Upstream's rules for names, keys and values; each function answers upstream's texts for what is wrong, none if all is well.
//!
//! Lengths are in "characters" or "bytes" exactly where upstream says so.

/// A rule for names: its complaints about one.
pub type Rule = fn(&str) -> Vec<String>;

const LABEL_1123: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_TEXT: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

fn regex_text(text: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    match examples.is_empty() {
        true => format!("{text} (regex used for validation is '{regex}')"),
        false => format!("{text} (e.g. {}regex used for validation is '{regex}')", examples.join(" or ")),
    }
}

fn max_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// `inner` everywhere, `edge` at both ends, not empty.
fn framed(s: &str, first: fn(u8) -> bool, inner: fn(u8) -> bool, last: fn(u8) -> bool) -> bool {
    match s.as_bytes() {
        [] => false,
        [only] => first(*only),
        [head, middle @ .., tail] => first(*head) && last(*tail) && middle.iter().all(|b| inner(*b)),
    }
}

fn is_label(s: &str) -> bool {
    framed(s, lower_alnum, |b| lower_alnum(b) || b == b'-', lower_alnum)
}

fn is_subdomain(s: &str) -> bool {
    s.split('.').all(is_label)
}

/// RFC 1123 label.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut errs = Vec::new();
    if value.len() > 63 {
        errs.push(max_characters(63));
    }
    if !is_label(value) {
        errs.push(if is_subdomain(value) {
            "must not contain dots".to_string()
        } else {
            regex_text(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL_1123,
                &["my-name", "123-abc"],
            )
        });
    }
    errs
}

/// RFC 1123 subdomain.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errs = Vec::new();
    if value.len() > 253 {
        errs.push(max_characters(253));
    }
    if !is_subdomain(value) {
        errs.push(regex_text(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            &format!("{LABEL_1123}(\\.{LABEL_1123})*"),
            &["example.com"],
        ));
    }
    errs
}

/// RFC 1123 subdomain that may start with `*.`.
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut errs = Vec::new();
    if value.len() > 253 {
        errs.push(max_characters(253));
    }
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        errs.push(regex_text(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{LABEL_1123}(\\.{LABEL_1123})*"),
            &["*.example.com"],
        ));
    }
    errs
}

/// RFC 1035 label.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut errs = Vec::new();
    if value.len() > 63 {
        errs.push(max_characters(63));
    }
    if !framed(value, |b| b.is_ascii_lowercase(), |b| lower_alnum(b) || b == b'-', lower_alnum) {
        errs.push(regex_text(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errs
}

/// Something that can be one segment of a URL path.
pub fn path_segment(value: &str, prefix: bool) -> Vec<String> {
    if !prefix && (value == "." || value == "..") {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"].iter().filter(|bad| value.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

fn is_key(value: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    framed(value, |b| b.is_ascii_alphanumeric(), inner, |b| b.is_ascii_alphanumeric())
}

/// A label key, also called qualified name: `[prefix/]name`.
pub fn label_key(value: &str) -> Vec<String> {
    let examples = &["MyName", "my.name", "123-abc"];
    let mut errs = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                errs.push("prefix part must be non-empty".to_string());
            } else {
                let texts = dns1123_subdomain(prefix);
                errs.extend(
                    texts.into_iter().map(|t| format!("prefix part {}", t.replace("253 characters", "253 bytes"))),
                );
            }
            *name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_text(KEY_TEXT, KEY, examples)
            )];
        }
    };
    if name.is_empty() {
        errs.push("name part must be non-empty".to_string());
    } else if name.len() > 63 {
        errs.push("name part must be no more than 63 bytes".to_string());
    }
    if !is_key(name) {
        errs.push(format!("name part {}", regex_text(KEY_TEXT, KEY, examples)));
    }
    errs
}

/// A label value.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errs = Vec::new();
    if value.len() > 63 {
        errs.push("must be no more than 63 bytes".to_string());
    }
    if !value.is_empty() && !is_key(value) {
        errs.push(regex_text(
            &format!("a valid label must be an empty string or {}", KEY_TEXT.replacen("must consist", "consist", 1)),
            &format!("({KEY})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errs
}

/// The same rule under its other name.
pub fn qualified_name(value: &str) -> Vec<String> {
    label_key(value)
}

/// Whether a resource is an extended one: with a domain of its own, and no name of a quota's resource.
pub fn is_extended_resource(name: &str) -> bool {
    is_domain_qualified(name) && !name.starts_with("requests.") && label_key(&format!("requests.{name}")).is_empty()
}

/// Whether a resource has a domain that is not Kubernetes' own.
pub fn is_domain_qualified(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// A port number.
pub fn port_number(value: i64) -> Option<&'static str> {
    (!(1..=65535).contains(&value)).then_some("must be between 1 and 65535, inclusive")
}

/// The name of a container port.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errs = Vec::new();
    if value.len() > 15 {
        errs.push(max_characters(15));
    }
    if value.is_empty() || !value.bytes().all(|b| lower_alnum(b) || b == b'-') {
        errs.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_string());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        errs.push("must contain at least one letter (a-z)".to_string());
    }
    if value.contains("--") {
        errs.push("must not contain consecutive hyphens".to_string());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errs.push("must not begin or end with a hyphen".to_string());
    }
    errs
}

/// The key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut errs = Vec::new();
    if value.len() > 253 {
        errs.push(max_characters(253));
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        errs.push(regex_text(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." => errs.push("must not be '.'".to_string()),
        ".." => errs.push("must not be '..'".to_string()),
        _ if value.starts_with("..") => errs.push("must not start with '..'".to_string()),
        _ => {}
    }
    errs
}

/// The name of an environment variable.
pub fn env_name(value: &str) -> Vec<String> {
    let mut errs = Vec::new();
    if value.is_empty() {
        errs.push("environment variable name must be non-empty".to_string());
    }
    if !value.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        errs.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_string(),
        );
    }
    errs
}

/// The name of an HTTP header.
pub fn http_header(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![regex_text(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// `25%`.
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    let text = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_text(text, "[0-9]+%", &["1%", "93%"])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_complain_as_upstream() {
        let cases: &[(Vec<String>, &[&str])] = &[
            (dns1123_subdomain("a.b-c"), &[]),
            (
                dns1123_subdomain("A_b"),
                &[
                    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                dns1123_label("A"),
                &[
                    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (dns1123_label("a.b"), &["must not contain dots"]),
            (path_segment("..", false), &["may not be '..'"]),
            (path_segment("a/b%", false), &["may not contain '/'", "may not contain '%'"]),
            (label_key("example.com/x"), &[]),
            (label_value(""), &[]),
            (
                label_value("a b"),
                &[
                    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ],
            ),
            (percent("25%"), &[]),
        ];
        for (got, want) in cases {
            assert_eq!(got, want);
        }
    }

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
}
