//! Starting one container: image, environment, mounts, create, start, postStart.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Container;

use super::status::Waiting;
use super::surroundings::Sandbox;
use super::worker::Worker;
use super::{env, hooks, spec};
use crate::images::PullRequest;
use crate::runtime::container::{self, ContainerParts};
use crate::runtime::devices;
use crate::runtime::security::{self, ImageUser, SecurityDefaults};
use crate::runtime::{ContainerView, resources};
use crate::volumes::Sources;

fn because(reason: &str, message: impl Into<String>) -> Waiting {
    Waiting { reason: reason.to_owned(), message: message.into() }
}

impl Worker {
    /// Starts a container; an error is why it waits.
    pub(super) async fn start_container(
        &mut self,
        container: &Container,
        sandbox: &Sandbox,
        last: Option<&ContainerView>,
    ) -> Result<(), Waiting> {
        let outcome = self.try_start_container(container, sandbox, last).await;
        if let Err(why) = &outcome
            && why.reason != "PostStartHookError"
        {
            let text = match why.reason.as_str() {
                // The pull's own event has the details.
                "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" => &why.reason,
                _ if why.message.is_empty() => &why.reason,
                _ => &why.message,
            };
            self.kubelet.events.container(&self.pod, &container.name, true, "Failed", &format!("Error: {text}"));
        }
        outcome
    }

    async fn try_start_container(
        &mut self,
        container: &Container,
        sandbox: &Sandbox,
        last: Option<&ContainerView>,
    ) -> Result<(), Waiting> {
        let kubelet = self.kubelet.clone();
        let request = PullRequest { pod: &self.pod, container, sandbox: &sandbox.config };
        let image = kubelet.images.ensure(&kubelet, request).await?;
        let spec = self.pod.spec.clone().unwrap_or_default();
        let user = ImageUser { uid: image.uid, name: &image.username };
        security::verify_non_root(&spec, container, &user, &spec::describe(&self.pod))
            .map_err(|message| because("CreateContainerConfigError", message))?;
        let config_error = |message: String| because("CreateContainerConfigError", message);
        let mut envs = self.environment(container, sandbox).await.map_err(config_error)?;
        let given = kubelet.devices.prepare(&self.pod, container).await.map_err(config_error)?;
        let images = self.volume_images(container, sandbox).await?;
        let mut mounts = self.mounts(container, &sandbox.ips, &envs, &images).await.map_err(config_error)?;
        let mut given = devices::merge(given, &mut envs, &mut mounts);
        given.nodes.extend(self.block_devices(container).map_err(config_error)?);
        given.add_cdi(kubelet.claims.cdi_of(&self.pod, container));
        let restart_count = match last {
            Some(last) => last.restart_count + 1,
            None => self.restarts_by_logs(&container.name).await,
        };
        let target = self.target_of(container).await;
        let seccomp_root = kubelet.config.root_dir.join("seccomp");
        let mut limits = resources::container(&self.pod, container, kubelet.node.limit_settings(&kubelet));
        kubelet.placement.apply(&self.uid, &container.name, &mut limits);
        limits.hugepage_limits = resources::huge_pages(container, &kubelet.node.machine.huge_pages);
        let parts = ContainerParts {
            image_ref: image.reference,
            envs,
            mounts,
            restart_count,
            target_id: target.as_deref(),
            devices: given,
            resources: limits,
            users: self.users().map_err(|error| config_error(format!("{error:#}")))?,
            security: SecurityDefaults {
                seccomp_default: kubelet.config.file.seccomp_default,
                seccomp_root: &seccomp_root,
            },
        };
        let config = container::config(&self.pod, container, parts);
        self.make_log_directory(&container.name).await;
        let runtime = &kubelet.runtime;
        let id = runtime
            .create_container(&sandbox.id, config, sandbox.config.clone())
            .await
            .map_err(|error| because("CreateContainerError", error.to_string()))?;
        kubelet.events.container(&self.pod, &container.name, false, "Created", "Container created");
        runtime.start_container(&id).await.map_err(|error| because("RunContainerError", error.to_string()))?;
        kubelet.events.container(&self.pod, &container.name, false, "Started", "Container started");
        self.post_start(container, &id, sandbox).await
    }

