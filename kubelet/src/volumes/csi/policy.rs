//! CSIDriver objects: what the cluster's administrator says about a driver.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::informer::{Factory, Informer};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriver;
use tokio_util::sync::CancellationToken;

const FIRST_LIST: Duration = Duration::from_secs(10);

/// CSIDriver objects, watched from the first question on: a node without CSI volumes has no watch.
#[derive(Default)]
pub(crate) struct DriverObjects {
    informer: OnceLock<Arc<Informer<CSIDriver>>>,
}

impl DriverObjects {
    fn informer(&self, client: &kube::Client, shutdown: &CancellationToken) -> &Arc<Informer<CSIDriver>> {
        self.informer.get_or_init(|| {
            let factory = Factory::new(client.clone());
            let informer = factory.informer::<CSIDriver>();
            factory.start(shutdown);
            informer
        })
    }

    /// What is said about a driver.
    pub(crate) async fn policy(
        &self,
        client: Option<&kube::Client>,
        shutdown: &CancellationToken,
        driver: &str,
    ) -> Result<Policy, String> {
        let Some(client) = client else { return Ok(Policy::of(None)) };
        let informer = self.informer(client, shutdown);
        let synced = tokio::time::timeout(FIRST_LIST, informer.wait_for_sync(shutdown)).await;
        if synced != Ok(true) {
            return Err("timed out waiting for the cache of CSIDriver objects to sync".into());
        }
        Ok(Policy::of(informer.get("", driver).as_deref()))
    }
}

/// When a volume's files are given to the pod's fsGroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FsGroup {
    ReadWriteOnceWithFsType,
    File,
    None,
}

/// A CSIDriver with its defaults; also for a driver that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    known: bool,
    pub(crate) attach: bool,
    pub(super) pod_info: bool,
    pub(crate) republish: bool,
    pub(super) selinux_mount: bool,
    modes: Vec<String>,
    fs_group: FsGroup,
    /// (audience, seconds) of tokens that the driver wants of the pod's service account.
    pub(super) tokens: Vec<(String, i64)>,
    pub(super) tokens_in_secrets: bool,
    /// How often the number of volumes that fit is asked anew.
    pub(super) allocatable_period: Option<Duration>,
}

impl Policy {
    fn of(object: Option<&CSIDriver>) -> Self {
        let spec = object.map(|object| object.spec.clone()).unwrap_or_default();
        let tokens = spec.token_requests.unwrap_or_default().into_iter();
        let period = spec.node_allocatable_update_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            known: object.is_some(),
            attach: spec.attach_required.unwrap_or(true),
            pod_info: spec.pod_info_on_mount.unwrap_or(false),
            republish: spec.requires_republish.unwrap_or(false),
            selinux_mount: spec.se_linux_mount.unwrap_or(false),
            modes: spec.volume_lifecycle_modes.unwrap_or_default(),
            fs_group: match spec.fs_group_policy.as_deref() {
                Some("File") => FsGroup::File,
                Some("None") => FsGroup::None,
                _ => FsGroup::ReadWriteOnceWithFsType,
            },
            tokens: tokens.map(|token| (token.audience, token.expiration_seconds.unwrap_or(3600))).collect(),
            tokens_in_secrets: spec.service_account_token_in_secrets.unwrap_or(false),
            allocatable_period: period.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        }
    }

    /// Whether volumes of this kind may be used.
    pub(super) fn check_mode(&self, driver: &str, ephemeral: bool) -> Result<(), String> {
        let mode = mode(ephemeral);
        match (self.known, ephemeral) {
            (false, false) => Ok(()),
            (false, true) => {
                Err(format!("volume mode {mode:?} not supported by driver {driver} (no CSIDriver object)"))
            }
            (true, _) if self.modes.iter().any(|have| have == mode) => Ok(()),
            // The default of the object.
            (true, false) if self.modes.is_empty() => Ok(()),
            (true, _) => {
                let only: Vec<String> = self.modes.iter().map(|mode| format!("{mode:?}")).collect();
                let only = only.join(" ");
                Err(format!("volume mode {mode:?} not supported by driver {driver} (only supports [{only}])"))
            }
        }
    }

    /// Whether the kubelet gives the volume to the fsGroup.
    pub(super) fn applies_fs_group(&self, fs_type: &str, modes: &[String], ephemeral: bool, read_only: bool) -> bool {
        match self.fs_group {
            _ if read_only => false,
            FsGroup::None => false,
            FsGroup::File => true,
            FsGroup::ReadWriteOnceWithFsType => {
                let once = modes.iter().any(|mode| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod");
                !fs_type.is_empty() && (ephemeral || once)
            }
        }
    }
}

