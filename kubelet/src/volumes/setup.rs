//! Setting up all volumes of a pod. Every step may be repeated: what is there already is kept or brought up to date.

use std::collections::HashMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Pod, Volume};

use super::ownership::Access;
use super::payload::{self, Files, Source};
use super::{Mounted, VolumeError, atomic, empty_dir, host_path, ownership};
use crate::pods::spec;
use crate::pods::surroundings::field_context;
use crate::shared::Kubelet;

/// Sets up all volumes, or says which could not be.
pub(crate) async fn mount_pod(kubelet: &Kubelet, pod: &Pod) -> Result<HashMap<String, Mounted>, Vec<VolumeError>> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
    if volumes.is_empty() {
        return Ok(HashMap::new());
    }
    let ips: Vec<String> = kubelet
        .pods
        .get(spec::uid(pod))
        .and_then(|record| record.status.pod_ips.clone())
        .unwrap_or_default()
        .into_iter()
        .map(|ip| ip.ip)
        .collect();
    let source = Source {
        pod,
        objects: kubelet.objects.snapshot(pod).await,
        fields: field_context(kubelet, pod, &ips),
        tokens: &kubelet.tokens,
    };
    let mut mounted = HashMap::new();
    let mut errors = Vec::new();
    for volume in &volumes {
        match mount(kubelet, &source, volume).await {
            Ok(found) => {
                mounted.insert(volume.name.clone(), found);
            }
            Err(message) => errors.push(VolumeError { volume: volume.name.clone(), message }),
        }
    }
    if errors.is_empty() { Ok(mounted) } else { Err(errors) }
}

fn directory(kubelet: &Kubelet, pod: &Pod, plugin: &str, volume: &str) -> PathBuf {
    let pod_dir = kubelet.config.pod_dir(spec::uid(pod));
    pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

async fn mount(kubelet: &Kubelet, source: &Source<'_>, volume: &Volume) -> Result<Mounted, String> {
    let pod = source.pod;
    let fs_group =
        pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|context| context.fs_group);
    if let Some(host) = volume.host_path.clone() {
        return blocking(move || {
            host_path::check(&host)?;
            Ok(Mounted::at(PathBuf::from(host.path), false))
        })
        .await;
    }
    if let Some(image) = volume.image.clone() {
        // Pulled when a container that mounts it starts.
        return Ok(Mounted { path: PathBuf::new(), read_only: true, image: Some(image) });
    }
    if let Some(empty) = volume.empty_dir.clone() {
        let path = directory(kubelet, pod, "empty-dir", &volume.name);
        let capacity = kubelet.node.machine.memory_bytes;
        return blocking(move || {
            empty_dir::set_up(&path, &empty, capacity)?;
            ownership::apply(&path, fs_group, Access::Write)?;
            Ok(Mounted::at(path, false))
        })
        .await;
    }
    let (plugin, memory) = match volume {
        Volume { config_map: Some(_), .. } => ("configmap", false),
        Volume { secret: Some(_), .. } => ("secret", true),
        Volume { projected: Some(_), .. } => ("projected", true),
        Volume { downward_api: Some(_), .. } => ("downward-api", true),
        _ => return Err(format!("the kind of volume {:?} is not supported by this kubelet yet", volume.name)),
    };
    let files: Files = payload::collect(source, volume).await?;
    let path = directory(kubelet, pod, plugin, &volume.name);
    blocking(move || {
        empty_dir::set_up_payload(&path, memory)?;
        let changed = atomic::write(&path, &files).map_err(|error| format!("writing {}: {error}", path.display()))?;
        if changed {
            ownership::apply(&path, fs_group, Access::Read)?;
        }
        Ok(Mounted::at(path, true))
    })
    .await
}
