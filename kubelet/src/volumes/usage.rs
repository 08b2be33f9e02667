//! How full pods' volumes are, measured now and then: for /stats/summary, metrics and the limits of local storage.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use parking_lot::{Mutex, RwLock};
use prometheus::{GaugeVec, Opts};
use tokio_util::sync::CancellationToken;

use super::external::{self, External, Kind};
use super::{blocking, pod_volume_dir};
use crate::node::machine;
use crate::pods::spec;
use crate::shared::Kubelet;

/// Pods measured at one time: reading a disk helps nobody when it takes it from all others.
const AT_ONCE: usize = 4;
/// A volume that does not answer keeps its pod's others from being told no longer than this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing is measured before pods had time to come up.
const FIRST: Duration = Duration::from_secs(2);

/// One volume of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct VolumeUsage {
    /// In the pod.
    pub(crate) name: String,
    /// Its claim's name.
    pub(crate) claim: Option<String>,
    pub(crate) at: Timestamp,
    pub(crate) capacity: i64,
    pub(crate) available: i64,
    pub(crate) used: i64,
    pub(crate) inodes: i64,
    pub(crate) inodes_free: i64,
    pub(crate) inodes_used: i64,
    pub(crate) abnormal: Option<bool>,
    /// On the disk of the node, and gone with the pod: counts as the pod's local storage.
    pub(crate) ephemeral: bool,
}

/// The latest measurements, by pod UID.
#[derive(Default)]
pub(crate) struct Usages {
    latest: RwLock<HashMap<String, Arc<Vec<VolumeUsage>>>>,
    /// Claims (namespace, name) that are in the metrics.
    shown: Mutex<HashSet<(String, String)>>,
}

impl Usages {
    /// Of one pod; nothing before it was measured.
    pub(crate) fn get(&self, uid: &str) -> Arc<Vec<VolumeUsage>> {
        self.latest.read().get(uid).cloned().unwrap_or_default()
    }
}

/// Measures until shutdown. A period below zero turns it off, as upstream's.
pub(crate) async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let period = kubelet.config.file.volume_stats_agg_period.0;
    if period.is_zero() {
        return;
    }
    let mut pause = FIRST.min(period);
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        pause = period;
        let pods = kubelet.pods.list();
        let alive: HashSet<String> = pods.iter().map(|record| spec::uid(&record.pod).to_owned()).collect();
        kubelet.usages.latest.write().retain(|uid, _| alive.contains(uid));
        let measure = futures::stream::iter(pods).for_each_concurrent(AT_ONCE, |record| {
            let kubelet = kubelet.clone();
            async move {
                let usage = of_pod(&kubelet, &record.pod).await;
                kubelet.usages.latest.write().insert(spec::uid(&record.pod).to_owned(), Arc::new(usage));
            }
        });
        tokio::select! {
            () = measure => {}
            () = shutdown.cancelled() => return,
        }
        show(&kubelet);
    }
}

/// Where figures come from.
enum Source {
    /// Files are counted.
    Files(PathBuf),
    /// The whole file system is the volume.
    FileSystem(PathBuf),
    Driver(Arc<External>),
}

fn source(kubelet: &Kubelet, uid: &str, volume: &Volume) -> Option<Source> {
    let own = match volume {
        Volume { empty_dir: Some(_), .. } => Some("empty-dir"),
        Volume { config_map: Some(_), .. } => Some("configmap"),
        Volume { secret: Some(_), .. } => Some("secret"),
        Volume { projected: Some(_), .. } => Some("projected"),
        Volume { downward_api: Some(_), .. } => Some("downward-api"),
        _ => None,
    };
    if let Some(plugin) = own {
        let path = pod_volume_dir(&kubelet.config, uid, plugin, &volume.name);
        return path.exists().then_some(Source::Files(path));
    }
    let external = kubelet.volumes.mounted(uid, &volume.name)?;
    match &external.kind {
        Kind::Csi(_) => Some(Source::Driver(external)),
        _ if external.block => None,
        Kind::Local { .. } | Kind::Nfs(_) => {
            Some(Source::FileSystem(pod_volume_dir(&kubelet.config, uid, external.plugin(), &external.name)))
        }
    }
}

async fn of_pod(kubelet: &Kubelet, pod: &Pod) -> Vec<VolumeUsage> {
    let uid = spec::uid(pod);
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes.filter_map(|volume| Some((volume, source(kubelet, uid, volume)?)));
    let measured = sources.map(|(volume, source)| async move {
        let usage = tokio::time::timeout(PATIENCE, measure(kubelet, uid, source)).await;
        match usage.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}"))) {
            Ok(Some(usage)) => Some(described(pod, volume, usage)),
            Ok(None) => None,
            Err(error) => {
                let pod = spec::describe(pod);
                tracing::debug!(%pod, volume = volume.name, error, "Failed to calculate volume metrics");
                None
            }
        }
    });
    futures::future::join_all(measured).await.into_iter().flatten().collect()
}

fn described(pod: &Pod, volume: &Volume, usage: VolumeUsage) -> VolumeUsage {
    let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", spec::name(pod), volume.name)),
        (None, None) => None,
    };
    let on_disk = volume.empty_dir.as_ref().is_some_and(|empty| empty.medium.as_deref() != Some("Memory"));
    let ephemeral = on_disk || volume.config_map.is_some() || volume.downward_api.is_some();
    VolumeUsage { name: volume.name.clone(), claim, at: Timestamp::now(), ephemeral, ..usage }
}

