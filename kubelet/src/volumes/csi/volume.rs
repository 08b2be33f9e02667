//! File systems of CSI drivers: staged once per node, published once per pod.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::data::{self, VolumeData};
use super::{Policy, Volume, parameters, policy};
use crate::pods::spec;
use crate::shared::Kubelet;
use crate::volumes::external::{External, Failure};
use crate::volumes::ownership::{self, Access};
use crate::volumes::{blocking, mounts, pod_volume_dir};
use crate::wire::csi::{MountVolume, PublishRequest, StageRequest};

pub(super) fn about(message: impl std::fmt::Display) -> String {
    format!("kubernetes.io/csi: {message}")
}

/// Nothing was asked of the driver yet.
pub(super) fn early(message: impl std::fmt::Display) -> Failure {
    Failure::NotBegun(about(message))
}

/// Where a pod finds the volume.
pub(in crate::volumes) fn path(kubelet: &Kubelet, uid: &str, name: &str) -> PathBuf {
    pod_volume_dir(&kubelet.config, uid, "csi", name).join("mount")
}

/// What the attacher found out when it brought the volume here.
pub(in crate::volumes) async fn publish_context(
    kubelet: &Kubelet,
    source: &Volume,
    policy: &Policy,
) -> Result<HashMap<String, String>, String> {
    if source.ephemeral || !policy.attach {
        return Ok(HashMap::new());
    }
    let attachment = attachment(kubelet, source).await.map_err(|error| crate::volumes::api_error(&error))?;
    Ok(attachment.status.and_then(|status| status.attachment_metadata).unwrap_or_default().into_iter().collect())
}

async fn attachment(kubelet: &Kubelet, source: &Volume) -> Result<VolumeAttachment, kube::Error> {
    let name = data::attachment(&source.handle, &source.driver, &kubelet.config.node_name);
    let Some(client) = kubelet.client.clone() else {
        return Err(kube::Error::Service("there is no apiserver to ask for the VolumeAttachment".into()));
    };
    kube::Api::<VolumeAttachment>::all(client).get(&name).await
}

/// Whether the attacher says that the volume is here.
pub(in crate::volumes) async fn check_attached(kubelet: &Kubelet, source: &Volume) -> Result<(), String> {
    let handle = &source.handle;
    let name = data::attachment(handle, &source.driver, &kubelet.config.node_name);
    let found = attachment(kubelet, source).await.map_err(|error| {
        let error = crate::volumes::api_error(&error);
        format!("volume {handle} has GET error for volume attachment {name}: {error}")
    })?;
    if found.metadata.deletion_timestamp.is_some() {
        return Err("volume attachment is being deleted".into());
    }
    let status = found.status.unwrap_or_default();
    match status.attach_error {
        _ if status.attached => Ok(()),
        Some(error) => Err(error.message.unwrap_or_default()),
        None => Err(format!("volume {handle} is not attached for volume attachment {name}")),
    }
}

/// Whether the attacher found no room on the node, for drivers that are asked for their limits again and again.
pub(in crate::volumes) async fn is_exhausted(kubelet: &Kubelet, source: &Volume) -> bool {
    let policy = kubelet.volumes.policy(kubelet, &source.driver).await;
    if policy.is_ok_and(|policy| policy.allocatable_period.is_none()) {
        return false;
    }
    let Ok(found) = attachment(kubelet, source).await else { return false };
    let code = found.status.and_then(|status| status.attach_error).and_then(|error| error.error_code);
    if code != Some(tonic::Code::ResourceExhausted as i32) {
        return false;
    }
    if let Err(error) = super::drivers::refresh_limit(kubelet, &source.driver).await {
        tracing::warn!(driver = source.driver, error, "cannot update the number of volumes that fit");
    }
    true
}

fn fs_group(pod: &Pod) -> Option<i64> {
    pod.spec.as_ref()?.security_context.as_ref()?.fs_group
}

/// Mount options, with the SELinux label when driver and host do that.
fn mount_options(pod: &Pod, volume: &External, policy: &Policy) -> (Vec<String>, Option<String>) {
    let mut options = volume.mount_options.clone();
    let once = volume.access_modes.first().is_some_and(|mode| mode == "ReadWriteOncePod");
    let label = policy::selinux_option(pod).filter(|_| policy.selinux_mount && once);
    options.extend(label.clone());
    (options, label)
}

