//! One step towards what a live pod's spec asks for.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::actions::{self, Actions};
use super::mailbox::Terminate;
use super::status::{Verdict, Waiting};
use super::surroundings::Sandbox;
use super::worker::{RETRY, Worker, is_over};
use super::{admission, mirror, spec, status_manager};
use crate::metrics::METRICS;
use crate::runtime::{ContainerState, PodRuntime};
use crate::volumes;

/// When to look again at a container that could not be started.
const START_RETRY: Duration = Duration::from_secs(10);
/// When to look again for room for a resize, or for one that failed.
const RESIZE_RETRY: Duration = Duration::from_secs(10);

/// What comes after a step.
pub(super) enum Next {
    /// The pod has ended.
    Over,
    /// Look again after this long, or when woken.
    After(Duration),
}

impl Worker {
    /// The step.
    pub(super) async fn sync(&mut self) -> anyhow::Result<Next> {
        let kubelet = self.kubelet.clone();
        let runtime = kubelet.runtime.pod(&self.uid).await?;
        let status = self.report(&runtime, false).await;
        if is_over(&status) {
            return Ok(Next::Over);
        }
        let deadline = self.deadline_left(&status);
        if deadline.is_some_and(|left| left.is_zero()) {
            let message = "Pod was active on the node longer than the specified deadline";
            kubelet.events.pod(&self.pod, false, "DeadlineExceeded", message);
            self.end("DeadlineExceeded", message.into());
            return Ok(Next::Over);
        }
        if !self.admitted {
            let fresh = runtime.containers.is_empty() && runtime.sandboxes.is_empty();
            if fresh && let Err((reason, message)) = self.admit().await {
                METRICS.admission_rejections.with_label_values(&[&reason]).inc();
                kubelet.events.pod(&self.pod, true, &reason, &message);
                self.end(&reason, message);
                return Ok(Next::Over);
            }
            self.admitted = true;
        }
        self.promise_all(&runtime);
        self.reconsider();
        if spec::is_static(&self.pod) {
            mirror::ensure(&kubelet, &self.pod).await;
        }
        let host_network = self.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        if let Some(problem) = kubelet.node.network_problem().filter(|_| !host_network) {
            let message = format!("network is not ready: {problem}");
            kubelet.events.pod(&self.pod, true, "NetworkNotReady", &message);
            return Ok(Next::After(RETRY));
        }
        if let Some(next) = self.prepare().await {
            return Ok(next);
        }
        self.probes.sync(&self.pod, &runtime);
        let resizing = self.before_resize().is_some();
        let mut actions = actions::compute(&self.pod, &runtime, &self.probes, &status);
        if !actions.reset.is_empty() {
            return self.reset(&actions.reset, &runtime).await;
        }
        if !actions.kill_pod {
            self.actuate(&runtime, &mut actions).await;
        }
        if resizing && self.before_resize().is_none() {
            self.ensure_cgroup()?;
        }
        let idle = actions == Actions::default() && !resizing;
        let mut pause = self.apply(actions, &runtime).await?;
        if !idle {
            let runtime = kubelet.runtime.pod(&self.uid).await?;
            self.probes.sync(&self.pod, &runtime);
            let status = self.report(&runtime, false).await;
            if is_over(&status) {
                return Ok(Next::Over);
            }
            self.collect_garbage(&runtime).await;
        }
        if self.resize_waits() || self.before_resize().is_some() {
            pause = pause.min(RESIZE_RETRY);
        }
        if let Some(left) = deadline {
            pause = pause.min(left);
        }
        Ok(Next::After(pause))
    }

    /// Takes containers away, so that all start anew. Their logs stay, and count the restarts.
    async fn reset(&mut self, ids: &[String], runtime: &PodRuntime) -> anyhow::Result<Next> {
        for view in ids.iter().filter_map(|id| runtime.containers.iter().find(|view| view.id == *id)) {
            if view.state != ContainerState::Exited {
                self.kill_container(view, None, Some(0)).await?;
            }
            self.kubelet.runtime.remove_container(&view.id).await?;
        }
        self.waiting.clear();
        let runtime = self.kubelet.runtime.pod(&self.uid).await?;
        self.report(&runtime, false).await;
        Ok(Next::After(Duration::ZERO))
    }

    /// Whether the node has what the pod needs, and gives it.
    async fn admit(&self) -> Result<(), (String, String)> {
        admission::admit(&self.kubelet, &self.pod)?;
        let placed = self.kubelet.placement.admit(&self.pod).await;
        placed.map_err(|refusal| (refusal.reason.to_owned(), refusal.message))
    }

