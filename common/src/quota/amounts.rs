//! Resource lists as numbers: sums, maxima, and what a pod asks for as a whole.

use std::collections::BTreeMap;

use serde_json::Value;

pub use crate::meta::quantity::Quantity;
use crate::meta::value::{at, list_at, str_at};

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// The resource list at a dotted path; what is no quantity is left out.
pub fn amounts(obj: &Value, path: &str) -> Amounts {
    let entries = at(obj, path).and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

/// A quantity from a JSON string or number.
pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// Adds every amount of `more`.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        sum.entry(name.clone()).and_modify(|a| a.add(amount)).or_insert(*amount);
    }
}

/// Keeps the larger of each amount.
pub fn max(list: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = list.entry(name.clone()).or_insert(*amount);
        if *amount > *entry {
            *entry = *amount;
        }
    }
}

/// How to sum a pod.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// What the spec says of containers and of the pod as a whole.
    Spec,
    /// Also overhead, and what a resize under way still holds.
    Charged,
}

/// What a pod requests: init containers run one by one before the others, sidecars beside all that follow.
pub fn pod_requests(pod: &Value, count: Count) -> Amounts {
    let mut sum = aggregate(pod, "requests", count);
    override_by_pod(pod, "requests", &mut sum);
    if count == Count::Charged {
        add(&mut sum, &amounts(pod, "spec.overhead"));
    }
    sum
}

/// What a pod may use at most; overhead counts for resources that have a limit.
pub fn pod_limits(pod: &Value, count: Count) -> Amounts {
    let mut sum = aggregate(pod, "limits", count);
    override_by_pod(pod, "limits", &mut sum);
    if count == Count::Charged {
        let overhead = amounts(pod, "spec.overhead");
        for (name, amount) in &mut sum {
            overhead.get(name).into_iter().for_each(|extra| amount.add(extra));
        }
    }
    sum
}

fn override_by_pod(pod: &Value, list: &str, sum: &mut Amounts) {
    let whole = amounts(pod, &format!("spec.resources.{list}"));
    sum.extend(whole.into_iter().filter(|(name, _)| is_pod_level(name)));
}

/// Whether a resource can be given for a pod as a whole.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn aggregate(pod: &Value, list: &str, count: Count) -> Amounts {
    let of = |container: &Value, resizable: bool| {
        let spec = amounts(container, &format!("resources.{list}"));
        if count == Count::Charged && resizable { held(pod, container, list, spec) } else { spec }
    };
    let (mut sum, mut sidecars, mut peak) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in list_at(pod, "spec.containers") {
        add(&mut sum, &of(container, true));
    }
    for container in list_at(pod, "spec.initContainers") {
        if str_at(container, "restartPolicy") == "Always" {
            let own = of(container, true);
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            max(&mut peak, &sidecars);
        } else {
            let mut own = of(container, false);
            add(&mut own, &sidecars);
            max(&mut peak, &own);
        }
    }
    max(&mut sum, &peak);
    sum
}

/// A container that is being resized holds the most of what it has, was promised and (unless that can't be) asks for.
fn held(pod: &Value, container: &Value, list: &str, spec: Amounts) -> Amounts {
    let name = str_at(container, "name");
    let statuses = ["status.containerStatuses", "status.initContainerStatuses"];
    let status = statuses.iter().flat_map(|path| list_at(pod, path)).find(|s| str_at(s, "name") == name);
    let Some(status) = status.filter(|s| at(s, "resources").is_some()) else { return spec };
    let infeasible = list_at(pod, "status.conditions")
        .iter()
        .any(|c| str_at(c, "type") == "PodResizePending" && str_at(c, "reason") == "Infeasible");
    let mut most = if infeasible { Amounts::new() } else { spec };
    max(&mut most, &amounts(status, &format!("resources.{list}")));
    if list == "requests" {
        max(&mut most, &amounts(status, "allocatedResources"));
    }
    most
}

/// `cpu=1,memory=2Gi`, as errors about quotas show lists.
pub fn text(list: &Amounts) -> String {
    list.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn init_containers_set_a_floor_and_sidecars_add_up() {
        let cpu = |n: &str| json!({"resources": {"requests": {"cpu": n}}});
        let mut sidecar = cpu("200m");
        sidecar["restartPolicy"] = "Always".into();
        let pod = json!({"spec": {"containers": [cpu("1"), cpu("500m")], "initContainers": [cpu("1"), sidecar, cpu("2")],
            "overhead": {"cpu": "50m"}}});
        assert_eq!(text(&pod_requests(&pod, Count::Spec)), "cpu=2200m");
        assert_eq!(text(&pod_requests(&pod, Count::Charged)), "cpu=2250m");
        let whole = json!({"spec": {"containers": [cpu("1")], "resources": {"requests": {"cpu": "3"}}}});
        assert_eq!(text(&pod_requests(&whole, Count::Spec)), "cpu=3");
        let shrinking = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": "4"}}}]}});
        assert_eq!(text(&pod_requests(&shrinking, Count::Charged)), "cpu=4");
    }
}
