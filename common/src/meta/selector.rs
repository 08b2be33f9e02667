//! Label and field selectors: upstream's text grammar, metav1 form, and matching.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as MetaSelector;

use super::names;

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// One of the values.
    In,
    /// None of the values, or no such label.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// A larger integer.
    GreaterThan,
    /// A smaller integer.
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
    /// Sorted values; none for `Exists` and `DoesNotExist`.
    pub values: Vec<String>,
}

impl Requirement {
    /// A checked requirement.
    ///
    /// # Errors
    /// Everything that is wrong with it, in upstream's words.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, String> {
        values.sort();
        values.dedup();
        let mut errors = Vec::new();
        errors.extend(invalid("key", key, &names::label_key(key)));
        let list = format!("[{}]", values.join(" "));
        let mut misfit = |detail: &str| errors.push(format!("values: Invalid value: {list}: {detail}"));
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                misfit("for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                misfit("values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    misfit("for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (index, value) in values.iter().enumerate().filter(|(_, value)| value.parse::<i64>().is_err()) {
                    let detail = "for 'Gt', 'Lt' operators, the value must be an integer".to_owned();
                    errors.extend(invalid(&format!("values[{index}]"), value, &[detail]));
                }
            }
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            errors.extend(invalid(&format!("values[{index}][{key}]"), value, &names::label_value(value)));
        }
        let mut told = Vec::with_capacity(errors.len());
        for error in errors {
            if !told.contains(&error) {
                told.push(error);
            }
        }
        match told.as_slice() {
            [] => Ok(Self { key: key.to_owned(), operator, values }),
            [error] => Err(error.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|known| known == value);
        match (self.operator, value) {
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::In, value) => value.is_some_and(listed),
            (Operator::NotIn, value) => !value.is_some_and(listed),
            (Operator::GreaterThan | Operator::LessThan, None) => false,
            (operator, Some(value)) => {
                match (value.parse::<i64>(), self.values.first().map(|bound| bound.parse::<i64>())) {
                    (Ok(value), Some(Ok(bound))) if operator == Operator::GreaterThan => value > bound,
                    (Ok(value), Some(Ok(bound))) => value < bound,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let values = self.values.join(",");
        match self.operator {
            Operator::Exists => write!(formatter, "{key}"),
            Operator::DoesNotExist => write!(formatter, "!{key}"),
            Operator::In if self.values.len() == 1 => write!(formatter, "{key}={values}"),
            Operator::In => write!(formatter, "{key} in ({values})"),
            Operator::NotIn if self.values.len() == 1 => write!(formatter, "{key}!={values}"),
            Operator::NotIn => write!(formatter, "{key} notin ({values})"),
            Operator::GreaterThan => write!(formatter, "{key}>{values}"),
            Operator::LessThan => write!(formatter, "{key}<{values}"),
        }
    }
}

/// One complaint about a field, made of all that is wrong with it.
fn invalid(field: &str, value: &str, wrong: &[String]) -> Option<String> {
    (!wrong.is_empty()).then(|| format!("{field}: Invalid value: {value:?}: {}", wrong.join("; ")))
}

/// A compiled label selector: all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    nothing: bool,
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { nothing: true, requirements: Vec::new() }
    }

    /// Parses `a=b,c!=d,e in (x,y),!f`; the empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, String> {
        let requirements = super::selector::parser::parse(text)?;
        Ok(Self { nothing: false, requirements })
    }

    /// Compiles the metav1 form: none selects nothing, an empty one everything.
    pub fn from_meta(selector: Option<&MetaSelector>) -> Result<Self, String> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::In, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            requirements.push(Requirement::new(
                &expression.key,
                operator,
                expression.values.clone().unwrap_or_default(),
            )?);
        }
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(Self { nothing: false, requirements })
    }

    /// Selects objects that carry all these labels (a Service's selector, a ReplicationController's).
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let requirement = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        };
        Self { nothing: false, requirements: labels.iter().map(requirement).collect() }
    }

    /// From checked requirements.
    pub fn from_requirements(requirements: Vec<Requirement>) -> Self {
        Self { nothing: false, requirements }
    }

    /// The requirements.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// As [`Self::matches`] for the optional map of `ObjectMeta`.
    pub fn matches_opt(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches_with(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
    }

    /// As [`Self::matches`] over any look-up.
    pub fn matches_with<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(lookup(&requirement.key)))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        formatter.write_str(&texts.join(","))
    }
}

/// A field selector: conjunction of `path=value` and `path!=value`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Path, whether it must be equal, value.
    pub terms: Vec<FieldTerm>,
}

