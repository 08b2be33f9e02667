//! Running containers follow: when somebody takes CPUs for itself the others leave them, and get them back afterwards.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_cri::v1::{ContainerState, LinuxContainerResources};
use tokio_util::sync::CancellationToken;

use crate::runtime::labels;
use crate::shared::Kubelet;

/// Looks every `cpuManagerReconcilePeriod` until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    if kubelet.placement.cpus.is_none() {
        return;
    }
    let period = kubelet.config.file.cpu_manager_reconcile_period.0;
    // What each container was last given, by id.
    let mut given: HashMap<String, String> = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = shutdown.cancelled() => return,
        }
        if !kubelet.pods.sources_ready(kubelet.client.is_some()) {
            continue;
        }
        let Ok(containers) = kubelet.runtime.containers(None).await else { continue };
        given.retain(|id, _| containers.iter().any(|container| container.id == *id));
        for container in containers.iter().filter(|c| c.state == ContainerState::ContainerRunning as i32) {
            let label = |key: &str| container.labels.get(key).map(String::as_str).unwrap_or_default();
            let uid = label(labels::POD_UID);
            if !kubelet.pods.contains(uid) {
                continue;
            }
            let mut wanted = LinuxContainerResources::default();
            kubelet.placement.apply(uid, label(labels::CONTAINER_NAME), &mut wanted);
            // Only the CPUs move; memory stays where it is.
            let cpus = wanted.cpuset_cpus;
            if cpus.is_empty() || given.get(&container.id) == Some(&cpus) {
                continue;
            }
            let update = LinuxContainerResources { cpuset_cpus: cpus.clone(), ..Default::default() };
            match kubelet.runtime.update_resources(&container.id, update).await {
                Ok(()) => drop(given.insert(container.id.clone(), cpus)),
                Err(error) => {
                    tracing::warn!(container = container.id, cpus, %error, "cannot update the container's CPUs, will retry");
                }
            }
        }
    }
}
