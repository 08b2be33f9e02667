//! Label and field selectors of a query string, compiled for the watch cache.

use std::sync::Arc;

use super::{ApiError, ApiResult};
use crate::{
    resources::Strategy,
    storage::cache::{FieldRequirement, LabelMatcher, Labels, Selection},
};

/// One term of a label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

impl Term {
    fn matches<'a>(&self, get: &dyn Fn(&str) -> Option<&'a str>) -> bool {
        let number = |key: &str| get(key).and_then(|v| v.parse::<i64>().ok());
        match self {
            Self::In(key, values) => get(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Self::NotIn(key, values) => get(key).is_none_or(|v| values.iter().all(|w| w != v)),
            Self::Exists(key) => get(key).is_some(),
            Self::Absent(key) => get(key).is_none(),
            Self::Greater(key, bound) => number(key).is_some_and(|v| v > *bound),
            Self::Less(key, bound) => number(key).is_some_and(|v| v < *bound),
        }
    }
}

/// Compiles a label selector; `None` when it selects everything.
///
/// # Errors
/// 400 with upstream's text.
pub fn labels(text: &str) -> ApiResult<Option<LabelMatcher>> {
    let terms = parse_labels(text).map_err(|e| ApiError::bad_request(format!("unable to parse requirement: {e}")))?;
    if terms.is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(move |labels: &Labels| terms.iter().all(|t| t.matches(&|key| labels.get(key))))))
}

fn parse_labels(text: &str) -> Result<Vec<Term>, String> {
    split_terms(text).into_iter().map(parse_term).collect()
}

/// Splits at commas outside parentheses.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut terms) = (0i32, 0, Vec::new());
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(text[start..index].trim());
                start = index + 1;
            }
            _ => {}
        }
    }
    let last = text[start..].trim();
    if !last.is_empty() || !terms.is_empty() {
        terms.push(last);
    }
    terms
}

