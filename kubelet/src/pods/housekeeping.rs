//! What nobody else looks after: pods the runtime runs that no source has, cgroups, directories and mirrors of pods that
//! are gone. Nothing is touched before all sources have been heard.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{mirror, spec};
use crate::runtime::resources::{self, Qos};
use crate::shared::Kubelet;
use crate::volumes;

const PERIOD: Duration = Duration::from_secs(2);
/// Grace of an orphan: its pod's own is not known any more.
const ORPHAN_GRACE: i64 = 30;

/// Cleans up until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let mut shares = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = shutdown.cancelled() => return,
        }
        if !kubelet.pods.sources_ready(kubelet.client.is_some()) || !kubelet.pleg.ready() {
            continue;
        }
        kubelet.placement.retain(&|uid| kubelet.pods.contains(uid));
        release_claims(&kubelet).await;
        let alive = kubelet.pleg.pods();
        kubelet.users.retain(|uid| kubelet.pods.contains(uid) || alive.contains_key(uid));
        kill_orphans(&kubelet).await;
        remove_orphan_cgroups(&kubelet).await;
        remove_orphan_directories(&kubelet).await;
        remove_orphan_mirrors(&kubelet).await;
        set_class_shares(&kubelet, &mut shares);
    }
}

/// Claims of pods that are gone.
async fn release_claims(kubelet: &Kubelet) {
    let alive = kubelet.pleg.pods();
    for uid in kubelet.claims.pods() {
        if !kubelet.pods.contains(&uid)
            && !alive.contains_key(&uid)
            && let Err(error) = kubelet.claims.unprepare(&uid).await
        {
            tracing::warn!(uid, error, "cannot give an orphaned pod's claims back, will retry");
        }
    }
}

async fn kill_orphans(kubelet: &Kubelet) {
    for (uid, known) in kubelet.pleg.pods() {
        if kubelet.pods.contains(&uid) {
            continue;
        }
        if known.alive {
            tracing::info!(pod = %format!("{}/{}", known.namespace, known.name), uid, "killing an orphaned pod");
        }
        if let Err(error) = kill_orphan(kubelet, &uid).await {
            tracing::warn!(uid, %error, "cannot remove an orphaned pod, will retry");
        }
    }
}

async fn kill_orphan(kubelet: &Kubelet, uid: &str) -> anyhow::Result<()> {
    let pod = kubelet.runtime.pod(uid).await?;
    let stops = pod.running().map(|view| {
        let grace = view.annotations.grace.unwrap_or(ORPHAN_GRACE);
        kubelet.runtime.stop_container(&view.id, grace)
    });
    for outcome in futures::future::join_all(stops).await {
        outcome?;
    }
    for view in &pod.containers {
        kubelet.runtime.remove_container(&view.id).await?;
    }
    for sandbox in &pod.sandboxes {
        kubelet.runtime.stop_sandbox(&sandbox.id).await?;
        kubelet.runtime.remove_sandbox(&sandbox.id).await?;
    }
    Ok(())
}

async fn remove_orphan_cgroups(kubelet: &Kubelet) {
    let alive = kubelet.pleg.pods();
    for uid in kubelet.cgroups.pods() {
        if kubelet.pods.contains(&uid) || alive.contains_key(&uid) {
            continue;
        }
        let cgroups = kubelet.cgroups.clone();
        let of = uid.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || cgroups.remove_pod(&of)).await {
            tracing::warn!(uid, %error, "cannot remove an orphaned pod's cgroup, will retry");
        }
    }
}

async fn remove_orphan_directories(kubelet: &Arc<Kubelet>) {
    let Ok(mut entries) = tokio::fs::read_dir(kubelet.config.root_dir.join("pods")).await else { return };
    let alive = kubelet.pleg.pods();
    while let Ok(Some(entry)) = entries.next_entry().await {
        let uid = entry.file_name().to_string_lossy().into_owned();
        if kubelet.pods.contains(&uid) || alive.contains_key(&uid) {
            continue;
        }
        let removed = async {
            volumes::unmount_pod(kubelet, &uid).await?;
            volumes::remove_pod_dir(kubelet.config.pod_dir(&uid)).await
        };
        if let Err(error) = removed.await {
            tracing::warn!(uid, %error, "cannot remove an orphaned pod's directory, will retry");
        }
    }
}

async fn remove_orphan_mirrors(kubelet: &Kubelet) {
    let Some(client) = &kubelet.client else { return };
    for pod in kubelet.pods.mirrors() {
        if kubelet.pods.find(spec::namespace(&pod), spec::name(&pod), None).is_none() {
            mirror::delete(client, &pod).await;
        }
    }
}

/// The burstable class weighs what its pods ask for together.
fn set_class_shares(kubelet: &Kubelet, known: &mut i64) {
    let pods = kubelet.pods.list();
    let specs =
        pods.iter().filter(|record| !super::worker::is_over(&record.status)).filter_map(|r| r.pod.spec.as_ref());
    let burstable = specs.filter(|spec| resources::qos(spec) == Qos::Burstable);
    let shares = resources::shares(burstable.map(|spec| resources::pod_total(spec, "cpu", false)).sum());
    if shares == *known {
        return;
    }
    match kubelet.cgroups.set_burstable_shares(shares) {
        Ok(()) => *known = shares,
        Err(error) => tracing::warn!(%error, "cannot set the burstable pods' CPU shares, will retry"),
    }
}
