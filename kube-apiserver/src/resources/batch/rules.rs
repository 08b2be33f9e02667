//! Rules of a Job's spec beyond its numbers: failure policy, success policy, who manages it, what many indexes demand.

use std::collections::BTreeSet;

use serde_json::Value;

use super::indexes;
use crate::resources::{
    checks,
    field::{ErrorList, Path, go_quote},
    value::{at, int_at, list_at, str_at},
};

const MAX_RULES: usize = 20;
const MAX_CODES: usize = 255;
const MAX_INDEXES_TEXT: usize = 64 * 1024;
/// Above so many completions limits per index demand more.
const MANY: i64 = 100_000;
const FEW: i64 = 10_000;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];

/// What upstream's `%q` of a list of strings looks like.
fn valid_values(values: &[&str]) -> String {
    format!("valid values: [{}]", values.iter().map(|v| go_quote(v)).collect::<Vec<_>>().join(" "))
}

/// `managedBy`, limits per index, policies. `path` is that of the JobSpec.
pub(super) fn policies(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    if let Some(manager) = at(spec, "managedBy").and_then(Value::as_str) {
        managed_by(manager, &path.child("managedBy"), errs);
    }
    per_index(spec, path, errs);
    if let Some(policy) = at(spec, "podFailurePolicy") {
        failure_policy(spec, policy, &path.child("podFailurePolicy.rules"), errs);
    }
    if let Some(policy) = at(spec, "successPolicy") {
        if str_at(spec, "completionMode") == "Indexed" {
            success_policy(spec, policy, &path.child("successPolicy.rules"), errs);
        } else {
            errs.invalid(&path.child("successPolicy"), policy.clone(), "requires indexed completion mode");
        }
    }
}

fn managed_by(manager: &str, path: &Path<'_>, errs: &mut ErrorList) {
    match manager.split_once('/') {
        _ if manager.is_empty() => errs.required(path, ""),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            checks::subdomain(host, path, errs);
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
            if !rest.bytes().all(allowed) {
                let text = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                errs.invalid(path, rest, text);
            }
        }
        _ => errs.invalid(path, manager, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    if manager.len() > 63 {
        errs.too_long(path, 63);
    }
}

fn per_index(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let number = |field: &str| int_at(spec, field);
    let (completions, failed) = (number("completions"), number("maxFailedIndexes"));
    let failed_path = path.child("maxFailedIndexes");
    if str_at(spec, "completionMode") != "Indexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = number(field) {
                errs.invalid(&path.child(field), value, "requires indexed completion mode");
            }
        }
        return;
    }
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        errs.invalid(&failed_path, failed, "must be less than or equal to completions");
    }
    if let Some(failed) = failed.filter(|n| *n > MANY) {
        errs.invalid(&failed_path, failed, format!("must be less than or equal to {MANY}"));
    }
    if completions.is_none_or(|n| n <= MANY) || number("backoffLimitPerIndex").is_none() {
        return;
    }
    if failed.is_none() {
        errs.required(&failed_path, format!("must be specified when completions is above {MANY}"));
    }
    for field in ["parallelism", "maxFailedIndexes"] {
        if let Some(value) = number(field).filter(|n| *n > FEW) {
            let text = format!(
                "must be less than or equal to {FEW} when completions are above {MANY} and used with backoff limit per index"
            );
            errs.invalid(&path.child(field), value, text);
        }
    }
}

