//! Growing what a driver published.

use std::path::Path;

use super::{Volume, data, parameters};
use crate::rpc::RpcError;
use crate::shared::Kubelet;
use crate::volumes::external::External;
use crate::wire::csi::{CapacityRange, ExpandRequest, MountVolume};

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::volumes) enum Outcome {
    Grown,
    Unsupported,
}

/// Why it did not grow.
#[derive(Debug)]
pub(in crate::volumes) enum Error {
    /// The driver was not asked.
    Before(String),
    Call(RpcError),
}

/// Grows a volume that is published at `path`.
pub(in crate::volumes) async fn expand(
    kubelet: &Kubelet,
    volume: &External,
    source: &Volume,
    path: &Path,
    bytes: i64,
) -> Result<Outcome, Error> {
    let client = kubelet.volumes.drivers.get(&source.driver).map_err(Error::Before)?;
    let capabilities = client.capabilities().await.map_err(|error| Error::Before(error.to_string()))?;
    if !capabilities.expand {
        return Ok(Outcome::Unsupported);
    }
    let secrets = parameters::secret(kubelet.client.as_ref(), source.expand_secret.as_ref()).await;
    let secrets = secrets.map_err(|error| {
        let (namespace, name) = source.expand_secret.clone().unwrap_or_default();
        Error::Before(format!("expander.NodeExpand failed to get NodeExpandSecretRef {namespace}/{name}: {error}"))
    })?;
    let root = &kubelet.config.root_dir;
    let staging = match volume.block {
        true => data::block_places(root, &volume.name).staging,
        false => data::staging(root, &source.driver, &source.handle),
    };
    let mount = MountVolume {
        fs_type: source.fs_type.clone(),
        mount_flags: volume.mount_options.clone(),
        ..MountVolume::default()
    };
    let mount = Some(mount).filter(|_| !volume.block);
    let request = ExpandRequest {
        volume_id: source.handle.clone(),
        volume_path: parameters::text(path),
        capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
        staging_target_path: if capabilities.stage { parameters::text(&staging) } else { String::new() },
        volume_capability: Some(parameters::capability(&volume.access_modes, capabilities, mount)),
        secrets,
    };
    client.expand(request).await.map(|()| Outcome::Grown).map_err(Error::Call)
}
