//! Label selectors of workloads, compiled once per reconcile.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::core::{Selector, SelectorExt};

/// Compiles a selector. An absent operator or value list is an error, as upstream's.
pub(crate) fn compile(selector: &LabelSelector) -> Result<Selector, String> {
    Selector::try_from(selector.clone()).map_err(|e| e.to_string())
}

/// Does it select the object's labels?
pub(crate) fn selects(selector: &Selector, meta: &ObjectMeta) -> bool {
    match &meta.labels {
        Some(labels) => selector.matches(labels),
        None => selector.matches(&BTreeMap::new()),
    }
}

/// Are all `wanted` pairs among `labels`? An empty map selects everything.
pub(crate) fn map_selects(wanted: &BTreeMap<String, String>, labels: Option<&BTreeMap<String, String>>) -> bool {
    wanted.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

/// The selector as Go prints the struct.
pub(crate) fn printed(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let labels: Vec<String> =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions: Vec<String> = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|e| {
            let values = e.values.clone().unwrap_or_default().join(" ");
            format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", e.key, e.operator)
        })
        .collect();
    let (labels, expressions) = (labels.concat(), expressions.concat());
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_keys_match_not_in() {
        let s: LabelSelector = serde_json::from_value(json!({"matchExpressions": [
            {"key": "a", "operator": "NotIn", "values": ["x"]}, {"key": "b", "operator": "DoesNotExist"}]}))
        .unwrap();
        let s = compile(&s).unwrap();
        let meta = |v| serde_json::from_value::<ObjectMeta>(json!({ "labels": v })).unwrap();
        assert!(selects(&s, &ObjectMeta::default()));
        assert!(selects(&s, &meta(json!({"a": "y"}))));
        assert!(!selects(&s, &meta(json!({"a": "x"}))));
        assert!(!selects(&s, &meta(json!({"b": "1"}))));
        assert!(
            compile(&serde_json::from_value(json!({"matchExpressions": [{"key": "a", "operator": "Like"}]})).unwrap())
                .is_err()
        );
    }
}
