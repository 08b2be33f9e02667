//! Room for a critical pod: which lesser pods end for it. Pure.
//!
//! As few pods as possible, and of those the ones that the fewest promises were made to: what best-effort pods can free is not taken from
//! burstable ones, and what these can is not taken from guaranteed ones.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::runtime::resources::{Qos, is_critical, pod_total, qos};

/// What is missing: (resource, amount), `cpu` in thousandths.
pub(super) type Missing<'a> = Vec<(&'a str, i64)>;

fn request(pod: &Pod, resource: &str) -> i64 {
    match (resource, &pod.spec) {
        ("pods", _) => 1,
        (_, Some(spec)) => pod_total(spec, resource, false),
        (_, None) => 0,
    }
}

fn without<'a>(missing: &Missing<'a>, pods: &[Arc<Pod>]) -> Missing<'a> {
    let left = |(name, amount): &(&'a str, i64)| {
        let freed: i64 = pods.iter().map(|pod| request(pod, name)).sum();
        (*name, amount - freed)
    };
    missing.iter().map(left).filter(|(_, amount)| *amount > 0).collect()
}

fn told(missing: &Missing<'_>) -> String {
    let each: String = missing.iter().map(|(name, amount)| format!("(res: {name}, q: {amount}), ")).collect();
    format!("no set of running pods found to reclaim resources: [{each}]")
}

/// How far from enough a pod is; 0 = it frees all.
#[allow(clippy::cast_precision_loss, reason = "distances are compared only")]
fn distance(missing: &Missing<'_>, pod: &Pod) -> f64 {
    let part = |(name, amount): &(&str, i64)| {
        let left = (amount - request(pod, name)).max(0);
        (left as f64 / *amount as f64).powi(2)
    };
    missing.iter().map(part).sum()
}

fn nearest(mut pods: Vec<Arc<Pod>>, mut missing: Missing<'_>) -> Result<Vec<Arc<Pod>>, String> {
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let size = |pod: &Arc<Pod>| (request(pod, "memory"), request(pod, "cpu"));
        let best = pods.iter().enumerate().min_by(|(_, a), (_, b)| {
            distance(&missing, a).total_cmp(&distance(&missing, b)).then_with(|| size(a).cmp(&size(b)))
        });
        let Some(index) = best.map(|(index, _)| index) else { return Err(told(&missing)) };
        let pod = pods.swap_remove(index);
        missing = without(&missing, std::slice::from_ref(&pod));
        chosen.push(pod);
    }
    Ok(chosen)
}

fn may_preempt(preemptor: &Pod, pod: &Pod) -> bool {
    let priority = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.priority);
    (is_critical(preemptor) && !is_critical(pod))
        || priority(preemptor).zip(priority(pod)).is_some_and(|(one, other)| one > other)
}

/// The pods to end.
pub(super) fn victims(preemptor: &Pod, pods: &[Arc<Pod>], missing: &Missing<'_>) -> Result<Vec<Arc<Pod>>, String> {
    let of = |class: Qos| -> Vec<Arc<Pod>> {
        let lesser = pods.iter().filter(|pod| may_preempt(preemptor, pod));
        lesser.filter(|pod| pod.spec.as_ref().is_some_and(|spec| qos(spec) == class)).cloned().collect()
    };
    let (best_effort, burstable, guaranteed) = (of(Qos::BestEffort), of(Qos::Burstable), of(Qos::Guaranteed));
    let never = without(missing, &[best_effort.clone(), burstable.clone(), guaranteed.clone()].concat());
    if !never.is_empty() {
        return Err(told(&never));
    }
    let guaranteed = nearest(guaranteed, without(missing, &[best_effort.clone(), burstable.clone()].concat()))?;
    let burstable = nearest(burstable, without(missing, &[best_effort.clone(), guaranteed.clone()].concat()))?;
    let best_effort = nearest(best_effort, without(missing, &[burstable.clone(), guaranteed.clone()].concat()))?;
    Ok([best_effort, burstable, guaranteed].concat())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: i32, requests: serde_json::Value, limits: serde_json::Value) -> Arc<Pod> {
        let resources = json!({"requests": requests, "limits": limits});
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": resources}]});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
    }

    #[test]
    fn the_least_promised_end_first() {
        let both = |cpu: &str| json!({"cpu": cpu, "memory": "1Gi"});
        let pods = [
            pod("idle", 0, json!({}), json!({})),
            pod("small", 0, json!({"cpu": "200m"}), json!({})),
            pod("middle", 0, json!({"cpu": "500m"}), json!({})),
            pod("large", 0, both("2"), both("2")),
            pod("critical", 2_000_000_000, json!({"cpu": "4"}), json!({})),
        ];
        let critical = pod("x", 2_000_001_000, json!({}), json!({}));
        for (missing, want) in [
            (vec![("cpu", 100)], Ok(&["small"][..])),
            (vec![("cpu", 300)], Ok(&["middle"])),
            (vec![("cpu", 600)], Ok(&["middle", "small"])),
            (vec![("cpu", 900)], Ok(&["large"])),
            (vec![("pods", 1)], Ok(&["idle"])),
            (vec![("cpu", 9000)], Err("no set of running pods found to reclaim resources: [(res: cpu, q: 6300), ]")),
        ] {
            let found = victims(&critical, &pods[..4], &missing);
            let names = found.map(|pods| pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>());
            match want {
                Ok(want) => assert_eq!(names.unwrap(), want, "{missing:?}"),
                Err(want) => assert_eq!(names.unwrap_err(), want),
            }
        }
        let modest = pod("y", 1, json!({}), json!({}));
        assert!(victims(&modest, &pods[4..], &vec![("cpu", 1)]).is_err());
    }
}
