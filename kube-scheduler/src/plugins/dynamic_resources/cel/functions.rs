//! The functions and operators of expressions: CEL's own, and Kubernetes' libraries as far as devices need them.

use std::cmp::Ordering;
use std::sync::Arc;

use cel::common::ast::operators as op;
use common::meta::Quantity;
use semver::Version;

use super::eval::{Fault, Outcome, member, optional_member};
use super::value::Value;

/// What a function yields, as far as compiling needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Surely a bool.
    Bool,
    /// Surely something else.
    Other(&'static str),
    /// Only evaluation can tell.
    Unknown,
}

const INT: Kind = Kind::Other("int");
const STRING: Kind = Kind::Other("string");
const LIST: Kind = Kind::Other("list");
const QUANTITY: Kind = Kind::Other("kubernetes.Quantity");

/// Every function by name, with what it yields.
const FUNCTIONS: &[(&str, Kind)] = &[
    (op::LOGICAL_AND, Kind::Bool),
    (op::LOGICAL_OR, Kind::Bool),
    (op::LOGICAL_NOT, Kind::Bool),
    (op::NOT_STRICTLY_FALSE, Kind::Bool),
    (op::CONDITIONAL, Kind::Unknown),
    (op::EQUALS, Kind::Bool),
    (op::NOT_EQUALS, Kind::Bool),
    (op::LESS, Kind::Bool),
    (op::LESS_EQUALS, Kind::Bool),
    (op::GREATER, Kind::Bool),
    (op::GREATER_EQUALS, Kind::Bool),
    (op::IN, Kind::Bool),
    (op::ADD, Kind::Unknown),
    (op::SUBSTRACT, Kind::Unknown),
    (op::MULTIPLY, Kind::Unknown),
    (op::DIVIDE, Kind::Unknown),
    (op::MODULO, Kind::Unknown),
    (op::NEGATE, Kind::Unknown),
    (op::INDEX, Kind::Unknown),
    (op::OPT_INDEX, Kind::Unknown),
    (op::OPT_SELECT, Kind::Unknown),
    ("bind", Kind::Unknown),
    ("size", INT),
    ("int", INT),
    ("uint", Kind::Other("uint")),
    ("double", Kind::Other("double")),
    ("string", STRING),
    ("bool", Kind::Bool),
    ("dyn", Kind::Unknown),
    ("type", Kind::Other("type")),
    ("matches", Kind::Bool),
    ("find", STRING),
    ("findAll", LIST),
    ("contains", Kind::Bool),
    ("startsWith", Kind::Bool),
    ("endsWith", Kind::Bool),
    ("lowerAscii", STRING),
    ("upperAscii", STRING),
    ("trim", STRING),
    ("replace", STRING),
    ("split", LIST),
    ("join", STRING),
    ("substring", STRING),
    ("charAt", STRING),
    ("indexOf", INT),
    ("lastIndexOf", INT),
    ("isSorted", Kind::Bool),
    ("sum", Kind::Unknown),
    ("min", Kind::Unknown),
    ("max", Kind::Unknown),
    ("quantity", QUANTITY),
    ("isQuantity", Kind::Bool),
    ("sign", INT),
    ("isInteger", Kind::Bool),
    ("asInteger", INT),
    ("asApproximateFloat", Kind::Other("double")),
    ("add", QUANTITY),
    ("sub", QUANTITY),
    ("semver", Kind::Other("kubernetes.Semver")),
    ("isSemver", Kind::Bool),
    ("major", INT),
    ("minor", INT),
    ("patch", INT),
    ("compareTo", INT),
    ("isGreaterThan", Kind::Bool),
    ("isLessThan", Kind::Bool),
    ("orValue", Kind::Unknown),
    ("or", Kind::Unknown),
    ("hasValue", Kind::Bool),
    ("value", Kind::Unknown),
    ("of", Kind::Unknown),
    ("none", Kind::Unknown),
];

