//! Validation of workloads.

use serde_json::Value;

use crate::resources::{
    checks::{
        at_most_100_percent, immutable, int_or_percent, label, label_selector, label_selector_with, non_negative,
        non_negative_all, not_above, not_decremented, percent_or_int, selector_is_empty, selector_matches, shown,
    },
    field::{ErrorKind, ErrorList, Path},
    metadata, names,
    pod::template,
    value::{at, int_at, is_set, is_zero, list_at, map_at, same, set, str_at, strings_at},
};

const SPEC: Path<'static> = Path::root("spec");
const STATUS: Path<'static> = Path::root("status");

/// Selector present, well formed and not empty. False when no selector can be made of it: upstream then leaves the template alone.
fn selector(obj: &Value, kind: &str, unusable: &str, errs: &mut ErrorList) -> bool {
    let path = SPEC.child("selector");
    let Some(selector) = at(obj, "spec.selector") else {
        errs.required(&path, "");
        return true;
    };
    label_selector(selector, &path, errs);
    if selector_is_empty(selector) {
        errs.invalid(&path, selector.clone(), format!("empty selector is invalid for {kind}"));
    }
    let mut problems = ErrorList::new();
    let requirements = serde_json::json!({"matchExpressions": list_at(selector, "matchExpressions")});
    label_selector(&requirements, &path, &mut problems);
    metadata::labels(strings_at(selector, "matchLabels"), &path, &mut problems);
    if !problems.is_empty() {
        errs.invalid(&path, selector.clone(), unusable);
    }
    problems.is_empty()
}

/// No selector selects nothing; an empty one is not compared.
fn matches_template(obj: &Value, errs: &mut ErrorList) {
    let labels = at(obj, "spec.template.metadata.labels").cloned().unwrap_or_else(|| Value::Object(Default::default()));
    if !at(obj, "spec.selector").is_some_and(|selector| selector_matches(selector, &labels)) {
        let shown = if labels.as_object().is_some_and(|l| l.is_empty()) { Value::Null } else { labels };
        errs.invalid(&SPEC.child("template.metadata.labels"), shown, "`selector` does not match template `labels`");
    }
}

/// The template of something that restarts its pods for ever.
fn always_template(obj: &Value, kind: &str, errs: &mut ErrorList) {
    template::validate(obj, "spec.template", &SPEC.child("template"), errs);
    always(obj, kind, errs);
}

