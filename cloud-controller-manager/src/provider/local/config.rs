//! The file that `--cloud-config` names: `kind: LocalCloudConfig`, `apiVersion: corten.dev/v1alpha1`.

use std::{collections::BTreeMap, path::Path};

use common::config::load_versioned;
use serde::Deserialize;

use super::super::ProviderError;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(super) struct LocalCloudConfig {
    /// `192.0.2.0/28` or `192.0.2.10-192.0.2.20`; without a pool there are no load balancers.
    pub load_balancer_pools: Vec<String>,
    /// The region of machines that don't name their own.
    pub region: String,
    /// By node name. A machine that is not listed exists and has the addresses that its kubelet reports.
    pub nodes: BTreeMap<String, Machine>,
}

/// One machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(super) struct Machine {
    #[serde(rename = "internalIPs")]
    pub internal_ips: Vec<String>,
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    pub zone: String,
    pub region: String,
    pub instance_type: String,
    pub labels: BTreeMap<String, String>,
    /// Switched off on purpose: its node gets the shutdown taint while it is not ready.
    pub shut_down: bool,
    /// Gone for good: its node is deleted while it is not ready.
    pub removed: bool,
}

impl LocalCloudConfig {
    pub(super) fn load(path: &Path) -> Result<Self, ProviderError> {
        load_versioned(path, "corten.dev/v1alpha1", "LocalCloudConfig")
            .map_err(|error| ProviderError::Config { path: path.display().to_string(), reason: error.to_string() })
    }
}
