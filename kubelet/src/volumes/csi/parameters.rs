//! What goes into the calls: access modes, pod information, tokens, secrets. Pure but for reading secrets.

use std::collections::HashMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, Secret};

use super::{Capabilities, SecretRef};
use crate::pods::spec;
use crate::wire::csi::{self as wire, Access, AccessMode, AccessType, MountVolume, VolumeCapability};

pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Upstream's mapping of a claim's first access mode.
fn access(mode: &str, capabilities: Capabilities) -> Access {
    match (mode, capabilities.multi_writer) {
        ("ReadOnlyMany", _) => Access::MultiNodeReaderOnly,
        ("ReadWriteMany", _) => Access::MultiNodeMultiWriter,
        ("ReadWriteOnce", true) => Access::SingleNodeMultiWriter,
        ("ReadWriteOncePod", true) => Access::SingleNodeSingleWriter,
        ("ReadWriteOnce" | "ReadWriteOncePod", false) => Access::SingleNodeWriter,
        _ => Access::Unknown,
    }
}

/// How a volume is to be used; `mount` is nothing for a block device.
pub(super) fn capability(modes: &[String], capabilities: Capabilities, mount: Option<MountVolume>) -> VolumeCapability {
    let mode = modes.first().map_or("ReadWriteOnce", String::as_str);
    VolumeCapability {
        access_type: Some(mount.map_or(AccessType::Block(wire::Empty {}), AccessType::Mount)),
        access_mode: Some(AccessMode { mode: access(mode, capabilities).into() }),
    }
}

/// What drivers that ask for it (`podInfoOnMount`) learn about the pod.
pub(super) fn pod_info(pod: &Pod, ephemeral: bool) -> [(String, String); 5] {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default();
    let of = |name: &str, value: String| (format!("csi.storage.k8s.io/{name}"), value);
    [
        of("pod.name", spec::name(pod).to_owned()),
        of("pod.namespace", spec::namespace(pod).to_owned()),
        of("pod.uid", spec::uid(pod).to_owned()),
        of("serviceAccount.name", account),
        of("ephemeral", ephemeral.to_string()),
    ]
}

/// The contents of a secret; nothing without one.
pub(super) async fn secret(
    client: Option<&kube::Client>,
    reference: Option<&SecretRef>,
) -> Result<HashMap<String, String>, String> {
    let Some((namespace, name)) = reference else { return Ok(HashMap::new()) };
    let client = client.ok_or("failed to find the secret: there is no apiserver")?;
    let api: kube::Api<Secret> = kube::Api::namespaced(client.clone(), namespace);
    let secret = api.get(name).await.map_err(|error| crate::volumes::api_error(&error))?;
    let data = secret.data.unwrap_or_default().into_iter();
    Ok(data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_modes() {
        let (old, new) = (Capabilities::default(), Capabilities { multi_writer: true, ..Capabilities::default() });
        for (mode, plain, fine) in [
            ("ReadWriteOnce", Access::SingleNodeWriter, Access::SingleNodeMultiWriter),
            ("ReadWriteOncePod", Access::SingleNodeWriter, Access::SingleNodeSingleWriter),
            ("ReadOnlyMany", Access::MultiNodeReaderOnly, Access::MultiNodeReaderOnly),
            ("ReadWriteMany", Access::MultiNodeMultiWriter, Access::MultiNodeMultiWriter),
        ] {
            assert_eq!((access(mode, old), access(mode, new)), (plain, fine), "{mode}");
        }
    }
}
