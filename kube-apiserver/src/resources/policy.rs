//! PodDisruptionBudgets and HorizontalPodAutoscalers: what keeps workloads available and sized.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    autoscaler, checks, conditions,
    field::{ErrorKind, ErrorList, Path},
    metadata::NameRule,
    rules::Rules,
    table::{AGE, NAME, Row, age, count, name, number, text},
    value::{at, existing, int_at, is_set, list_at, member, set, set_default, str_at},
};

const SPEC: Path<'static> = Path::root("spec");

pub(crate) const RULES: &[Rules] = &[
    Rules {
        group: "policy",
        resource: "poddisruptionbudgets",
        kind: "PodDisruptionBudget",
        // Upstream forgot to look at them.
        name: NameRule::Any,
        generation: true,
        status: true,
        unconditional_update: false,
        prepare_create: |obj, _| {
            set(
                obj,
                "status",
                json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}),
            );
        },
        validate: |obj, errs| budget(obj, false, errs),
        validate_update: |new, old, sub, errs| match sub {
            None => budget(new, has_bad_selector(old), errs),
            Some(_) => budget_status(new, errs),
        },
        columns: &[NAME, text("Min Available"), text("Max Unavailable"), number("Allowed Disruptions"), AGE],
        row: budget_row,
        ..Rules::GENERIC
    },
    Rules {
        group: "autoscaling",
        resource: "horizontalpodautoscalers",
        kind: "HorizontalPodAutoscaler",
        status: true,
        defaults: autoscaler_defaults,
        prepare_create: |obj, _| set(obj, "status", json!({"currentReplicas": 0, "desiredReplicas": 0})),
        validate: |obj, errs| autoscaler::validate(obj, None, errs),
        validate_update: |new, old, sub, errs| match sub {
            None => autoscaler::validate(new, Some(old), errs),
            Some(_) => checks::non_negative_all(
                new.get("status").unwrap_or(&Value::Null),
                &["currentReplicas", "desiredReplicas"],
                &Path::root("status"),
                errs,
            ),
        },
        columns: &[NAME, text("Reference"), text("Targets"), text("MinPods"), text("MaxPods"), text("Replicas"), AGE],
        row: autoscaler_row,
        ..Rules::GENERIC
    },
];

/// Whether a stored budget has a selector that breaks rules of today.
fn has_bad_selector(obj: &Value) -> bool {
    let mut problems = ErrorList::new();
    if let Some(selector) = at(obj, "spec.selector") {
        checks::label_selector(selector, &SPEC, &mut problems);
    }
    !problems.is_empty()
}

fn budget_status(obj: &Value, errs: &mut ErrorList) {
    let path = Path::root("status");
    conditions::validate(list_at(obj, "status.conditions"), &path.child("conditions"), errs);
    let counters = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
    checks::non_negative_all(obj.get("status").unwrap_or(&Value::Null), &counters, &path, errs);
}

fn budget(obj: &Value, lenient: bool, errs: &mut ErrorList) {
    let spec = at(obj, "spec").unwrap_or(&Value::Null);
    let (min, max) = (at(spec, "minAvailable"), at(spec, "maxUnavailable"));
    if min.is_some() && max.is_some() {
        let members = [
            ("MinAvailable", "minAvailable"),
            ("Selector", "selector"),
            ("MaxUnavailable", "maxUnavailable"),
            ("UnhealthyPodEvictionPolicy", "unhealthyPodEvictionPolicy"),
        ];
        let shown = checks::internal(spec, &members, &Value::Null);
        errs.of_struct(ErrorKind::Invalid, &SPEC, &shown, "minAvailable and maxUnavailable cannot be both set");
    }
    for (field, value) in [("minAvailable", min), ("maxUnavailable", max)] {
        if let Some(value) = value {
            checks::int_or_percent(value, &SPEC.child(field), errs);
            checks::at_most_100_percent(value, &SPEC.child(field), errs);
        }
    }
    if let Some(selector) = at(spec, "selector") {
        checks::label_selector_with(selector, lenient, &SPEC.child("selector"), errs);
    }
    let supported = ["AlwaysAllow", "IfHealthyBudget"];
    if let Some(eviction) = at(spec, "unhealthyPodEvictionPolicy").and_then(Value::as_str)
        && !supported.contains(&eviction)
    {
        errs.not_supported(&SPEC.child("unhealthyPodEvictionPolicy"), eviction, &supported);
    }
}

