//! Checks that many kinds share: numbers, percentages, label selectors, references.

use std::{collections::HashSet, hash::Hash};

use common::meta::ip;
use serde_json::Value;

use super::{
    field::{ErrorList, Path},
    metadata, names,
    quantity::Quantity,
    value::{at, int_at, list_at, map_at, str_at, strings_at},
};

/// Resources that are counted in whole numbers.
const COUNTED: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// Of each element, whether one before it has the same key.
pub(crate) fn repeats<'v, K: Eq + Hash>(items: &'v [Value], key: impl Fn(&'v Value) -> K) -> Vec<bool> {
    let mut seen = HashSet::with_capacity(items.len());
    items.iter().map(|item| !seen.insert(key(item))).collect()
}

/// What elements have in a field of text.
pub(crate) fn texts_of<'v>(items: impl IntoIterator<Item = &'v Value>, field: &str) -> HashSet<&'v str> {
    items.into_iter().map(|item| str_at(item, field)).collect()
}

/// Adds what a rule complains about.
pub(crate) fn complain(value: &str, texts: Vec<String>, path: &Path<'_>, errs: &mut ErrorList) {
    texts.into_iter().for_each(|text| errs.invalid(path, value, text));
}

/// An annotation of an object.
pub(crate) fn annotation<'a>(obj: &'a Value, key: &str) -> Option<&'a str> {
    at(obj, "metadata.annotations")?.get(key)?.as_str()
}

/// A label of an object.
pub(crate) fn label_of<'a>(obj: &'a Value, key: &str) -> Option<&'a str> {
    at(obj, "metadata.labels")?.get(key)?.as_str()
}

/// An address in a field that was once checked loosely: what was stored before stays valid.
pub(crate) fn legacy_ip(text: &str, known: &[Value], path: &Path<'_>, errs: &mut ErrorList) {
    if !known.iter().any(|k| k == text) {
        complain(text, ip::legacy_ip(text), path, errs);
    }
}

/// A range in a field that was once checked loosely: what was stored before stays valid.
pub(crate) fn legacy_cidr(text: &str, known: &[Value], path: &Path<'_>, errs: &mut ErrorList) {
    if !known.iter().any(|k| k == text) {
        complain(text, ip::legacy_cidr(text), path, errs);
    }
}

/// An address that traffic may be sent to.
pub(crate) fn endpoint_ip(text: &str, path: &Path<'_>, errs: &mut ErrorList) {
    complain(text, ip::not_an_endpoint(text), path, errs);
}

/// The amount of a resource: not negative, and whole where it is counted.
pub(crate) fn amount(resource: &str, text: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let Some(amount) = Quantity::parse(text) else { return };
    if amount.sign() < 0 {
        errs.invalid(path, text, "must be greater than or equal to 0");
    }
    if (COUNTED.contains(&resource) || names::is_extended_resource(resource)) && !amount.is_whole() {
        errs.invalid(path, text, "must be an integer");
    }
}

/// Complains about a negative integer at a dotted path of `obj`; `path` names the field.
pub(crate) fn non_negative(obj: &Value, at: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if let Some(number) = int_at(obj, at).filter(|n| *n < 0) {
        errs.invalid(path, number, "must be greater than or equal to 0");
    }
}

/// Several non-negative members of one object.
pub(crate) fn non_negative_all(obj: &Value, members: &[&str], path: &Path<'_>, errs: &mut ErrorList) {
    for member in members {
        non_negative(obj, member, &path.child(member), errs);
    }
}

/// A value out of a fixed set; empty is `Required`.
pub(crate) fn one_of(value: &str, supported: &[&str], path: &Path<'_>, errs: &mut ErrorList) {
    if value.is_empty() {
        errs.required(path, "");
    } else if !supported.contains(&value) {
        errs.not_supported(path, value, supported);
    }
}

/// A DNS label.
pub(crate) fn label(value: &str, path: &Path<'_>, errs: &mut ErrorList) {
    complain(value, names::dns1123_label(value), path, errs);
}

/// A DNS subdomain.
pub(crate) fn subdomain(value: &str, path: &Path<'_>, errs: &mut ErrorList) {
    complain(value, names::dns1123_subdomain(value), path, errs);
}

/// A domain name of at least two segments; a dot at the end is fine.
pub(crate) fn domain_name(value: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if value.is_empty() {
        return errs.required(path, "");
    }
    let name = value.strip_suffix('.').unwrap_or(value);
    let complaints = names::dns1123_subdomain(name);
    if !complaints.is_empty() {
        return errs.invalid(path, name, complaints.join(","));
    }
    if !name.contains('.') {
        return errs.invalid(path, name, "should be a domain with at least two segments separated by dots");
    }
    for label in name.split('.') {
        let complaints = names::dns1123_label(label);
        if !complaints.is_empty() {
            return errs.invalid(path, label, complaints.join(","));
        }
    }
}

/// A path that starts with a domain, as `example.com/foo`.
pub(crate) fn domain_prefixed_path(value: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if value.is_empty() {
        return errs.required(path, "");
    }
    let Some((host, rest)) = value.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) else {
        return errs.invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    complain(host, names::dns1123_subdomain(host), path, errs);
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(legal) {
        let regex = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
        errs.invalid(path, rest, format!("Invalid path (regex used for validation is '{regex}')"));
    }
}

