//! `podgroup-protection-controller`: a PodGroup outlives its deletion until none of its pods is active. Admission adds the finalizer.

use std::sync::Arc;

use common::informer::{Event, Informer, WorkQueue};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use kube::{Api, Client};

use crate::context::{Context, Task};
use crate::shared::meta::MetaExt;
use crate::shared::pods;
use crate::shared::protection::{self, Guard};

/// Index of pods that have not ended by `namespace/group`.
const BY_GROUP: &str = "activePodSchedulingGroup";

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let queue = WorkQueue::new(Groups::QUEUE);
    let pods: Arc<Informer<Pod>> = ctx.factory.informer();
    pods.add_index(BY_GROUP, |pod| active_in(pod).into_iter().collect());
    let changed = queue.clone();
    pods.on_event(move |event| {
        let left = match event {
            Event::Added(_) => None,
            Event::Updated { old, new } => {
                active_in(old).filter(|group| active_in(new).as_ref() != Some(group)).map(|_| old)
            }
            Event::Deleted(pod) => group_of(pod).map(|_| pod),
        };
        if let Some(pod) = left {
            changed.add(pod.ns_str().to_owned());
        }
    });
    Ok(protection::start(ctx, queue, Groups { pods }))
}

/// `namespace/group` of a pod.
fn group_of(pod: &Pod) -> Option<String> {
    let group = pod.spec.as_ref()?.scheduling_group.as_ref()?.pod_group_name.as_ref()?;
    Some(format!("{}/{group}", pod.ns_str()))
}

fn active_in(pod: &Pod) -> Option<String> {
    group_of(pod).filter(|_| !pods::is_terminal(pod))
}

struct Groups {
    pods: Arc<Informer<Pod>>,
}

impl Guard for Groups {
    type Kind = PodGroup;
    const FINALIZER: &'static str = "scheduling.k8s.io/podgroup-protection";
    const IDENTITY: &'static str = "podgroup-protection-controller";
    const QUEUE: &'static str = "podgroupprotection";
    const ADDS: bool = false;

    fn api(client: Client, namespace: &str) -> Api<PodGroup> {
        Api::namespaced(client, namespace)
    }

    fn in_use(&self, group: &PodGroup) -> bool {
        !self.pods.by_index(BY_GROUP, &format!("{}/{}", group.ns_str(), group.name_str())).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_pods_that_run_or_will_count() {
        let pod = |phase: &str, group: Option<&str>| -> Option<String> {
            let group = group.map(|name| json!({"podGroupName": name}));
            let pod = json!({"metadata": {"namespace": "n", "name": "p"}, "status": {"phase": phase},
                "spec": {"containers": [], "schedulingGroup": group}});
            active_in(&serde_json::from_value(pod).unwrap())
        };
        assert_eq!(pod("Pending", Some("g")).as_deref(), Some("n/g"));
        assert_eq!(pod("Running", Some("g")).as_deref(), Some("n/g"));
        assert_eq!(pod("Succeeded", Some("g")), None);
        assert_eq!(pod("Failed", Some("g")), None);
        assert_eq!(pod("Running", None), None);
    }
}
