//! Rules of HorizontalPodAutoscalers: target, metrics, behavior.

use serde_json::Value;

use super::{
    checks,
    field::{ErrorList, Path},
    names,
    quantity::Quantity,
    value::{at, int_at, list_at, str_at},
};

const SPEC: Path<'static> = Path::root("spec");
const MAX_PERIOD: i64 = 1800;
const MAX_WINDOW: i64 = 3600;
/// Member of a metric by its type.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

/// The spec. `old` is the object before an update: what was wrong already may stay wrong.
pub(super) fn validate(obj: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    let spec = at(obj, "spec").unwrap_or(&Value::Null);
    let max = int_at(spec, "maxReplicas").unwrap_or_default();
    let min = int_at(spec, "minReplicas");
    let max_path = SPEC.child("maxReplicas");
    if let Some(min) = min.filter(|min| *min < 1 && old.is_none_or(|old| int_at(old, "spec.minReplicas") != Some(0))) {
        errs.invalid(&SPEC.child("minReplicas"), min, "must be greater than or equal to 1");
    }
    match max {
        0 => errs.required(&max_path, "must be set and greater than 0"),
        ..0 => errs.invalid(&max_path, max, "must be greater than or equal to 1"),
        _ => {}
    }
    if min.is_some_and(|min| max < min) {
        errs.invalid(&max_path, max, "must be greater than or equal to `minReplicas`");
    }
    let target = spec.get("scaleTargetRef").unwrap_or(&Value::Null);
    reference(target, &SPEC.child("scaleTargetRef"), errs);
    target_group(target, old.and_then(|old| at(old, "spec.scaleTargetRef")), errs);
    for (i, metric) in list_at(spec, "metrics").iter().enumerate() {
        self::metric(metric, &SPEC.child("metrics").index(i), errs);
    }
    for rules in ["scaleUp", "scaleDown"] {
        if let Some(holder) = at(spec, &format!("behavior.{rules}")) {
            scaling_rules(holder, &SPEC.child("behavior").child(rules), errs);
        }
    }
}

fn reference(reference: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    for field in ["kind", "name"] {
        match str_at(reference, field) {
            "" => errs.required(&path.child(field), ""),
            value => segment(value, &path.child(field), errs),
        }
    }
    let version = str_at(reference, "apiVersion");
    if version.matches('/').count() > 1 {
        errs.invalid(&path.child("apiVersion"), version, format!("unexpected GroupVersion string: {version}"));
    }
}

/// Targets are of a group, but for the one kind of the core group that scales; what was wrong already may stay wrong.
fn target_group(target: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    let same = |old: &Value| ["apiVersion", "kind"].iter().all(|field| str_at(old, field) == str_at(target, field));
    let version = str_at(target, "apiVersion");
    if !version.contains('/') && str_at(target, "kind") != "ReplicationController" && !old.is_some_and(same) {
        errs.invalid(&SPEC.child("scaleTargetRef.apiVersion"), version, "apiVersion must specify API group");
    }
}

fn segment(value: &str, path: &Path<'_>, errs: &mut ErrorList) {
    names::path_segment(value, false).into_iter().for_each(|text| errs.invalid(path, value, text));
}

fn metric(metric: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let types = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = str_at(metric, "type");
    if kind.is_empty() {
        errs.required(&path.child("type"), "must specify a metric source type");
    }
    if !types.contains(&kind) {
        errs.not_supported(&path.child("type"), kind, &types);
    }
    let present: Vec<&str> = SOURCES.iter().map(|(_, field)| *field).filter(|f| at(metric, f).is_some()).collect();
    if let Some((first, holder)) = present.first().and_then(|first| Some((*first, at(metric, first)?))) {
        source(first, holder, &path.child(first), errs);
    }
    let expected = SOURCES.iter().find(|(name, _)| *name == kind).map(|(_, field)| *field);
    if let Some(expected) = expected.filter(|field| !present.contains(field)) {
        errs.required(&path.child(expected), "must populate information for the given metric source");
    }
    if present.len() > 1 || expected.is_some_and(|e| !present.contains(&e)) {
        for other in present.iter().filter(|field| Some(**field) != expected).filter(|_| present.len() != 1) {
            errs.forbidden(&path.child(other), "must populate the given metric source only");
        }
    }
}