/// Brings the volume to its place on the node.
pub(in crate::volumes) async fn stage(
    kubelet: &Kubelet,
    pod: &Pod,
    volume: &External,
    source: &Volume,
) -> Result<(), Failure> {
    let client =
        kubelet.volumes.drivers.get(&source.driver).map_err(|error| {
            early(format_args!("attacher.MountDevice failed to create newCsiDriverClient: {error}"))
        })?;
    let policy = kubelet.volumes.policy(kubelet, &source.driver).await.map_err(Failure::NotBegun)?;
    let capabilities = client.capabilities().await.map_err(|error| Failure::NotBegun(error.to_string()))?;
    let target = data::staging(&kubelet.config.root_dir, &source.driver, &source.handle);
    let publish_context = publish_context(kubelet, source, &policy).await.map_err(Failure::NotBegun)?;
    if !capabilities.stage {
        return Ok(());
    }
    let secrets = parameters::secret(kubelet.client.as_ref(), source.stage_secret.as_ref()).await.map_err(|error| {
        let (namespace, name) = source.stage_secret.clone().unwrap_or_default();
        Failure::NotBegun(format!("fetching NodeStageSecretRef {namespace}/{name} failed: {error}"))
    })?;
    let (mount_flags, label) = mount_options(pod, volume, &policy);
    let facts = VolumeData {
        driver: source.driver.clone(),
        handle: source.handle.clone(),
        selinux: label.unwrap_or_default(),
        ..VolumeData::default()
    };
    prepare(target.clone(), facts, true).await.map_err(early)?;
    let group = fs_group(pod).filter(|_| capabilities.mount_group).map(|group| group.to_string());
    let mount =
        MountVolume { fs_type: source.fs_type.clone(), mount_flags, volume_mount_group: group.unwrap_or_default() };
    let request = StageRequest {
        volume_id: source.handle.clone(),
        publish_context,
        staging_target_path: parameters::text(&target),
        volume_capability: Some(parameters::capability(&volume.access_modes, capabilities, Some(mount))),
        secrets,
        volume_context: source.attributes.clone(),
    };
    let outcome = client.stage(request).await;
    if let Err(Failure::Final(_)) = &outcome {
        remove_unless_mounted(target).await;
    }
    outcome
}

/// The data file is there before the driver is called: what it mounts is never unknown. A stage path is made, a publish
/// path is the driver's to make.
async fn prepare(target: PathBuf, facts: VolumeData, make: bool) -> Result<(), String> {
    blocking(move || {
        let Some(directory) = target.parent() else { return Err("the volume has no directory".into()) };
        let made = if make { std::fs::create_dir_all(&target) } else { std::fs::create_dir_all(directory) };
        made.map_err(|error| format!("failed to create dir {}: {error}", target.display()))?;
        facts.save(directory)
    })
    .await
}

async fn remove_unless_mounted(target: PathBuf) {
    let path = target.clone();
    if let Err(error) = blocking(move || remove_mount_dir(&target)).await {
        tracing::warn!(path = %path.display(), error, "cannot remove the place of a volume that failed");
    }
}

/// Removes an empty place and its data file; one that is still mounted stays.
fn remove_mount_dir(target: &Path) -> Result<(), String> {
    if mounts::is_mount_point(target) {
        return Err(format!("{} is still mounted", target.display()));
    }
    let gone = |outcome: std::io::Result<()>, path: &Path| match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("failed to remove [{}]: {error}", path.display()))
        }
        _ => Ok(()),
    };
    // A driver may have published a file.
    let made = match std::fs::symlink_metadata(target) {
        Ok(metadata) if !metadata.is_dir() => std::fs::remove_file(target),
        _ => std::fs::remove_dir(target),
    };
    gone(made, target)?;
    let Some(directory) = target.parent() else { return Ok(()) };
    gone(VolumeData::remove(directory), directory)?;
    gone(std::fs::remove_dir(directory), directory)
}

/// Gives the volume to a pod. `keep`: a failure leaves the place alone, as containers may be using it.
pub(in crate::volumes) async fn publish(
    kubelet: &Kubelet,
    pod: &Pod,
    volume: &External,
    source: &Volume,
    keep: bool,
) -> Result<(), Failure> {
    let target = path(kubelet, spec::uid(pod), &volume.name);
    let client = kubelet
        .volumes
        .drivers
        .get(&source.driver)
        .map_err(|error| early(format_args!("mounter.SetUpAt failed to get CSI client: {error}")))?;
    let policy = kubelet.volumes.policy(kubelet, &source.driver).await.map_err(Failure::NotBegun)?;
    policy
        .check_mode(&source.driver, source.ephemeral)
        .map_err(|error| early(format_args!("mounter.SetupAt failed to check volume lifecycle mode: {error}")))?;
    let capabilities = client.capabilities().await.map_err(|error| Failure::NotBegun(error.to_string()))?;
    let (mount_flags, label) = mount_options(pod, volume, &policy);
    let group = fs_group(pod).filter(|_| capabilities.mount_group).map(|group| group.to_string());
    let mount =
        MountVolume { fs_type: source.fs_type.clone(), mount_flags, volume_mount_group: group.unwrap_or_default() };
    let mut request = publish_request(kubelet, pod, source, &policy).await?;
    request.readonly = volume.read_only;
    request.target_path = parameters::text(&target);
    request.volume_capability = Some(parameters::capability(&volume.access_modes, capabilities, Some(mount)));
    if capabilities.stage && !source.ephemeral {
        let staging = data::staging(&kubelet.config.root_dir, &source.driver, &source.handle);
        request.staging_target_path = parameters::text(&staging);
    }
    let facts = VolumeData { selinux: label.unwrap_or_default(), ..facts(kubelet, volume, source) };
    prepare(target.clone(), facts, false).await.map_err(early)?;
    if let Err(failure) = client.publish(request).await {
        if matches!(failure, Failure::Final(_)) && !keep {
            remove_unless_mounted(target).await;
        }
        return Err(failure);
    }
    let ours = !capabilities.mount_group
        && policy.applies_fs_group(&source.fs_type, &volume.access_modes, source.ephemeral, volume.read_only);
    let group = fs_group(pod).filter(|_| ours);
    let change = ownership::Change::of(pod);
    blocking(move || ownership::apply(&target, group, Access::Write, change))
        .await
        .map_err(|error| Failure::Uncertain(format!("applyFSGroup failed for vol {}: {error}", source.handle)))
}

