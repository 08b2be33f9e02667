//! Rotation of container logs: a log that reached `containerLogMaxSize` is moved aside, the runtime opens a new one, and of the old
//! ones at most `containerLogMaxFiles` stay, all but the newest compressed.

mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use futures::StreamExt;
use k8s_cri::v1 as cri;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, KubeletConfiguration};
use crate::runtime::{Runtime, labels};
use crate::shared::Kubelet;
pub(crate) use files::rotated;

/// When a log is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    max_size: u64,
    max_files: usize,
}

impl Policy {
    /// From the configuration; `None` when a negative size switches rotation off.
    pub(crate) fn new(file: &KubeletConfiguration) -> anyhow::Result<Option<Self>> {
        let max_files = usize::try_from(file.container_log_max_files).ok().filter(|files| *files > 1);
        let max_files = max_files.with_context(|| {
            format!(
                "invalid configuration: containerLogMaxFiles {} must be greater than 1",
                file.container_log_max_files
            )
        })?;
        let size: common::meta::quantity::Quantity = file.container_log_max_size.parse().ok().with_context(|| {
            format!("invalid configuration: containerLogMaxSize {:?} is not a quantity", file.container_log_max_size)
        })?;
        Ok(u64::try_from(size.value()).ok().map(|max_size| Self { max_size, max_files }))
    }
}

/// Looks at all logs now and then, until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, policy: Policy, shutdown: CancellationToken) {
    let file = &kubelet.config.file;
    let workers = usize::try_from(file.container_log_max_workers).unwrap_or(1).max(1);
    let period = file.container_log_monitor_interval.0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = shutdown.cancelled() => return,
        }
        let containers = match kubelet.runtime.containers(None).await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::debug!(%error, "cannot list containers to rotate their logs");
                continue;
            }
        };
        // Only running containers write.
        let running = containers.into_iter().filter(|c| c.state == cri::ContainerState::ContainerRunning as i32);
        futures::stream::iter(running)
            .for_each_concurrent(workers, |container| {
                let kubelet = kubelet.clone();
                async move {
                    let Some(path) = log_of(&kubelet.config, &container) else { return };
                    if let Err(error) = look(&kubelet.runtime, &container.id, &path, policy).await {
                        tracing::error!(container = container.id, log = %path.display(), %error, "cannot rotate the log");
                    }
                }
            })
            .await;
    }
}

/// Where a container's log is, known from its labels: the runtime need not be asked.
fn log_of(config: &Config, container: &cri::Container) -> Option<PathBuf> {
    let label = |key: &str| container.labels.get(key);
    let (namespace, pod) = (label(labels::POD_NAMESPACE)?, label(labels::POD_NAME)?);
    let directory = config.pod_log_dir(namespace, pod, label(labels::POD_UID)?).join(label(labels::CONTAINER_NAME)?);
    let restarts = labels::ContainerAnnotations::parse(&container.annotations).restart_count;
    Some(directory.join(format!("{restarts}.log")))
}

async fn look(runtime: &Runtime, id: &str, log: &Path, policy: Policy) -> anyhow::Result<()> {
    let size = match tokio::fs::metadata(log).await {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Somebody took the file away: without a new one the log would be lost.
            runtime.reopen_log(id).await?;
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    if size < policy.max_size {
        return Ok(());
    }
    let path = log.to_owned();
    let now = jiff::Timestamp::now();
    let moved = tokio::task::spawn_blocking(move || files::rotate(&path, policy.max_files, now)).await??;
    if let Err(error) = runtime.reopen_log(id).await {
        // The runtime still writes to the file: it gets its name back, and the next round tries again.
        tokio::fs::rename(&moved, log).await?;
        return Err(error.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let of = |size: &str, files: i32| {
            let file = KubeletConfiguration {
                container_log_max_size: size.into(),
                container_log_max_files: files,
                ..KubeletConfiguration::default()
            };
            Policy::new(&file).map_err(|error| error.to_string())
        };
        assert_eq!(of("10Mi", 5), Ok(Some(Policy { max_size: 10 << 20, max_files: 5 })));
        assert_eq!(of("-1", 5), Ok(None));
        assert!(of("10Mi", 1).is_err_and(|error| error.contains("containerLogMaxFiles 1")));
        assert!(of("much", 5).is_err_and(|error| error.contains("containerLogMaxSize \"much\"")));
    }
}
