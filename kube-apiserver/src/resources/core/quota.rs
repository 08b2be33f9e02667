//! ResourceQuotas and LimitRanges.

use jiff::Timestamp;
use serde_json::Value;

use crate::resources::{
    field::{ErrorList, Path},
    names,
    quantity::{self, Quantity},
    rules::Rules,
    table::{AGE, NAME, Row, age, name, text},
    value::{at, each, existing, is_set, list_at, map_at, member, same_at, set_default, str_at, strings_at},
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
        defaults: limit_range_defaults,
        validate: limit_range,
        validate_update: |new, _, _, errs| limit_range(new, errs),
        columns: &[NAME, crate::resources::table::Column { kind: "date", ..text("Created At") }],
        row: crate::resources::table::name_created,
        ..Rules::GENERIC
    },
];

/// A non-negative amount of every resource of a list; counts are whole.
fn amounts(obj: &Value, at: &str, errs: &mut ErrorList) {
    let root = Path::root(at);
    for (resource, text) in strings_at(obj, at) {
        let path = root.key(resource);
        for complaint in names::label_key(resource) {
            errs.invalid(&path, resource, complaint);
        }
        let Some(amount) = Quantity::parse(text) else { continue };
        if amount.sign() < 0 {
            errs.invalid(&path, text, "must be greater than or equal to 0");
        }
        let is_count = resource.starts_with("count/")
            || matches!(
                resource,
                "pods"
                    | "services"
                    | "secrets"
                    | "configmaps"
                    | "replicationcontrollers"
                    | "resourcequotas"
                    | "persistentvolumeclaims"
                    | "services.nodeports"
                    | "services.loadbalancers"
            );
        if is_count && !amount.is_whole() {
            errs.invalid(&path, text, "must be an integer");
        }
    }
}

fn quota(obj: &Value, errs: &mut ErrorList) {
    const SCOPES: [&str; 7] = [
        "Terminating",
        "NotTerminating",
        "BestEffort",
        "NotBestEffort",
        "PriorityClass",
        "CrossNamespacePodAffinity",
        "VolumeAttributesClass",
    ];
    amounts(obj, "spec.hard", errs);
    let scopes = list_at(obj, "spec.scopes");
    let path = Path::root("spec.scopes");
    for scope in scopes.iter().filter_map(Value::as_str) {
        if !SCOPES.contains(&scope) {
            errs.invalid(&path, scope, "unsupported scope");
        }
    }
    let has = |scope: &str| scopes.iter().any(|s| s == scope);
    if (has("BestEffort") && has("NotBestEffort")) || (has("Terminating") && has("NotTerminating")) {
        errs.invalid(&path, scopes.to_vec(), "conflicting scopes");
    }
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

fn limit_range(obj: &Value, errs: &mut ErrorList) {
    let root = Path::root("spec.limits");
    let limits = list_at(obj, "spec.limits");
    for (i, limit) in limits.iter().enumerate() {
        let path = root.index(i);
        let kind = str_at(limit, "type");
        for complaint in names::label_key(kind) {
            errs.invalid(&path.child("type"), kind, complaint);
        }
        if limits[..i].iter().any(|other| str_at(other, "type") == kind) {
            errs.duplicate(&path.child("type"), kind);
        }
        if kind == "Pod" {
            for list in ["default", "defaultRequest"] {
                if is_set(limit, list) {
                    errs.forbidden(&path.child(list), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        let amount = |list: &str, resource: &str| {
            at(limit, list)
                .and_then(|map| map.get(resource))
                .and_then(|v| Some((v.as_str()?.to_string(), Quantity::of(v)?)))
        };
        for resource in
            ["max", "min", "default", "defaultRequest"].iter().flat_map(|list| strings_at(limit, list)).map(|(r, _)| r)
        {
            let path_min = path.child("min");
            let above = |low: &str, high: &str| match (amount(low, resource), amount(high, resource)) {
                (Some((low, a)), Some((high, b))) if a.compare(b).is_gt() => Some((low, high)),
                _ => None,
            };
            if let Some((min, max)) = above("min", "max") {
                errs.invalid(
                    &path_min.key(resource),
                    min.clone(),
                    format!("min value {min} is greater than max value {max}"),
                );
            }
            if let Some((request, max)) = above("defaultRequest", "max") {
                errs.invalid(
                    &path.child("defaultRequest").key(resource),
                    request.clone(),
                    format!("default request value {request} is greater than max value {max}"),
                );
            }
            if let Some((default, max)) = above("default", "max") {
                errs.invalid(
                    &path.child("default").key(resource),
                    default.clone(),
                    format!("default value {default} is greater than max value {max}"),
                );
            }
        }
    }
    let mut seen = Vec::new();
    errs.0.retain(|error| {
        let text = error.to_string();
        let new = !seen.contains(&text);
        seen.push(text);
        new
    });
}