/// A qualified name.
pub(crate) fn qualified(value: &str, path: &Path<'_>, errs: &mut ErrorList) {
    complain(value, names::label_key(value), path, errs);
}

/// A port number.
pub(crate) fn port(value: i64, path: &Path<'_>, errs: &mut ErrorList) {
    if let Some(text) = names::port_number(value) {
        errs.invalid(path, value, text);
    }
}

/// A port number or the name of a container port.
pub(crate) fn port_or_name(value: Option<&Value>, path: &Path<'_>, errs: &mut ErrorList) {
    match value {
        Some(Value::String(name)) => {
            complain(name, names::port_name(name), path, errs);
        }
        other => port(other.and_then(Value::as_i64).unwrap_or_default(), path, errs),
    }
}

/// A whole number or a percentage.
pub(crate) fn int_or_percent(value: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    match value {
        Value::String(text) => {
            names::percent(text).into_iter().for_each(|complaint| errs.invalid(path, text.as_str(), complaint));
        }
        Value::Number(number) if number.as_i64().is_some_and(|n| n < 0) => {
            errs.invalid(path, value.clone(), "must be greater than or equal to 0");
        }
        _ => {}
    }
}

/// The number in front of the percent sign, or the plain number.
pub(crate) fn percent_or_int(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::String(text)) => text.strip_suffix('%').unwrap_or(text).parse().unwrap_or_default(),
        Some(value) => value.as_i64().unwrap_or_default(),
        None => 0,
    }
}

/// A percentage of at most 100.
pub(crate) fn at_most_100_percent(value: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    if let Value::String(text) = value
        && names::percent(text).is_empty()
        && percent_or_int(Some(value)) > 100
    {
        errs.invalid(path, text.as_str(), "must not be greater than 100%");
    }
}

/// A `metav1.LabelSelector`.
pub(crate) fn label_selector(selector: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    label_selector_with(selector, false, path, errs);
}

/// A `metav1.LabelSelector` which may hold values that no label can have, if `any_value`: old objects do.
pub(crate) fn label_selector_with(selector: &Value, any_value: bool, path: &Path<'_>, errs: &mut ErrorList) {
    metadata::labels(strings_at(selector, "matchLabels"), &path.child("matchLabels"), errs);
    let list = path.child("matchExpressions");
    for (i, requirement) in list_at(selector, "matchExpressions").iter().enumerate() {
        let path = list.index(i);
        let values = list_at(requirement, "values");
        match str_at(requirement, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errs.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errs.forbidden(
                    &path.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            operator => errs.invalid(&path.child("operator"), operator, "not a valid selector operator"),
        }
        qualified(str_at(requirement, "key"), &path.child("key"), errs);
        for (j, value) in values.iter().filter_map(Value::as_str).enumerate().filter(|_| !any_value) {
            complain(value, names::label_value(value), &path.child("values").index(j), errs);
        }
    }
}

/// True when a label selector selects everything.
pub(crate) fn selector_is_empty(selector: &Value) -> bool {
    map_at(selector, "matchLabels").is_none_or(|m| m.is_empty()) && list_at(selector, "matchExpressions").is_empty()
}

/// Whether labels (a JSON map) satisfy a label selector.
pub(crate) fn selector_matches(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    strings_at(selector, "matchLabels").all(|(key, value)| label(key) == Some(value))
        && list_at(selector, "matchExpressions").iter().all(|requirement| {
            let value = label(str_at(requirement, "key"));
            let listed = || list_at(requirement, "values").iter().any(|v| v.as_str() == value);
            match str_at(requirement, "operator") {
                "In" => value.is_some() && listed(),
                "NotIn" => value.is_none() || !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Complains when a member of status exceeds another.
pub(crate) fn not_above(
    status: &Value,
    member: &str,
    limit: &str,
    detail: &str,
    path: &Path<'_>,
    errs: &mut ErrorList,
) {
    let number = |name: &str| int_at(status, name).unwrap_or_default();
    if number(member) > number(limit) {
        errs.invalid(&path.child(member), number(member), detail);
    }
}

/// Complains when a counter went backwards.
pub(crate) fn not_decremented(new: &Value, old: &Value, field: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let number = |obj: &Value| int_at(obj, field);
    if number(old).is_some_and(|was| number(new).unwrap_or_default() < was) {
        errs.invalid(path, number(new).unwrap_or_default(), "cannot be decremented");
    }
}

/// Complains when the value at a dotted path changed; the path is the field's name.
pub(crate) fn immutable(new: &Value, old: &Value, field: &str, errs: &mut ErrorList) {
    metadata::immutable(new, old, field, &Path::root(field), errs);
}

/// The fields of a struct as upstream's internal types have them: Go's names, each with a member here or `empty`.
pub(crate) fn internal<'a>(value: &Value, members: &[(&'a str, &str)], empty: &Value) -> Vec<(&'a str, Value)> {
    members.iter().map(|(go, member)| (*go, at(value, member).unwrap_or(empty).clone())).collect()
}

/// The value at a path, for showing in errors.
pub(crate) fn shown(obj: &Value, path: &str) -> Value {
    at(obj, path).cloned().unwrap_or_default()
}
