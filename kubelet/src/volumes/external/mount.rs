//! Giving a volume to a pod: attached, staged, mounted, grown. Each step is on the books before it is begun.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};

use super::book::{Mount, Progress};
use super::{External, Failure, Kind, device, expand, local, nfs};
use crate::pods::spec;
use crate::shared::Kubelet;
use crate::volumes::csi::{self, block};
use crate::volumes::{Mounted, metrics, pod_volume_dir};

/// Drivers that ask for it are called again for what is mounted already, but not more often.
const REPUBLISH: Duration = Duration::from_secs(10);
/// Longest pause of the wait for the controller to attach.
const ATTACH_PAUSE: Duration = Duration::from_secs(5);

/// Why a volume is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::volumes) struct Problem {
    /// Of the event; nothing is said about a wait.
    pub(in crate::volumes) event: Option<(&'static str, String)>,
    /// It is not even attached.
    pub(in crate::volumes) unattached: bool,
    /// When to try again.
    pub(in crate::volumes) after: Duration,
}

/// A step that failed.
struct Failed {
    /// Upstream's name of the step; nothing for a wait that is no failure.
    step: Option<&'static str>,
    unattached: bool,
    message: String,
}

impl Failed {
    fn at(step: &'static str) -> impl Fn(String) -> Self {
        move |message| Self { step: Some(step), unattached: false, message }
    }

    fn waiting(message: String) -> Self {
        Self { step: None, unattached: true, message }
    }
}

/// Where containers find a volume.
fn place(kubelet: &Kubelet, uid: &str, volume: &External) -> PathBuf {
    match &volume.kind {
        _ if volume.block => device::pod_link(&kubelet.config, uid, volume.plugin(), &volume.name),
        Kind::Csi(_) => csi::volume::path(kubelet, uid, &volume.name),
        Kind::Local { .. } | Kind::Nfs(_) => pod_volume_dir(&kubelet.config, uid, volume.plugin(), &volume.name),
    }
}

/// What the book says of a volume and a pod.
struct Standing {
    attached: bool,
    staged: Progress,
    mount: Mount,
}

fn standing(kubelet: &Kubelet, unique: &str, uid: &str) -> Standing {
    let book = kubelet.volumes.book.lock();
    let record = book.get(unique);
    Standing {
        attached: record.is_some_and(|record| record.attached),
        staged: record.map(|record| record.staged.progress).unwrap_or_default(),
        mount: record.and_then(|record| record.mounts.get(uid).copied()).unwrap_or_default(),
    }
}

/// Makes sure that the pod has the volume. The second value: it has, yet something about it failed.
pub(in crate::volumes) async fn ensure(
    kubelet: &Arc<Kubelet>,
    pod: &Arc<Pod>,
    volume: Arc<External>,
) -> Result<(Mounted, Option<Problem>), Problem> {
    let uid = spec::uid(pod).to_owned();
    let mounted = Mounted { device: volume.block, ..Mounted::at(place(kubelet, &uid, &volume), volume.read_only) };
    let (attach, republish) = match wishes(kubelet, &volume).await {
        Ok(wishes) => wishes,
        Err(message) => {
            let problem = problem(kubelet, &volume, &uid, Failed::at("MountVolume.SetUp failed")(message));
            // What is mounted stays so, whatever the apiserver says.
            return match standing(kubelet, &volume.unique, &uid).mount.step.progress {
                Progress::Done => Ok((mounted, None)),
                _ => Err(problem),
            };
        }
    };
    if kubelet.volumes.book.lock().want(&volume, attach, &uid) {
        kubelet.volumes.in_use_changed.notify_one();
    }
    let now = standing(kubelet, &volume.unique, &uid);
    let done = now.mount.step.progress == Progress::Done;
    let again = done && republish && now.mount.at.is_none_or(|at| at.elapsed() >= REPUBLISH);
    if done && !again && !expand::is_due(kubelet, &volume, &uid) {
        return Ok((mounted, None));
    }
    let key = (volume.unique.clone(), uid.clone());
    if let Some(left) = kubelet.volumes.backoff.lock().left(&key, Instant::now()) {
        let wait = Problem { event: None, unattached: attach && !now.attached, after: left };
        return if done { Ok((mounted, None)) } else { Err(wait) };
    }
    // A task of its own: it must not be broken off half-way when the pod shall end meanwhile.
    let work = {
        let (kubelet, pod, volume) = (kubelet.clone(), pod.clone(), volume.clone());
        tokio::spawn(async move { work(&kubelet, &pod, &volume, attach, again).await })
    };
    let outcome = match work.await {
        Ok(outcome) => outcome,
        Err(error) => Err(Failed::at("MountVolume.SetUp failed")(error.to_string())),
    };
    match outcome {
        Ok(()) => {
            kubelet.volumes.backoff.lock().forget(|have| *have == key);
            Ok((mounted, None))
        }
        Err(failed) => {
            let problem = problem(kubelet, &volume, &uid, failed);
            if done { Ok((mounted, Some(problem))) } else { Err(problem) }
        }
    }
}

