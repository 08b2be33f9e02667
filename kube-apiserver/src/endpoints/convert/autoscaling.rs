//! HorizontalPodAutoscalers in autoscaling/v1: what v1 has no fields for travels in annotations, as upstream writes them.

use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const ROUND_TRIP: [&str; 6] = [
    METRICS,
    CURRENT_METRICS,
    CONDITIONS,
    BEHAVIOR,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];
const DEFAULT_CPU: i64 = 80;

/// Where a metric's facts are: path in v2, member in v1, and whether v1 writes "0" for what is absent.
type Pairs = &'static [(&'static str, &'static str, bool)];

/// Member of a metric by its source, with the facts of its spec and of its status.
const SOURCES: [(&str, Pairs, Pairs); 5] = [
    (
        "resource",
        &[
            ("name", "name", false),
            ("target.averageUtilization", "targetAverageUtilization", false),
            ("target.averageValue", "targetAverageValue", false),
        ],
        &[
            ("name", "name", false),
            ("current.averageUtilization", "currentAverageUtilization", false),
            ("current.averageValue", "currentAverageValue", true),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", "name", false),
            ("container", "container", false),
            ("target.averageUtilization", "targetAverageUtilization", false),
            ("target.averageValue", "targetAverageValue", false),
        ],
        &[
            ("name", "name", false),
            ("container", "container", false),
            ("current.averageUtilization", "currentAverageUtilization", false),
            ("current.averageValue", "currentAverageValue", true),
        ],
    ),
    (
        "pods",
        &[
            ("metric.name", "metricName", false),
            ("metric.selector", "selector", false),
            ("target.averageValue", "targetAverageValue", true),
        ],
        &[
            ("metric.name", "metricName", false),
            ("metric.selector", "selector", false),
            ("current.averageValue", "currentAverageValue", true),
        ],
    ),
    (
        "object",
        &[
            ("describedObject", "target", false),
            ("metric.name", "metricName", false),
            ("metric.selector", "selector", false),
            ("target.value", "targetValue", true),
            ("target.averageValue", "averageValue", false),
        ],
        &[
            ("describedObject", "target", false),
            ("metric.name", "metricName", false),
            ("metric.selector", "selector", false),
            ("current.value", "currentValue", true),
            ("current.averageValue", "averageValue", false),
        ],
    ),
    (
        "external",
        &[
            ("metric.name", "metricName", false),
            ("metric.selector", "metricSelector", false),
            ("target.value", "targetValue", false),
            ("target.averageValue", "targetAverageValue", false),
        ],
        &[
            ("metric.name", "metricName", false),
            ("metric.selector", "metricSelector", false),
            ("current.value", "currentValue", true),
            ("current.averageValue", "currentAverageValue", false),
        ],
    ),
];

/// Turns the stored v2 form into v1.
pub(super) fn to_v1(hpa: &mut Value) {
    let mut notes = drop_round_trip(hpa);
    let metrics = take_list(&mut hpa["spec"], "metrics");
    let (cpu, others): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(is_cpu_utilization);
    if let Some(first) = cpu.first() {
        hpa["spec"]["targetCPUUtilizationPercentage"] = first["resource"]["target"]["averageUtilization"].clone();
    }
    if !others.is_empty() {
        note(&mut notes, METRICS, &others.iter().map(|m| metric(m, false, true)).collect());
    }
    if let Some(behavior) = remove(&mut hpa["spec"], "behavior") {
        note(&mut notes, BEHAVIOR, &behavior_in_go(&behavior));
    }
    if hpa["status"].is_object() {
        let current = take_list(&mut hpa["status"], "currentMetrics");
        let utilization = current.iter().find(|m| m["resource"]["name"] == "cpu" && m["type"] == "Resource");
        let utilization = utilization.map(|m| m["resource"]["current"]["averageUtilization"].clone());
        if let Some(utilization) = utilization.filter(|u| !u.is_null()) {
            hpa["status"]["currentCPUUtilizationPercentage"] = utilization;
        }
        if !current.is_empty() {
            note(&mut notes, CURRENT_METRICS, &current.iter().map(|m| metric(m, true, true)).collect());
        }
        let conditions = take_list(&mut hpa["status"], "conditions");
        if !conditions.is_empty() {
            note(&mut notes, CONDITIONS, &conditions.into());
        }
    }
    set_annotations(hpa, notes);
}