fn source(kind: &str, source: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let target = path.child("target");
    match kind {
        "object" => {
            reference(source.get("describedObject").unwrap_or(&Value::Null), &path.child("describedObject"), errs)
        }
        "resource" | "containerResource" => {
            if str_at(source, "name").is_empty() {
                errs.required(&path.child("name"), "must specify a resource name");
            }
            if kind == "containerResource" {
                match str_at(source, "container") {
                    "" => errs.required(&path.child("container"), "must specify a container"),
                    name => checks::label(name, &path.child("container"), errs),
                }
            }
        }
        _ => {}
    }
    if matches!(kind, "object" | "external" | "pods") {
        let path = path.child("metric.name");
        match str_at(source, "metric.name") {
            "" => errs.required(&path, "must specify a metric name"),
            name => segment(name, &path, errs),
        }
    }
    metric_target(source.get("target").unwrap_or(&Value::Null), &target, errs);
    let has = |field: &str| at(source, &format!("target.{field}")).is_some();
    let (value, average, percent) = (has("value"), has("averageValue"), has("averageUtilization"));
    let (average_path, percent_path) = (target.child("averageValue"), target.child("averageUtilization"));
    match kind {
        "object" if !value && !average => {
            errs.required(&average_path, "must set either a target value or averageValue");
        }
        "external" if !value && !average => {
            errs.required(&average_path, "must set either a target value for metric or a per-pod target");
        }
        "external" if value && average => {
            let text = "may not set both a target value for metric and a per-pod target";
            errs.forbidden(&target.child("value"), text);
        }
        "pods" if !average => errs.required(&average_path, "must specify a positive target averageValue"),
        "resource" | "containerResource" if !percent && !average => {
            errs.required(&percent_path, "must set either a target raw value or a target utilization");
        }
        "resource" | "containerResource" if percent && average => {
            errs.forbidden(&average_path, "may not set both a target raw value and a target utilization");
        }
        _ => {}
    }
}

fn metric_target(target: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let kind = str_at(target, "type");
    if kind.is_empty() {
        errs.required(&path.child("type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errs.invalid(&path.child("type"), kind, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        if let Some(value) = at(target, field)
            && Quantity::of(value).is_some_and(|q| q.sign() <= 0)
        {
            errs.invalid(&path.child(field), value.clone(), "must be positive");
        }
    }
    if let Some(percent) = int_at(target, "averageUtilization").filter(|p| *p < 1) {
        errs.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

fn scaling_rules(rules: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let window = path.child("stabilizationWindowSeconds");
    match int_at(rules, "stabilizationWindowSeconds") {
        Some(seconds) if seconds < 0 => errs.invalid(&window, seconds, "must be greater than or equal to zero"),
        Some(seconds) if seconds > MAX_WINDOW => {
            errs.invalid(&window, seconds, format!("must be less than or equal to {MAX_WINDOW}"));
        }
        _ => {}
    }
    let choices = ["Disabled", "Max", "Min"];
    if let Some(choice) = at(rules, "selectPolicy").and_then(Value::as_str).filter(|c| !choices.contains(c)) {
        errs.not_supported(&path.child("selectPolicy"), choice, &choices);
    }
    let policies = list_at(rules, "policies");
    if policies.is_empty() {
        errs.required(&path.child("policies"), "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let list = path.child("policies");
        let path = list.index(i);
        let kind = str_at(policy, "type");
        if !matches!(kind, "Pods" | "Percent") {
            errs.not_supported(&path.child("type"), kind, &["Percent", "Pods"]);
        }
        for field in ["value", "periodSeconds"] {
            if let number @ ..=0 = int_at(policy, field).unwrap_or_default() {
                errs.invalid(&path.child(field), number, "must be greater than zero");
            }
        }
        if let Some(period) = int_at(policy, "periodSeconds").filter(|p| *p > MAX_PERIOD) {
            errs.invalid(&path.child("periodSeconds"), period, format!("must be less than or equal to {MAX_PERIOD}"));
        }
    }
    if let Some(tolerance) = at(rules, "tolerance").filter(|t| Quantity::of(t).is_some_and(|q| q.sign() < 0)) {
        errs.invalid(&path.child("tolerance"), tolerance.clone(), "must be greater than or equal to 0");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complaints(spec: Value) -> Vec<String> {
        let mut errs = ErrorList::new();
        validate(&json!({"spec": spec}), None, &mut errs);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn mistakes_are_told_as_upstream_does() {
        let target = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
        let good = json!({"maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": target, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]});
        assert_eq!(complaints(good), Vec::<String>::new());
        let bad = json!({"maxReplicas": 3, "minReplicas": 0, "scaleTargetRef": {"kind": "D", "name": "a/b"},
            "metrics": [{"type": "Pods", "pods": {"metric": {}, "target": {"type": "AverageValue", "averageValue": "0"}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}],
            "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]}}});
        assert_eq!(
            complaints(bad),
            [
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'",
                "spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group",
                "spec.metrics[0].pods.metric.name: Required value: must specify a metric name",
                "spec.metrics[0].pods.target.averageValue: Invalid value: \"0\": must be positive",
                "spec.metrics[1].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
            ]
        );
    }
}
