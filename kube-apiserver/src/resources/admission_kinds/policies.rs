//! Validation of admission policies and their bindings: their structure. Expressions are checked by who compiles them.

use serde_json::Value;

use super::matching;
use crate::resources::{
    checks, conditions,
    field::{ErrorList, Path},
    names,
    value::{at, list_at, str_at},
};

const SPEC: Path<'static> = Path::root("spec");
const MOST_ANNOTATIONS: usize = 20;
const LONGEST_ANNOTATION: usize = 5 * 1024;
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// What both sorts of policies have in common, before their own lists.
fn common(obj: &Value, old: Option<&Value>, mutating: bool, errs: &mut ErrorList) {
    let spec = at(obj, "spec").unwrap_or(&Value::Null);
    matching::needed_choice(spec, "failurePolicy", &["Fail", "Ignore"], &SPEC, errs);
    if let Some(kind) = at(spec, "paramKind") {
        param_kind(kind, &SPEC.child("paramKind"), errs);
    }
    let path = SPEC.child("matchConstraints");
    match at(spec, "matchConstraints") {
        None => errs.required(&path, ""),
        Some(constraints) => {
            matching::match_resources(constraints, &path, errs);
            if list_at(constraints, "resourceRules").is_empty() {
                errs.required(&path.child("resourceRules"), "");
            }
            if mutating {
                matching::no_deletes(constraints, &path, errs);
            }
        }
    }
    if !matching::same_conditions(obj, old) {
        matching::conditions(spec, &SPEC, errs);
    }
    let root = SPEC.child("variables");
    for (i, variable) in list_at(spec, "variables").iter().enumerate() {
        let (path, name) = (root.index(i), str_at(variable, "name"));
        if name.trim().is_empty() {
            errs.required(&path.child("name"), "name is not specified");
        } else if !is_identifier(name) {
            errs.invalid(&path.child("name"), name, "must be a valid CEL identifier");
        }
        expression(variable, "expression", "expression is not specified", &path, errs);
    }
}

fn is_identifier(name: &str) -> bool {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !RESERVED.contains(&name)
}

fn expression(holder: &Value, field: &str, detail: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if str_at(holder, field).trim().is_empty() {
        errs.required(&path.child(field), detail);
    }
}

fn param_kind(kind: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let version_path = path.child("apiVersion");
    let api_version = str_at(kind, "apiVersion");
    let (group, version) = match api_version {
        "/" => ("", ""),
        other => other.split_once('/').unwrap_or(("", other)),
    };
    if api_version.is_empty() {
        errs.required(&version_path, "");
    } else if version.contains('/') {
        errs.invalid(&version_path, api_version, format!("unexpected GroupVersion string: {api_version}"));
    } else {
        let complaints = names::dns1123_subdomain(group);
        if !group.is_empty() && !complaints.is_empty() {
            errs.invalid(&version_path, group, complaints.join(","));
        }
        let complaints = names::dns1035_label(version);
        if version.is_empty() {
            errs.invalid(&version_path, api_version, "version must be specified");
        } else if !complaints.is_empty() {
            errs.invalid(&version_path, version, complaints.join(","));
        }
    }
    let name = str_at(kind, "kind");
    let complaints = names::dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errs.required(&path.child("kind"), "");
    } else if !complaints.is_empty() {
        let text = format!("may have mixed case, but should otherwise match: {}", complaints.join(","));
        errs.invalid(&path.child("kind"), name, text);
    }
}

pub(super) fn validating(obj: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    common(obj, old, false, errs);
    let (validations, annotations) = (list_at(obj, "spec.validations"), list_at(obj, "spec.auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        for field in ["validations", "auditAnnotations"] {
            errs.required(&SPEC.child(field), "validations or auditAnnotations must contain at least one item");
        }
        return;
    }
    let root = SPEC.child("validations");
    for (i, validation) in validations.iter().enumerate() {
        self::validation(validation, &root.index(i), errs);
    }
    let root = SPEC.child("auditAnnotations");
    if annotations.len() > MOST_ANNOTATIONS {
        let text = format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations");
        let shown: Vec<Value> = annotations
            .iter()
            .map(|a| serde_json::json!({"Key": str_at(a, "key"), "ValueExpression": str_at(a, "valueExpression")}))
            .collect();
        errs.invalid(&root, shown, text);
    }
    let repeated = checks::repeats(annotations, |item| str_at(item, "key"));
    for (i, annotation) in annotations.iter().enumerate() {
        let (path, key) = (root.index(i), str_at(annotation, "key"));
        match str_at(obj, "metadata.name") {
            "" => errs.invalid(&path.child("key"), key, "requires metadata.name be non-empty"),
            name => checks::qualified(&format!("{name}/{key}"), &path.child("key"), errs),
        }
        expression(annotation, "valueExpression", "valueExpression is not specified", &path, errs);
        if str_at(annotation, "valueExpression").trim().len() > LONGEST_ANNOTATION {
            let text = format!("must not exceed {LONGEST_ANNOTATION} bytes in length");
            errs.required(&path.child("valueExpression"), text);
        }
        if repeated[i] {
            errs.duplicate(&path.child("key"), key);
        }
    }
}

