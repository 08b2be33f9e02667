//! The container that a pod's spec asks for. Pure.

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{labels, security};
use crate::pods::env::{EnvVars, expand};

/// What the container's surroundings add to its spec.
pub(crate) struct ContainerParts<'a> {
    pub(crate) image_ref: String,
    pub(crate) envs: EnvVars,
    pub(crate) mounts: Vec<cri::Mount>,
    pub(crate) devices: super::devices::ForContainer,
    pub(crate) restart_count: i32,
    /// Container whose process namespace an ephemeral container joins.
    pub(crate) target_id: Option<&'a str>,
    pub(crate) resources: cri::LinuxContainerResources,
    pub(crate) users: cri::UserNamespace,
    pub(crate) security: security::SecurityDefaults<'a>,
}

/// Builds the container's configuration.
pub(crate) fn config(pod: &Pod, container: &Container, parts: ContainerParts<'_>) -> cri::ContainerConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let restarts = u32::try_from(parts.restart_count).unwrap_or_default();
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| expand(word, &parts.envs)).collect()
    };
    let mut mounts = parts.mounts;
    for mount in &mut mounts {
        (mount.uid_mappings, mount.gid_mappings) = (parts.users.uids.clone(), parts.users.gids.clone());
    }
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt: restarts }),
        image: Some(cri::ImageSpec {
            image: parts.image_ref,
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts,
        devices: parts.devices.nodes,
        cdi_devices: parts.devices.cdi,
        labels: labels::container_labels(pod, &container.name),
        // A plugin's annotations never hide the kubelet's own.
        annotations: parts
            .devices
            .annotations
            .into_iter()
            .chain(labels::container_annotations(pod, container, parts.restart_count))
            .collect(),
        log_path: format!("{}/{}.log", container.name, parts.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(parts.resources),
            security_context: Some(security::container(
                &spec,
                container,
                parts.target_id,
                &parts.security,
                parts.users,
            )),
        }),
        envs: parts.envs.into_iter().map(|(key, value)| cri::KeyValue { key, value }).collect(),
        ..Default::default()
    }
}
