//! The Secrets that a pod names, wherever it does. Pure.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

/// Adds the names of the pod's Secrets. Walks the whole spec: this runs once a day, and no new kind of reference is overlooked.
pub(super) fn collect(pod: &Pod, names: &mut HashSet<String>) {
    if let Ok(spec) = serde_json::to_value(&pod.spec) {
        walk(&spec, names);
    }
}

fn walk(value: &Value, names: &mut HashSet<String>) {
    match value {
        Value::Array(list) => list.iter().for_each(|item| walk(item, names)),
        Value::Object(map) => {
            for (key, value) in map {
                match key.as_str() {
                    "secretName" => names.extend(value.as_str().map(str::to_owned)),
                    "secretRef" | "secretKeyRef" | "nodePublishSecretRef" | "secret" => add_name(value, names),
                    "imagePullSecrets" => value.as_array().into_iter().flatten().for_each(|item| add_name(item, names)),
                    _ => {}
                }
                walk(value, names);
            }
        }
        _ => {}
    }
}

fn add_name(reference: &Value, names: &mut HashSet<String>) {
    names.extend(reference.get("name").and_then(Value::as_str).map(str::to_owned));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_of_reference() {
        let pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "all"}}]}],
            "containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "one", "key": "k"}}}]}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "plain"}},
                {"name": "b", "projected": {"sources": [{"secret": {"name": "projected"}}, {"configMap": {"name": "no"}}]}},
                {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}},
                {"name": "d", "azureFile": {"secretName": "azure", "shareName": "s"}},
            ]}}))
        .unwrap();
        let mut names = HashSet::new();
        collect(&pod, &mut names);
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort();
        assert_eq!(names, ["all", "azure", "csi", "one", "plain", "projected", "pull"]);
    }
}
