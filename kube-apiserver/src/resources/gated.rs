//! Fields behind feature gates that are off: dropped from what is written, unless the stored object uses them already.

use serde_json::Value;

use super::value::at;

/// Where a kind keeps gated fields: a dotted prefix, and paths below it in which `*` stands for every item of a list.
pub(crate) type Gated = &'static [(&'static str, &'static [&'static str])];

/// In every pod spec: ClusterTrustBundleProjection, PodCertificateRequest, GenericWorkload, ContainerStopSignals.
pub(crate) const POD_SPEC: &[&str] = &[
    "volumes.*.projected.sources.*.clusterTrustBundle",
    "volumes.*.projected.sources.*.podCertificate",
    "schedulingGroup",
    "containers.*.lifecycle.stopSignal",
    "initContainers.*.lifecycle.stopSignal",
    "ephemeralContainers.*.lifecycle.stopSignal",
];
/// Kinds with a pod template.
pub(crate) const TEMPLATE: Gated = &[("spec.template.spec", POD_SPEC)];

/// Drops the fields from `new` that `old` does not use.
pub(crate) fn drop_fields(new: &mut Value, old: Option<&Value>, gated: Gated) {
    for (prefix, paths) in gated {
        for path in *paths {
            let in_use = old.and_then(|old| at(old, prefix)).is_some_and(|part| uses(part, path));
            if !in_use && let Some(part) = new.pointer_mut(&format!("/{}", prefix.replace('.', "/"))) {
                drop_at(part, path);
            }
        }
    }
}

fn uses(value: &Value, path: &str) -> bool {
    match path.split_once('.') {
        _ if value.is_null() => false,
        Some(("*", rest)) => value.as_array().into_iter().flatten().any(|item| uses(item, rest)),
        Some((head, rest)) => value.get(head).is_some_and(|inner| uses(inner, rest)),
        None => value.get(path).is_some_and(|v| !v.is_null()),
    }
}

fn drop_at(value: &mut Value, path: &str) {
    match path.split_once('.') {
        Some(("*", rest)) => value.as_array_mut().into_iter().flatten().for_each(|item| drop_at(item, rest)),
        Some((head, rest)) => value.get_mut(head).into_iter().for_each(|inner| drop_at(inner, rest)),
        None => {
            value.as_object_mut().and_then(|map| map.remove(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_stay_only_where_they_are_in_use() {
        let pod = json!({"spec": {"schedulingGroup": {"podGroupName": "g"}, "containers": [{"lifecycle": {"stopSignal": "SIGINT", "preStop": {}}}]}});
        let gated: Gated = &[("spec", POD_SPEC)];
        let mut new = pod.clone();
        drop_fields(&mut new, None, gated);
        assert_eq!(new, json!({"spec": {"containers": [{"lifecycle": {"preStop": {}}}]}}));
        let mut kept = pod.clone();
        drop_fields(&mut kept, Some(&pod), gated);
        assert_eq!(kept, pod);
    }
}
