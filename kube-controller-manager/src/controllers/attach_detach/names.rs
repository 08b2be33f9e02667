//! How attached volumes and their VolumeAttachments are called, and which volumes are attached at all. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use ring::digest;

use crate::shared::meta::MetaExt;
use crate::shared::pods;

/// A volume that a CSI driver attaches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Device {
    pub(super) driver: String,
    pub(super) handle: String,
}

impl Device {
    /// Of a volume of a CSI driver.
    pub(super) fn of(volume: &PersistentVolume) -> Option<Self> {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        Some(Self { driver: csi.driver.clone(), handle: csi.volume_handle.clone() })
    }

    /// As it stands in the status of nodes.
    pub(super) fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }

    /// The name of its VolumeAttachment to a node; the kubelet looks for it under that name.
    pub(super) fn attachment(&self, node: &str) -> String {
        let hash = digest::digest(&digest::SHA256, format!("{}{}{node}", self.handle, self.driver).as_bytes());
        let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("csi-{hex}")
    }
}

/// Whether several nodes may have it at once.
pub(super) fn is_shared(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    modes.is_empty() || modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
}

/// Whether no container of the pod runs any more, nor ever will.
pub(super) fn is_over(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let stopped = statuses
        .iter()
        .all(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some() || state.waiting.is_some()));
    pods::is_terminal(pod) || (pod.is_deleting() && stopped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn names_are_upstreams() {
        let device = Device { driver: "d.example.com".into(), handle: "h".into() };
        assert_eq!(device.unique_name(), "kubernetes.io/csi/d.example.com^h");
        // sha256 of "hd.example.comn1".
        assert_eq!(device.attachment("n1").len(), 4 + 64);
        assert_ne!(device.attachment("n1"), device.attachment("n2"));
    }

    #[test]
    fn when_a_pod_is_over() {
        let pod = |phase: &str, deleting: bool, state: Value| -> Pod {
            let deleted = deleting.then_some("2026-01-01T00:00:00Z");
            let status =
                json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            serde_json::from_value(json!({"metadata": {"deletionTimestamp": deleted},
                "status": {"phase": phase, "containerStatuses": [status]}}))
            .unwrap()
        };
        let table = [
            ("Running", false, json!({"running": {}}), false),
            ("Running", true, json!({"running": {}}), false),
            ("Running", true, json!({"terminated": {"exitCode": 0}}), true),
            ("Pending", true, json!({"waiting": {}}), true),
            ("Pending", false, json!({"waiting": {}}), false),
            ("Failed", false, json!({"running": {}}), true),
        ];
        for (phase, deleting, state, over) in table {
            assert_eq!(is_over(&pod(phase, deleting, state.clone())), over, "{phase} {deleting} {state}");
        }
    }
}
