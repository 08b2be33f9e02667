//! The outside world as the API server: pods from the informer, events and status patches through the client.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use common::events::{EventType, EventsV1Recorder};
use common::informer::Informer;
use k8s_openapi::api::core::v1::{ContainerStatus, ObjectReference, Pod, PodStatus};
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use serde_json::Value;

use super::outlet::Outlet;
use crate::framework::pod::PodInfo;
use crate::framework::volumes::Volumes;

/// The API server.
pub struct ApiOutlet {
    client: kube::Client,
    pods: Arc<Informer<Pod>>,
    recorders: HashMap<Arc<str>, EventsV1Recorder>,
}

impl ApiOutlet {
    /// With a recorder per scheduler name. Must be called within a runtime.
    pub fn new(client: kube::Client, pods: Arc<Informer<Pod>>, profiles: &[Arc<str>]) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let instance = |name: &str| format!("{name}-{}", host.trim());
        let base = EventsV1Recorder::new(client.clone(), "kube-scheduler", &instance("kube-scheduler"));
        let recorders =
            profiles.iter().map(|name| (name.clone(), base.for_controller(name, &instance(name)))).collect();
        Self { client, pods, recorders }
    }
}

#[async_trait]
impl Outlet for ApiOutlet {
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods.get(namespace, name)
    }

    fn event(&self, pod: &PodInfo, warning: bool, reason: &str, action: &str, note: &str) {
        let Some(recorder) = self.recorders.get(&pod.template.scheduler_name) else { return };
        let regarding = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(pod.namespace().to_owned()),
            name: Some(pod.name.to_string()),
            uid: Some(pod.uid.to_string()),
            resource_version: Some(pod.resource_version.to_string()),
            field_path: None,
        };
        let kind = if warning { EventType::Warning } else { EventType::Normal };
        recorder.event(&regarding, None, kind, reason, action, note);
    }

    async fn patch_status(&self, namespace: &str, name: &str, patch: Value) -> Result<(), String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let sent = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        sent.map(|_| ()).map_err(|error| error.to_string())
    }

    async fn group_condition(&self, group: &PodGroup, mut condition: Condition) -> Result<(), String> {
        let mut conditions = group.status.clone().and_then(|status| status.conditions).unwrap_or_default();
        condition.observed_generation = group.metadata.generation;
        if let Some(old) = conditions.iter().find(|old| old.type_ == condition.type_) {
            let same = Condition { last_transition_time: old.last_transition_time.clone(), ..condition.clone() };
            if *old == same || (old.status == "True" && condition.status != "True") {
                return Ok(());
            }
            if old.status == condition.status {
                condition = same;
            }
        }
        conditions.retain(|old| old.type_ != condition.type_);
        conditions.push(condition);
        let meta = &group.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let api: Api<PodGroup> = Api::namespaced(self.client.clone(), namespace);
        // The list is replaced whole; the version sees to it that nothing else is lost.
        let patch = serde_json::json!({"metadata": {"resourceVersion": meta.resource_version},
                                       "status": {"conditions": conditions}});
        let name = meta.name.as_deref().unwrap_or_default();
        let sent = api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        sent.map(|_| ()).map_err(|error| error.to_string())
    }
}

/// The conditions that decisions and reports read.
const CONDITIONS: [&str; 3] = ["PodScheduled", "DisruptionTarget", "PodResizePending"];

/// Drops what no decision and no report reads, so that the informer's copy of a pod stays small.
pub fn slim(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
    pod.metadata.generate_name = None;
    pod.metadata.finalizers = None;
    if let Some(status) = &mut pod.status {
        slim_status(status);
    }
    let Some(spec) = &mut pod.spec else { return };
    spec.security_context = None;
    spec.dns_policy = None;
    spec.dns_config = None;
    spec.image_pull_secrets = None;
    spec.service_account = None;
    spec.service_account_name = None;
    spec.readiness_gates = None;
    spec.priority_class_name = None;
    spec.restart_policy = None;
    if let Some(volumes) = &mut spec.volumes {
        volumes.retain(Volumes::matters);
        volumes.shrink_to_fit();
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container.args = None;
        container.command = None;
        container.env = None;
        container.env_from = None;
        container.lifecycle = None;
        container.liveness_probe = None;
        container.readiness_probe = None;
        container.startup_probe = None;
        container.security_context = None;
        container.volume_mounts = None;
        container.image_pull_policy = None;
        container.termination_message_path = None;
        container.termination_message_policy = None;
        container.working_dir = None;
    }
}

fn slim_status(status: &mut PodStatus) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| CONDITIONS.contains(&condition.type_.as_str()));
        conditions.shrink_to_fit();
    }
    // Of containers, only what they were given matters.
    let lists = [&mut status.container_statuses, &mut status.init_container_statuses];
    for container in lists.into_iter().flatten().flatten() {
        let (name, resources) = (std::mem::take(&mut container.name), container.resources.take());
        let allocated_resources = container.allocated_resources.take();
        *container = ContainerStatus { name, resources, allocated_resources, ..ContainerStatus::default() };
    }
    if let Some(statuses) = &mut status.container_statuses {
        statuses.retain(|status| status.resources.is_some() || status.allocated_resources.is_some());
    }
    status.ephemeral_container_statuses = None;
    status.pod_ips = None;
    status.pod_ip = None;
    status.host_ips = None;
    status.host_ip = None;
    status.message = None;
    status.reason = None;
    status.qos_class = None;
}
