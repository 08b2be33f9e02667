//! The downward API: fields and resources of a pod as text, for variables and volumes. Pure.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::quantity::{self, Resources};

/// What the node knows and the pod object may not say yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct FieldContext {
    pub(crate) host_ips: Vec<String>,
    pub(crate) pod_ips: Vec<String>,
    /// Stands in for limits that are not set.
    pub(crate) allocatable: Resources,
}

/// A field of the pod.
pub(crate) fn of_pod(pod: &Pod, path: &str, context: &FieldContext) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| Ok(value.cloned().unwrap_or_default());
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.annotations" => &meta.annotations,
            "metadata.labels" => &meta.labels,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return text(map.as_ref().and_then(|map| map.get(key)));
    }
    match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => Ok(format_map(meta.labels.as_ref())),
        "metadata.annotations" => Ok(format_map(meta.annotations.as_ref())),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" => text(context.host_ips.first()),
        "status.hostIPs" => Ok(context.host_ips.join(",")),
        "status.podIP" => text(context.pod_ips.first()),
        "status.podIPs" => Ok(context.pod_ips.join(",")),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

fn format_map(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// A request or limit, divided and rounded up.
pub(crate) fn of_resources(
    pod: &Pod,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
    context: &FieldContext,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty()).and_then(|name| {
        let spec = pod.spec.as_ref()?;
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|container| container.name == name)
    });
    let container = named
        .or(container)
        .ok_or_else(|| format!("container {} not found", selector.container_name.as_deref().unwrap_or_default()))?;
    let (list, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let resources = container.resources.as_ref();
    let (own, fallback) = match list {
        "limits" => (resources.and_then(|r| r.limits.as_ref()), Some(&context.allocatable)),
        "requests" => (resources.and_then(|r| r.requests.as_ref()), resources.and_then(|r| r.limits.as_ref())),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let quantity = own.and_then(|list| list.get(resource)).or_else(|| fallback.and_then(|list| list.get(resource)));
    let divisor = selector.divisor.as_ref();
    let (amount, unit) = if resource == "cpu" {
        (quantity.map_or(0, quantity::milli), divisor.map_or(1000, quantity::milli))
    } else {
        (quantity.map_or(0, quantity::value), divisor.map_or(1, quantity::value))
    };
    let unit = if unit <= 0 { if resource == "cpu" { 1000 } else { 1 } } else { unit };
    Ok(((amount + unit - 1) / unit).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_quoted_and_sorted() {
        let mut pod = Pod::default();
        pod.metadata.labels = Some([("b".into(), "say \"x\"".into()), ("a".into(), "1".into())].into());
        let context = FieldContext::default();
        assert_eq!(of_pod(&pod, "metadata.labels", &context).as_deref(), Ok("a=\"1\"\nb=\"say \\\"x\\\"\""));
        assert_eq!(of_pod(&pod, "metadata.labels['a']", &context).as_deref(), Ok("1"));
        assert!(of_pod(&pod, "spec.nope", &context).is_err());
    }
}