/// One condition on one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    /// For example `spec.nodeName`.
    pub path: String,
    /// False for `!=`.
    pub equal: bool,
    /// The value; a missing field is the empty text.
    pub value: String,
}

impl FieldSelector {
    /// Parses `a=b,c!=d`, with `\` before `\`, `,` and `=` in values.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = split_unescaped(text);
        // The order of upstream's complaints.
        parts.sort_unstable();
        let mut terms = Vec::new();
        for term in parts.into_iter().filter(|term| !term.is_empty()) {
            let (path, equal, value) =
                split_term(term).ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"))?;
            terms.push(FieldTerm { path: path.to_owned(), equal, value: unescape(value)? });
        }
        Ok(Self { terms })
    }

    /// Whether an object whose fields `lookup` tells is selected.
    pub fn matches_with<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|term| (lookup(&term.path).unwrap_or_default() == term.value) == term.equal)
    }

    /// The value that a field must have, if the selector pins it.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.path == path).map(|term| term.value.as_str())
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            let operator = if term.equal { "=" } else { "!=" };
            write!(formatter, "{}{}{operator}{value}", if index > 0 { "," } else { "" }, term.path)?;
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (index, byte) in text.bytes().enumerate() {
        if byte == b',' && !escaped {
            parts.push(&text[start..index]);
            start = index + 1;
        }
        escaped = byte == b'\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (index, _) in term.char_indices() {
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = term[index..].strip_prefix(operator) {
                return Some((&term[..index], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                other => {
                    return Err(format!(
                        "invalid field selector: invalid escape sequence: \\{}",
                        other.map(String::from).unwrap_or_default()
                    ));
                }
            },
            // Upstream tells the number of the character.
            '=' | ',' => {
                return Err(format!("invalid field selector: unescaped character in value: {}", u32::from(char)));
            }
            _ => plain.push(char),
        }
    }
    Ok(plain)
}

#[path = "selector_parser.rs"]
mod parser;

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn parses_prints_and_matches_as_upstream() {
        let web = labels(&[("app", "web"), ("tier", "5")]);
        for (text, printed, want) in [
            ("", "", true),
            ("app=web", "app=web", true),
            ("app==web", "app=web", true),
            ("app = web , tier", "app=web,tier", true),
            ("app!=web", "app!=web", false),
            ("other!=x", "other!=x", true),
            ("app in (b, web,a)", "app in (a,b,web)", true),
            ("app notin (a,web)", "app notin (a,web)", false),
            ("!app", "!app", false),
            ("!missing,app", "!missing,app", true),
            ("tier>4", "tier>4", true),
            ("tier<4", "tier<4", false),
            ("app=", "app=", false),
            ("example.com/x in (),app", "example.com/x=,app", false),
        ] {
            let selector = LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((selector.to_string().as_str(), selector.matches(&web)), (printed, want), "{text}");
        }
    }

    #[test]
    fn errors_are_upstreams() {
        for (text, want) in [
            ("app in web", "unable to parse requirement: found 'web' expected: '('"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("a===b", "unable to parse requirement: found '=', expected: identifier"),
            ("a in (b,=)", "unable to parse requirement: found '=', expected: ',', or identifier"),
            ("a in (=)", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            (
                "a=_,b",
                "unable to parse requirement: values[0][a]: Invalid value: \"_\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
            (
                "a/b/c in nothing",
                "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
            ),
            (
                "a>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            ("a=b,", "found '', expected: identifier after ','"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap_err(), want, "{text}");
        }
    }

    #[test]
    fn meta_form_none_is_nothing_and_empty_is_everything() {
        let any = labels(&[("a", "b")]);
        assert!(!LabelSelector::from_meta(None).unwrap().matches(&any));
        assert!(LabelSelector::from_meta(Some(&MetaSelector::default())).unwrap().matches(&any));
    }

    #[test]
    fn fields_match_missing_as_empty() {
        let selector = FieldSelector::parse("spec.nodeName=,status.phase!=Failed,a=x\\,y").unwrap();
        assert!(selector.matches_with(|path| (path == "a").then_some("x,y")));
        assert!(!selector.matches_with(|path| (path == "status.phase").then_some("Failed")));
        assert_eq!(selector.exact("a"), Some("x,y"));
        assert_eq!(selector.to_string(), "a=x\\,y,spec.nodeName=,status.phase!=Failed", "in upstream's order");
        for (text, want) in [
            ("oops", "invalid selector: 'oops'; can't understand 'oops'"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
            ("a=\\x", "invalid field selector: invalid escape sequence: \\x"),
            ("a=\\", "invalid field selector: invalid escape sequence: \\"),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap_err(), want);
        }
    }
}