/// (the controller attaches it, the driver wants to be called again and again).
async fn wishes(kubelet: &Kubelet, volume: &External) -> Result<(bool, bool), String> {
    let Kind::Csi(source) = &volume.kind else { return Ok((false, false)) };
    let policy = kubelet.volumes.policy(kubelet, &source.driver).await?;
    Ok((policy.attach && !source.ephemeral, policy.republish && !volume.block))
}

fn problem(kubelet: &Kubelet, volume: &External, uid: &str, failed: Failed) -> Problem {
    let most = if failed.step.is_some() { Duration::MAX } else { ATTACH_PAUSE };
    let key = (volume.unique.clone(), uid.to_owned());
    let after = kubelet.volumes.backoff.lock().failed(key, most, Instant::now());
    let reason = if volume.block { "FailedMapVolume" } else { "FailedMount" };
    let event = failed.step.map(|step| (reason, format!("{step} for volume {:?} : {}", volume.name, failed.message)));
    if event.is_none() {
        tracing::debug!(volume = volume.unique, reason = failed.message, "a volume is not attached yet");
    }
    Problem { event, unattached: failed.unattached, after }
}

async fn work(kubelet: &Kubelet, pod: &Arc<Pod>, volume: &External, attach: bool, again: bool) -> Result<(), Failed> {
    let uid = spec::uid(pod);
    let gate = kubelet.volumes.gate(&volume.unique);
    let _held = gate.lock().await;
    // While it waited the pod may have been told to end; what is mounted now nobody would take down.
    if !kubelet.volumes.book.lock().get(&volume.unique).is_some_and(|record| record.wanted.contains(uid)) {
        return Err(Failed { step: None, unattached: false, message: "the pod ends".into() });
    }
    let now = standing(kubelet, &volume.unique, uid);
    let map = volume.block;
    if now.mount.step.progress != Progress::Done || again {
        if let Kind::Csi(source) = &volume.kind
            && attach
        {
            if !now.attached {
                verify_attached(kubelet, volume).await.map_err(Failed::waiting)?;
                kubelet.volumes.book.lock().attached(&volume.unique);
            }
            let step = if map { "MapVolume.WaitForAttach failed" } else { "MountVolume.WaitForAttach failed" };
            let found = csi::volume::check_attached(kubelet, source).await;
            found.map_err(|message| Failed { unattached: true, ..Failed::at(step)(message) })?;
        }
        let once = volume.access_modes.iter().any(|mode| mode == "ReadWriteOncePod");
        if once && kubelet.volumes.book.lock().is_used_by_other(&volume.unique, uid) {
            let message = "volume uses the ReadWriteOncePod access mode and is already in use by another pod";
            let step = if map { "MapVolume.SetUpDevice failed" } else { "MountVolume.SetUp failed" };
            return Err(Failed::at(step)(message.into()));
        }
        if volume.is_staged() && now.staged != Progress::Done {
            let step = if map { "MapVolume.SetUpDevice failed" } else { "MountVolume.MountDevice failed" };
            stage(kubelet, pod, volume).await.map_err(|failure| Failed::at(step)(failure.to_string()))?;
        }
        let step = if map { "MapVolume.MapPodDevice failed" } else { "MountVolume.SetUp failed" };
        set_up(kubelet, pod, volume).await.map_err(|failure| Failed::at(step)(failure.to_string()))?;
    }
    let growing = expand::grow(kubelet, pod, volume, &published_path(kubelet, uid, volume)).await;
    growing.map_err(Failed::at("MountVolume.Setup failed while expanding volume"))
}