/// What a function yields; `None` when there is no such function.
pub fn kind_of(name: &str) -> Option<Kind> {
    FUNCTIONS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

/// The type that a name stands for.
pub fn type_named(name: &str) -> Option<&'static str> {
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"]
        .into_iter()
        .find(|known| *known == name)
}

/// Calls a function; with `method`, the first value is what it is called on.
pub fn apply(name: &str, method: bool, values: &[Value]) -> Outcome {
    use Value::{Bool, Bytes, Double, Int, List, Map, Optional, Semver, String, Uint};
    let missing = || Fault::overload(name);
    let outcome = match (name, values) {
        (op::EQUALS, [a, b]) => Bool(a == b),
        (op::NOT_EQUALS, [a, b]) => Bool(a != b),
        (op::LESS, [a, b]) => Bool(a.compare(b).ok_or_else(missing)? == Ordering::Less),
        (op::LESS_EQUALS, [a, b]) => Bool(a.compare(b).ok_or_else(missing)? != Ordering::Greater),
        (op::GREATER, [a, b]) => Bool(a.compare(b).ok_or_else(missing)? == Ordering::Greater),
        (op::GREATER_EQUALS, [a, b]) => Bool(a.compare(b).ok_or_else(missing)? != Ordering::Less),
        (op::LOGICAL_NOT, [Bool(a)]) => Bool(!a),
        (op::IN, [key, Map(map)]) => Bool(map.entry(key).is_some()),
        (op::IN, [item, List(list)]) => Bool(list.contains(item)),
        (op::INDEX, [of, key]) => member(of, key)?,
        (op::OPT_INDEX | op::OPT_SELECT, [of, key]) => optional_member(Some(of), key),
        (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO | op::NEGATE, _) => arithmetic(name, values)?,
        ("size", [String(text)]) => Int(text.chars().count() as i64),
        ("size", [Bytes(bytes)]) => Int(bytes.len() as i64),
        ("size", [List(list)]) => Int(list.len() as i64),
        ("size", [Map(map)]) => Int(map.entries.len() as i64),
        ("type", [value]) => Value::Type(value.type_name()),
        ("dyn", [value]) => value.clone(),
        ("int" | "uint" | "double" | "string" | "bool", [value]) if !method => convert(name, value)?,
        ("of", [_, value]) | ("of", [value]) => Optional(Some(Arc::new(value.clone()))),
        ("none", _) => Optional(None),
        ("hasValue", [Optional(inner)]) => Bool(inner.is_some()),
        ("value", [Optional(Some(inner))]) => (**inner).clone(),
        ("value", [Optional(None)]) => return Err(Fault::Value("optional.none() dereference".into())),
        ("orValue", [Optional(inner), other]) => inner.as_deref().unwrap_or(other).clone(),
        ("or", [Optional(None), other @ Optional(_)]) => other.clone(),
        ("or", [some @ Optional(Some(_)), Optional(_)]) => some.clone(),
        ("quantity", [String(text)]) => {
            Value::Quantity(text.parse().map_err(|error| Fault::Value(format!("{error}")))?)
        }
        ("isQuantity", [String(text)]) => Bool(text.parse::<Quantity>().is_ok()),
        ("semver" | "isSemver", [String(text), rest @ ..]) => semantic_version(name, text, rest)?,
        ("major", [Semver(version)]) => Int(version.major as i64),
        ("minor", [Semver(version)]) => Int(version.minor as i64),
        ("patch", [Semver(version)]) => Int(version.patch as i64),
        ("compareTo", [a, b]) => Int(ordered(a, b).ok_or_else(missing)? as i64),
        ("isGreaterThan", [a, b]) => Bool(ordered(a, b).ok_or_else(missing)? == Ordering::Greater),
        ("isLessThan", [a, b]) => Bool(ordered(a, b).ok_or_else(missing)? == Ordering::Less),
        (_, [Value::Quantity(a), rest @ ..]) => quantity(name, *a, rest)?,
        (_, [String(text), rest @ ..]) if method => text_function(name, text, rest)?,
        (_, [List(list), rest @ ..]) if method => list_function(name, list, rest)?,
        ("matches", [String(text), String(pattern)]) => Bool(regex(pattern)?.is_match(text)),
        ("abs", [Double(value)]) => Double(value.abs()),
        ("abs", [Uint(value)]) => Uint(*value),
        _ => return Err(missing()),
    };
    Ok(outcome)
}

