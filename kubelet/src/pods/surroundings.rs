//! What the node and the cluster add to a pod: sandbox configuration, DNS, host names, mounts of a container.

use std::collections::HashMap;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use k8s_openapi::api::node::v1::RuntimeClass;

use super::fields::FieldContext;
use super::worker::Worker;
use super::{dns, hosts, spec};
use crate::runtime::{SandboxView, resources, sandbox};
use crate::volumes::{recursive, subpath};

/// A sandbox to start containers in.
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) config: cri::PodSandboxConfig,
    pub(super) ips: Vec<String>,
}

impl Worker {
    /// Makes and starts a sandbox.
    pub(super) async fn create_sandbox(&self, attempt: u32) -> anyhow::Result<Sandbox> {
        let handler = self.runtime_handler().await?;
        if self.has_own_users() && !self.kubelet.node.has_user_namespaces(&handler) {
            match handler.as_str() {
                "" => anyhow::bail!("can't set `spec.hostUsers: false`, runtime does not support user namespaces"),
                name => anyhow::bail!(
                    "can't set `spec.hostUsers: false`, RuntimeClass handler {name:?} does not support user namespaces"
                ),
            }
        }
        let config = self.sandbox_config(attempt).await?;
        let runtime = &self.kubelet.runtime;
        let id = runtime.run_sandbox(config.clone(), &handler).await?;
        let status = runtime.sandbox_status(&id).await?;
        let mut pod = crate::runtime::PodRuntime::default();
        pod.add_sandbox(status);
        Ok(Sandbox { id, config, ips: pod.ips().to_vec() })
    }

    /// The sandbox that runs already.
    pub(super) async fn existing_sandbox(&self, sandbox: &SandboxView) -> anyhow::Result<Sandbox> {
        let config = self.sandbox_config(sandbox.attempt).await?;
        Ok(Sandbox { id: sandbox.id.clone(), config, ips: sandbox.ips.clone() })
    }

    fn has_own_users(&self) -> bool {
        self.pod.spec.as_ref().is_some_and(|spec| spec.host_users == Some(false))
    }

    /// Whose users the pod's are.
    pub(super) fn users(&self) -> anyhow::Result<cri::UserNamespace> {
        match self.has_own_users() {
            true => self.kubelet.users.of(&self.uid),
            false => Ok(cri::UserNamespace { mode: cri::NamespaceMode::Node as i32, ..cri::UserNamespace::default() }),
        }
    }