async fn measure(kubelet: &Kubelet, uid: &str, source: Source) -> Result<Option<VolumeUsage>, String> {
    match source {
        Source::Files(path) => blocking(move || Ok(Some(of_files(&path)))).await,
        Source::FileSystem(path) => blocking(move || Ok(Some(of_file_system(&path)))).await,
        Source::Driver(volume) => {
            let Kind::Csi(csi) = &volume.kind else { return Ok(None) };
            let client = kubelet.volumes.drivers.get(&csi.driver)?;
            let path = external::published_path(kubelet, uid, &volume);
            let usage = client.usage(&csi.handle, &path).await.map_err(|error| error.to_string())?;
            Ok(usage.map(|usage| {
                let (available, capacity, used) = usage.bytes.unwrap_or_default();
                let (inodes_free, inodes, inodes_used) = usage.inodes.unwrap_or_default();
                let abnormal = usage.abnormal;
                let figures = VolumeUsage { capacity, available, used, abnormal, ..VolumeUsage::default() };
                VolumeUsage { inodes, inodes_free, inodes_used, ..figures }
            }))
        }
    }
}

fn of_file_system(path: &Path) -> VolumeUsage {
    let disk = machine::disk(path);
    VolumeUsage {
        capacity: disk.capacity,
        available: disk.available,
        used: disk.capacity - disk.available,
        inodes: disk.inodes,
        inodes_free: disk.inodes_free,
        inodes_used: disk.inodes - disk.inodes_free,
        ..VolumeUsage::default()
    }
}

fn of_files(path: &Path) -> VolumeUsage {
    let mut count = Count::default();
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        count.walk(path, metadata.dev());
    }
    VolumeUsage { used: count.bytes, inodes_used: count.inodes, ..of_file_system(path) }
}

/// Bytes and inodes below a directory, as `du` counts them: a file of several names once, other file systems not at all.
#[derive(Default)]
struct Count {
    bytes: i64,
    inodes: i64,
    linked: HashSet<u64>,
}

impl Count {
    fn walk(&mut self, path: &Path, device: u64) {
        let Ok(metadata) = std::fs::symlink_metadata(path) else { return };
        if metadata.dev() != device
            || (metadata.nlink() > 1 && !metadata.is_dir() && !self.linked.insert(metadata.ino()))
        {
            return;
        }
        self.bytes += i64::try_from(metadata.blocks().saturating_mul(512)).unwrap_or(i64::MAX);
        self.inodes += 1;
        if metadata.is_dir() {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                self.walk(&entry.path(), device);
            }
        }
    }
}

type Figure = fn(&VolumeUsage) -> Option<i64>;

static METRICS: LazyLock<Vec<(GaugeVec, Figure)>> = LazyLock::new(|| {
    let metric = |name: &str, help: &str, figure: Figure| {
        let options = Opts::new(format!("kubelet_volume_stats_{name}"), help);
        #[allow(clippy::expect_used, reason = "a constant description")]
        let gauge = GaugeVec::new(options, &["namespace", "persistentvolumeclaim"]).expect("a valid metric");
        (common::telemetry::register(gauge), figure)
    };
    vec![
        metric("capacity_bytes", "Capacity in bytes of the volume", |usage| Some(usage.capacity)),
        metric("available_bytes", "Number of available bytes in the volume", |usage| Some(usage.available)),
        metric("used_bytes", "Number of used bytes in the volume", |usage| Some(usage.used)),
        metric("inodes", "Maximum number of inodes in the volume", |usage| Some(usage.inodes)),
        metric("inodes_free", "Number of free inodes in the volume", |usage| Some(usage.inodes_free)),
        metric("inodes_used", "Number of used inodes in the volume", |usage| Some(usage.inodes_used)),
        metric(
            "health_status_abnormal",
            "Abnormal volume health status. The count is either 1 or 0. 1 indicates the volume is unhealthy, 0 indicates volume is healthy",
            |usage| usage.abnormal.map(i64::from),
        ),
    ]
});

/// Volumes with claims are metrics, too; those of pods that are gone no longer.
#[allow(clippy::cast_precision_loss, reason = "metrics are floats")]
fn show(kubelet: &Kubelet) {
    let mut claims: HashMap<(String, String), VolumeUsage> = HashMap::new();
    for record in kubelet.pods.list() {
        for usage in kubelet.usages.get(spec::uid(&record.pod)).iter() {
            if let Some(claim) = &usage.claim {
                claims.insert((spec::namespace(&record.pod).to_owned(), claim.clone()), usage.clone());
            }
        }
    }
    let mut shown = kubelet.usages.shown.lock();
    for (namespace, claim) in shown.iter().filter(|key| !claims.contains_key(*key)) {
        for (gauge, _) in METRICS.iter() {
            let _ = gauge.remove_label_values(&[namespace.as_str(), claim.as_str()]);
        }
    }
    *shown = claims.keys().cloned().collect();
    for ((namespace, claim), usage) in &claims {
        for (gauge, figure) in METRICS.iter() {
            if let Some(value) = figure(usage) {
                gauge.with_label_values(&[namespace.as_str(), claim.as_str()]).set(value as f64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_once() {
        let directory = tempfile::tempdir().unwrap();
        let empty = of_files(directory.path());
        assert_eq!(empty.inodes_used, 1);
        std::fs::write(directory.path().join("a"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(directory.path().join("a"), directory.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("c")).unwrap();
        let full = of_files(directory.path());
        assert_eq!(full.inodes_used, 3, "the directory, one file of two names, a link that is not followed");
        assert!((100_000..400_000).contains(&(full.used - empty.used)), "{} {}", full.used, empty.used);
        assert!(full.capacity > 0 && full.available <= full.capacity);
    }
}