fn facts(kubelet: &Kubelet, volume: &External, source: &Volume) -> VolumeData {
    let node = &kubelet.config.node_name;
    VolumeData {
        attachment: data::attachment(&source.handle, &source.driver, node),
        driver: source.driver.clone(),
        node_name: node.clone(),
        name: volume.name.clone(),
        handle: source.handle.clone(),
        mode: policy::mode(source.ephemeral).to_owned(),
        ..VolumeData::default()
    }
}

/// The data file of a block volume knows no mode.
pub(super) fn block_facts(kubelet: &Kubelet, volume: &External, source: &Volume) -> VolumeData {
    VolumeData { mode: String::new(), ..facts(kubelet, volume, source) }
}

/// What the driver learns of the pod, whatever the kind of the volume.
pub(super) async fn publish_request(
    kubelet: &Kubelet,
    pod: &Pod,
    source: &Volume,
    policy: &Policy,
) -> Result<PublishRequest, Failure> {
    let publish_context = publish_context(kubelet, source, policy)
        .await
        .map_err(|error| early(format_args!("mounter.SetUpAt failed to fetch publishContext: {error}")))?;
    let reference = source.publish_secret.as_ref();
    let mut secrets = parameters::secret(kubelet.client.as_ref(), reference).await.map_err(|error| {
        let (namespace, name) = source.publish_secret.clone().unwrap_or_default();
        Failure::NotBegun(format!("fetching NodePublishSecretRef {namespace}/{name} failed: {error}"))
    })?;
    let mut volume_context = source.attributes.clone();
    if policy.pod_info {
        volume_context.extend(parameters::pod_info(pod, source.ephemeral));
    }
    if !policy.tokens.is_empty() {
        let tokens = tokens(kubelet, pod, policy).await.map_err(|error| {
            early(format_args!("mounter.SetUpAt failed to get service accoount token attributes: {error}"))
        })?;
        let into = if policy.tokens_in_secrets { &mut secrets } else { &mut volume_context };
        into.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), tokens);
    }
    Ok(PublishRequest {
        volume_id: source.handle.clone(),
        publish_context,
        secrets,
        volume_context,
        ..PublishRequest::default()
    })
}

/// Tokens of the pod's service account, by audience, as JSON.
async fn tokens(kubelet: &Kubelet, pod: &Pod, policy: &Policy) -> Result<String, String> {
    let mut tokens = serde_json::Map::new();
    for (audience, seconds) in &policy.tokens {
        let key = crate::volumes::tokens::TokenRequestKey::of(pod, audience, *seconds);
        let token = kubelet.tokens.get(&key).await?;
        let expires = token.expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        tokens.insert(audience.clone(), serde_json::json!({"token": token.token, "expirationTimestamp": expires}));
    }
    Ok(serde_json::Value::Object(tokens).to_string())
}

/// Takes the volume from a pod.
pub(in crate::volumes) async fn unpublish(
    kubelet: &Kubelet,
    uid: &str,
    volume: &External,
    source: &Volume,
) -> Result<(), String> {
    let target = path(kubelet, uid, &volume.name);
    let client = kubelet
        .volumes
        .drivers
        .get(&source.driver)
        .map_err(|error| about(format_args!("Unmounter.TearDownAt failed to get CSI client: {error}")))?;
    client
        .unpublish(&source.handle, &target)
        .await
        .map_err(|error| about(format_args!("Unmounter.TearDownAt failed: {error}")))?;
    blocking(move || {
        remove_mount_dir(&target).map_err(|error| {
            about(format_args!("Unmounter.TearDownAt failed to clean mount dir [{}]: {error}", target.display()))
        })
    })
    .await
}

/// Takes the volume from its place on the node.
pub(in crate::volumes) async fn unstage(kubelet: &Kubelet, source: &Volume) -> Result<(), String> {
    let target = data::staging(&kubelet.config.root_dir, &source.driver, &source.handle);
    let Some(directory) = target.parent().filter(|directory| directory.exists()) else { return Ok(()) };
    let known = VolumeData::load(directory).is_ok();
    if known {
        let client = kubelet.volumes.drivers.get(&source.driver).map_err(|error| {
            about(format_args!("attacher.UnmountDevice failed to create newCsiDriverClient: {error}"))
        })?;
        let capabilities = client.capabilities().await.map_err(|error| error.to_string())?;
        if capabilities.stage {
            let done = client.unstage(&source.handle, &target).await;
            done.map_err(|error| about(format_args!("attacher.UnmountDevice failed: {error}")))?;
        }
    }
    blocking(move || remove_mount_dir(&target)).await
}
