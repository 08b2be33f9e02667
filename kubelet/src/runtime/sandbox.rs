//! The sandbox that a pod asks for. Pure.

use std::collections::HashMap;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Pod;

use super::{labels, security};

/// What the pod's surroundings add to its spec.
pub(crate) struct SandboxParts {
    pub(crate) attempt: u32,
    pub(crate) hostname: String,
    pub(crate) log_directory: String,
    pub(crate) dns: Option<cri::DnsConfig>,
    pub(crate) cgroup_parent: String,
    pub(crate) users: cri::UserNamespace,
    /// Overhead of the pod, and what its containers need.
    pub(crate) resources: (cri::LinuxContainerResources, cri::LinuxContainerResources),
}

/// Builds the sandbox's configuration.
pub(crate) fn config(pod: &Pod, parts: SandboxParts) -> cri::PodSandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let of = |value: &Option<String>| value.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let sysctls: HashMap<String, String> = spec
        .security_context
        .iter()
        .flat_map(|context| context.sysctls.iter().flatten())
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
        .collect();
    let annotations = pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: of(&pod.metadata.name),
            uid: of(&pod.metadata.uid),
            namespace: of(&pod.metadata.namespace),
            attempt: parts.attempt,
        }),
        hostname: if host_network { String::new() } else { parts.hostname },
        log_directory: parts.log_directory,
        dns_config: parts.dns,
        port_mappings: if host_network { Vec::new() } else { port_mappings(&spec) },
        labels: labels::sandbox_labels(pod),
        annotations,
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: parts.cgroup_parent,
            security_context: Some(security::sandbox(&spec, parts.users)),
            sysctls,
            overhead: Some(parts.resources.0),
            resources: Some(parts.resources.1),
        }),
        windows: None,
    }
}

fn port_mappings(spec: &k8s_openapi::api::core::v1::PodSpec) -> Vec<cri::PortMapping> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|port| port.host_port.is_some_and(|port| port > 0))
        .map(|port| cri::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp as i32,
                Some("SCTP") => cri::Protocol::Sctp as i32,
                _ => cri::Protocol::Tcp as i32,
            },
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or_default(),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}