fn arithmetic(name: &str, values: &[Value]) -> Outcome {
    use Value::{Bytes, Double, Int, List, String, Uint};
    let overflow = |kind: &str| Fault::Value(format!("{kind} overflow"));
    let zero = || Fault::Value(if name == op::MODULO { "modulus by zero" } else { "division by zero" }.into());
    Ok(match values {
        [Int(a), Int(b)] => Int(match name {
            op::ADD => a.checked_add(*b),
            op::SUBSTRACT => a.checked_sub(*b),
            op::MULTIPLY => a.checked_mul(*b),
            _ if *b == 0 => return Err(zero()),
            op::DIVIDE => a.checked_div(*b),
            _ => a.checked_rem(*b),
        }
        .ok_or_else(|| overflow("integer"))?),
        [Uint(a), Uint(b)] => Uint(
            match name {
                op::ADD => a.checked_add(*b),
                op::SUBSTRACT => a.checked_sub(*b),
                op::MULTIPLY => a.checked_mul(*b),
                _ if *b == 0 => return Err(zero()),
                op::DIVIDE => a.checked_div(*b),
                _ => a.checked_rem(*b),
            }
            .ok_or_else(|| overflow("unsigned integer"))?,
        ),
        [Double(a), Double(b)] => Double(match name {
            op::ADD => a + b,
            op::SUBSTRACT => a - b,
            op::MULTIPLY => a * b,
            op::DIVIDE => a / b,
            _ => return Err(Fault::overload(name)),
        }),
        [Int(a)] if name == op::NEGATE => Int(a.checked_neg().ok_or_else(|| overflow("integer"))?),
        [Double(a)] if name == op::NEGATE => Double(-a),
        [String(a), String(b)] if name == op::ADD => Value::text(&format!("{a}{b}")),
        [Bytes(a), Bytes(b)] if name == op::ADD => Bytes([&a[..], &b[..]].concat().into()),
        [List(a), List(b)] if name == op::ADD => Value::list(a.iter().chain(b.iter()).cloned().collect()),
        _ => return Err(Fault::overload(name)),
    })
}

fn convert(to: &str, value: &Value) -> Outcome {
    use Value::{Bool, Bytes, Double, Int, String, Uint};
    let range = || Fault::Value("range error".into());
    let parse = |text: &str| Fault::Value(format!("type conversion error from 'string' to '{to}': {text}"));
    Ok(match (to, value) {
        ("int", Int(_)) | ("uint", Uint(_)) | ("double", Double(_)) | ("string", String(_)) | ("bool", Bool(_)) => {
            value.clone()
        }
        ("int", Uint(number)) => Int(i64::try_from(*number).map_err(|_| range())?),
        ("int", Double(number)) if number.abs() < 9.2e18 => Int(*number as i64),
        ("int", String(text)) => Int(text.parse().map_err(|_| parse(text))?),
        ("uint", Int(number)) => Uint(u64::try_from(*number).map_err(|_| range())?),
        ("uint", Double(number)) if (0.0..1.8e19).contains(number) => Uint(*number as u64),
        ("uint", String(text)) => Uint(text.parse().map_err(|_| parse(text))?),
        ("int" | "uint", Double(_)) => return Err(range()),
        ("double", Int(number)) => Double(*number as f64),
        ("double", Uint(number)) => Double(*number as f64),
        ("double", String(text)) => Double(text.parse().map_err(|_| parse(text))?),
        ("string", Int(number)) => Value::text(&number.to_string()),
        ("string", Uint(number)) => Value::text(&number.to_string()),
        ("string", Double(number)) => Value::text(&number.to_string()),
        ("string", Bool(truth)) => Value::text(&truth.to_string()),
        ("string", Bytes(bytes)) => {
            Value::text(std::str::from_utf8(bytes).map_err(|_| Fault::Value("invalid UTF-8 in bytes".into()))?)
        }
        ("bool", String(text)) => match &**text {
            "true" | "True" | "TRUE" | "t" | "1" => Bool(true),
            "false" | "False" | "FALSE" | "f" | "0" => Bool(false),
            other => return Err(parse(other)),
        },
        _ => return Err(Fault::overload(to)),
    })
}

