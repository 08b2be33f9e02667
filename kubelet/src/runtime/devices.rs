//! What device plugins want for a container, as the CRI takes it. Pure.

use std::collections::BTreeMap;

use k8s_cri::v1 as cri;

use crate::devices::wire::ContainerAllocateResponse;
use crate::pods::env::EnvVars;

/// Devices of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ForContainer {
    pub(crate) nodes: Vec<cri::Device>,
    pub(crate) cdi: Vec<cri::CdiDevice>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl ForContainer {
    /// Adds devices by their CDI names.
    pub(crate) fn add_cdi(&mut self, names: Vec<String>) {
        for name in names {
            if !self.cdi.iter().any(|have| have.name == name) {
                self.cdi.push(cri::CdiDevice { name });
            }
        }
    }
}

/// Joins what the plugins said: environment and mounts go to the container's own, and the first who names something has it.
pub(crate) fn merge(
    answers: Vec<ContainerAllocateResponse>,
    envs: &mut EnvVars,
    mounts: &mut Vec<cri::Mount>,
) -> ForContainer {
    let mut all = ForContainer::default();
    for answer in answers {
        for (name, value) in answer.envs {
            if !envs.iter().any(|(have, _)| *have == name) {
                envs.push((name, value));
            }
        }
        for mount in answer.mounts {
            if !mounts.iter().any(|have| have.container_path == mount.container_path) {
                mounts.push(cri::Mount {
                    container_path: mount.container_path,
                    host_path: mount.host_path,
                    readonly: mount.read_only,
                    ..cri::Mount::default()
                });
            }
        }
        for device in answer.devices {
            if !all.nodes.iter().any(|have| have.container_path == device.container_path) {
                all.nodes.push(cri::Device {
                    container_path: device.container_path,
                    host_path: device.host_path,
                    permissions: device.permissions,
                });
            }
        }
        for (name, value) in answer.annotations {
            all.annotations.entry(name).or_insert(value);
        }
        for device in answer.cdi_devices {
            if !all.cdi.iter().any(|have| have.name == device.name) {
                all.cdi.push(cri::CdiDevice { name: device.name });
            }
        }
    }
    all
}