fn failure_policy(spec: &Value, policy: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let rules = list_at(policy, "rules");
    if rules.len() > MAX_RULES {
        errs.too_many(path, rules.len(), MAX_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        failure_rule(spec, rule, &path.index(i), errs);
    }
}

fn failure_rule(spec: &Value, rule: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let action = path.child("action");
    match str_at(rule, "action") {
        "" => errs.required(&action, valid_values(&ACTIONS)),
        "FailIndex" if at(spec, "backoffLimitPerIndex").is_none() => {
            errs.invalid(&action, "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        known if ACTIONS.contains(&known) => {}
        other => errs.not_supported(&action, other, &ACTIONS),
    }
    let (codes, conditions) = (at(rule, "onExitCodes"), list_at(rule, "onPodConditions"));
    if let Some(codes) = codes {
        exit_codes(spec, codes, &path.child("onExitCodes"), errs);
    }
    let root = path.child("onPodConditions");
    if conditions.len() > MAX_RULES {
        errs.too_many(&root, conditions.len(), MAX_RULES);
    }
    let states = ["False", "True", "Unknown"];
    for (i, pattern) in conditions.iter().enumerate() {
        let path = root.index(i);
        checks::qualified(str_at(pattern, "type"), &path.child("type"), errs);
        match str_at(pattern, "status") {
            "" => errs.required(&path.child("status"), valid_values(&states)),
            known if states.contains(&known) => {}
            other => errs.not_supported(&path.child("status"), other, &states),
        }
    }
    match (codes.is_some(), conditions.is_empty()) {
        (true, false) => {
            errs.invalid_shape(path, "specifying both OnExitCodes and OnPodConditions is not supported");
        }
        (false, true) => errs.invalid_shape(path, "specifying one of OnExitCodes and OnPodConditions is required"),
        _ => {}
    }
}

fn exit_codes(spec: &Value, codes: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let operators = ["In", "NotIn"];
    let operator = str_at(codes, "operator");
    match operator {
        "" => errs.required(&path.child("operator"), valid_values(&operators)),
        known if operators.contains(&known) => {}
        other => errs.not_supported(&path.child("operator"), other, &operators),
    }
    if let Some(name) = at(codes, "containerName").and_then(Value::as_str) {
        let mut all =
            ["template.spec.containers", "template.spec.initContainers"].iter().flat_map(|l| list_at(spec, l));
        if !all.any(|container| str_at(container, "name") == name) {
            let text = "must be one of the container or initContainer names in the pod template";
            errs.invalid(&path.child("containerName"), name, text);
        }
    }
    let root = path.child("values");
    let list = list_at(codes, "values");
    if list.is_empty() {
        errs.invalid(&root, list.to_vec(), "at least one value is required");
    } else if list.len() > MAX_CODES {
        errs.too_many(&root, list.len(), MAX_CODES);
    }
    let values: Vec<i64> = list.iter().map(|v| v.as_i64().unwrap_or_default()).collect();
    let mut seen = BTreeSet::new();
    for (i, value) in values.iter().enumerate() {
        if operator == "In" && *value == 0 {
            errs.invalid(&root.index(i), 0, "must not be 0 for the In operator");
        }
        if !seen.insert(*value) {
            errs.duplicate(&root.index(i), *value);
        }
    }
    if !values.is_sorted() {
        errs.invalid(&root, list.to_vec(), "must be ordered");
    }
}

fn success_policy(spec: &Value, policy: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let rules = list_at(policy, "rules");
    if rules.is_empty() {
        errs.required(path, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MAX_RULES {
        errs.too_many(path, rules.len(), MAX_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        success_rule(int_at(spec, "completions").unwrap_or_default(), rule, &path.index(i), errs);
    }
}

fn success_rule(completions: i64, rule: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let (count, wanted) = (int_at(rule, "succeededCount"), at(rule, "succeededIndexes").and_then(Value::as_str));
    if count.is_none() && wanted.is_none() {
        errs.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = 0;
    if let Some(text) = wanted {
        let path = path.child("succeededIndexes");
        if text.len() > MAX_INDEXES_TEXT {
            errs.too_long(&path, MAX_INDEXES_TEXT);
        }
        match indexes::parse(text, completions) {
            Ok(intervals) => total = intervals.iter().map(|(first, last)| last - first + 1).sum(),
            Err(why) => errs.invalid(&path, text, format!("error parsing succeededIndexes: {why}")),
        }
    }
    let Some(count) = count else { return };
    let path = path.child("succeededCount");
    if count < 0 {
        errs.invalid(&path, count, "must be greater than or equal to 0");
    }
    if count > completions {
        let text = format!("must be less than or equal to {completions} (the number of specified completions)");
        errs.invalid(&path, count, text);
    }
    if wanted.is_some() && count > total {
        let text = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errs.invalid(&path, count, text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complaints(spec: Value) -> Vec<String> {
        let mut errs = ErrorList::new();
        policies(&spec, &Path::root("spec"), &mut errs);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn failure_policies() {
        let spec = json!({"managedBy": "me", "backoffLimitPerIndex": 1, "template": {"spec": {"containers": [{"name": "c"}]}}, "podFailurePolicy": {"rules": [
            {"action": "FailJob", "onExitCodes": {"containerName": "x", "operator": "In", "values": [2, 0, 2]}},
            {"action": "Explode", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "Ignore"}]}});
        assert_eq!(
            complaints(spec),
            [
                "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
                "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 2",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,0,2]: must be ordered",
                "spec.podFailurePolicy.rules[1].action: Unsupported value: \"Explode\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
                "spec.podFailurePolicy.rules[2]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            ]
        );
    }

    #[test]
    fn success_policies_and_many_indexes() {
        let spec = json!({"completionMode": "Indexed", "completions": 5, "successPolicy": {"rules": [
            {"succeededIndexes": "0-2", "succeededCount": 4}, {"succeededIndexes": "3-7"}, {}]}});
        assert_eq!(
            complaints(spec),
            [
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of indexes in the specified succeededIndexes field)",
                "spec.successPolicy.rules[1].succeededIndexes: Invalid value: \"3-7\": error parsing succeededIndexes: too large index: \"7\"",
                "spec.successPolicy.rules[2]: Required value: at least one of succeededCount or succeededIndexes must be specified",
            ]
        );
        let many = json!({"completionMode": "Indexed", "completions": 200_000, "parallelism": 20_000, "backoffLimitPerIndex": 1});
        assert_eq!(complaints(many).len(), 2);
    }
}
