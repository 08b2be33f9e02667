//! Graceful node shutdown: when the machine is about to shut down, pods end in the order of their priorities, each with its grace, and the
//! node says that it is not ready. The machine waits meanwhile, because we hold a lock of its login manager.

mod bus;
mod logind;
mod plan;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::ShutdownGracePeriodByPodPriority as Group;
use crate::metrics::METRICS;
use crate::pods::status::{SHUTDOWN, Verdict};
use crate::pods::{PodRecord, spec};
use crate::shared::Kubelet;
use logind::{Lock, Logind};
pub(crate) use plan::groups;

const RETRY: Duration = Duration::from_secs(30);
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Shutdowns: with the lock to give back when the pods have ended, or `None` when one was called off.
type News = mpsc::Receiver<Option<Lock>>;

/// Listens on a thread of its own until the connection is lost.
fn listen(whole: Duration) -> anyhow::Result<News> {
    let mut logind = Logind::connect(Path::new(logind::SOCKET))?;
    logind.allow(whole, Path::new(logind::OVERRIDES))?;
    let mut lock = Some(logind.lock()?);
    let (tell, news) = mpsc::channel(4);
    std::thread::Builder::new().name("logind".into()).spawn(move || {
        loop {
            match logind.next() {
                Ok(true) => drop(tell.blocking_send(lock.take())),
                Ok(false) => {
                    lock = logind.lock().inspect_err(|error| tracing::error!(%error, "cannot delay shutdowns")).ok();
                    drop(tell.blocking_send(None));
                }
                Err(error) => {
                    tracing::error!(%error, "lost the connection to logind, will retry");
                    return;
                }
            }
            if tell.is_closed() {
                return;
            }
        }
    })?;
    Ok(news)
}

/// Waits for shutdowns of the machine until that of the kubelet.
pub(crate) async fn run(
    kubelet: Arc<Kubelet>,
    groups: Vec<Group>,
    changed: Arc<tokio::sync::Notify>,
    end: CancellationToken,
) {
    let mut told = false;
    loop {
        let whole = plan::whole(&groups);
        match tokio::task::spawn_blocking(move || listen(whole)).await {
            Ok(Ok(mut news)) => {
                told = false;
                tokio::select! {
                    () = follow(&kubelet, &groups, &changed, &mut news) => {}
                    () = end.cancelled() => return,
                }
            }
            Ok(Err(error)) if !told => {
                told = true;
                tracing::error!(error = %format!("{error:#}"), "failed to start node shutdown manager, will retry");
            }
            _ => {}
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = end.cancelled() => return,
        }
    }
}

async fn follow(kubelet: &Arc<Kubelet>, groups: &[Group], changed: &tokio::sync::Notify, news: &mut News) {
    while let Some(shutdown) = news.recv().await {
        kubelet.node.set_shutting_down(shutdown.is_some());
        changed.notify_one();
        let Some(lock) = shutdown else {
            tracing::info!("the node's shutdown was called off");
            continue;
        };
        tracing::info!("shutdown manager detected new shutdown event");
        kubelet.events.node(false, "NodeShutdown", "Shutdown manager detected shutdown event");
        let now = || jiff::Timestamp::now().as_duration().as_secs_f64();
        METRICS.shutdown_start.set(now());
        end_pods(kubelet, groups).await;
        METRICS.shutdown_end.set(now());
        drop(lock);
    }
}

/// Ends all pods, group by group.
async fn end_pods(kubelet: &Arc<Kubelet>, groups: &[Group]) {
    let over = |record: &PodRecord| matches!(record.status.phase.as_deref(), Some("Failed" | "Succeeded"));
    let mut by_group: Vec<Vec<PodRecord>> = groups.iter().map(|_| Vec::new()).collect();
    for record in kubelet.pods.list().into_iter().filter(|record| !over(record)) {
        let priority = record.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        by_group[plan::group_of(groups, priority)].push(record);
    }
    for (group, records) in groups.iter().zip(by_group) {
        let most = group.shutdown_grace_period_seconds;
        let ending = futures::stream::iter(&records).for_each_concurrent(None, |record| end_pod(kubelet, record, most));
        let patience = Duration::from_secs(u64::try_from(most).unwrap_or(0));
        if tokio::time::timeout(patience, ending).await.is_err() {
            tracing::warn!(priority = group.priority, "shutdown manager pod killing time out");
        }
    }
    tracing::info!("shutdown manager completed processing shutdown event, node will shutdown shortly");
}

async fn end_pod(kubelet: &Kubelet, record: &PodRecord, most: i64) {
    let uid = spec::uid(&record.pod);
    let verdict = Verdict { phase: "Failed", reason: SHUTDOWN.into(), message: MESSAGE.into() };
    kubelet.pods.evict(uid, spec::grace(&record.pod).min(most), verdict);
    // Done when nothing of it runs and it has said so.
    loop {
        let runs = match kubelet.runtime.pod(uid).await {
            Ok(runtime) => runtime.running().next().is_some(),
            Err(_) => true,
        };
        let told =
            kubelet.pods.get(uid).is_none_or(|now| matches!(now.status.phase.as_deref(), Some("Failed" | "Succeeded")));
        if !runs && told {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