    async fn runtime_handler(&self) -> anyhow::Result<String> {
        let class = self.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.clone()).filter(|n| !n.is_empty());
        let Some(class) = class else { return Ok(String::new()) };
        let Some(client) = &self.kubelet.client else { anyhow::bail!("runtimeClassName {class:?} needs an apiserver") };
        let api: kube::Api<RuntimeClass> = kube::Api::all(client.clone());
        match api.get_opt(&class).await? {
            Some(found) => Ok(found.handler),
            None => anyhow::bail!("failed to get sandbox runtime: no runtime class named {class:?} found"),
        }
    }

    /// Whether the pod's runtime handler can make mounts read-only all the way down.
    pub(super) async fn has_recursive_read_only(&self) -> bool {
        if !wants_recursive_read_only(&self.pod) {
            return false;
        }
        match self.runtime_handler().await {
            Ok(handler) => self.kubelet.volumes.is_recursive(&handler),
            Err(_) => false,
        }
    }

    async fn sandbox_config(&self, attempt: u32) -> anyhow::Result<cri::PodSandboxConfig> {
        let kubelet = &self.kubelet;
        let spec = self.pod.spec.clone().unwrap_or_default();
        let namespace = spec::namespace(&self.pod);
        let path = &kubelet.config.file.resolv_conf;
        let host = match path.as_str() {
            "" => cri::DnsConfig::default(),
            path => dns::parse_resolv_conf(&tokio::fs::read_to_string(path).await.unwrap_or_default()),
        };
        let settings = dns::DnsSettings {
            cluster_dns: kubelet.config.file.cluster_dns.clone(),
            cluster_domain: kubelet.config.file.cluster_domain.clone(),
        };
        let (hostname, domain) = self.names();
        let qos = resources::qos(&spec);
        let parts = sandbox::SandboxParts {
            attempt,
            hostname: hosts::sandbox_hostname(&spec, &hostname, &domain),
            log_directory: kubelet
                .config
                .pod_log_dir(namespace, spec::name(&self.pod), &self.uid)
                .to_string_lossy()
                .into_owned(),
            dns: Some(dns::config(&spec, namespace, &settings, &host)),
            cgroup_parent: kubelet.cgroups.parent_of(&self.uid, qos),
            users: self.users()?,
            resources: resources::sandbox(&spec, kubelet.node.limit_settings(kubelet)),
        };
        Ok(sandbox::config(&self.pod, parts))
    }

    fn names(&self) -> (String, String) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let domain = &self.kubelet.config.file.cluster_domain;
        hosts::hostname_and_domain(&spec, spec::name(&self.pod), spec::namespace(&self.pod), domain)
    }

    /// Values for the downward API.
    pub(super) fn fields(&self, pod_ips: &[String]) -> FieldContext {
        field_context(&self.kubelet, &self.pod, pod_ips)
    }

    /// Mounts of a container: its volumes, /etc/hosts and the termination log.
    pub(super) async fn mounts(
        &self,
        container: &Container,
        ips: &[String],
        envs: &super::env::EnvVars,
        images: &HashMap<String, String>,
    ) -> Result<Vec<cri::Mount>, String> {
        let directory = self.kubelet.config.pod_dir(&self.uid);
        let handler_is_recursive = self.has_recursive_read_only().await;
        let mut mounts = Vec::new();
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let volume = self.volumes.get(&mount.name).ok_or_else(|| {
                format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name)
            })?;
            if let Some(reference) = images.get(&mount.name) {
                mounts.push(image_mount(mount, reference)?);
                continue;
            }
            let place = subpath::Place { pod_dir: &directory, volume: &mount.name, container: &container.name, index };
            let host_path = subpath::resolve(volume, mount, envs, &place).await?;
            mounts.push(cri::Mount {
                container_path: absolute(&mount.mount_path),
                recursive_read_only: recursive::resolve(mount, handler_is_recursive)?,
                host_path,
                readonly: mount.read_only == Some(true) || volume.read_only,
                propagation: match mount.mount_propagation.as_deref() {
                    Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional as i32,
                    Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer as i32,
                    _ => cri::MountPropagation::PropagationPrivate as i32,
                },
                ..Default::default()
            });
        }
        if !mounts.iter().any(|mount| mount.container_path == "/etc/hosts") {
            mounts.push(self.hosts_mount(ips).await?);
        }
        if let Some(path) = container.termination_message_path.as_deref().filter(|path| !path.is_empty()) {
            mounts.push(self.termination_log_mount(&container.name, path).await?);
        }
        Ok(mounts)
    }

    /// Volumes that a container gets as devices.
    pub(super) fn block_devices(&self, container: &Container) -> Result<Vec<cri::Device>, String> {
        let wanted = container.volume_devices.iter().flatten();
        wanted
            .map(|device| {
                let volume = self.volumes.get(&device.name).filter(|volume| volume.device).ok_or_else(|| {
                    format!("cannot find volume {:?} to map into container {:?}", device.name, container.name)
                })?;
                Ok(cri::Device {
                    container_path: device.device_path.clone(),
                    host_path: volume.path.to_string_lossy().into_owned(),
                    permissions: if volume.read_only { "r" } else { "mrw" }.into(),
                })
            })
            .collect()
    }

    async fn hosts_mount(&self, ips: &[String]) -> Result<cri::Mount, String> {
        let path = self.kubelet.config.pod_dir(&self.uid).join("etc-hosts");
        let spec = self.pod.spec.clone().unwrap_or_default();
        let of_host = match spec.host_network {
            Some(true) => tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default(),
            _ => String::new(),
        };
        let (hostname, domain) = self.names();
        let text = hosts::file(&spec, ips, &hostname, &domain, &of_host);
        tokio::fs::write(&path, text).await.map_err(|error| format!("writing {}: {error}", path.display()))?;
        Ok(cri::Mount {
            container_path: "/etc/hosts".into(),
            host_path: path.to_string_lossy().into_owned(),
            ..Default::default()
        })
    }

    async fn termination_log_mount(&self, container: &str, path: &str) -> Result<cri::Mount, String> {
        use std::os::unix::fs::PermissionsExt;
        let directory = self.kubelet.config.pod_dir(&self.uid).join("containers").join(container);
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let file = directory.join(&unique[..8]);
        let make = async {
            tokio::fs::create_dir_all(&directory).await?;
            tokio::fs::write(&file, b"").await?;
            tokio::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).await
        };
        make.await
            .map_err(|error: std::io::Error| format!("making the termination log {}: {error}", file.display()))?;
        Ok(cri::Mount {
            container_path: path.to_owned(),
            host_path: file.to_string_lossy().into_owned(),
            ..Default::default()
        })
    }
}

/// The runtime mounts an image by itself.
fn image_mount(mount: &VolumeMount, reference: &str) -> Result<cri::Mount, String> {
    if mount.sub_path.as_deref().is_some_and(|path| !path.is_empty()) {
        return Err(format!("subPath of the image volume {:?} is not supported by this kubelet yet", mount.name));
    }
    Ok(cri::Mount {
        container_path: absolute(&mount.mount_path),
        readonly: true,
        image: Some(cri::ImageSpec { image: reference.to_owned(), ..Default::default() }),
        ..Default::default()
    })
}

fn wants_recursive_read_only(pod: &Pod) -> bool {
    let spec = pod.spec.iter();
    let mut containers = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers.any(|c| c.volume_mounts.iter().flatten().any(|mount| mount.recursive_read_only.is_some()))
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Values for the downward API.
pub(crate) fn field_context(kubelet: &crate::shared::Kubelet, pod: &Pod, pod_ips: &[String]) -> FieldContext {
    let host_ips = kubelet.node.host_ips();
    let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let pod_ips = if host_network { host_ips.clone() } else { pod_ips.to_vec() };
    FieldContext { host_ips, pod_ips, allocatable: kubelet.node.allocatable() }
}