fn budget_row(obj: &Value, now: Timestamp) -> Row {
    let amount = |field: &str| -> Value {
        match at(obj, &format!("spec.{field}")) {
            Some(Value::String(text)) => text.as_str().into(),
            Some(other) => other.to_string().into(),
            None => "N/A".into(),
        }
    };
    vec![
        name(obj),
        amount("minAvailable"),
        amount("maxUnavailable"),
        count(obj, "status.disruptionsAllowed"),
        age(obj, now),
    ]
}

fn autoscaler_defaults(obj: &mut Value) {
    let Some(spec) = member(obj, "spec") else { return };
    set_default(spec, "minReplicas", 1);
    if !is_set(spec, "metrics") {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        set(spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    if let Some(behavior) = existing(spec, "behavior") {
        if let Some(up) = member(behavior, "scaleUp") {
            set_default(up, "stabilizationWindowSeconds", 0);
            set_default(up, "selectPolicy", "Max");
            set_default(
                up,
                "policies",
                json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
            );
        }
        if let Some(down) = member(behavior, "scaleDown") {
            set_default(down, "selectPolicy", "Max");
            set_default(down, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
        }
    }
}

fn metric(spec: &Value, status: Option<&Value>) -> String {
    let kind = str_at(spec, "type");
    let field = match kind {
        "ContainerResource" => "containerResource",
        "External" => "external",
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        _ => return "<unknown type>".to_string(),
    };
    let text = |value: Option<&Value>| match value {
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
        None => None,
    };
    let target = |name: &str| text(at(spec, &format!("{field}.target.{name}")));
    let current = |name: &str| status.and_then(|status| text(at(status, &format!("{field}.current.{name}"))));
    let unknown = || "<unknown>".to_string();
    let resource = str_at(spec, &format!("{field}.name"));
    match (kind, target("averageValue")) {
        ("Resource" | "ContainerResource", Some(average)) => {
            format!("{resource}: {}/{average}", current("averageValue").unwrap_or_else(unknown))
        }
        ("Resource" | "ContainerResource", None) => {
            let percent = |value: Option<String>, none: &str| value.map_or(none.to_string(), |v| format!("{v}%"));
            format!(
                "{resource}: {}/{}",
                percent(current("averageUtilization"), "<unknown>"),
                percent(target("averageUtilization"), "<auto>")
            )
        }
        ("Pods", average) => {
            format!("{}/{}", current("averageValue").unwrap_or_else(unknown), average.unwrap_or_default())
        }
        (_, Some(average)) => format!("{}/{average} (avg)", current("averageValue").unwrap_or_else(unknown)),
        (_, None) => format!("{}/{}", current("value").unwrap_or_else(unknown), target("value").unwrap_or_default()),
    }
}

fn autoscaler_row(obj: &Value, now: Timestamp) -> Row {
    const SHOWN: usize = 2;
    let specs = list_at(obj, "spec.metrics");
    let statuses = list_at(obj, "status.currentMetrics");
    let all: Vec<String> = specs.iter().enumerate().map(|(i, spec)| metric(spec, statuses.get(i))).collect();
    let targets = match all.len() {
        0 => "<none>".to_string(),
        more if more > SHOWN => format!("{} + {} more...", all[..SHOWN].join(", "), more - SHOWN),
        _ => all.join(", "),
    };
    let min = int_at(obj, "spec.minReplicas").map_or_else(|| "<unset>".to_string(), |min| min.to_string());
    let target = format!("{}/{}", str_at(obj, "spec.scaleTargetRef.kind"), str_at(obj, "spec.scaleTargetRef.name"));
    vec![
        name(obj),
        target.into(),
        targets.into(),
        min.into(),
        count(obj, "spec.maxReplicas"),
        count(obj, "status.currentReplicas"),
        age(obj, now),
    ]
}