fn ordered(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Quantity(a), Value::Quantity(b)) => Some(a.cmp(b)),
        (Value::Semver(a), Value::Semver(b)) => Some(a.cmp_precedence(b)),
        _ => None,
    }
}

fn quantity(name: &str, mut amount: Quantity, rest: &[Value]) -> Outcome {
    let other = match rest {
        [] => None,
        [Value::Quantity(other)] => Some(*other),
        [Value::Int(other)] => Some(Quantity::new(*other, amount.format())),
        _ => return Err(Fault::overload(name)),
    };
    Ok(match (name, other) {
        ("sign", None) => Value::Int(i64::from(amount.sign())),
        ("isInteger", None) => Value::Bool(amount.as_i64().is_some()),
        ("asInteger", None) => {
            Value::Int(amount.as_i64().ok_or_else(|| Fault::Value("cannot convert value to integer".into()))?)
        }
        ("asApproximateFloat", None) => Value::Double(amount.as_f64()),
        ("add", Some(other)) => {
            amount.add(&other);
            Value::Quantity(amount)
        }
        ("sub", Some(other)) => {
            amount.sub(&other);
            Value::Quantity(amount)
        }
        _ => return Err(Fault::overload(name)),
    })
}

fn semantic_version(name: &str, text: &str, rest: &[Value]) -> Outcome {
    let normalized = match rest {
        [] | [Value::Bool(false)] => text.to_owned(),
        [Value::Bool(true)] => normalize(text),
        _ => return Err(Fault::overload(name)),
    };
    let parsed = Version::parse(&normalized);
    match (name, parsed) {
        ("isSemver", parsed) => Ok(Value::Bool(parsed.is_ok())),
        (_, Ok(version)) => Ok(Value::Semver(Arc::new(version))),
        (_, Err(error)) => Err(Fault::Value(error.to_string())),
    }
}

/// As upstream tolerates versions: a leading `v`, missing parts and leading zeros.
fn normalize(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut parts: Vec<String> = numbers
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0".to_owned(),
            stripped => stripped.to_owned(),
        })
        .collect();
    while parts.len() < 3 {
        parts.push("0".into());
    }
    format!("{}{rest}", parts.join("."))
}

fn regex(pattern: &str) -> Result<regex::Regex, Fault> {
    const LIMIT: usize = 1 << 20;
    regex::RegexBuilder::new(pattern)
        .size_limit(LIMIT)
        .build()
        .map_err(|error| Fault::Value(format!("error parsing regexp: {error}")))
}