fn parse_term(term: &str) -> Result<Term, String> {
    if let Some(key) = term.strip_prefix('!') {
        return Ok(Term::Absent(label_key(key)?));
    }
    for (operator, negate) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = term.split_once(operator) {
            let (key, value) = (label_key(key)?, label_value(value)?);
            return Ok(if negate { Term::NotIn(key, vec![value]) } else { Term::In(key, vec![value]) });
        }
    }
    for (operator, greater) in [('>', true), ('<', false)] {
        if let Some((key, value)) = term.split_once(operator) {
            let bound = value
                .trim()
                .parse()
                .map_err(|_| "for 'Gt', 'Lt' operators, the value must be an integer".to_owned())?;
            let key = label_key(key)?;
            return Ok(if greater { Term::Greater(key, bound) } else { Term::Less(key, bound) });
        }
    }
    let Some((key, rest)) = term.split_once(char::is_whitespace) else {
        return Ok(Term::Exists(label_key(term)?));
    };
    let rest = rest.trim();
    let (negate, list) = match rest.strip_prefix("notin") {
        Some(list) => (true, list),
        None => match rest.strip_prefix("in") {
            Some(list) => (false, list),
            None => {
                let word = rest.split_whitespace().next().unwrap_or_default();
                return Err(format!("found '{word}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        },
    };
    let list = list.trim().strip_prefix('(').and_then(|l| l.strip_suffix(')'));
    let list = list.ok_or_else(|| format!("found '{rest}' expected: '('"))?;
    let values = list.split(',').map(label_value).collect::<Result<Vec<_>, _>>()?;
    let key = label_key(key)?;
    Ok(if negate { Term::NotIn(key, values) } else { Term::In(key, values) })
}

fn label_key(text: &str) -> Result<String, String> {
    let key = text.trim();
    let name = key.rsplit('/').next().unwrap_or_default();
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if name.len() > 63 || !inner || !edge(name.chars().next()) || !edge(name.chars().last()) {
        return Err(format!(
            "key: Invalid value: {key:?}: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        ));
    }
    Ok(key.to_owned())
}

fn label_value(text: &str) -> Result<String, String> {
    let value = text.trim();
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let inner = value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if value.len() > 63 || !inner || !edge(value.chars().next()) || !edge(value.chars().last()) {
        return Err(format!(
            "values[0][]: Invalid value: {value:?}: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        ));
    }
    Ok(value.to_owned())
}

/// Compiles a field selector. `stored` gives the stored form's name of a field of the request's version, or `None` when
/// that version does not have it.
///
/// # Errors
/// 400 for malformed terms and for fields that the kind does not offer.
pub fn fields(
    text: &str,
    strategy: &dyn Strategy,
    stored: impl Fn(&str) -> Option<String>,
) -> ApiResult<Vec<FieldRequirement>> {
    let mut terms = Vec::new();
    for term in split_escaped(text) {
        let (field, value, equal) = split_operator(&term)
            .ok_or_else(|| ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{term}'")))?;
        let known = strategy.field_labels();
        let Some(label) = stored(field).filter(|label| known.contains(&label.as_str())) else {
            let special = known.len() > 2;
            return Err(ApiError::bad_request(if special {
                format!("field label not supported: {field}")
            } else {
                format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
            }));
        };
        terms.push(FieldRequirement { field: label, value: unescape(value), equal });
    }
    Ok(terms)
}

fn split_escaped(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let escaped = chars.next();
                terms.last_mut().into_iter().for_each(|t| {
                    t.push('\\');
                    t.extend(escaped);
                });
            }
            ',' => terms.push(String::new()),
            c => terms.last_mut().into_iter().for_each(|t| t.push(c)),
        }
    }
    terms.retain(|t| !t.is_empty());
    terms
}

fn split_operator(term: &str) -> Option<(&str, &str, bool)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((field, value, false));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((field, value, true))
}

fn unescape(value: &str) -> String {
    value.replace("\\,", ",").replace("\\=", "=").replace("\\\\", "\\")
}

/// Everything that a list or watch selects by; `stored` as for [`fields`].
///
/// # Errors
/// 400.
pub fn selection(
    namespace: &str,
    label_selector: &str,
    field_selector: &str,
    strategy: &dyn Strategy,
    stored: impl Fn(&str) -> Option<String>,
) -> ApiResult<Selection> {
    let mut fields = fields(field_selector, strategy, stored)?;
    let name = fields.iter().position(|t| t.equal && t.field == "metadata.name").map(|at| fields.remove(at).value);
    Ok(Selection {
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        name,
        labels: labels(label_selector)?,
        fields,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, set: &[(&str, &str)]) -> bool {
        let terms = parse_labels(selector).unwrap();
        let set = Labels::new(set.iter().map(|(k, v)| ((*k).into(), (*v).into())));
        terms.iter().all(|t| t.matches(&|key| set.get(key)))
    }

    #[test]
    fn label_selectors_match_as_upstream() {
        let set = [("app", "web"), ("tier", "1"), ("a.b/c", "x")];
        for (selector, want) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=1", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("app in (web, db)", true),
            ("app notin (web)", false),
            ("missing notin (a)", true),
            ("a.b/c", true),
            ("!a.b/c", false),
            ("!missing", true),
            ("tier>0", true),
            ("tier<1", false),
        ] {
            assert_eq!(matches(selector, &set), want, "{selector}");
        }
        for bad in ["app=we b", "a b c", "=x", "app in web"] {
            assert!(parse_labels(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_terms_split() {
        assert_eq!(split_operator("a.b=c"), Some(("a.b", "c", true)));
        assert_eq!(split_operator("a!=c"), Some(("a", "c", false)));
        assert_eq!(split_operator("a==c"), Some(("a", "c", true)));
        assert_eq!(split_operator("a"), None);
        assert_eq!(split_escaped("a=b\\,c,d=e"), ["a=b\\,c", "d=e"]);
    }
}
