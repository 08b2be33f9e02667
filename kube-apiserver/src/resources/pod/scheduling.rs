//! Validation of what steers a pod to nodes: affinity, tolerations, spreading.

use std::collections::HashMap;

use serde_json::Value;

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    names,
    value::{at, int_at, list_at, map_at, str_at},
};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `affinity` of a spec.
pub(crate) fn affinity(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let Some(affinity) = at(spec, "affinity") else { return };
    if let Some(node) = at(affinity, "nodeAffinity") {
        node_affinity(node, &path.child("nodeAffinity"), errs);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(rules) = at(affinity, kind) else { continue };
        let path = path.child(kind);
        for (i, term) in list_at(rules, REQUIRED).iter().enumerate() {
            pod_term(term, &path.child(REQUIRED).index(i), errs);
        }
        for (i, weighted) in list_at(rules, PREFERRED).iter().enumerate() {
            let list = path.child(PREFERRED);
            let path = list.index(i);
            weight(weighted, &path, errs);
            pod_term(weighted.get("podAffinityTerm").unwrap_or(&Value::Null), &path.child("podAffinityTerm"), errs);
        }
    }
}

fn weight(holder: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let weight = int_at(holder, "weight").unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errs.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A `NodeSelector`.
pub(crate) fn node_selector(selector: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let root = path.child("nodeSelectorTerms");
    let terms = list_at(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        errs.required(&root, "must have at least one node selector term");
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(term, true, &root.index(i), errs);
    }
}

fn node_affinity(node: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    if let Some(selector) = at(node, REQUIRED) {
        node_selector(selector, &path.child(REQUIRED), errs);
    }
    let root = path.child(PREFERRED);
    for (i, preferred) in list_at(node, PREFERRED).iter().enumerate() {
        let path = root.index(i);
        weight(preferred, &path, errs);
        node_term(preferred.get("preference").unwrap_or(&Value::Null), false, &path.child("preference"), errs);
    }
}

fn node_term(term: &Value, check_values: bool, path: &Path<'_>, errs: &mut ErrorList) {
    let root = path.child("matchExpressions");
    for (i, requirement) in list_at(term, "matchExpressions").iter().enumerate() {
        node_requirement(requirement, check_values, &root.index(i), errs);
    }
    let root = path.child("matchFields");
    for (i, requirement) in list_at(term, "matchFields").iter().enumerate() {
        let path = root.index(i);
        let values = list_at(requirement, "values");
        match str_at(requirement, "operator") {
            "In" | "NotIn" if values.len() != 1 => errs.required(
                &path.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            ),
            "In" | "NotIn" => {}
            operator => errs.invalid(&path.child("operator"), operator, "not a valid selector operator"),
        }
        match str_at(requirement, "key") {
            "metadata.name" => {
                for (j, value) in values.iter().filter_map(Value::as_str).enumerate() {
                    checks::subdomain(value, &path.child("values").index(j), errs);
                }
            }
            key => errs.invalid(&path.child("key"), key, "not a valid field selector key"),
        }
    }
}

fn node_requirement(requirement: &Value, check_values: bool, path: &Path<'_>, errs: &mut ErrorList) {
    let values = list_at(requirement, "values");
    let values_path = path.child("values");
    match str_at(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            errs.required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errs.forbidden(&values_path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errs.required(&values_path, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        operator => errs.invalid(&path.child("operator"), operator, "not a valid selector operator"),
    }
    checks::qualified(str_at(requirement, "key"), &path.child("key"), errs);
    if !check_values {
        return;
    }
    for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
        names::label_value(value).into_iter().for_each(|text| errs.invalid(&values_path.index(i), value, text));
    }
}

fn pod_term(term: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    for selector in ["labelSelector", "namespaceSelector"] {
        if let Some(value) = at(term, selector) {
            checks::label_selector(value, &path.child(selector), errs);
        }
    }
    for namespace in list_at(term, "namespaces").iter().filter_map(Value::as_str) {
        checks::label(namespace, &path.child("namespace"), errs);
    }
    label_keys(term, path, errs);
    let topology = str_at(term, "topologyKey");
    if topology.is_empty() {
        errs.required(&path.child("topologyKey"), "can not be empty");
    }
    checks::qualified(topology, &path.child("topologyKey"), errs);
}

/// `matchLabelKeys` and `mismatchLabelKeys` of a term; the server has merged them into the selector already.
fn label_keys(term: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let keys = |list: &str| -> Vec<String> {
        list_at(term, list).iter().filter_map(|key| key.as_str().map(str::to_string)).collect()
    };
    let (matching, mismatching) = (keys("matchLabelKeys"), keys("mismatchLabelKeys"));
    for (list, keys) in [("matchLabelKeys", &matching), ("mismatchLabelKeys", &mismatching)] {
        let root = path.child(list);
        if !keys.is_empty() && at(term, "labelSelector").is_none() {
            errs.forbidden(&root, "must not be specified when labelSelector is not set");
        }
        for (i, key) in keys.iter().enumerate() {
            checks::qualified(key, &root.index(i), errs);
        }
    }
    let mut seen: Vec<&str> =
        map_at(term, "labelSelector.matchLabels").into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    for requirement in list_at(term, "labelSelector.matchExpressions") {
        let key = str_at(requirement, "key");
        if let Some(i) = matching.iter().position(|k| k == key).filter(|_| seen.contains(&key)) {
            errs.invalid(&path.index(i), key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.push(key);
    }
    for (i, key) in matching.iter().enumerate().filter(|(_, key)| mismatching.contains(key)) {
        errs.invalid(
            &path.child("matchLabelKeys").index(i),
            key.as_str(),
            "exists in both matchLabelKeys and mismatchLabelKeys",
        );
    }
}

/// A list of tolerations.
pub(crate) fn tolerations(tolerations: &[Value], root: &Path<'_>, errs: &mut ErrorList) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = root.index(i);
        let (key, operator) = (str_at(toleration, "key"), str_at(toleration, "operator"));
        let (value, effect) = (str_at(toleration, "value"), str_at(toleration, "effect"));
        let operator_path = path.child("operator");
        if !key.is_empty() {
            checks::qualified(key, &path.child("key"), errs);
        } else if operator != "Exists" {
            errs.invalid(
                &operator_path,
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if int_at(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            errs.invalid(&path.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "Equal" | "" => {
                let texts = names::label_value(value);
                if !texts.is_empty() {
                    errs.invalid(&operator_path, value, texts.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errs.invalid(&operator_path, value, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            "Lt" | "Gt" => errs.not_supported(&operator_path, operator, &["Equal", "Exists", "Lt", "Gt"]),
            _ => errs.not_supported(&operator_path, operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            checks::one_of(effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"], &path.child("effect"), errs);
        }
    }
}

/// `topologySpreadConstraints` of a spec.
pub(crate) fn spread(spec: &Value, root: &Path<'_>, errs: &mut ErrorList) {
    let constraints = list_at(spec, "topologySpreadConstraints");
    let pair = |constraint: &'_ Value| ["topologyKey", "whenUnsatisfiable"].map(|f| str_at(constraint, f).to_owned());
    let last: HashMap<_, _> = constraints.iter().enumerate().map(|(i, constraint)| (pair(constraint), i)).collect();
    for (i, constraint) in constraints.iter().enumerate() {
        let path = root.index(i);
        let positive = "must be greater than zero";
        let skew = int_at(constraint, "maxSkew").unwrap_or_default();
        if skew <= 0 {
            errs.invalid(&path.child("maxSkew"), skew, positive);
        }
        let (key, action) = (str_at(constraint, "topologyKey"), str_at(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            errs.required(&path.child("topologyKey"), "can not be empty");
        }
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            errs.not_supported(&path.child("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        if last.get(&pair(constraint)).is_some_and(|last| *last > i) {
            errs.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = int_at(constraint, "minDomains") {
            if domains <= 0 {
                errs.invalid(&path.child("minDomains"), domains, positive);
            }
            if action != "DoNotSchedule" {
                errs.invalid(
                    &path.child("minDomains"),
                    domains,
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"),
                );
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let value = str_at(constraint, policy);
            if !matches!(value, "" | "Honor" | "Ignore") {
                errs.not_supported(&path.child(policy), value, &["Honor", "Ignore"]);
            }
        }
        label_keys(constraint, &path, errs);
        if let Some(selector) = at(constraint, "labelSelector") {
            checks::label_selector(selector, &path.child("labelSelector"), errs);
        }
    }
}
