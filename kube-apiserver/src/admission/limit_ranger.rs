//! LimitRanger: fills in and checks what a namespace's LimitRanges say about containers, pods and claims.

use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin, joined};
use crate::{
    request::ApiResult,
    resources::{
        amounts::{self, Amounts, Count, Quantity},
        value::{list_at, member, set, str_at},
    },
};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn admit(&self, request: &Attributes<'_>, object: &mut Value) -> ApiResult<()> {
        if concerns(request) && request.resource == "pods" {
            for range in ranges(request).await? {
                fill_pod(&range, object);
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(object) = object.filter(|_| concerns(request)) else { return Ok(()) };
        for range in ranges(request).await? {
            let mut errors = Vec::new();
            for limit in list_at(&range, "spec.limits") {
                check(limit, request.resource, object, &mut errors);
            }
            if !errors.is_empty() {
                return Err(request.forbidden(joined(errors)));
            }
        }
        Ok(())
    }
}

fn concerns(request: &Attributes<'_>) -> bool {
    let doomed = request.old.is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null());
    !doomed
        && request.group.is_empty()
        && match (request.resource, request.subresource, request.operation) {
            ("pods", "", operation) => operation == Operation::Create,
            ("pods", "resize", operation) => operation == Operation::Update,
            ("persistentvolumeclaims", "", operation) => operation != Operation::Delete,
            _ => false,
        }
}

async fn ranges(request: &Attributes<'_>) -> ApiResult<Vec<Value>> {
    request.list("", "limitranges", Some(request.namespace)).await
}

/// Limits and requests that containers leave out, and a note about it.
fn fill_pod(range: &Value, pod: &mut Value) {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for limit in list_at(range, "spec.limits").iter().filter(|l| str_at(l, "type") == "Container") {
        requests.extend(amounts::amounts(limit, "defaultRequest"));
        limits.extend(amounts::amounts(limit, "default"));
    }
    let mut notes = Vec::new();
    for (list, title) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = str_at(container, "name").to_owned();
            for (kind, defaults, what) in [("limits", &limits, "limit"), ("requests", &requests, "request")] {
                let set = fill(container, kind, defaults);
                if !set.is_empty() {
                    let note = format!("{} {what} for {title} {name}", set.join(", "));
                    // Requests are told before limits, as upstream does.
                    let place = if what == "request" {
                        notes.len().saturating_sub(usize::from(told(&notes, &name)))
                    } else {
                        notes.len()
                    };
                    notes.insert(place, note);
                }
            }
        }
    }
    if !notes.is_empty()
        && let Some(annotations) = member(pod, "metadata").and_then(|meta| member(meta, "annotations"))
    {
        set(annotations, ANNOTATION, format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

/// Whether the last note is about the limits of this container.
fn told(notes: &[String], container: &str) -> bool {
    notes.last().is_some_and(|note| note.contains(" limit for ") && note.ends_with(&format!(" {container}")))
}

fn fill(container: &mut Value, kind: &str, defaults: &Amounts) -> Vec<String> {
    if defaults.is_empty() {
        return Vec::new();
    }
    let Some(list) = member(container, "resources").and_then(|resources| member(resources, kind)) else {
        return Vec::new();
    };
    let missing: Vec<_> = defaults.iter().filter(|(name, _)| list.get(name.as_str()).is_none()).collect();
    missing.iter().for_each(|(name, amount)| set(list, name, amount.to_string()));
    missing.into_iter().map(|(name, _)| name.clone()).collect()
}

fn check(limit: &Value, resource: &str, object: &Value, errors: &mut Vec<String>) {
    let kind = str_at(limit, "type");
    match (resource, kind) {
        ("persistentvolumeclaims", "PersistentVolumeClaim") => {
            let requests = amounts::amounts(object, "spec.resources.requests");
            for (name, min) in amounts::amounts(limit, "min") {
                errors.extend(below(kind, &name, min, &requests, &Amounts::new()));
            }
            for (name, max) in amounts::amounts(limit, "max") {
                errors.extend(match requests.get(&name) {
                    None => Some(format!("maximum {name} usage per {kind} is {max}.  No request is specified")),
                    Some(request) if *request > max => {
                        Some(format!("maximum {name} usage per {kind} is {max}, but request is {request}"))
                    }
                    Some(_) => None,
                });
            }
        }
        ("pods", "Container") => {
            for container in list_at(object, "spec.containers").iter().chain(list_at(object, "spec.initContainers")) {
                let list = |name| amounts::amounts(container, name);
                check_amounts(limit, kind, &list("resources.requests"), &list("resources.limits"), errors);
            }
        }
        ("pods", "Pod") => {
            let requests = amounts::pod_requests(object, Count::Spec);
            check_amounts(limit, kind, &requests, &amounts::pod_limits(object, Count::Spec), errors);
        }
        _ => {}
    }
}

fn check_amounts(limit: &Value, kind: &str, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    for (name, min) in amounts::amounts(limit, "min") {
        errors.extend(below(kind, &name, min, requests, limits));
    }
    for (name, max) in amounts::amounts(limit, "max") {
        errors.extend(above(kind, &name, max, requests, limits));
    }
    for (name, ratio) in amounts::amounts(limit, "maxLimitRequestRatio") {
        errors.extend(beyond_ratio(kind, &name, ratio, requests, limits));
    }
}

fn below(kind: &str, name: &str, min: Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let start = format!("minimum {name} usage per {kind} is {min}");
    let Some(request) = requests.get(name) else { return Some(format!("{start}.  No request is specified")) };
    if *request < min {
        return Some(format!("{start}, but request is {request}"));
    }
    limits.get(name).filter(|limit| **limit < min).map(|limit| format!("{start}, but limit is {limit}"))
}

fn above(kind: &str, name: &str, max: Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let start = format!("maximum {name} usage per {kind} is {max}");
    let Some(limit) = limits.get(name) else { return Some(format!("{start}.  No limit is specified")) };
    if *limit > max {
        return Some(format!("{start}, but limit is {limit}"));
    }
    requests.get(name).filter(|request| **request > max).map(|request| format!("{start}, but request is {request}"))
}

fn beyond_ratio(kind: &str, name: &str, max: Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let start = format!("{name} max limit to request ratio per {kind} is {max}");
    let Some(request) = requests.get(name).filter(|r| !r.is_zero()) else {
        return Some(format!("{start}, but no request is specified or request is 0"));
    };
    let Some(limit) = limits.get(name).filter(|l| !l.is_zero()) else {
        return Some(format!("{start}, but no limit is specified or limit is 0"));
    };
    let ratio = limit.as_f64() / request.as_f64();
    (ratio > max.as_f64()).then(|| format!("{start}, but provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_amounts_are_filled_and_noted() {
        let range = json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "1", "memory": "2Gi"},
            "defaultRequest": {"cpu": "500m"}}]}});
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}}]}});
        fill_pod(&range, &mut pod);
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "500m"}));
        assert_eq!(pod["spec"]["containers"][1]["resources"]["limits"], json!({"cpu": "2", "memory": "2Gi"}));
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a; memory limit for container b"
        );
    }

    #[test]
    fn bounds_are_told_as_upstream_does() {
        let limit = json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"memory": "1Gi"}, "maxLimitRequestRatio": {"cpu": "2"}});
        let pod =
            json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "150m"}}}]}});
        let mut errors = Vec::new();
        check(&limit, "pods", &pod, &mut errors);
        assert_eq!(
            errors,
            [
                "minimum cpu usage per Container is 100m, but request is 50m",
                "maximum memory usage per Container is 1Gi.  No limit is specified",
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ]
        );
    }
}