/// Turns v1 into the stored v2 form; annotations that can't be read are dropped, as upstream does.
pub(super) fn to_v2(hpa: &mut Value) {
    let notes = hpa["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let read = |name: &str| -> Option<Value> { serde_json::from_str(notes.get(name)?.as_str()?).ok() };
    let list = |name: &str| read(name).and_then(|v| v.as_array().cloned());
    let mut metrics: Vec<Value> = list(METRICS).unwrap_or_default().iter().map(|m| metric(m, false, false)).collect();
    let cpu = remove(&mut hpa["spec"], "targetCPUUtilizationPercentage");
    if let Some(percent) = cpu.or_else(|| metrics.is_empty().then(|| DEFAULT_CPU.into())) {
        metrics.push(json!({"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}));
    }
    hpa["spec"]["metrics"] = metrics.into();
    if let Some(behavior) = read(BEHAVIOR).map(|b| behavior_in_json(&b)).filter(|b| b != &json!({})) {
        hpa["spec"]["behavior"] = behavior;
    }
    if hpa["status"].is_object() || notes.contains_key(CURRENT_METRICS) || notes.contains_key(CONDITIONS) {
        let percent = remove(&mut hpa["status"], "currentCPUUtilizationPercentage");
        let current = list(CURRENT_METRICS).map(|l| l.iter().map(|m| metric(m, true, false)).collect::<Vec<_>>());
        let current = current.or_else(|| {
            let percent = percent?;
            Some(vec![json!({"type": "Resource", "resource": {
                "name": "cpu", "current": {"averageUtilization": percent}}})])
        });
        if let Some(current) = current {
            hpa["status"]["currentMetrics"] = current.into();
        }
        if let Some(conditions) = list(CONDITIONS) {
            hpa["status"]["conditions"] = conditions.into();
        }
    }
    let rest = drop_round_trip(hpa);
    set_annotations(hpa, rest);
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"].get("averageUtilization").is_some_and(|u| !u.is_null())
}

/// One metric in the other version.
fn metric(metric: &Value, is_status: bool, to_v1: bool) -> Value {
    let mut out = Map::new();
    out.insert("type".to_owned(), metric["type"].clone());
    for (source, spec, status) in SOURCES {
        let Some(from) = metric.get(source).filter(|s| s.is_object()) else { continue };
        let mut to = json!({});
        for (long, short, zero) in if is_status { status } else { spec } {
            let value = if to_v1 { at(from, long) } else { from.get(*short).filter(|v| !v.is_null()) };
            match (value, to_v1) {
                (Some(value), true) => to[*short] = value.clone(),
                (Some(value), false) if keeps(source, short, from, value) => put(&mut to, long, value.clone()),
                (None, true) if *zero => to[*short] = "0".into(),
                _ => {}
            }
        }
        if !to_v1 && !is_status {
            put(&mut to, "target.type", target_type(source, from).into());
        }
        out.insert(source.to_owned(), to);
    }
    out.into()
}

/// v1 can't leave out an object metric's value: "0" beside an average means that there is none.
fn keeps(source: &str, short: &str, from: &Value, value: &Value) -> bool {
    !(source == "object" && short == "targetValue" && value == "0" && from.get("averageValue").is_some())
}

fn target_type(source: &str, from: &Value) -> &'static str {
    let has = |member: &str| from.get(member).is_some_and(|v| !v.is_null());
    match source {
        "resource" | "containerResource" if has("targetAverageUtilization") => "Utilization",
        "object" if !has("averageValue") => "Value",
        "external" if has("targetValue") => "Value",
        _ => "AverageValue",
    }
}

/// The behavior under the names of Go's fields: that is what upstream's annotation holds.
fn behavior_in_go(behavior: &Value) -> Value {
    let policy = |p: &Value| json!({"Type": p["type"], "Value": p["value"], "PeriodSeconds": p["periodSeconds"]});
    let rules = |r: &Value| {
        if r.is_null() {
            return Value::Null;
        }
        let policies = r["policies"].as_array().map(|list| list.iter().map(policy).collect::<Vec<_>>());
        json!({"StabilizationWindowSeconds": r["stabilizationWindowSeconds"], "SelectPolicy": r["selectPolicy"],
            "Policies": policies, "Tolerance": r["tolerance"]})
    };
    json!({"ScaleUp": rules(&behavior["scaleUp"]), "ScaleDown": rules(&behavior["scaleDown"])})
}

/// Go reads member names without regard to case.
fn behavior_in_json(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(key, v)| {
                let mut letters = key.chars();
                let first = letters.next().map(|c| c.to_ascii_lowercase());
                (first.into_iter().chain(letters).collect::<String>(), behavior_in_json(v))
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(behavior_in_json).collect(),
        other => other.clone(),
    }
}

/// The annotations without those of this conversion.
fn drop_round_trip(hpa: &mut Value) -> Map<String, Value> {
    let mut notes = hpa["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    notes.retain(|name, _| !ROUND_TRIP.contains(&name.as_str()));
    notes
}

fn set_annotations(hpa: &mut Value, notes: Map<String, Value>) {
    if notes.is_empty() {
        remove(&mut hpa["metadata"], "annotations");
    } else {
        hpa["metadata"]["annotations"] = notes.into();
    }
}

fn note(notes: &mut Map<String, Value>, name: &str, value: &Value) {
    notes.insert(name.to_owned(), value.to_string().into());
}

fn remove(value: &mut Value, member: &str) -> Option<Value> {
    value.as_object_mut()?.remove(member).filter(|v| !v.is_null())
}

fn take_list(value: &mut Value, member: &str) -> Vec<Value> {
    match remove(value, member) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |v, part| v.get(part)).filter(|v| !v.is_null())
}

fn put(value: &mut Value, path: &str, new: Value) {
    match path.split_once('.') {
        Some((head, rest)) => put(&mut value[head], rest, new),
        None => value[path] = new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_and_back_keeps_everything() {
        let v2 = json!({
            "metadata": {"name": "a", "annotations": {"mine": "x", METRICS: "stale"}},
            "spec": {"maxReplicas": 3, "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "m", "selector": {"matchLabels": {"a": "b"}}},
                    "target": {"type": "AverageValue", "averageValue": "1k"}}},
                {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "q"},
                    "target": {"type": "AverageValue", "averageValue": "5"}}},
                {"type": "External", "external": {"metric": {"name": "e"}, "target": {"type": "Value", "value": "7"}}},
                {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c",
                    "target": {"type": "Utilization", "averageUtilization": 60}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
            ], "behavior": {"scaleUp": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}}},
            "status": {"currentReplicas": 1, "conditions": [{"type": "AbleToScale", "status": "True"}], "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 10, "averageValue": "3m"}}}]},
        });
        let mut v1 = v2.clone();
        to_v1(&mut v1);
        assert_eq!(v1["spec"], json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}));
        assert_eq!(v1["status"], json!({"currentReplicas": 1, "currentCPUUtilizationPercentage": 10}));
        let notes = &v1["metadata"]["annotations"];
        let metrics: Value = serde_json::from_str(notes[METRICS].as_str().unwrap()).unwrap();
        assert_eq!(metrics[0]["pods"]["targetAverageValue"], "1k");
        assert_eq!(
            metrics[1]["object"],
            json!({"averageValue": "5", "metricName": "q", "targetValue": "0",
            "target": {"kind": "Service", "name": "s"}})
        );
        assert!(notes[BEHAVIOR].as_str().unwrap().contains("\"PeriodSeconds\":15"));
        let mut back = v1;
        to_v2(&mut back);
        let mut wanted = v2;
        wanted["metadata"]["annotations"] = json!({"mine": "x"});
        assert_eq!(back, wanted);
    }

    #[test]
    fn v1_without_anything_means_eighty_percent() {
        let mut hpa = json!({"metadata": {}, "spec": {"maxReplicas": 1}});
        to_v2(&mut hpa);
        assert_eq!(hpa["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert!(hpa["metadata"].get("annotations").is_none() && hpa.get("status").is_none());
    }
}
