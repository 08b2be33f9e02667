//! Block devices of CSI drivers: no file system, the pod gets the device.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;

use super::data::{self, VolumeData};
use super::volume::{about, block_facts, early, publish_context, publish_request};
use super::{Volume, parameters};
use crate::pods::spec;
use crate::shared::Kubelet;
use crate::volumes::blocking;
use crate::volumes::external::device::{self, Link};
use crate::volumes::external::{External, Failure};
use crate::wire::csi::StageRequest;

/// Brings the device to the node.
pub(in crate::volumes) async fn stage(kubelet: &Kubelet, volume: &External, source: &Volume) -> Result<(), Failure> {
    let places = data::block_places(&kubelet.config.root_dir, &volume.name);
    let facts = block_facts(kubelet, volume, source);
    facts.save(&places.data).map_err(early)?;
    let client = kubelet
        .volumes
        .drivers
        .get(&source.driver)
        .map_err(|error| early(format_args!("blockMapper.SetUpDevice failed to get CSI client: {error}")))?;
    let policy = kubelet.volumes.policy(kubelet, &source.driver).await.map_err(Failure::NotBegun)?;
    let publish_context = publish_context(kubelet, source, &policy)
        .await
        .map_err(|error| early(format_args!("blockMapper.SetupDevice failed to get volume attachment: {error}")))?;
    let capabilities = client.capabilities().await.map_err(|error| Failure::NotBegun(error.to_string()))?;
    if !capabilities.stage {
        return Ok(());
    }
    let secrets = parameters::secret(kubelet.client.as_ref(), source.stage_secret.as_ref()).await.map_err(|error| {
        let (namespace, name) = source.stage_secret.clone().unwrap_or_default();
        early(format_args!("failed to get NodeStageSecretRef {namespace}/{name}: {error}"))
    })?;
    std::fs::create_dir_all(&places.staging)
        .map_err(|error| early(format_args!("failed to create dir {}: {error}", places.staging.display())))?;
    client
        .stage(StageRequest {
            volume_id: source.handle.clone(),
            publish_context,
            staging_target_path: parameters::text(&places.staging),
            volume_capability: Some(parameters::capability(&volume.access_modes, capabilities, None)),
            secrets,
            volume_context: source.attributes.clone(),
        })
        .await
}

fn link(kubelet: &Kubelet, uid: &str, name: &str) -> (PathBuf, Link) {
    let places = data::block_places(&kubelet.config.root_dir, name);
    let published = places.publish.join(uid);
    let link = Link { bound: places.devices.join(uid), link: device::pod_link(&kubelet.config, uid, "csi", name) };
    (published, link)
}

/// Gives the device to a pod.
pub(in crate::volumes) async fn publish(
    kubelet: &Kubelet,
    pod: &Pod,
    volume: &External,
    source: &Volume,
) -> Result<(), Failure> {
    let (published, link) = link(kubelet, spec::uid(pod), &volume.name);
    let client = kubelet
        .volumes
        .drivers
        .get(&source.driver)
        .map_err(|error| early(format_args!("blockMapper.MapPodDevice failed to get CSI client: {error}")))?;
    let policy = kubelet.volumes.policy(kubelet, &source.driver).await.map_err(Failure::NotBegun)?;
    let capabilities = client.capabilities().await.map_err(|error| Failure::NotBegun(error.to_string()))?;
    let mut request = publish_request(kubelet, pod, source, &policy).await?;
    request.readonly = volume.read_only;
    request.target_path = parameters::text(&published);
    let staging = data::block_places(&kubelet.config.root_dir, &volume.name).staging;
    request.staging_target_path = parameters::text(&staging);
    request.volume_capability = Some(parameters::capability(&volume.access_modes, capabilities, None));
    if let Some(directory) = published.parent() {
        std::fs::create_dir_all(directory)
            .map_err(|error| early(format_args!("failed to create dir {}: {error}", directory.display())))?;
    }
    client.publish(request).await?;
    blocking(move || link.make(&published)).await.map_err(Failure::Uncertain)
}

/// Takes the device from a pod.
pub(in crate::volumes) async fn unpublish(
    kubelet: &Kubelet,
    uid: &str,
    volume: &External,
    source: &Volume,
) -> Result<(), String> {
    let (published, link) = link(kubelet, uid, &volume.name);
    blocking(move || link.remove()).await?;
    let client = kubelet
        .volumes
        .drivers
        .get(&source.driver)
        .map_err(|error| about(format_args!("blockMapper.UnmapPodDevice failed to get CSI client: {error}")))?;
    client
        .unpublish(&source.handle, &published)
        .await
        .map_err(|error| about(format_args!("blockMapper.unpublishVolumeForBlock failed: {error}")))?;
    match std::fs::remove_file(&published) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(about(format_args!("failed to remove {}: {error}", published.display())))
        }
        _ => Ok(()),
    }
}

/// Takes the device from the node.
pub(in crate::volumes) async fn unstage(kubelet: &Kubelet, volume: &External, source: &Volume) -> Result<(), String> {
    let places = data::block_places(&kubelet.config.root_dir, &volume.name);
    if VolumeData::load(&places.data).is_ok() {
        let client = kubelet
            .volumes
            .drivers
            .get(&source.driver)
            .map_err(|error| about(format_args!("blockMapper.TearDownDevice failed to get CSI client: {error}")))?;
        let capabilities = client.capabilities().await.map_err(|error| error.to_string())?;
        if capabilities.stage {
            let done = client.unstage(&source.handle, &places.staging).await;
            done.map_err(|error| about(format_args!("blockMapper.unstageVolumeForBlock failed: {error}")))?;
        }
    }
    VolumeData::remove(&places.data).map_err(|error| error.to_string())?;
    // Empty by now; whatever is not, is somebody's and stays.
    for directory in [&places.staging, &places.publish, &places.devices, &places.data] {
        let _ = std::fs::remove_dir(directory);
    }
    if let Some(base) = places.data.parent() {
        let _ = std::fs::remove_dir(base);
    }
    Ok(())
}