fn validation(validation: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    expression(validation, "expression", "expression is not specified", path, errs);
    for field in ["messageExpression", "message"] {
        let text = str_at(validation, field);
        if !text.is_empty() && text.trim().is_empty() {
            errs.invalid(&path.child(field), text, "must be non-empty if specified");
        } else if field == "message" && text.trim().contains(['\n', '\r']) {
            errs.invalid(&path.child(field), text, "must not contain line breaks");
        }
    }
    matching::choice(validation, "reason", &["Forbidden", "Invalid", "RequestEntityTooLarge"], path, errs);
}

pub(super) fn mutating(obj: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    common(obj, old, true, errs);
    let root = SPEC.child("mutations");
    let mutations = list_at(obj, "spec.mutations");
    if mutations.is_empty() {
        errs.required(&root, "mutations must contain at least one item");
    }
    for (i, mutation) in mutations.iter().enumerate() {
        self::mutation(mutation, &root.index(i), errs);
    }
    checks::one_of(
        str_at(obj, "spec.reinvocationPolicy"),
        &["IfNeeded", "Never"],
        &SPEC.child("reinvocationPolicy"),
        errs,
    );
}

fn mutation(mutation: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let kinds = [("JSONPatch", "jsonPatch"), ("ApplyConfiguration", "applyConfiguration")];
    let kind = str_at(mutation, "patchType");
    let Some((_, field)) = kinds.iter().find(|(name, _)| *name == kind) else {
        return checks::one_of(kind, &["ApplyConfiguration", "JSONPatch"], &path.child("patchType"), errs);
    };
    match at(mutation, field) {
        None => errs.required(&path.child(field), format!("must be specified when patchType is {kind}")),
        Some(patch) => expression(patch, "expression", "", &path.child(field), errs),
    }
    for (_, other) in kinds.iter().filter(|(_, other)| other != field && at(mutation, other).is_some()) {
        let text = format!("must not be specified when patchType is {kind}");
        errs.invalid(&path.child(other), format!("{{{other}}}"), text);
    }
}

/// A binding of a policy, which may be of the mutating sort.
pub(super) fn binding(obj: &Value, mutating: bool, errs: &mut ErrorList) {
    match str_at(obj, "spec.policyName") {
        "" => errs.required(&SPEC.child("policyName"), ""),
        name => checks::subdomain(name, &SPEC.child("policyName"), errs),
    }
    if let Some(param) = at(obj, "spec.paramRef") {
        param_ref(param, &SPEC.child("paramRef"), errs);
    }
    if let Some(resources) = at(obj, "spec.matchResources") {
        matching::match_resources(resources, &SPEC.child("matchResources"), errs);
        if mutating {
            matching::no_deletes(resources, &SPEC.child("matchResources"), errs);
        }
    }
    if !mutating {
        actions(list_at(obj, "spec.validationActions"), &SPEC.child("validationActions"), errs);
    }
}

fn param_ref(param: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let (name, selector) = (str_at(param, "name"), at(param, "selector"));
    let exclusive = "name and selector are mutually exclusive";
    if !name.is_empty() {
        checks::complain(name, names::path_segment(name, false), &path.child("name"), errs);
        if selector.is_some() {
            errs.forbidden(&path.child("name"), exclusive);
        }
    }
    if let Some(selector) = selector {
        checks::label_selector(selector, &path.child("selector"), errs);
        if !name.is_empty() {
            errs.forbidden(&path.child("selector"), exclusive);
        }
    }
    if name.is_empty() && selector.is_none() {
        errs.required(path, "one of name or selector must be specified");
    }
    let action = str_at(param, "parameterNotFoundAction");
    checks::one_of(action, &["Deny", "Allow"], &path.child("parameterNotFoundAction"), errs);
}

fn actions(actions: &[Value], path: &Path<'_>, errs: &mut ErrorList) {
    const SUPPORTED: [&str; 3] = ["Audit", "Deny", "Warn"];
    for (i, action) in actions.iter().enumerate() {
        let text = action.as_str().unwrap_or_default();
        if !SUPPORTED.contains(&text) {
            errs.not_supported(&path.index(i), text, &SUPPORTED);
        }
        if actions[..i].contains(action) {
            errs.duplicate(&path.index(i), text);
        }
    }
    let has = |name: &str| actions.iter().any(|action| action == name);
    if has("Deny") && has("Warn") {
        let text = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errs.invalid(path, actions.to_vec(), text);
    }
    if actions.is_empty() {
        errs.required(path, "at least one validation action is required");
    }
}

/// The result of type checking.
pub(super) fn status(obj: &Value, errs: &mut ErrorList) {
    let root = Path::root("status.typeChecking.expressionWarnings");
    for (i, warning) in list_at(obj, "status.typeChecking.expressionWarnings").iter().enumerate() {
        let path = root.index(i);
        expression(warning, "warning", "", &path, errs);
        expression(warning, "fieldRef", "", &path, errs);
    }
    conditions::validate(list_at(obj, "status.conditions"), &Path::root("status.conditions"), errs);
}
