//! ResourceQuotas and LimitRanges.

use jiff::Timestamp;
use serde_json::Value;

use super::limit_range;
use crate::resources::{
    checks,
    field::{ErrorList, Path},
    names, quantity,
    rules::Rules,
    table::{AGE, NAME, Row, age, name, text},
    value::{at, each, existing, list_at, map_at, member, same_at, set_default, str_at, strings_at},
};

pub(crate) const RULES: &[Rules] = &[
    Rules {
        resource: "resourcequotas",
        kind: "ResourceQuota",
        status: true,
        defaults: |obj| {
            if let Some(spec) = existing(obj, "spec") {
                quantity::canonicalize_list(spec.get_mut("hard"));
            }
            if let Some(status) = existing(obj, "status") {
                quantity::canonicalize_list(status.get_mut("hard"));
                quantity::canonicalize_list(status.get_mut("used"));
            }
        },
        validate: quota,
        validate_update: |new, old, sub, errs| {
            if sub == Some("status") {
                amounts(new, "status.hard", errs);
                amounts(new, "status.used", errs);
                return;
            }
            quota(new, errs);
            if !same_at(new, old, "spec.scopes") {
                errs.invalid(&Path::root("spec.scopes"), list_at(new, "spec.scopes").to_vec(), "field is immutable");
            }
        },
        columns: &[NAME, text("Request"), text("Limit"), AGE],
        row: quota_row,
        ..Rules::GENERIC
    },
    Rules {
        resource: "limitranges",
        kind: "LimitRange",
        create_on_update: true,
        defaults: limit_range_defaults,
        validate: limit_range::validate,
        validate_update: |new, _, _, errs| limit_range::validate(new, errs),
        columns: &[NAME, crate::resources::table::Column { kind: "date", ..text("Created At") }],
        row: crate::resources::table::name_created,
        ..Rules::GENERIC
    },
];

/// Resources without a domain that a quota may name.
const STANDARD: [&str; 19] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const OF_PODS: [&str; 7] = ["cpu", "limits.cpu", "limits.memory", "memory", "pods", "requests.cpu", "requests.memory"];
const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

fn is_standard(resource: &str) -> bool {
    STANDARD.contains(&resource) || resource.starts_with("hugepages-") || resource.starts_with("requests.hugepages-")
}

/// A non-negative amount of every resource of a list; counts are whole.
fn amounts(obj: &Value, at: &str, errs: &mut ErrorList) {
    let root = Path::root(at);
    for (resource, text) in strings_at(obj, at) {
        let path = root.key(resource);
        for complaint in names::label_key(resource) {
            errs.invalid(&path, resource, complaint);
        }
        if !resource.contains('/') && !is_standard(resource) {
            errs.invalid(&path, resource, "must be a standard resource for quota");
        }
        checks::amount(resource, text, &path, errs);
    }
}

fn quota(obj: &Value, errs: &mut ErrorList) {
    amounts(obj, "spec.hard", errs);
    let path = Path::root("spec.scopes");
    let scopes = list_at(obj, "spec.scopes");
    for scope in scopes.iter().filter_map(Value::as_str) {
        if !SCOPES.contains(&scope) {
            errs.invalid(&path, scopes.to_vec(), "unsupported scope");
        }
        for _ in unsuited(obj, scope) {
            errs.invalid(&path, scopes.to_vec(), "unsupported scope applied to resource");
        }
    }
    conflicting(scopes.iter().filter_map(Value::as_str), scopes, errs);
    scope_selector(obj, errs);
}

/// Resources of the quota that a scope says nothing about.
fn unsuited<'a>(obj: &'a Value, scope: &'a str) -> impl Iterator<Item = &'a str> {
    let suits = move |resource: &str| match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        scope if SCOPES.contains(&scope) => OF_PODS.contains(&resource),
        _ => true,
    };
    strings_at(obj, "spec.hard").map(|(resource, _)| resource).filter(move |r| is_standard(r) && !suits(r))
}

fn conflicting<'a>(named: impl Iterator<Item = &'a str>, scopes: &[Value], errs: &mut ErrorList) {
    let named: Vec<&str> = named.collect();
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if named.contains(&one) && named.contains(&other) {
            errs.invalid(&Path::root("spec.scopes"), scopes.to_vec(), "conflicting scopes");
        }
    }
}

fn scope_selector(obj: &Value, errs: &mut ErrorList) {
    let path = Path::root("spec.scopeSelector.matchExpressions");
    let requirements = list_at(obj, "spec.scopeSelector.matchExpressions");
    for requirement in requirements {
        let (scope, operator) = (str_at(requirement, "scopeName"), str_at(requirement, "operator"));
        if !SCOPES.contains(&scope) {
            errs.invalid(&path.child("scopeName"), scope, "unsupported scope");
        }
        for _ in unsuited(obj, scope) {
            let selector = at(obj, "spec.scopeSelector").cloned().unwrap_or_default();
            errs.invalid(&path, selector, "unsupported scope applied to resource");
        }
        let valued = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if SCOPES.contains(&scope) && !valued && operator != "Exists" {
            let text = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errs.invalid(&path.child("operator"), operator, text);
        }
        let values = list_at(requirement, "values");
        match operator {
            "In" | "NotIn" if values.is_empty() => errs.required(
                &path.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errs.invalid(
                &path.child("values"),
                values.to_vec(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errs.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
    }
    conflicting(requirements.iter().map(|r| str_at(r, "scopeName")), list_at(obj, "spec.scopes"), errs);
}

fn quota_row(obj: &Value, now: Timestamp) -> Row {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in strings_at(obj, "status.hard") {
        let used = at(obj, "status.used").and_then(|used| used.get(resource)).and_then(Value::as_str).unwrap_or("0");
        let cell = format!("{resource}: {used}/{hard}");
        if resource.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![name(obj), requests.join(", ").into(), limits.join(", ").into(), age(obj, now)]
}

fn limit_range_defaults(obj: &mut Value) {
    let Some(spec) = existing(obj, "spec") else { return };
    for item in each(spec, "limits") {
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            quantity::canonicalize_list(item.get_mut(list));
        }
        if str_at(item, "type") != "Container" {
            continue;
        }
        for (source, target) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            let Some(amounts) = map_at(item, source).cloned() else { continue };
            if let Some(target) = member(item, target) {
                amounts.into_iter().for_each(|(resource, amount)| set_default(target, &resource, amount));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quotas_name_known_resources_and_scopes() {
        let complaints = |spec: Value| {
            let mut errs = ErrorList::new();
            quota(&json!({"spec": spec}), &mut errs);
            errs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let good = json!({"hard": {"pods": "5", "count/jobs.batch": "2", "requests.nvidia.com/gpu": "1", "hugepages-2Mi": "1Gi"}});
        assert_eq!(complaints(good), Vec::<String>::new());
        let bad = json!({"hard": {"apples": "1", "pods": "1500m", "cpu": "-1"}, "scopes": ["BestEffort"],
            "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}});
        assert_eq!(
            complaints(bad),
            [
                "spec.hard[apples]: Invalid value: \"apples\": must be a standard resource for quota",
                "spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
                "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ]
        );
    }
}