fn text_function(name: &str, text: &str, rest: &[Value]) -> Outcome {
    use Value::{Bool, Int, String};
    let chars = || text.chars().collect::<Vec<_>>();
    let place = |at: &i64, length: usize| {
        usize::try_from(*at)
            .ok()
            .filter(|at| *at <= length)
            .ok_or_else(|| Fault::Value(format!("index out of range: {at}")))
    };
    let position = |found: Option<usize>| found.map_or(-1, |byte| text[..byte].chars().count() as i64);
    Ok(match (name, rest) {
        ("contains", [String(other)]) => Bool(text.contains(&**other)),
        ("startsWith", [String(other)]) => Bool(text.starts_with(&**other)),
        ("endsWith", [String(other)]) => Bool(text.ends_with(&**other)),
        ("matches", [String(pattern)]) => Bool(regex(pattern)?.is_match(text)),
        ("find", [String(pattern)]) => Value::text(regex(pattern)?.find(text).map_or("", |found| found.as_str())),
        ("findAll", [String(pattern)]) => {
            Value::list(regex(pattern)?.find_iter(text).map(|found| Value::text(found.as_str())).collect())
        }
        ("lowerAscii", []) => Value::text(&text.to_ascii_lowercase()),
        ("upperAscii", []) => Value::text(&text.to_ascii_uppercase()),
        ("trim", []) => Value::text(text.trim()),
        ("replace", [String(from), String(to)]) => Value::text(&text.replace(&**from, to)),
        ("replace", [String(from), String(to), Int(limit)]) => match usize::try_from(*limit) {
            Ok(limit) => Value::text(&text.replacen(&**from, to, limit)),
            Err(_) => Value::text(&text.replace(&**from, to)),
        },
        ("split", [String(at)]) => Value::list(text.split(&**at).map(Value::text).collect()),
        ("substring", [Int(from)]) => {
            let chars = chars();
            Value::text(&chars[place(from, chars.len())?..].iter().collect::<std::string::String>())
        }
        ("substring", [Int(from), Int(to)]) => {
            let chars = chars();
            let (from, to) = (place(from, chars.len())?, place(to, chars.len())?);
            if from > to {
                return Err(Fault::Value(format!("invalid substring range. start: {from}, end: {to}")));
            }
            Value::text(&chars[from..to].iter().collect::<std::string::String>())
        }
        ("charAt", [Int(at)]) => {
            let chars = chars();
            let at = place(at, chars.len())?;
            Value::text(&chars.get(at).map(ToString::to_string).unwrap_or_default())
        }
        ("indexOf", [String(other)]) => Int(position(text.find(&**other))),
        ("lastIndexOf", [String(other)]) => Int(position(text.rfind(&**other))),
        _ => return Err(Fault::overload(name)),
    })
}

fn list_function(name: &str, list: &[Value], rest: &[Value]) -> Outcome {
    use Value::{Bool, Int, String};
    let index = |found: Option<usize>| found.map_or(-1, |at| at as i64);
    let extreme = |wanted: Ordering| {
        let mut best = list.first().ok_or_else(|| Fault::Value(format!("{name} called on empty list")))?;
        for value in list {
            if value.compare(best).ok_or_else(|| Fault::overload(name))? == wanted {
                best = value;
            }
        }
        Ok::<_, Fault>(best.clone())
    };
    Ok(match (name, rest) {
        ("isSorted", []) => Bool(list.windows(2).all(|pair| pair[0].compare(&pair[1]) != Some(Ordering::Greater))),
        ("min", []) => extreme(Ordering::Less)?,
        ("max", []) => extreme(Ordering::Greater)?,
        ("sum", []) => match list {
            [] => Int(0),
            [first, others @ ..] => {
                others.iter().try_fold(first.clone(), |sum, value| arithmetic(op::ADD, &[sum, value.clone()]))?
            }
        },
        ("indexOf", [item]) => Int(index(list.iter().position(|other| other == item))),
        ("lastIndexOf", [item]) => Int(index(list.iter().rposition(|other| other == item))),
        ("join", separator @ ([] | [String(_)])) => {
            let separator = if let [String(text)] = separator { &**text } else { "" };
            let mut parts = Vec::with_capacity(list.len());
            for value in list {
                let String(text) = value else { return Err(Fault::overload(name)) };
                parts.push(&**text);
            }
            Value::text(&parts.join(separator))
        }
        _ => return Err(Fault::overload(name)),
    })
}