fn always(obj: &Value, kind: &str, errs: &mut ErrorList) {
    let path = SPEC.child("template");
    let policy = str_at(obj, "spec.template.spec.restartPolicy");
    if policy != "Always" {
        errs.not_supported(&path.child("spec.restartPolicy"), policy, &["Always"]);
    }
    if at(obj, "spec.template.spec.activeDeadlineSeconds").is_some() {
        errs.forbidden(
            &path.child("spec.activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

pub(crate) fn deployment(obj: &Value, errs: &mut ErrorList) {
    let spec = at(obj, "spec").unwrap_or(&Value::Null);
    non_negative(spec, "replicas", &SPEC.child("replicas"), errs);
    if selector(obj, "deployment", "invalid label selector", errs) {
        matches_template(obj, errs);
        always_template(obj, "ReplicaSet", errs);
    }
    deployment_strategy(spec, errs);
    non_negative_all(spec, &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], &SPEC, errs);
    let min_ready = int_at(spec, "minReadySeconds").unwrap_or_default();
    if let Some(deadline) = int_at(spec, "progressDeadlineSeconds").filter(|deadline| *deadline <= min_ready) {
        errs.invalid(&SPEC.child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
    }
}

fn deployment_strategy(spec: &Value, errs: &mut ErrorList) {
    let path = SPEC.child("strategy");
    let rolling_path = path.child("rollingUpdate");
    match (str_at(spec, "strategy.type"), at(spec, "strategy.rollingUpdate")) {
        ("Recreate", Some(_)) => {
            errs.forbidden(&rolling_path, "may not be specified when strategy `type` is 'Recreate'");
        }
        ("Recreate", None) => {}
        ("RollingUpdate", Some(rolling)) => {
            percentages(rolling, &rolling_path, errs);
            let zero = |name: &str| percent_or_int(rolling.get(name)) == 0;
            if zero("maxUnavailable") && zero("maxSurge") {
                errs.invalid(
                    &rolling_path.child("maxUnavailable"),
                    shown(rolling, "maxUnavailable"),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
            if let Some(value) = rolling.get("maxUnavailable") {
                at_most_100_percent(value, &rolling_path.child("maxUnavailable"), errs);
            }
        }
        ("RollingUpdate", None) => errs.required(&rolling_path, "this should be defaulted and never be nil"),
        _ => unknown_strategy(spec, "strategy", &["Recreate", "RollingUpdate"], errs),
    }
}

/// A strategy that does not exist, shown as upstream's struct.
fn unknown_strategy(spec: &Value, field: &str, known: &[&str], errs: &mut ErrorList) {
    let rolling = at(spec, &format!("{field}.rollingUpdate")).map_or(Value::Null, |rolling| {
        serde_json::json!({"MaxSurge": shown(rolling, "maxSurge"), "MaxUnavailable": shown(rolling, "maxUnavailable")})
    });
    let fields = [("Type", str_at(spec, &format!("{field}.type")).into()), ("RollingUpdate", rolling)];
    let known: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
    let detail = format!("supported values: {}", known.join(", "));
    errs.of_struct(ErrorKind::NotSupported, &SPEC.child(field), &fields, detail);
}

fn percentages(rolling: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    for name in ["maxUnavailable", "maxSurge"] {
        if let Some(value) = rolling.get(name) {
            int_or_percent(value, &path.child(name), errs);
        }
    }
}

pub(crate) fn deployment_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub == Some("status") {
        let counters = ["updatedReplicas", "readyReplicas", "availableReplicas"];
        let others = ["unavailableReplicas", "terminatingReplicas", "collisionCount"];
        non_negative(new, "status.observedGeneration", &STATUS.child("observedGeneration"), errs);
        replica_status(new, &counters, &others, "readyReplicas", errs);
        not_decremented(new, old, "status.collisionCount", &STATUS.child("collisionCount"), errs);
        return;
    }
    deployment(new, errs);
    immutable(new, old, "spec.selector", errs);
}

/// Counters of replicas, which are at most all of them, and `others` that are just not negative.
fn replica_status(obj: &Value, counters: &[&str], others: &[&str], ready_name: &str, errs: &mut ErrorList) {
    let status = at(obj, "status").unwrap_or(&Value::Null);
    non_negative(status, "replicas", &STATUS.child("replicas"), errs);
    non_negative_all(status, counters, &STATUS, errs);
    non_negative_all(status, others, &STATUS, errs);
    for counter in counters {
        not_above(status, counter, "replicas", "cannot be greater than status.replicas", &STATUS, errs);
    }
    let detail = format!("cannot be greater than {ready_name}");
    not_above(status, "availableReplicas", "readyReplicas", &detail, &STATUS, errs);
}

pub(crate) fn replica_set(obj: &Value, errs: &mut ErrorList) {
    let spec = at(obj, "spec").unwrap_or(&Value::Null);
    non_negative_all(spec, &["replicas", "minReadySeconds"], &SPEC, errs);
    if selector(obj, "deployment", "invalid label selector", errs) {
        matches_template(obj, errs);
        always_template(obj, "ReplicaSet", errs);
    }
}

pub(crate) fn replica_set_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub == Some("status") {
        let counters = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        replica_status(new, &counters, &["observedGeneration", "terminatingReplicas"], "readyReplicas", errs);
        return;
    }
    replica_set(new, errs);
    immutable(new, old, "spec.selector", errs);
}

pub(crate) fn daemon_set(obj: &Value, errs: &mut ErrorList) {
    daemon_set_spec(obj, false, errs);
}

/// `lenient` lets values pass in the selector that no label can have: a stored one has some.
fn daemon_set_spec(obj: &Value, lenient: bool, errs: &mut ErrorList) {
    let spec = at(obj, "spec").unwrap_or(&Value::Null);
    let before = errs.0.len();
    if let Some(selector) = at(spec, "selector") {
        label_selector_with(selector, lenient, &SPEC.child("selector"), errs);
    }
    if errs.0.len() == before {
        matches_template(obj, errs);
    }
    if let Some(selector) = at(spec, "selector").filter(|selector| selector_is_empty(selector)) {
        errs.invalid(&SPEC.child("selector"), selector.clone(), "empty selector is invalid for daemonset");
    }
    always_template(obj, "DaemonSet", errs);
    non_negative(spec, "minReadySeconds", &SPEC.child("minReadySeconds"), errs);
    let path = SPEC.child("updateStrategy");
    match (str_at(spec, "updateStrategy.type"), at(spec, "updateStrategy.rollingUpdate")) {
        ("OnDelete", _) => {}
        ("RollingUpdate", Some(rolling)) => daemon_rolling(rolling, &path.child("rollingUpdate"), errs),
        ("RollingUpdate", None) => errs.required(&path.child("rollingUpdate"), ""),
        _ => unknown_strategy(spec, "updateStrategy", &["RollingUpdate", "OnDelete"], errs),
    }
    non_negative(spec, "revisionHistoryLimit", &SPEC.child("revisionHistoryLimit"), errs);
}

fn daemon_rolling(rolling: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    percentages(rolling, path, errs);
    for name in ["maxUnavailable", "maxSurge"] {
        if let Some(value) = rolling.get(name) {
            at_most_100_percent(value, &path.child(name), errs);
        }
    }
    let set = |name: &str| percent_or_int(rolling.get(name)) != 0;
    match (set("maxUnavailable"), set("maxSurge")) {
        (true, true) => errs.invalid(
            &path.child("maxSurge"),
            shown(rolling, "maxSurge"),
            "may not be set when maxUnavailable is non-zero",
        ),
        (false, false) => errs.required(&path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

pub(crate) fn daemon_set_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub == Some("status") {
        let counters = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        non_negative_all(at(new, "status").unwrap_or(&Value::Null), &counters, &STATUS, errs);
        not_decremented(new, old, "status.collisionCount", &STATUS.child("collisionCount"), errs);
        return;
    }
    immutable(new, old, "spec.selector", errs);
    let has_bad_value = |requirement: &Value| {
        list_at(requirement, "values")
            .iter()
            .filter_map(Value::as_str)
            .any(|value| !names::label_value(value).is_empty())
    };
    let lenient = list_at(old, "spec.selector.matchExpressions").iter().any(has_bad_value);
    daemon_set_spec(new, lenient, errs);
}

pub(crate) fn stateful_set(obj: &Value, errs: &mut ErrorList) {
    stateful_set_spec(obj, true, true, errs);
}

/// `check_template` is off for sets whose stored spec breaks rules of today.
fn stateful_set_spec(obj: &Value, is_new: bool, check_template: bool, errs: &mut ErrorList) {
    let spec = at(obj, "spec").unwrap_or(&Value::Null);
    let policy = str_at(spec, "podManagementPolicy");
    match policy {
        "" => errs.required(&SPEC.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        _ => errs.invalid(&SPEC.child("podManagementPolicy"), policy, "must be 'OrderedReady' or 'Parallel'"),
    }
    stateful_strategy(spec, errs);
    for name in ["whenDeleted", "whenScaled"] {
        let value = str_at(spec, &format!("persistentVolumeClaimRetentionPolicy.{name}"));
        if !matches!(value, "Retain" | "Delete") {
            let path = SPEC.child("persistentVolumeClaimRetentionPolicy");
            errs.not_supported(&path.child(name), value, &["Retain", "Delete"]);
        }
    }
    if is_new {
        let path = SPEC.child("volumeClaimTemplates");
        for (i, claim) in list_at(spec, "volumeClaimTemplates").iter().enumerate() {
            crate::resources::core::validate_claim_spec(
                at(claim, "spec").unwrap_or(&Value::Null),
                &path.index(i).child("spec"),
                errs,
            );
        }
    }
    non_negative_all(spec, &["replicas", "minReadySeconds"], &SPEC, errs);
    non_negative(spec, "ordinals.start", &SPEC.child("ordinals.start"), errs);
    let service = str_at(spec, "serviceName");
    if is_new && !service.is_empty() {
        label(service, &SPEC.child("serviceName"), errs);
    }
    if selector(obj, "statefulset", "", errs) {
        matches_template(obj, errs);
        if check_template {
            template::validate(&with_claim_volumes(obj), "spec.template", &SPEC.child("template"), errs);
        }
    }
    always(obj, "StatefulSet", errs);
}

/// The template as its pods will see it: with a volume per claim template, without names that the controller sets.
fn with_claim_volumes(obj: &Value) -> Value {
    let mut obj = obj.clone();
    let claims: Vec<Value> = list_at(&obj, "spec.volumeClaimTemplates").to_vec();
    let Some(spec) = obj.pointer_mut("/spec/template/spec") else { return obj };
    if let Some(map) = spec.as_object_mut() {
        map.remove("subdomain");
        map.remove("hostname");
    }
    if claims.is_empty() {
        return obj;
    }
    let name = |claim: &Value| str_at(claim, "metadata.name").to_string();
    let names: Vec<String> = claims.iter().map(name).collect();
    let mut volumes: Vec<Value> = names
        .iter()
        .map(|name| serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
        .collect();
    volumes.extend(list_at(spec, "volumes").iter().filter(|v| !names.iter().any(|n| n == str_at(v, "name"))).cloned());
    set(spec, "volumes", volumes);
    obj
}

fn stateful_strategy(spec: &Value, errs: &mut ErrorList) {
    let path = SPEC.child("updateStrategy");
    let rolling_path = path.child("rollingUpdate");
    match (str_at(spec, "updateStrategy.type"), at(spec, "updateStrategy.rollingUpdate")) {
        ("", _) => errs.required(&path, ""),
        ("OnDelete", Some(rolling)) => {
            errs.invalid(&rolling_path, rolling.clone(), "only allowed for updateStrategy 'RollingUpdate'");
        }
        ("OnDelete", None) | ("RollingUpdate", None) => {}
        ("RollingUpdate", Some(rolling)) => {
            non_negative(rolling, "partition", &rolling_path.child("partition"), errs);
            if let Some(value) = rolling.get("maxUnavailable") {
                let path = rolling_path.child("maxUnavailable");
                int_or_percent(value, &path, errs);
                if percent_or_int(Some(value)) == 0 {
                    errs.invalid(&path, value.clone(), "cannot be 0");
                }
                at_most_100_percent(value, &path, errs);
            }
        }
        _ => errs.invalid(&path, shown(spec, "updateStrategy"), "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// What a stateful set's spec may change.
const STATEFUL_MUTABLE: [&str; 7] = [
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
];

pub(crate) fn stateful_set_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub == Some("status") {
        let counters = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        replica_status(new, &counters, &["observedGeneration", "collisionCount"], "status.readyReplicas", errs);
        not_decremented(new, old, "status.collisionCount", &STATUS.child("collisionCount"), errs);
        return;
    }
    let mut problems = ErrorList::new();
    stateful_set_spec(old, false, true, &mut problems);
    stateful_set_spec(new, false, problems.is_empty(), errs);
    let fixed = |obj: &Value| {
        let mut spec = at(obj, "spec").cloned().unwrap_or_default();
        if let Some(map) = spec.as_object_mut() {
            map.retain(|name, _| !STATEFUL_MUTABLE.contains(&name.as_str()));
        }
        spec
    };
    if !same(Some(&fixed(new)), Some(&fixed(old))) {
        errs.forbidden(
            &SPEC,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

pub(crate) fn controller_revision(obj: &Value, errs: &mut ErrorList) {
    non_negative(obj, "revision", &Path::root("revision"), errs);
    match at(obj, "data") {
        None => errs.required(&Path::root("data"), "data is mandatory"),
        Some(Value::Object(_)) => {}
        Some(_) => errs.required(&Path::root("data"), "data must be a valid JSON object"),
    }
}

pub(crate) fn controller_revision_update(new: &Value, old: &Value, _: Option<&str>, errs: &mut ErrorList) {
    non_negative(new, "revision", &Path::root("revision"), errs);
    immutable(new, old, "data", errs);
}

pub(crate) fn replication_controller(obj: &Value, errs: &mut ErrorList) {
    let spec = at(obj, "spec").unwrap_or(&Value::Null);
    non_negative_all(spec, &["minReadySeconds"], &SPEC, errs);
    if map_at(spec, "selector").is_none_or(|map| map.is_empty()) {
        errs.required(&SPEC.child("selector"), "");
    }
    non_negative(spec, "replicas", &SPEC.child("replicas"), errs);
    if !is_set(spec, "template") {
        errs.required(&SPEC.child("template"), "");
        return;
    }
    let labels = at(spec, "template.metadata.labels");
    if strings_at(spec, "selector").any(|(k, v)| labels.and_then(|l| l.get(k)).and_then(Value::as_str) != Some(v)) {
        let shown = labels.filter(|labels| !is_zero(labels)).cloned().unwrap_or_default();
        errs.invalid(&SPEC.child("template.metadata.labels"), shown, "`selector` does not match template `labels`");
    }
    always_template(obj, "ReplicationController", errs);
}

pub(crate) fn replication_controller_update(new: &Value, _: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub == Some("status") {
        let counters = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        replica_status(new, &counters, &["observedGeneration"], "readyReplicas", errs);
    } else {
        replication_controller(new, errs);
    }
}