    /// Images that the container mounts as volumes, by volume, pulled if need be.
    async fn volume_images(
        &self,
        container: &Container,
        sandbox: &Sandbox,
    ) -> Result<HashMap<String, String>, Waiting> {
        let mut images = HashMap::new();
        for mount in container.volume_mounts.iter().flatten() {
            let Some(source) = self.volumes.get(&mount.name).and_then(|volume| volume.image.as_ref()) else { continue };
            // No container has this image; without a name the events are the pod's.
            let holder = Container {
                image: source.reference.clone(),
                image_pull_policy: source.pull_policy.clone(),
                ..Container::default()
            };
            let request = PullRequest { pod: &self.pod, container: &holder, sandbox: &sandbox.config };
            let present = self.kubelet.images.ensure(&self.kubelet, request).await?;
            images.insert(mount.name.clone(), present.reference);
        }
        Ok(images)
    }

    async fn post_start(&mut self, container: &Container, id: &str, sandbox: &Sandbox) -> Result<(), Waiting> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone()) else {
            return Ok(());
        };
        let kubelet = self.kubelet.clone();
        let Err(error) = hooks::run(&kubelet.runtime, &hook, id, container, sandbox.ips.first()).await else {
            return Ok(());
        };
        tracing::warn!(pod = %spec::describe(&self.pod), container = container.name, %error, "postStart hook failed");
        kubelet.events.container(&self.pod, &container.name, true, "FailedPostStartHook", "PostStartHook failed");
        if let Ok(runtime) = kubelet.runtime.pod(&self.uid).await
            && let Some(view) = runtime.containers.iter().find(|view| view.id == id)
        {
            let killed = self.kill_container(view, Some("FailedPostStartHook"), None).await;
            if let Err(error) = killed {
                tracing::warn!(container = container.name, %error, "cannot kill the container after its hook failed");
            }
        }
        Err(because("PostStartHookError", error.told(&hook, container, &self.pod)))
    }

    async fn environment(&self, container: &Container, sandbox: &Sandbox) -> Result<env::EnvVars, String> {
        let objects = self.kubelet.objects.snapshot(&self.pod).await;
        let objects = Sources { objects, volumes: &self.volumes };
        let links = self.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let services = self.kubelet.services.envs(spec::namespace(&self.pod), links, spec::is_static(&self.pod))?;
        env::build(&self.pod, container, &objects, &services, &self.fields(&sandbox.ips))
    }

    /// Restarts before the runtime forgot: the log files count them.
    async fn restarts_by_logs(&self, container: &str) -> i32 {
        let logs = self.kubelet.config.pod_log_dir(spec::namespace(&self.pod), spec::name(&self.pod), &self.uid);
        let Ok(mut entries) = tokio::fs::read_dir(logs.join(container)).await else { return 0 };
        let mut count = 0;
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.split('.').next().and_then(|number| number.parse::<i32>().ok());
            count = count.max(number.map_or(0, |number| number + 1));
        }
        count
    }

    async fn make_log_directory(&self, container: &str) {
        let logs = self.kubelet.config.pod_log_dir(spec::namespace(&self.pod), spec::name(&self.pod), &self.uid);
        if let Err(error) = tokio::fs::create_dir_all(logs.join(container)).await {
            tracing::warn!(container, %error, "cannot make the container's log directory");
        }
    }

    async fn target_of(&self, container: &Container) -> Option<String> {
        let spec = self.pod.spec.as_ref()?;
        let own = spec.ephemeral_containers.iter().flatten().find(|own| own.name == container.name)?;
        let target = own.target_container_name.as_deref().filter(|name| !name.is_empty())?;
        let runtime = self.kubelet.runtime.pod(&self.uid).await.ok()?;
        runtime.container(target).map(|view| view.id.clone())
    }
}
