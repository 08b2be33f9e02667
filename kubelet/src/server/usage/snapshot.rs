//! One look at everything: the node, its pods, their containers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;

use super::network::{self, Interface};
use crate::node::machine::Disk;
use crate::pods::{PodRecord, spec};
use crate::runtime::{RuntimeError, resources};
use crate::shared::Kubelet;
use crate::stats::{ContainerUsage, Usage, filesystem};
use crate::volumes::usage::VolumeUsage;

/// A container that runs.
pub(in crate::server) struct ContainerEntry {
    pub(super) usage: ContainerUsage,
    pub(super) started: Option<Timestamp>,
    pub(super) image: String,
    pub(super) log_bytes: u64,
}

/// A pod and its running containers.
pub(in crate::server) struct PodEntry {
    pub(super) record: PodRecord,
    pub(super) usage: Usage,
    pub(super) cgroup: String,
    pub(super) network: Vec<Interface>,
    pub(super) containers: Vec<ContainerEntry>,
    pub(super) volumes: Arc<Vec<VolumeUsage>>,
}

/// Use of the file system that images and writable layers are on.
pub(in crate::server) struct ImageDisk {
    pub(super) disk: Disk,
    pub(super) used: Option<u64>,
    pub(super) inodes_used: Option<u64>,
}

/// Everything at one time.
pub(in crate::server) struct Snapshot {
    pub(super) at: Timestamp,
    pub(super) booted: Timestamp,
    pub(super) node: Usage,
    pub(super) all_pods: Usage,
    pub(super) all_pods_cgroup: String,
    pub(super) network: Vec<Interface>,
    pub(super) default_interface: Option<String>,
    pub(super) disk: Disk,
    pub(super) images: Option<ImageDisk>,
    pub(super) pods: Vec<PodEntry>,
}

/// Takes a snapshot.
pub(in crate::server) async fn take(kubelet: &Arc<Kubelet>) -> Result<Snapshot, RuntimeError> {
    let (containers, image_fs) = tokio::join!(kubelet.stats.containers(kubelet), kubelet.runtime.image_fs());
    let containers = containers?;
    let images = image_fs.ok().and_then(|answer| answer.image_filesystems.into_iter().next());
    let kubelet = kubelet.clone();
    // cgroup files are many small reads that may wait for the kernel.
    let look = tokio::task::spawn_blocking(move || {
        let images = images.map(|usage| ImageDisk {
            disk: filesystem(Path::new(&usage.fs_id.map(|id| id.mountpoint).unwrap_or_default())),
            used: usage.used_bytes.map(|bytes| bytes.value),
            inodes_used: usage.inodes_used.map(|inodes| inodes.value),
        });
        assemble(&kubelet, containers, images)
    });
    look.await.map_err(|_| RuntimeError::Incomplete("stats", "a snapshot of the node"))
}

fn assemble(kubelet: &Kubelet, containers: Vec<ContainerUsage>, images: Option<ImageDisk>) -> Snapshot {
    let mut by_pod: HashMap<String, Vec<ContainerUsage>> = HashMap::new();
    for usage in containers {
        by_pod.entry(usage.pod_uid.clone()).or_default().push(usage);
    }
    let records = kubelet.pods.list().into_iter();
    let mut pods: Vec<PodEntry> = records
        .map(|record| {
            let usages = by_pod.remove(spec::uid(&record.pod)).unwrap_or_default();
            pod_entry(kubelet, record, usages)
        })
        .collect();
    pods.sort_by(|a, b| {
        let key = |entry: &PodEntry| {
            (spec::namespace(&entry.record.pod).to_owned(), spec::name(&entry.record.pod).to_owned())
        };
        key(a).cmp(&key(b))
    });
    let all_pods_parts = kubelet.cgroups.pods_parts();
    Snapshot {
        at: Timestamp::now(),
        booted: boot_time(),
        node: kubelet.stats.node(kubelet),
        all_pods: kubelet.stats.pods(kubelet),
        all_pods_cgroup: format!("/{}", all_pods_parts.join("/")),
        network: network::of_process("self"),
        default_interface: network::default_interface(),
        disk: filesystem(&kubelet.config.root_dir),
        images,
        pods,
    }
}

fn pod_entry(kubelet: &Kubelet, record: PodRecord, usages: Vec<ContainerUsage>) -> PodEntry {
    let pod = record.pod.clone();
    let (uid, pod_spec) = (spec::uid(&pod), pod.spec.as_ref());
    let parts = pod_spec.map(|pod_spec| kubelet.cgroups.pod_parts(uid, resources::qos(pod_spec))).unwrap_or_default();
    let own_network = !pod_spec.and_then(|pod_spec| pod_spec.host_network).unwrap_or(false);
    let directory = kubelet.cgroups.file("memory", &parts, "");
    let process = directory.filter(|_| own_network && !parts.is_empty()).and_then(|path| network::process_below(&path));
    let logs = kubelet.config.pod_log_dir(spec::namespace(&pod), spec::name(&pod), uid);
    let running = running_containers(&record);
    let containers = usages.into_iter().filter_map(|usage| {
        let (started, image) = running.get(usage.id.as_str()).cloned()?;
        let log_bytes = directory_bytes(logs.join(&usage.name));
        Some(ContainerEntry { usage, started, image, log_bytes })
    });
    let mut containers: Vec<ContainerEntry> = containers.collect();
    containers.sort_by(|a, b| a.usage.name.cmp(&b.usage.name));
    PodEntry {
        usage: kubelet.stats.pod(kubelet, &pod),
        cgroup: format!("/{}", parts.join("/")),
        network: process.map(|process| network::of_process(&process)).unwrap_or_default(),
        containers,
        volumes: kubelet.usages.get(uid),
        record,
    }
}

/// Running containers by id: since when, and their image.
fn running_containers(record: &PodRecord) -> HashMap<&str, (Option<Timestamp>, String)> {
    let status = &record.status;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let entry = |status: &'_ ContainerStatus| {
        let running = status.state.as_ref()?.running.as_ref()?;
        Some((running.started_at.as_ref().map(|time| time.0), status.image.clone()))
    };
    let all = lists.into_iter().flatten().flatten();
    all.filter_map(|status| {
        let id = status.container_id.as_deref()?;
        Some((id.split_once("://").map_or(id, |(_, id)| id), entry(status)?))
    })
    .collect()
}

fn directory_bytes(directory: PathBuf) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(|data| data.is_file()).map(|data| data.len()).sum()
}

fn boot_time() -> Timestamp {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "));
    let seconds = seconds.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0);
    Timestamp::from_second(seconds).unwrap_or_default()
}
