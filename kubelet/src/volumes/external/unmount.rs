//! Taking volumes from pods that ended, and from the node when no pod has them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{External, Kind, local, nfs};
use crate::pods::spec;
use crate::shared::Kubelet;
use crate::volumes::csi::{self, block, data};
use crate::volumes::{metrics, mounts};

const LOOK: Duration = Duration::from_secs(2);

/// Takes all volumes from a pod; an error names those that are left.
pub(in crate::volumes) async fn tear_down_pod(kubelet: &Arc<Kubelet>, uid: &str) -> Result<(), String> {
    let volumes = kubelet.volumes.book.lock().of_pod(uid);
    let tasks = volumes.into_iter().map(|volume| {
        let (kubelet, uid) = (kubelet.clone(), uid.to_owned());
        // Not to be broken off half-way.
        let task = tokio::spawn(async move { tear_down(&kubelet, &uid, &volume).await });
        async move { task.await.map_err(|error| error.to_string())? }
    });
    let outcomes = futures::future::join_all(tasks).await;
    kubelet.volumes.resolved.lock().retain(|(of, _), _| of != uid);
    kubelet.volumes.backoff.lock().forget(|(_, of)| of == uid);
    let errors: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    if !errors.is_empty() {
        return Err(errors.join("; "));
    }
    kubelet.volumes.book.lock().seen.remove(uid);
    kubelet.volumes.idle.notify_one();
    Ok(())
}

async fn tear_down(kubelet: &Kubelet, uid: &str, volume: &External) -> Result<(), String> {
    let gate = kubelet.volumes.gate(&volume.unique);
    let _held = gate.lock().await;
    let mounted = {
        let book = kubelet.volumes.book.lock();
        book.get(&volume.unique).is_some_and(|record| record.mounts.contains_key(uid))
    };
    if mounted {
        let timer = metrics::Operation::begin(if volume.block { "unmap_volume" } else { "volume_unmount" }, volume);
        let outcome = match &volume.kind {
            Kind::Csi(source) if volume.block => block::unpublish(kubelet, uid, volume, source).await,
            Kind::Csi(source) => csi::volume::unpublish(kubelet, uid, volume, source).await,
            Kind::Local { .. } => local::tear_down(kubelet, uid, volume).await,
            Kind::Nfs(_) => nfs::tear_down(kubelet, uid, volume).await,
        };
        timer.end(outcome.is_ok());
        outcome.map_err(|error| format!("UnmountVolume.TearDown failed for volume {:?} : {error}", volume.name))?;
    }
    kubelet.volumes.book.lock().unmounted(&volume.unique, uid);
    Ok(())
}

/// Unstages what no pod has, until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = kubelet.volumes.idle.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.cancelled() => return,
        }
        metrics::set_totals(&kubelet.volumes.totals());
        let idle = kubelet.volumes.book.lock().idle();
        if idle.is_empty() || !is_settled(&kubelet) {
            continue;
        }
        for volume in idle {
            let key = (volume.unique.clone(), String::new());
            if kubelet.volumes.backoff.lock().left(&key, Instant::now()).is_some() {
                continue;
            }
            // Somebody works on it: the next look finds what came of it.
            let Ok(held) = kubelet.volumes.gate(&volume.unique).try_lock_owned() else { continue };
            let kubelet = kubelet.clone();
            tokio::spawn(async move {
                unstage(&kubelet, &volume).await;
                drop(held);
            });
        }
    }
}

/// Every pod that may want something has said so; before, what was found after a restart only looks idle.
fn is_settled(kubelet: &Kubelet) -> bool {
    if !kubelet.pods.sources_ready(kubelet.client.is_some()) {
        return false;
    }
    let pods = kubelet.pods.list();
    let book = kubelet.volumes.book.lock();
    pods.iter().all(|record| {
        let over = matches!(record.status.phase.as_deref(), Some("Failed" | "Succeeded"));
        over || record.pod.metadata.deletion_timestamp.is_some() || book.seen.contains(spec::uid(&record.pod))
    })
}

async fn unstage(kubelet: &Kubelet, volume: &External) {
    if !kubelet.volumes.book.lock().is_idle(&volume.unique) {
        return;
    }
    let key = (volume.unique.clone(), String::new());
    let outcome = if volume.is_staged() { take_from_node(kubelet, volume).await } else { Ok(()) };
    match outcome {
        Ok(()) => {
            kubelet.volumes.backoff.lock().forget(|have| *have == key);
            if kubelet.volumes.book.lock().unstaged(&volume.unique) {
                kubelet.volumes.in_use_changed.notify_one();
            }
        }
        Err(error) => {
            let pause = kubelet.volumes.backoff.lock().failed(key, Duration::MAX, Instant::now());
            let volume = &volume.unique;
            tracing::error!(volume, error, ?pause, "UnmountDevice failed, will retry");
        }
    }
}

async fn take_from_node(kubelet: &Kubelet, volume: &External) -> Result<(), String> {
    if let Kind::Csi(source) = &volume.kind
        && !volume.block
    {
        let staged = data::staging(&kubelet.config.root_dir, &source.driver, &source.handle);
        let pods = kubelet.config.root_dir.join("pods");
        let users: Vec<_> = mounts::references(&staged).into_iter().filter(|path| path.starts_with(&pods)).collect();
        if mounts::is_mount_point(&staged) && !users.is_empty() {
            let staged = staged.display();
            return Err(format!("the device mount path {staged} is still mounted by other references {users:?}"));
        }
    }
    let name = if volume.block { "unmap_device" } else { "unmount_device" };
    let timer = metrics::Operation::begin(name, volume);
    let outcome = match &volume.kind {
        Kind::Csi(source) if volume.block => block::unstage(kubelet, volume, source).await,
        Kind::Csi(source) => csi::volume::unstage(kubelet, source).await,
        Kind::Local { .. } => local::unstage(kubelet, volume).await,
        Kind::Nfs(_) => Ok(()),
    };
    timer.end(outcome.is_ok());
    outcome
}
