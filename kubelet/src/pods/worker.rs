//! One pod's state machine.
//!
//! ```text
//!  Syncing ── deleted, removed, evicted, over ──> Terminating ── nothing runs ──> Terminated ── no source has it ──> gone
//! ```
//! A sync in flight is broken off when the pod shall end; the runtime is asked anew at each step, so a worker (or the
//! whole kubelet) may die anywhere and the next one goes on from what is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::backoff::Backoff;
use super::mailbox::Terminate;
use super::manager::Entry;
use super::messages::Messages;
use super::resize::{Progress, Record};
use super::status::{self, Verdict, Waiting};
use super::{conditions, spec, status_manager};
use crate::metrics::METRICS;
use crate::probes::Probes;
use crate::runtime::PodRuntime;
use crate::shared::Kubelet;
use crate::volumes::{self, Mounted};

const CRASH_BACKOFF: Duration = Duration::from_secs(10);
/// Pause after a step that failed.
pub(super) const RETRY: Duration = Duration::from_secs(2);
/// Ceiling of the pause between attempts to take volumes down.
const RELEASE_RETRY_MAX: Duration = Duration::from_secs(10);

/// A pod's worker: the pod and all that is remembered about it between steps.
pub(super) struct Worker {
    pub(super) kubelet: Arc<Kubelet>,
    pub(super) entry: Arc<Entry>,
    pub(super) pod: Arc<Pod>,
    pub(super) uid: String,
    pub(super) restarts: Backoff,
    /// Why containers do not run, by name.
    pub(super) waiting: HashMap<String, Waiting>,
    pub(super) probes: Probes,
    pub(super) messages: Messages,
    pub(super) verdict: Option<Verdict>,
    /// Admission said yes, or the pod ran before this kubelet started.
    pub(super) admitted: bool,
    /// Volumes that are set up, by name.
    pub(super) volumes: HashMap<String, Mounted>,
    pub(super) mounting: volumes::Waiting,
    /// The pod as its source has it; `pod` has the resources that were promised instead.
    pub(super) desired: Arc<Pod>,
    pub(super) resources: Record,
    pub(super) progress: Progress,
    /// When a pod was first seen that did not run yet.
    first_seen: Option<Instant>,
}

/// Runs a pod from its first sight until no source has it.
pub(super) async fn run(kubelet: Arc<Kubelet>, entry: Arc<Entry>) {
    let pod = entry.mailbox.read().pod;
    let uid = spec::uid(&pod).to_owned();
    let max = kubelet.config.file.crash_loop_back_off.max_container_restart_period.0;
    let shutdown = kubelet.shutdown.clone();
    let worker = Worker {
        probes: Probes::new(kubelet.clone(), entry.clone(), &pod),
        resources: Record::load(&kubelet.config.pod_dir(&uid)),
        progress: Progress::default(),
        first_seen: pod.status.as_ref().is_none_or(|status| status.start_time.is_none()).then(Instant::now),
        desired: pod.clone(),
        kubelet,
        entry,
        pod,
        uid,
        restarts: Backoff::new(CRASH_BACKOFF, max),
        waiting: HashMap::new(),
        messages: Messages::default(),
        verdict: None,
        admitted: false,
        volumes: HashMap::new(),
        mounting: volumes::Waiting::default(),
    };
    tokio::select! {
        () = worker.live() => {}
        // Containers outlive the kubelet.
        () = shutdown.cancelled() => {}
    }
}

impl Worker {
    async fn live(mut self) {
        let already_over = self.pod.status.as_ref().is_some_and(is_over) && !spec::is_static(&self.pod);
        let terminate = if already_over { Terminate::default() } else { self.run_until_told().await };
        self.terminate_pod(terminate).await;
        self.release().await;
        self.bury().await;
        self.kubelet.objects.forget_pod(&self.uid);
        self.kubelet.status.forget(&self.uid);
        METRICS.forget_probes(&self.pod);
        self.kubelet.pods.finished(&self.uid);
    }