/// The path by which the driver knows what it published.
pub(in crate::volumes) fn published_path(kubelet: &Kubelet, uid: &str, volume: &External) -> PathBuf {
    let place = place(kubelet, uid, volume);
    if volume.block { std::fs::read_link(&place).unwrap_or(place) } else { place }
}

async fn stage(kubelet: &Kubelet, pod: &Pod, volume: &External) -> Result<(), Failure> {
    let before = kubelet.volumes.book.lock().begin_stage(&volume.unique);
    let timer = metrics::Operation::begin("volume_mount_device", volume);
    let outcome = match &volume.kind {
        Kind::Csi(source) if volume.block => block::stage(kubelet, volume, source).await,
        Kind::Csi(source) => csi::volume::stage(kubelet, pod, volume, source).await,
        Kind::Local { path, fs_type } => local::stage(kubelet, volume, path, fs_type).await,
        Kind::Nfs(_) => Ok(()),
    };
    timer.end(outcome.is_ok());
    kubelet.volumes.book.lock().end_stage(&volume.unique, before, outcome.as_ref().copied());
    outcome
}

async fn set_up(kubelet: &Kubelet, pod: &Pod, volume: &External) -> Result<(), Failure> {
    let uid = spec::uid(pod);
    let before = kubelet.volumes.book.lock().begin_mount(&volume.unique, uid);
    let keep = before.step.found || before.step.progress == Progress::Done;
    let timer = metrics::Operation::begin(if volume.block { "map_volume" } else { "volume_mount" }, volume);
    let outcome = match &volume.kind {
        Kind::Csi(source) if volume.block => block::publish(kubelet, pod, volume, source).await,
        Kind::Csi(source) => csi::volume::publish(kubelet, pod, volume, source, keep).await,
        Kind::Local { path, .. } => local::set_up(kubelet, pod, volume, path).await,
        Kind::Nfs(source) => nfs::set_up(kubelet, pod, volume, source).await,
    };
    timer.end(outcome.is_ok());
    let now = Instant::now();
    kubelet.volumes.book.lock().end_mount(&volume.unique, uid, before, outcome.as_ref().copied(), now);
    outcome
}

/// The controller attaches what the node wants, and says so in the node's status; it detaches nothing that the node says
/// is in use, so that is said first.
async fn verify_attached(kubelet: &Kubelet, volume: &External) -> Result<(), String> {
    let client = kubelet.client.clone().ok_or("there is no apiserver to ask")?;
    let node = kube::Api::<Node>::all(client).get(&kubelet.config.node_name).await;
    let node = node.map_err(|error| format!("failed fetching node from API server: {error}"))?;
    let status = node.status.unwrap_or_default();
    if !status.volumes_in_use.iter().flatten().any(|name| *name == volume.unique) {
        kubelet.volumes.in_use_changed.notify_one();
        return Err("Volume has not been added to the list of VolumesInUse in the node's volume status".into());
    }
    match status.volumes_attached.iter().flatten().any(|attached| attached.name == volume.unique) {
        true => Ok(()),
        false => Err("Volume not attached according to node status".into()),
    }
}

/// Whether one of the pod's volumes cannot be attached because the node has as many as it can; if so the driver is asked
/// anew how many that are.
pub(in crate::volumes) async fn is_node_full(kubelet: &Kubelet, uid: &str) -> bool {
    let unattached = {
        let book = kubelet.volumes.book.lock();
        let waits = |volume: &Arc<External>| book.get(&volume.unique).is_some_and(|r| r.attachable && !r.attached);
        book.of_pod(uid).into_iter().filter(waits).collect::<Vec<_>>()
    };
    for volume in unattached {
        let Kind::Csi(source) = &volume.kind else { continue };
        if csi::volume::is_exhausted(kubelet, source).await {
            return true;
        }
    }
    false
}