    fn end(&mut self, reason: &str, message: String) {
        self.verdict = Some(Verdict { phase: "Failed", reason: reason.to_owned(), message });
    }

    fn deadline_left(&self, status: &k8s_openapi::api::core::v1::PodStatus) -> Option<Duration> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let start = status.start_time.as_ref()?.0;
        let gone = Duration::try_from(status_manager::now().duration_since(start)).unwrap_or_default();
        Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(gone))
    }

    /// Cgroup, directories and volumes. Answers what to do when something is missing.
    async fn prepare(&mut self) -> Option<Next> {
        let kubelet = self.kubelet.clone();
        if let Err(error) = self.ensure_cgroup() {
            let message = format!("unable to ensure pod container exists: {error}");
            kubelet.events.pod(&self.pod, true, "FailedCreatePodContainer", &message);
            return Some(Next::After(RETRY));
        }
        if let Err(error) = self.make_directories().await {
            let message = format!("error making pod data directories: {error}");
            kubelet.events.pod(&self.pod, true, "Failed", &message);
            return Some(Next::After(RETRY));
        }
        match volumes::mount_pod(&kubelet, &self.pod, &mut self.volumes, &mut self.mounting).await {
            volumes::Step::Ready => None,
            volumes::Step::Wait(pause) => Some(Next::After(pause)),
            volumes::Step::Reject(reason, message) => {
                kubelet.events.pod(&self.pod, true, reason, &message);
                self.end(reason, message);
                Some(Next::Over)
            }
        }
    }

    /// While containers have resources of before, the pod's bounds are the wider of both.
    fn ensure_cgroup(&self) -> Result<(), crate::cgroups::CgroupError> {
        let Some(spec) = &self.pod.spec else { return Ok(()) };
        let qos = crate::runtime::resources::qos(spec);
        let no_quota = self.kubelet.placement.lifts_pod_quota(&self.uid);
        self.kubelet.cgroups.ensure_pod(&self.pod, self.before_resize().as_deref(), qos, no_quota)
    }

    async fn make_directories(&self) -> std::io::Result<()> {
        let config = &self.kubelet.config;
        let directory = config.pod_dir(&self.uid);
        for part in ["volumes", "plugins", "containers"] {
            tokio::fs::create_dir_all(directory.join(part)).await?;
        }
        let logs = config.pod_log_dir(spec::namespace(&self.pod), spec::name(&self.pod), &self.uid);
        tokio::fs::create_dir_all(logs).await
    }

    async fn apply(&mut self, actions: Actions, runtime: &PodRuntime) -> anyhow::Result<Duration> {
        let mut pause = self.kubelet.config.file.sync_frequency.0;
        if actions.kill_pod {
            if actions.create_sandbox.is_some_and(|attempt| attempt > 0) {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                self.kubelet.events.pod(&self.pod, false, "SandboxChanged", message);
            }
            self.kill_pod(runtime, &Terminate::default()).await?;
            if actions.create_sandbox.is_none() {
                return Ok(RETRY);
            }
        }
        for kill in &actions.kill {
            if let Some(view) = runtime.containers.iter().find(|view| view.id == kill.id) {
                let grace = self.probes.kill_grace(&self.pod, &kill.name, &kill.id);
                self.kill_container(view, Some(&kill.message), grace).await?;
            }
        }
        if actions.start.is_empty() && actions.start_init.is_empty() && actions.start_ephemeral.is_empty() {
            return Ok(pause);
        }
        if actions.create_sandbox.is_some()
            && let Err(error) = self.kubelet.claims.prepare(self.kubelet.client.as_ref(), &self.pod).await
        {
            let message = format!("Failed to prepare dynamic resources: {error}");
            self.kubelet.events.pod(&self.pod, true, "FailedPrepareDynamicResources", &message);
            return Ok(RETRY);
        }
        let sandbox = match actions.create_sandbox {
            Some(attempt) => match self.counted_sandbox(attempt).await {
                Ok(sandbox) => sandbox,
                Err(error) => {
                    let message = format!("Failed to create pod sandbox: {error}");
                    self.kubelet.events.pod(&self.pod, true, "FailedCreatePodSandBox", &message);
                    return Ok(START_RETRY);
                }
            },
            None => match runtime.ready_sandbox() {
                Some(sandbox) => self.existing_sandbox(sandbox).await?,
                None => return Ok(RETRY),
            },
        };
        let names = actions.start_ephemeral.iter().chain(&actions.start_init).chain(&actions.start);
        for name in names.cloned().collect::<Vec<_>>() {
            let Some(container) = self.pod.spec.as_ref().and_then(|spec| spec::container(spec, &name)) else {
                continue;
            };
            if let Some(wait) = self.try_start(&container, &sandbox, runtime).await {
                pause = pause.min(wait);
            }
        }
        Ok(pause)
    }

    async fn counted_sandbox(&self, attempt: u32) -> anyhow::Result<Sandbox> {
        METRICS.started_pods.inc();
        let made = self.create_sandbox(attempt).await;
        if made.is_err() {
            METRICS.started_pod_errors.with_label_values(&["RunPodSandboxError"]).inc();
        }
        made
    }

    /// What metrics call the container's kind.
    fn kind_of(&self, container: &Container) -> &'static str {
        let spec = self.pod.spec.as_ref();
        let inits = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let regular = spec.into_iter().flat_map(|spec| &spec.containers);
        if inits.into_iter().any(|init| init.name == container.name) {
            "init_container"
        } else if regular.into_iter().any(|regular| regular.name == container.name) {
            "container"
        } else {
            "ephemeral_container"
        }
    }

    /// Starts a container unless it must wait; answers when to look again.
    async fn try_start(&mut self, container: &Container, sandbox: &Sandbox, runtime: &PodRuntime) -> Option<Duration> {
        let last = runtime.container(&container.name);
        let now = jiff::Timestamp::now();
        if let Some(last) = last.filter(|last| last.state == ContainerState::Exited) {
            let ended = jiff::Timestamp::from_nanosecond(i128::from(last.finished_at)).unwrap_or(now);
            if let Some((left, whole)) = self.restarts.remaining(&container.name, ended, now) {
                let pod = spec::describe(&self.pod);
                let event = format!("Back-off restarting failed container {} in pod {pod}", container.name);
                self.kubelet.events.container(&self.pod, &container.name, true, "BackOff", &event);
                let whole = common::config::duration::format_go_duration(whole);
                let message = format!("back-off {whole} restarting failed container={} pod={pod}", container.name);
                self.wait(container, "CrashLoopBackOff", message);
                return Some(left);
            }
            self.restarts.next(&container.name, ended, now);
        }
        let kind = self.kind_of(container);
        METRICS.started_containers.with_label_values(&[kind]).inc();
        match self.start_container(container, sandbox, last).await {
            Ok(()) => {
                self.note_started(container);
                self.waiting.remove(&container.name);
                None
            }
            Err(why) => {
                METRICS.started_container_errors.with_label_values(&[kind, &why.reason]).inc();
                self.waiting.insert(container.name.clone(), why);
                Some(START_RETRY)
            }
        }
    }

    fn wait(&mut self, container: &Container, reason: &str, message: String) {
        self.waiting.insert(container.name.clone(), Waiting { reason: reason.to_owned(), message });
    }

    /// Removes dead containers but the newest of each name, and sandboxes that nothing needs.
    async fn collect_garbage(&self, runtime: &PodRuntime) {
        let keep = self.kubelet.config.dead_containers_per_container;
        let mut seen = std::collections::HashMap::<&str, usize>::new();
        for view in &runtime.containers {
            if view.state == ContainerState::Running {
                continue;
            }
            let count = seen.entry(&view.name).or_default();
            *count += 1;
            let stillborn = view.state == ContainerState::Created && *count == 1;
            if *count > keep && !stillborn {
                self.remove_container(view).await;
            }
        }
        for sandbox in runtime.sandboxes.iter().skip(1).filter(|sandbox| !sandbox.ready) {
            if !runtime.containers.iter().any(|view| view.sandbox_id == sandbox.id)
                && let Err(error) = self.kubelet.runtime.remove_sandbox(&sandbox.id).await
            {
                tracing::debug!(sandbox = sandbox.id, %error, "removing a dead sandbox failed");
            }
        }
    }

    /// Removes a dead container and its log, rotated parts too.
    pub(super) async fn remove_container(&self, view: &crate::runtime::ContainerView) {
        if let Err(error) = self.kubelet.runtime.remove_container(&view.id).await {
            tracing::debug!(container = view.id, %error, "removing a dead container failed");
            return;
        }
        if view.log_path.is_empty() {
            return;
        }
        let log = std::path::PathBuf::from(&view.log_path);
        for rotated in crate::rotation::rotated(&log) {
            let _ = tokio::fs::remove_file(log.with_file_name(rotated)).await;
        }
        let _ = tokio::fs::remove_file(log).await;
    }
}