    /// Syncs again and again; answers how to end.
    async fn run_until_told(&mut self) -> Terminate {
        let entry = self.entry.clone();
        loop {
            let mail = entry.mailbox.read();
            self.take(mail.pod);
            if let Some(terminate) = mail.terminate {
                return terminate;
            }
            let begin = Instant::now();
            let pause = tokio::select! {
                outcome = self.sync() => match outcome {
                    Ok(super::sync::Next::Over) => return Terminate { grace: None, verdict: self.verdict.clone() },
                    Ok(super::sync::Next::After(pause)) => pause,
                    Err(error) => {
                        tracing::warn!(pod = %spec::describe(&self.pod), %error, "error syncing pod, will retry");
                        RETRY
                    }
                },
                () = entry.mailbox.interrupted() => continue,
            };
            METRICS.pod_sync.with_label_values(&["sync"]).observe(begin.elapsed().as_secs_f64());
            tokio::select! {
                () = entry.mailbox.woken() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Stops everything, however long it takes.
    async fn terminate_pod(&mut self, first: Terminate) {
        let entry = self.entry.clone();
        let mut wish = first;
        loop {
            let mail = entry.mailbox.read();
            self.take(mail.pod);
            wish.grace = mail.terminate.and_then(|terminate| terminate.grace).or(wish.grace);
            if self.verdict.is_none() {
                self.verdict = wish.verdict.clone();
            }
            self.probes.stop_for_termination();
            let grace = wish.grace.unwrap_or_else(|| spec::grace(&self.pod));
            let outcome = tokio::select! {
                outcome = self.terminate_step(&wish) => outcome,
                // Less time than was promised: begin anew with what is left of it.
                () = shorter_grace(&entry, grace) => continue,
            };
            match outcome {
                Ok(()) => break,
                Err(error) => {
                    let message = format!("error killing pod: {error}");
                    self.kubelet.events.pod(&self.pod, true, "FailedKillPod", &message);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        self.probes.stop();
    }

    async fn terminate_step(&mut self, wish: &Terminate) -> anyhow::Result<()> {
        let runtime = self.kubelet.runtime.pod(&self.uid).await?;
        self.report(&runtime, false).await;
        self.kill_pod(&runtime, wish).await?;
        let runtime = self.kubelet.runtime.pod(&self.uid).await?;
        if let Some(running) = runtime.running().next() {
            anyhow::bail!("container {} still runs", running.name);
        }
        self.report(&runtime, true).await;
        Ok(())
    }

    /// Volumes and cgroup: the API keeps the pod until they are gone.
    async fn release(&mut self) {
        let mut pause = RETRY;
        while let Err(error) = self.clean_up().await {
            tracing::warn!(pod = %spec::describe(&self.pod), %error, "a pod's volumes or cgroup are left, will retry");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RELEASE_RETRY_MAX);
        }
    }

    /// The pod is over: let the API delete it, and keep what is left of it until no source has it.
    async fn bury(&mut self) {
        let entry = self.entry.clone();
        let mut deleting = false;
        loop {
            let mail = entry.mailbox.read();
            self.take(mail.pod.clone());
            if mail.removed {
                break;
            }
            if mail.pod.metadata.deletion_timestamp.is_some() && !spec::is_static(&mail.pod) && !deleting {
                deleting = true;
                self.kubelet.status.delete(self.pod.clone());
            }
            entry.mailbox.woken().await;
        }
        while let Err(error) = self.remove_from_runtime().await {
            tracing::warn!(pod = %spec::describe(&self.pod), %error, "removing the pod's containers failed, will retry");
            tokio::time::sleep(RETRY).await;
        }
        self.remove_directories().await;
    }

    /// Derives the status from what the runtime holds, keeps it and sends it off.
    pub(super) async fn report(&mut self, runtime: &PodRuntime, terminal: bool) -> Arc<PodStatus> {
        self.messages.collect(runtime, |id| self.probes.forget(id)).await;
        let mut previous = (*self.entry.status()).clone();
        adopt_foreign_conditions(&mut previous, &self.pod);
        let recursive_read_only = self.has_recursive_read_only().await;
        let mut generated = status::generate(&status::Input {
            pod: &self.pod,
            runtime,
            previous: &previous,
            waiting: &self.waiting,
            probes: &self.probes,
            messages: self.messages.by_id(),
            host_ips: &self.kubelet.node.host_ips(),
            terminal,
            verdict: self.verdict.as_ref(),
            actuated: &self.resources.actuated,
            resize: self.progress.conditions(),
            recursive_read_only,
            runtime_name: &self.kubelet.runtime_info.name,
            now: status_manager::now(),
        });
        self.kubelet.devices.describe(&self.uid, &mut generated);
        if generated.phase.as_deref() == Some("Running")
            && let Some(seen) = self.first_seen.take()
        {
            METRICS.pod_start.observe(seen.elapsed().as_secs_f64());
        }
        let generated = Arc::new(generated);
        self.entry.set_status(generated.clone());
        self.kubelet.status.set(&self.pod, generated.clone());
        generated
    }
}

/// The pod has ended and says so.
pub(super) fn is_over(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"))
}

/// Conditions of other owners (readiness gates, disruption) are what the API last said.
fn adopt_foreign_conditions(previous: &mut PodStatus, pod: &Pod) {
    let Some(status) = pod.status.as_ref().filter(|_| !spec::is_static(pod)) else { return };
    let ours = previous.conditions.take().unwrap_or_default();
    let mut conditions: Vec<_> = ours.into_iter().filter(|c| conditions::is_owned(&c.type_)).collect();
    let theirs = status.conditions.iter().flatten();
    for condition in theirs {
        if !conditions.iter().any(|have| have.type_ == condition.type_) {
            conditions.push(condition.clone());
        }
    }
    previous.conditions = Some(conditions);
}

/// Returns when the pod shall end sooner than `promised`.
async fn shorter_grace(entry: &Entry, promised: i64) {
    loop {
        entry.mailbox.woken().await;
        let mail = entry.mailbox.read();
        let now = mail.terminate.and_then(|terminate| terminate.grace).unwrap_or_else(|| spec::grace(&mail.pod));
        if now < promised {
            return;
        }
    }
}
