//! Stopping: hooks, stop signal, KILL after the grace, sidecars last, then the sandbox; and removal of what is left.

use std::time::{Duration, Instant};

use futures::future::join_all;

use super::mailbox::Terminate;
use super::worker::Worker;
use super::{hooks, spec};
use crate::runtime::{ContainerState, ContainerView, PodRuntime};
use crate::volumes;

/// A container always gets this long after its stop signal, whatever the hooks used up.
const MIN_GRACE: i64 = 2;

impl Worker {
    /// Stops all containers and sandboxes of the pod.
    pub(super) async fn kill_pod(&self, runtime: &PodRuntime, wish: &Terminate) -> anyhow::Result<()> {
        let sidecars = self.sidecars_in_reverse();
        let begin = Instant::now();
        let stop = |view: &ContainerView| {
            matches!(view.state, ContainerState::Running | ContainerState::Unknown | ContainerState::Created)
        };
        let regular = runtime.containers.iter().filter(|view| stop(view) && !sidecars.contains(&view.name));
        for outcome in join_all(regular.map(|view| self.kill_container(view, None, wish.grace))).await {
            outcome?;
        }
        for name in &sidecars {
            for view in runtime.containers.iter().filter(|view| stop(view) && view.name == *name) {
                let used = i64::try_from(begin.elapsed().as_secs()).unwrap_or(i64::MAX);
                let left = wish.grace.unwrap_or_else(|| spec::grace(&self.pod)).saturating_sub(used).max(0);
                self.kill_container(view, None, Some(left)).await?;
            }
        }
        for sandbox in runtime.sandboxes.iter().filter(|sandbox| sandbox.ready) {
            self.kubelet.runtime.stop_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    fn sidecars_in_reverse(&self) -> Vec<String> {
        let inits = self.pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let mut names: Vec<_> = inits.filter(|init| spec::is_sidecar(init)).map(|init| init.name.clone()).collect();
        names.reverse();
        names
    }

    /// Stops one container. `grace` replaces the pod's own.
    pub(super) async fn kill_container(
        &self,
        view: &ContainerView,
        message: Option<&str>,
        grace: Option<i64>,
    ) -> anyhow::Result<()> {
        let spec = self.pod.spec.as_ref();
        let container = spec.and_then(|spec| spec::container(spec, &view.name));
        let default = format!("Stopping container {}", view.name);
        let message = message.unwrap_or(&default);
        self.kubelet.events.container(&self.pod, &view.name, false, "Killing", message);
        let mut left = grace.unwrap_or_else(|| spec::grace(&self.pod));
        let hook = match &container {
            Some(container) => container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone()),
            None => view.annotations.pre_stop.clone(),
        };
        if let Some(hook) = hook.filter(|_| left > 0 && view.state == ContainerState::Running) {
            let begin = Instant::now();
            let patience = Duration::from_secs(u64::try_from(left).unwrap_or_default());
            let container = container.unwrap_or_default();
            let ip = self.entry.status().pod_ip.clone();
            let run = hooks::run(&self.kubelet.runtime, &hook, &view.id, &container, ip.as_ref());
            if let Ok(Err(error)) = tokio::time::timeout(patience, run).await {
                tracing::warn!(pod = %spec::describe(&self.pod), container = view.name, %error, "preStop hook failed");
                self.kubelet.events.container(&self.pod, &view.name, true, "FailedPreStopHook", "PreStopHook failed");
            }
            left = left.saturating_sub(i64::try_from(begin.elapsed().as_secs()).unwrap_or(i64::MAX));
        }
        self.kubelet.runtime.stop_container(&view.id, left.max(MIN_GRACE)).await?;
        Ok(())
    }

    /// Volumes and cgroup of a pod in which nothing runs.
    pub(super) async fn clean_up(&self) -> anyhow::Result<()> {
        volumes::unmount_pod(&self.kubelet, &self.uid).await?;
        self.kubelet.claims.unprepare(&self.uid).await.map_err(|error| anyhow::anyhow!(error))?;
        self.kubelet.placement.release(&self.uid);
        self.kubelet.users.release(&self.uid);
        let cgroups = self.kubelet.cgroups.clone();
        let uid = self.uid.clone();
        tokio::task::spawn_blocking(move || cgroups.remove_pod(&uid)).await??;
        Ok(())
    }

    /// Removes all that the runtime still has of the pod.
    pub(super) async fn remove_from_runtime(&self) -> anyhow::Result<()> {
        let runtime = self.kubelet.runtime.pod(&self.uid).await?;
        for view in &runtime.containers {
            self.kubelet.runtime.remove_container(&view.id).await?;
        }
        for sandbox in &runtime.sandboxes {
            self.kubelet.runtime.stop_sandbox(&sandbox.id).await?;
            self.kubelet.runtime.remove_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    /// Removes the pod's state and logs.
    pub(super) async fn remove_directories(&self) {
        let config = &self.kubelet.config;
        let logs = config.pod_log_dir(spec::namespace(&self.pod), spec::name(&self.pod), &self.uid);
        if let Err(error) = volumes::remove_pod_dir(config.pod_dir(&self.uid)).await {
            tracing::warn!(pod = %spec::describe(&self.pod), %error, "removing the pod's directory failed");
        }
        let _ = tokio::fs::remove_dir_all(logs).await;
    }
}