/// Upstream's word for where a volume comes from.
pub(super) fn mode(ephemeral: bool) -> &'static str {
    if ephemeral { "Ephemeral" } else { "Persistent" }
}

/// The mount option that labels a whole volume, for hosts with SELinux; `None` where it is off or the pod says nothing.
pub(super) fn selinux_option(pod: &Pod) -> Option<String> {
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return None;
    }
    Some(format!("context={:?}", selinux_label(pod)?))
}

/// The label of a pod's files; what the pod leaves open is what container-selinux uses.
fn selinux_label(pod: &Pod) -> Option<String> {
    let options = pod.spec.as_ref()?.security_context.as_ref()?.se_linux_options.clone()?;
    let or = |value: Option<String>, default: &str| value.filter(|v| !v.is_empty()).unwrap_or(default.to_owned());
    let level = options.level.filter(|level| !level.is_empty())?;
    let (user, role) = (or(options.user, "system_u"), or(options.role, "object_r"));
    Some(format!("{user}:{role}:{}:{level}", or(options.type_, "container_file_t")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: serde_json::Value) -> Policy {
        let object = serde_json::json!({"metadata": {"name": "d"}, "spec": spec});
        Policy::of(Some(&serde_json::from_value(object).unwrap()))
    }

    #[test]
    fn without_an_object_drivers_attach_and_have_no_inline_volumes() {
        let policy = Policy::of(None);
        assert!(policy.attach && !policy.pod_info && !policy.republish);
        assert_eq!(policy.check_mode("d", false), Ok(()));
        let want = "volume mode \"Ephemeral\" not supported by driver d (no CSIDriver object)";
        assert_eq!(policy.check_mode("d", true), Err(want.to_owned()));
    }

    #[test]
    fn lifecycle_modes_are_checked() {
        let policy = policy(serde_json::json!({"volumeLifecycleModes": ["Ephemeral"], "attachRequired": false}));
        assert!(!policy.attach);
        assert_eq!(policy.check_mode("d", true), Ok(()));
        let want = "volume mode \"Persistent\" not supported by driver d (only supports [\"Ephemeral\"])";
        assert_eq!(policy.check_mode("d", false), Err(want.to_owned()));
    }

    #[test]
    fn fs_group_depends_on_the_driver() {
        let once = &["ReadWriteOnce".to_owned()][..];
        let many = &["ReadWriteMany".to_owned()][..];
        let default = policy(serde_json::json!({}));
        assert!(default.applies_fs_group("ext4", once, false, false));
        assert!(!default.applies_fs_group("", once, false, false));
        assert!(!default.applies_fs_group("ext4", many, false, false));
        assert!(!default.applies_fs_group("ext4", once, false, true));
        assert!(default.applies_fs_group("ext4", &[], true, false));
        let file = policy(serde_json::json!({"fsGroupPolicy": "File"}));
        assert!(file.applies_fs_group("", many, false, false));
        let none = policy(serde_json::json!({"fsGroupPolicy": "None"}));
        assert!(!none.applies_fs_group("ext4", once, false, false));
    }

    #[test]
    fn labels_come_from_the_pod() {
        let pod = |options: serde_json::Value| -> Pod {
            let context = serde_json::json!({"seLinuxOptions": options});
            serde_json::from_value(serde_json::json!({"spec": {"containers": [], "securityContext": context}})).unwrap()
        };
        let label = selinux_label(&pod(serde_json::json!({"level": "s0:c0,c1"})));
        assert_eq!(label.as_deref(), Some("system_u:object_r:container_file_t:s0:c0,c1"));
        assert_eq!(selinux_label(&pod(serde_json::json!({"user": "u"}))), None);
    }
}
