//! Image garbage collection: above the high threshold of disk use, unused images go, oldest first, down to the low one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::node::machine;
use crate::shared::Kubelet;

const PERIOD: Duration = Duration::from_secs(300);

/// Collects until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let mut last_used: HashMap<String, Instant> = HashMap::new();
    loop {
        if let Err(error) = collect(&kubelet, &mut last_used).await {
            kubelet.events.node(true, "ImageGCFailed", &error.to_string());
        }
        kubelet.images.retain(|uid| kubelet.pods.contains(uid));
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn collect(kubelet: &Kubelet, last_used: &mut HashMap<String, Instant>) -> anyhow::Result<()> {
    let images = kubelet.runtime.images().await?;
    let containers = kubelet.runtime.containers(None).await?;
    let used: HashSet<&str> = containers.iter().map(|container| container.image_ref.as_str()).collect();
    let now = Instant::now();
    for image in &images {
        let in_use =
            used.contains(image.id.as_str()) || image.repo_digests.iter().any(|name| used.contains(name.as_str()));
        let seen = last_used.entry(image.id.clone()).or_insert(now);
        if in_use || image.pinned {
            *seen = now;
        }
    }
    last_used.retain(|id, _| images.iter().any(|image| image.id == *id));
    let file = &kubelet.config.file;
    let fs = kubelet.runtime.image_fs().await?;
    let mount = fs.image_filesystems.first().and_then(|fs| fs.fs_id.as_ref()).map(|id| id.mountpoint.clone());
    let disk = machine::disk(std::path::Path::new(mount.as_deref().unwrap_or("/")));
    if disk.capacity == 0 {
        return Ok(());
    }
    let percent = 100 - disk.available.saturating_mul(100) / disk.capacity;
    if percent < i64::from(file.image_gc_high_threshold_percent) {
        return Ok(());
    }
    let target = disk.capacity / 100 * (100 - i64::from(file.image_gc_low_threshold_percent)) - disk.available;
    free(kubelet, &images, last_used, target, now).await
}

async fn free(
    kubelet: &Kubelet,
    images: &[k8s_cri::v1::Image],
    last_used: &HashMap<String, Instant>,
    target: i64,
    now: Instant,
) -> anyhow::Result<()> {
    let min_age = kubelet.config.file.image_minimum_gc_age.0;
    let mut unused: Vec<_> = images
        .iter()
        .filter(|image| !image.pinned)
        .filter_map(|image| last_used.get(&image.id).map(|seen| (*seen, image)))
        .filter(|(seen, _)| now.duration_since(*seen) >= min_age)
        .collect();
    unused.sort_by_key(|(seen, _)| *seen);
    let mut freed = 0i64;
    for (_, image) in unused {
        if freed >= target {
            break;
        }
        match kubelet.runtime.remove_image(&image.id).await {
            Ok(()) => freed = freed.saturating_add(i64::try_from(image.size).unwrap_or(i64::MAX)),
            Err(error) => tracing::warn!(image = image.id, %error, "cannot remove an unused image"),
        }
    }
    if freed < target {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {target} bytes, but only found {freed} bytes eligible to free."
        );
        kubelet.events.node(true, "FreeDiskSpaceFailed", &message);
    }
    Ok(())
}
