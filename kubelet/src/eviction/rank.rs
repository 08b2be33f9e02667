//! Which pod goes first: one that uses more than it asked for, of the lowest priority, by the most. Pure but for reading
//! usage.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::pods::{PodRecord, spec};
use crate::runtime::resources::{is_critical, pod_total};
use crate::runtime::{Runtime, RuntimeError};
use crate::shared::Kubelet;

/// Working set by pod UID.
pub(super) async fn memory_usage(kubelet: &Kubelet) -> HashMap<String, i64> {
    by_pod(&kubelet.runtime).await.unwrap_or_default()
}

async fn by_pod(runtime: &Runtime) -> Result<HashMap<String, i64>, RuntimeError> {
    let mut usage = HashMap::new();
    for stats in runtime.container_stats().await? {
        let uid = stats.attributes.as_ref().and_then(|a| a.labels.get(crate::runtime::labels::POD_UID)).cloned();
        let bytes = stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |bytes| bytes.value);
        if let Some(uid) = uid {
            *usage.entry(uid).or_default() += i64::try_from(bytes).unwrap_or(i64::MAX);
        }
    }
    Ok(usage)
}

/// The pod to end.
pub(super) fn victim(pods: &[PodRecord], usage: &HashMap<String, i64>) -> Option<Arc<Pod>> {
    let over = |record: &&PodRecord| matches!(record.status.phase.as_deref(), Some("Failed" | "Succeeded"));
    let candidates = pods.iter().filter(|record| !over(record) && !is_critical(&record.pod));
    let worst = candidates.max_by_key(|record| {
        let used = usage.get(spec::uid(&record.pod)).copied().unwrap_or(0);
        let asked = record.pod.spec.as_ref().map_or(0, |spec| pod_total(spec, "memory", false));
        let priority = record.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        (used > asked, std::cmp::Reverse(priority), used - asked)
    });
    worst.map(|record| record.pod.clone())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    #[test]
    fn priority_and_excess_decide() {
        let record = |uid: &str, priority: i32| {
            let mut pod =
                Pod { spec: Some(PodSpec { priority: Some(priority), ..Default::default() }), ..Default::default() };
            pod.metadata.uid = Some(uid.into());
            {
                let pod = Arc::new(pod);
                PodRecord { allocated: pod.clone(), pod, status: Arc::default() }
            }
        };
        let usage = HashMap::from([("a".to_owned(), 10), ("b".to_owned(), 99), ("c".to_owned(), 20)]);
        let pods = [record("a", 0), record("b", 1000), record("c", 0)];
        assert_eq!(spec::uid(&victim(&pods, &usage).expect("one")), "c");
    }
}
