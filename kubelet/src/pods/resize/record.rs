//! What resources a pod's containers were promised (allocated) and what their cgroups were given (actuated). Kept beside the pod's
//! volumes, so that a restarted kubelet neither takes a promise back nor forgets a half-done resize.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use serde::{Deserialize, Serialize};

use crate::quantity;

const FILE: &str = "resources.json";

/// Resources by container.
pub(crate) type ByContainer = BTreeMap<String, ResourceRequirements>;

/// One pod's resources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) allocated: ByContainer,
    pub(crate) actuated: ByContainer,
}

impl Record {
    /// What the last kubelet left; empty when it left nothing that can be read.
    pub(crate) fn load(pod_dir: &Path) -> Self {
        let path = pod_dir.join(FILE);
        let Ok(text) = std::fs::read(&path) else { return Self::default() };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "ignoring an unreadable record of resources");
            Self::default()
        })
    }

    /// Replaces the file at once.
    pub(crate) fn save(&self, pod_dir: &Path) -> std::io::Result<()> {
        let temporary = pod_dir.join(format!("{FILE}.tmp"));
        std::fs::write(&temporary, serde_json::to_vec(self)?)?;
        std::fs::rename(temporary, pod_dir.join(FILE))
    }
}

/// Containers that can be resized: all but ephemeral ones.
pub(super) fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// The resources that a spec asks for.
pub(super) fn of(pod: &Pod) -> ByContainer {
    let containers = pod.spec.iter().flat_map(containers);
    containers.map(|container| (container.name.clone(), container.resources.clone().unwrap_or_default())).collect()
}

/// The pod with these resources in place of its own.
pub(super) fn overlay(pod: &Arc<Pod>, resources: &ByContainer) -> Arc<Pod> {
    if of(pod).iter().all(|(name, own)| resources.get(name).is_none_or(|other| other == own)) {
        return pod.clone();
    }
    let mut pod = (**pod).clone();
    let spec = pod.spec.get_or_insert_default();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        if let Some(resources) = resources.get(&container.name) {
            container.resources = Some(resources.clone());
        }
    }
    Arc::new(pod)
}

/// Which of `cpu` and `memory` differ in requests or limits.
pub(super) fn differences(one: &ResourceRequirements, other: &ResourceRequirements) -> Vec<&'static str> {
    let values = |requirements: &ResourceRequirements, name: &str| {
        [&requirements.requests, &requirements.limits].map(|list| quantity::milli_of(list.as_ref(), name))
    };
    ["cpu", "memory"].into_iter().filter(|name| values(one, name) != values(other, name)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn requirements(value: serde_json::Value) -> ResourceRequirements {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn equal_amounts_are_equal_however_written() {
        let one = requirements(json!({"requests": {"cpu": "1", "memory": "1Gi"}}));
        for (other, want) in [
            (json!({"requests": {"cpu": "1000m", "memory": "1024Mi"}}), &[][..]),
            (json!({"requests": {"cpu": "500m", "memory": "1Gi"}}), &["cpu"]),
            (json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}), &["memory"]),
            (json!({}), &["cpu", "memory"]),
        ] {
            assert_eq!(differences(&one, &requirements(other)), want);
        }
    }

    #[test]
    fn a_promise_outlives_the_kubelet() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Record::load(directory.path()), Record::default());
        let allocated = ByContainer::from([("c".to_owned(), requirements(json!({"requests": {"cpu": "1"}})))]);
        let record = Record { allocated, actuated: ByContainer::new() };
        record.save(directory.path()).unwrap();
        assert_eq!(Record::load(directory.path()), record);
        std::fs::write(directory.path().join(FILE), "{").unwrap();
        assert_eq!(Record::load(directory.path()), Record::default());
    }

    #[test]
    fn the_promise_stands_in_for_the_wish() {
        let pod = |cpu: &str| -> Arc<Pod> {
            let spec = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
            Arc::new(serde_json::from_value(spec).unwrap())
        };
        let (old, new) = (pod("1"), pod("2"));
        assert_eq!(overlay(&new, &of(&old)), old);
        assert!(Arc::ptr_eq(&overlay(&new, &of(&new)), &new));
        assert!(Arc::ptr_eq(&overlay(&new, &ByContainer::new()), &new));
    }
}
