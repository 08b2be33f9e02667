//! The quality-of-service class of a pod.

use serde_json::Value;

use super::amounts::{Quantity, quantity};
use crate::meta::value::{at, is_zero, list_at};

#[derive(Default)]
struct Sums {
    requests: [Option<Quantity>; 2],
    limits: [Option<Quantity>; 2],
}

const RESOURCES: [&str; 2] = ["cpu", "memory"];

fn add(sums: &mut [Option<Quantity>; 2], resources: &Value, kind: &str) -> bool {
    let mut all = true;
    for (sum, name) in sums.iter_mut().zip(RESOURCES) {
        let amount = resources.get(kind).and_then(|list| list.get(name)).and_then(quantity).filter(|q| q.sign() > 0);
        all &= amount.is_some();
        *sum = match (*sum, amount) {
            (Some(mut sum), Some(more)) => {
                sum.add(&more);
                Some(sum)
            }
            (sum, more) => sum.or(more),
        };
    }
    all
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(pod: &Value) -> &'static str {
    let mut sums = Sums::default();
    let mut guaranteed = true;
    let pod_level = at(pod, "spec.resources");
    let nothing = Value::Null;
    let containers: Vec<&Value> = match pod_level {
        Some(resources) => vec![resources],
        None => list_at(pod, "spec.containers")
            .iter()
            .chain(list_at(pod, "spec.initContainers"))
            .map(|container| container.get("resources").unwrap_or(&nothing))
            .collect(),
    };
    for resources in containers {
        add(&mut sums.requests, resources, "requests");
        let full = add(&mut sums.limits, resources, "limits");
        let counts = pod_level.is_none() || resources.get("limits").is_some_and(|limits| !is_zero(limits));
        guaranteed &= full || !counts;
    }
    let count = |list: &[Option<Quantity>; 2]| list.iter().flatten().count();
    if count(&sums.requests) == 0 && count(&sums.limits) == 0 {
        return "BestEffort";
    }
    let equal = sums.requests.iter().zip(&sums.limits).all(|(request, limit)| match (request, limit) {
        (Some(request), Some(limit)) => request.cmp(limit).is_eq(),
        (Some(_), None) => false,
        (None, _) => true,
    });
    if guaranteed && equal && count(&sums.requests) == count(&sums.limits) { "Guaranteed" } else { "Burstable" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(class(&pod(json!({}))), "BestEffort");
        assert_eq!(class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let full = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(class(&pod(json!({"requests": full, "limits": full}))), "Guaranteed");
        let more = json!({"cpu": "2", "memory": "1Gi"});
        assert_eq!(class(&pod(json!({"requests": full, "limits": more}))), "Burstable");
    }
}
