//! What an access review must say.

use serde_json::{Value, json};

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    value::{list_at, str_at},
};

/// Rules for a review of a resource, in the namespace of the request if it is one of `localsubjectaccessreviews`.
pub(super) fn validate(resource: &str, review: &Value, namespace: &str) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = &review["spec"];
    let (asked, path_asked) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let (of_resource, of_path) = (Path::root("spec.resourceAttributes"), Path::root("spec.nonResourceAttributes"));
    let shown = json!({"Path": str_at(path_asked, "path"), "Verb": str_at(path_asked, "verb")});
    match (asked.is_object(), path_asked.is_object()) {
        (true, true) => {
            errs.invalid(&of_path, shown.clone(), "cannot be specified in combination with resourceAttributes");
        }
        (false, false) => errs.invalid(
            &of_resource,
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    let of_self = resource == "selfsubjectaccessreviews";
    if !of_self && str_at(spec, "user").is_empty() && list_at(spec, "groups").is_empty() {
        errs.invalid(&Path::root("spec.user"), "", "at least one of user or group must be specified");
    }
    for name in ["fieldSelector", "labelSelector"] {
        selector(&asked[name], &of_resource.child(name), name == "labelSelector", &mut errs);
    }
    let local = resource == "localsubjectaccessreviews";
    let own = |name: &str| !(name == "managedFields" || name == "creationTimestamp" || local && name == "namespace");
    let meta = review["metadata"].as_object();
    if meta.is_some_and(|meta| meta.iter().any(|(name, value)| own(name) && !value.is_null())) {
        let text = if local { "must be empty except for namespace" } else { "must be empty" };
        errs.invalid(&Path::root("metadata"), review["metadata"].clone(), text);
    }
    if local && asked.is_object() && str_at(asked, "namespace") != namespace {
        errs.invalid(&of_resource.child("namespace"), str_at(asked, "namespace"), "must match metadata.namespace");
    }
    if local && path_asked.is_object() {
        errs.invalid(&of_path, shown, "disallowed on this kind of request");
    }
    errs
}

fn selector(selector: &Value, path: &Path<'_>, of_labels: bool, errs: &mut ErrorList) {
    if !selector.is_object() {
        return;
    }
    let (raw, requirements) = (str_at(selector, "rawSelector"), list_at(selector, "requirements"));
    match (raw.is_empty(), requirements.is_empty()) {
        (false, false) => {
            errs.invalid(&path.child("rawSelector"), raw, "may not specified at the same time as requirements");
        }
        (true, true) => errs.required(
            &path.child("requirements"),
            format!("when {path} is specified, requirements or rawSelector is required"),
        ),
        _ => {}
    }
    for (at, requirement) in requirements.iter().enumerate() {
        let path = path.child("requirements");
        let path = path.index(at);
        let key = str_at(requirement, "key");
        if key.is_empty() && !of_labels {
            errs.required(&path.child("key"), "must be specified");
        }
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
            _ => {}
        }
        if of_labels {
            checks::qualified(key, &path.child("key"), errs);
            let path = path.child("values");
            for (at, value) in values.iter().filter_map(Value::as_str).enumerate() {
                checks::complain(value, common::meta::names::label_value(value), &path.index(at), errs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_ask_for_one_thing_of_somebody() {
        let texts = |resource: &str, review: Value| {
            validate(resource, &review, "default").iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            texts("subjectaccessreviews", json!({"spec": {}})),
            [
                "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
                "spec.user: Invalid value: \"\": at least one of user or group must be specified"
            ]
        );
        let both = json!({"spec": {"user": "a", "resourceAttributes": {}, "nonResourceAttributes": {}}});
        let combined = "spec.nonResourceAttributes: Invalid value: {\"Path\":\"\",\"Verb\":\"\"}: ";
        assert_eq!(
            texts("localsubjectaccessreviews", both),
            [
                format!("{combined}cannot be specified in combination with resourceAttributes"),
                "spec.resourceAttributes.namespace: Invalid value: \"\": must match metadata.namespace".to_owned(),
                format!("{combined}disallowed on this kind of request")
            ]
        );
        let named =
            json!({"metadata": {"name": "x"}, "spec": {"resourceAttributes": {"verb": "get", "fieldSelector": {}}}});
        assert_eq!(
            texts("selfsubjectaccessreviews", named),
            [
                "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
                "metadata: Invalid value: {\"name\":\"x\"}: must be empty"
            ]
        );
    }
}
