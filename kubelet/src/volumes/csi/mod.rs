//! CSI: volumes that a driver on the node stages and publishes. Files and directories are laid out as upstream's, so
//! either kubelet takes over the other's volumes.

pub(super) mod block;
mod client;
pub(super) mod data;
mod drivers;
pub(super) mod expand;
mod node_info;
mod parameters;
mod policy;
pub(super) mod volume;

pub(crate) use client::Capabilities;
pub(crate) use drivers::{Drivers, Registration, watch_allocatable};
pub(crate) use node_info::initialize;
pub(crate) use policy::{DriverObjects, Policy};

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, SecretReference};

/// Secret: (namespace, name).
pub(super) type SecretRef = (String, String);

/// A volume of a driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) driver: String,
    pub(crate) handle: String,
    /// Lives and dies with its pod; there is no PersistentVolume.
    pub(crate) ephemeral: bool,
    pub(super) fs_type: String,
    pub(super) attributes: HashMap<String, String>,
    pub(super) stage_secret: Option<SecretRef>,
    pub(super) publish_secret: Option<SecretRef>,
    pub(super) expand_secret: Option<SecretRef>,
}

fn attributes(from: Option<&BTreeMap<String, String>>) -> HashMap<String, String> {
    from.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Volume {
    /// Of a PersistentVolume.
    pub(super) fn persistent(source: &CSIPersistentVolumeSource) -> Self {
        let secret = |reference: &Option<SecretReference>| {
            let reference = reference.as_ref()?;
            Some((reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default()))
        };
        Self {
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            ephemeral: false,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: attributes(source.volume_attributes.as_ref()),
            stage_secret: secret(&source.node_stage_secret_ref),
            publish_secret: secret(&source.node_publish_secret_ref),
            expand_secret: secret(&source.node_expand_secret_ref),
        }
    }

    /// Written into the pod.
    pub(super) fn inline(source: &CSIVolumeSource, namespace: &str, uid: &str, name: &str) -> Self {
        Self {
            driver: source.driver.clone(),
            handle: data::inline_handle(uid, name),
            ephemeral: true,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: attributes(source.volume_attributes.as_ref()),
            publish_secret: source
                .node_publish_secret_ref
                .as_ref()
                .map(|reference| (namespace.to_owned(), reference.name.clone())),
            ..Self::default()
        }
    }
}
