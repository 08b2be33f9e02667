//! emptyDir: a directory, or a tmpfs, or huge pages.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use nix::mount::{MsFlags, mount};

use super::mounts::is_mount_point;
use crate::quantity;
use crate::runtime::resources;

/// What bounds a volume in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Of the node, or of the pod when all its containers have limits.
    memory: i64,
    /// Sizes of huge pages that containers ask for: `2Mi`.
    huge_pages: BTreeSet<String>,
}

impl Sizes {
    pub(super) fn of(pod: &Pod, node_memory: i64) -> Self {
        let Some(spec) = &pod.spec else { return Self { memory: node_memory, ..Self::default() } };
        let limits = |container: &k8s_openapi::api::core::v1::Container| {
            container.resources.as_ref().and_then(|resources| resources.limits.clone()).unwrap_or_default()
        };
        let bounded = spec.resources.as_ref().is_some_and(|of_pod| quantity::of(of_pod.limits.as_ref(), "memory") > 0)
            || spec.containers.iter().all(|container| limits(container).contains_key("memory"));
        let memory = if bounded { resources::pod_total(spec, "memory", true).min(node_memory) } else { node_memory };
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let huge_pages = containers
            .flat_map(|container| limits(container).into_keys())
            .filter_map(|name| name.strip_prefix("hugepages-").map(str::to_owned));
        Self { memory, huge_pages: huge_pages.collect() }
    }

    /// Size of the pages of a volume of this medium.
    fn page_size(&self, medium: &str) -> Result<String, String> {
        let wanted = medium.strip_prefix("HugePages-");
        match (wanted, self.huge_pages.len()) {
            (Some(size), _) if self.huge_pages.contains(size) => Ok(size.to_owned()),
            (Some(_), _) => Err(format!("medium {medium} doesn't match any of the pod's page sizes")),
            (None, 1) => Ok(self.huge_pages.first().cloned().unwrap_or_default()),
            (None, 0) => Err("hugePages storage requested, but there is no resource request for huge pages.".into()),
            (None, _) => Err("medium HugePages can't be used if container(s) request multiple huge page sizes".into()),
        }
    }
}

fn make(path: &Path, mode: u32) -> Result<(), String> {
    let made = || -> std::io::Result<()> {
        std::fs::create_dir_all(path)?;
        if std::fs::metadata(path)?.permissions().mode() & 0o777 != mode & 0o777 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    };
    made().map_err(|error| format!("making {}: {error}", path.display()))
}

fn memory_fs(path: &Path, kind: &str, options: &str) -> Result<(), String> {
    if is_mount_point(path) {
        return Ok(());
    }
    mount(Some(kind), path, Some(kind), MsFlags::empty(), Some(options))
        .map_err(|error| format!("mounting {kind} on {}: {error}", path.display()))
}

/// The directory of an emptyDir volume.
pub(super) fn set_up(path: &Path, source: &EmptyDirVolumeSource, sizes: &Sizes) -> Result<(), String> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => make(path, 0o777),
        "Memory" => {
            make(path, 0o777)?;
            let limit = source.size_limit.as_ref().map_or(0, quantity::value);
            let size = if limit > 0 { limit.min(sizes.memory) } else { sizes.memory };
            memory_fs(path, "tmpfs", &format!("size={size},mode=0777"))
        }
        medium if medium == "HugePages" || medium.starts_with("HugePages-") => {
            let size = sizes.page_size(medium)?;
            make(path, 0o777)?;
            memory_fs(path, "hugetlbfs", &format!("pagesize={size},mode=0777"))
        }
        other => Err(format!("unknown storage medium {other:?}")),
    }
}

/// The directory of a volume that the kubelet fills: secrets never reach a disk.
pub(super) fn set_up_payload(path: &Path, memory: bool) -> Result<(), String> {
    make(path, 0o777)?;
    if memory { memory_fs(path, "tmpfs", "mode=0777") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sizes(containers: serde_json::Value) -> Sizes {
        let pod = serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap();
        Sizes::of(&pod, 1 << 30)
    }

    #[test]
    fn memory_is_the_pods_when_all_containers_are_limited() {
        let limited = json!({"name": "a", "resources": {"limits": {"memory": "64Mi"}}});
        assert_eq!(sizes(json!([limited])).memory, 64 << 20);
        assert_eq!(sizes(json!([limited, {"name": "b"}])).memory, 1 << 30);
    }

    #[test]
    fn huge_pages_are_those_of_the_containers() {
        let container =
            |size: &str| json!({"name": "a", "resources": {"limits": {format!("hugepages-{size}"): "4Mi"}}});
        let one = sizes(json!([container("2Mi")]));
        assert_eq!(one.page_size("HugePages").as_deref(), Ok("2Mi"));
        assert_eq!(one.page_size("HugePages-2Mi").as_deref(), Ok("2Mi"));
        assert!(one.page_size("HugePages-1Gi").is_err());
        let two = sizes(json!([container("2Mi"), container("1Gi")]));
        assert!(two.page_size("HugePages").is_err());
        assert_eq!(two.page_size("HugePages-1Gi").as_deref(), Ok("1Gi"));
        assert!(sizes(json!([{"name": "a"}])).page_size("HugePages").is_err());
    }
}
