//! Validation of what webhooks and policies match: rules, selectors, conditions.

use serde_json::Value;

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    names,
    value::{at, list_at, same_at, str_at},
};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MOST_CONDITIONS: usize = 64;

/// A member with one of a few values.
pub(super) fn choice(holder: &Value, field: &str, supported: &[&str], path: &Path<'_>, errs: &mut ErrorList) {
    if let Some(value) = at(holder, field).and_then(Value::as_str)
        && !supported.contains(&value)
    {
        errs.not_supported(&path.child(field), value, supported);
    }
}

/// The same, where defaults leave nothing out.
pub(super) fn needed_choice(holder: &Value, field: &str, supported: &[&str], path: &Path<'_>, errs: &mut ErrorList) {
    if at(holder, field).is_none() {
        errs.required(&path.child(field), "");
    }
    choice(holder, field, supported, path, errs);
}

fn has_wildcard(list: &[Value]) -> bool {
    list.iter().any(|item| item == "*")
}

/// A list that is not empty and where `*` stands alone.
fn wildcard_list(rule: &Value, field: &str, what: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let list = list_at(rule, field);
    if list.is_empty() {
        errs.required(&path.child(field), "");
    }
    if list.len() > 1 && has_wildcard(list) {
        let text = format!("if '*' is present, must not specify other {what}");
        errs.invalid(&path.child(field), list.to_vec(), text);
    }
}

/// Operations on resources.
pub(super) fn rule(rule: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    wildcard_list(rule, "operations", "operations", path, errs);
    let root = path.child("operations");
    for (i, operation) in list_at(rule, "operations").iter().filter_map(Value::as_str).enumerate() {
        if !OPERATIONS.contains(&operation) {
            errs.not_supported(&root.index(i), operation, &OPERATIONS);
        }
    }
    wildcard_list(rule, "apiGroups", "API groups", path, errs);
    wildcard_list(rule, "apiVersions", "API versions", path, errs);
    let root = path.child("apiVersions");
    for (i, _) in list_at(rule, "apiVersions").iter().enumerate().filter(|(_, version)| *version == "") {
        errs.required(&root.index(i), "");
    }
    resources(list_at(rule, "resources"), &path.child("resources"), errs);
    choice(rule, "scope", &["*", "Cluster", "Namespaced"], path, errs);
}

/// Resources and subresources; wildcards do not repeat what others say.
fn resources(list: &[Value], path: &Path<'_>, errs: &mut ErrorList) {
    if list.is_empty() {
        errs.required(path, "");
    }
    let names: Vec<&str> = list.iter().map(|name| name.as_str().unwrap_or_default()).collect();
    let mut plain_last = false;
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() {
            errs.required(&path.index(i), "");
            continue;
        }
        let Some((resource, sub)) = name.split_once('/') else {
            plain_last = *name != "*";
            continue;
        };
        for wide in [format!("{resource}/*"), format!("*/{sub}")] {
            if names[..i].contains(&wide.as_str()) {
                errs.invalid(&path.index(i), *name, format!("if '{wide}' is present, must not specify {name}"));
            }
        }
    }
    if names.len() > 1 && names.contains(&"*/*") {
        errs.invalid(path, list.to_vec(), "if '*/*' is present, must not specify other resources");
    }
    if names.contains(&"*") && plain_last {
        let text = "if '*' is present, must not specify other resources without subresources";
        errs.invalid(path, list.to_vec(), text);
    }
}

/// `matchConstraints` or `matchResources` of policies and bindings.
pub(super) fn match_resources(holder: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    needed_choice(holder, "matchPolicy", &["Equivalent", "Exact"], path, errs);
    for field in ["namespaceSelector", "objectSelector"] {
        match at(holder, field) {
            None => errs.required(&path.child(field), ""),
            Some(selector) => checks::label_selector(selector, &path.child(field), errs),
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        let root = path.child(list);
        for (i, rule) in list_at(holder, list).iter().enumerate() {
            named_rule(rule, &root.index(i), errs);
        }
    }
}

fn named_rule(rule: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let root = path.child("resourceNames");
    let all = list_at(rule, "resourceNames");
    for (i, name) in all.iter().enumerate() {
        let text = name.as_str().unwrap_or_default();
        checks::complain(text, names::path_segment(text, false), &root.index(i), errs);
        if all[..i].contains(name) {
            errs.duplicate(&root.index(i), text);
        }
    }
    self::rule(rule, path, errs);
}

/// Policies that change objects never see deletions.
pub(super) fn no_deletes(holder: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let supported = ["*", "CONNECT", "CREATE", "UPDATE"];
    let rules = list_at(holder, "resourceRules").iter();
    let operations = rules.flat_map(|rule| list_at(rule, "operations")).filter_map(Value::as_str);
    for operation in operations.filter(|operation| !supported.contains(operation)) {
        errs.not_supported(&path.child("resourceRules.operations"), operation, &supported);
    }
}

/// Named expressions that narrow what is matched. Their syntax is checked by who compiles them.
pub(super) fn conditions(holder: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let root = path.child("matchConditions");
    let conditions = list_at(holder, "matchConditions");
    if conditions.len() > MOST_CONDITIONS {
        errs.too_many(&root, conditions.len(), MOST_CONDITIONS);
    }
    let repeated = checks::repeats(conditions, |item| str_at(item, "name"));
    for (i, condition) in conditions.iter().enumerate() {
        let (path, name) = (root.index(i), str_at(condition, "name"));
        if str_at(condition, "expression").trim().is_empty() {
            errs.required(&path.child("expression"), "");
        }
        if name.is_empty() {
            errs.required(&path.child("name"), "");
            continue;
        }
        checks::qualified(name, &path.child("name"), errs);
        if repeated[i] {
            errs.duplicate(&path.child("name"), name);
        }
    }
}

/// Whether two policies agree in what their match conditions depend on.
pub(super) fn same_conditions(new: &Value, old: Option<&Value>) -> bool {
    let fields = ["spec.paramKind", "spec.matchConditions"];
    old.is_some_and(|old| fields.iter().all(|field| same_at(new, old, field)))
}
