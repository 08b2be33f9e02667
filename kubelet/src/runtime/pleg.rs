//! The pod lifecycle event generator: notices that something changed in the runtime and says which pod to look at.
//! Events of the runtime where it has them, and a cheap relist as the net below (and as the only source without events).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::client::{Runtime, RuntimeError};
use super::labels::{POD_NAME, POD_NAMESPACE, POD_UID};
use crate::metrics::METRICS;

const RELIST: Duration = Duration::from_secs(1);
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(10);
/// Upstream calls the PLEG unhealthy after this long without a relist.
pub(crate) const UNHEALTHY_AFTER: Duration = Duration::from_secs(180);

/// A pod as the runtime knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// Something of the pod is alive: a ready sandbox or a running container.
    pub(crate) alive: bool,
    fingerprint: u64,
}

/// Snapshot of the runtime by pod UID.
#[derive(Default)]
pub(crate) struct Pleg {
    pods: Mutex<HashMap<String, Known>>,
    last: Mutex<Option<Instant>>,
    /// Ready sandboxes, and containers by state.
    census: Mutex<(usize, [usize; 4])>,
}

impl Pleg {
    /// Pods that have anything in the runtime.
    pub(crate) fn pods(&self) -> HashMap<String, Known> {
        self.pods.lock().clone()
    }

    /// The first relist is done.
    pub(crate) fn ready(&self) -> bool {
        self.last.lock().is_some()
    }

    /// Ready sandboxes, and containers by state, at the last relist.
    pub(crate) fn census(&self) -> (usize, [(&'static str, usize); 4]) {
        let (sandboxes, states) = *self.census.lock();
        let names = ["created", "running", "exited", "unknown"];
        (sandboxes, std::array::from_fn(|index| (names[index], states[index])))
    }

    /// How long ago the last relist was.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.last.lock().map(|last| last.elapsed())
    }

    /// Lists once; answers the pods that changed since the last time.
    pub(crate) async fn relist(&self, runtime: &Runtime) -> Result<Vec<String>, RuntimeError> {
        let begin = Instant::now();
        let (sandboxes, containers) = tokio::try_join!(runtime.sandboxes(None), runtime.containers(None))?;
        METRICS.relist.observe(begin.elapsed().as_secs_f64());
        let mut census = (0, [0; 4]);
        let mut now: HashMap<String, Known> = HashMap::new();
        // Order within an answer means nothing: the fingerprint is a sum over parts.
        let mut note = |labels: &HashMap<String, String>, id: &str, state: i32, alive: bool| {
            let Some(uid) = labels.get(POD_UID) else { return };
            let known = now.entry(uid.clone()).or_default();
            if known.name.is_empty() {
                known.name = labels.get(POD_NAME).cloned().unwrap_or_default();
                known.namespace = labels.get(POD_NAMESPACE).cloned().unwrap_or_default();
            }
            known.alive |= alive;
            let mut hasher = DefaultHasher::new();
            (id, state).hash(&mut hasher);
            known.fingerprint = known.fingerprint.wrapping_add(hasher.finish());
        };
        for sandbox in &sandboxes {
            let ready = sandbox.state == k8s_cri::v1::PodSandboxState::SandboxReady as i32;
            census.0 += usize::from(ready);
            note(&sandbox.labels, &sandbox.id, sandbox.state, ready);
        }
        for container in &containers {
            let running = container.state == k8s_cri::v1::ContainerState::ContainerRunning as i32;
            census.1[usize::try_from(container.state).unwrap_or(3).min(3)] += 1;
            note(&container.labels, &container.id, container.state + 8, running);
        }
        *self.census.lock() = census;
        if let Some(before) = self.last.lock().replace(Instant::now()) {
            METRICS.relist_interval.observe(before.elapsed().as_secs_f64());
        }
        METRICS.relist_seen.set(jiff::Timestamp::now().as_duration().as_secs_f64());
        let mut pods = self.pods.lock();
        let mut changed: Vec<String> = now
            .iter()
            .filter(|(uid, known)| pods.get(*uid).is_none_or(|old| old.fingerprint != known.fingerprint))
            .map(|(uid, _)| uid.clone())
            .collect();
        changed.extend(pods.keys().filter(|uid| !now.contains_key(*uid)).cloned());
        *pods = now;
        Ok(changed)
    }
}

/// Runs until shutdown; `notify` gets the UID of each pod that changed.
pub(crate) async fn run(
    pleg: Arc<Pleg>,
    runtime: Runtime,
    notify: impl Fn(&str) + Send + Sync + 'static,
    shutdown: CancellationToken,
) {
    let notify = Arc::new(notify);
    let events = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stream = tokio::spawn(watch_events(runtime.clone(), notify.clone(), events.clone(), shutdown.clone()));
    let mut failing = false;
    loop {
        match pleg.relist(&runtime).await {
            Ok(changed) => {
                failing = false;
                changed.iter().for_each(|uid| notify(uid));
            }
            Err(error) if !failing => {
                failing = true;
                tracing::error!(%error, "cannot list pods of the container runtime");
            }
            Err(_) => {}
        }
        let period = if events.load(std::sync::atomic::Ordering::Relaxed) { RELIST_WITH_EVENTS } else { RELIST };
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = shutdown.cancelled() => break,
        }
    }
    stream.abort();
}

async fn watch_events(
    runtime: Runtime,
    notify: Arc<impl Fn(&str) + Send + Sync + 'static>,
    live: Arc<std::sync::atomic::AtomicBool>,
    shutdown: CancellationToken,
) {
    use std::sync::atomic::Ordering;
    while !shutdown.is_cancelled() {
        match runtime.events().await {
            Ok(mut stream) => {
                while let Ok(Some(event)) = stream.message().await {
                    live.store(true, Ordering::Relaxed);
                    if let Some(metadata) = event.pod_sandbox_status.and_then(|status| status.metadata) {
                        notify(&metadata.uid);
                    }
                }
            }
            Err(RuntimeError::Call(_, status)) if status.code() == tonic::Code::Unimplemented => return,
            Err(_) => {}
        }
        live.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}
