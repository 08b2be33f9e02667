//! CRI v1 over a unix socket. One method per call, with upstream's time-outs and an error that names the call.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1 as cri;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint, Uri};

use super::labels::POD_UID;
use super::model::PodRuntime;
use crate::metrics::METRICS;

/// Answers larger than this are refused (upstream's limit).
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// `up to 24h`: what upstream allows an exec without a time-out of its own.
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);

/// A failed CRI call.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The endpoint is not a usable socket address.
    #[error("container runtime endpoint {0:?}: {1}")]
    Endpoint(String, #[source] tonic::transport::Error),
    /// The runtime answered with an error.
    #[error("{}", describe(.1))]
    Call(&'static str, Box<tonic::Status>),
    /// The runtime did not answer in time.
    #[error("{0}: rpc error: code = DeadlineExceeded desc = no answer within {1:?}")]
    Timeout(&'static str, Duration),
    /// A required field was missing.
    #[error("{0}: the runtime answered without {1}")]
    Incomplete(&'static str, &'static str),
}

/// gRPC errors as Go prints them; users and scripts know this form.
fn describe(status: &tonic::Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

impl RuntimeError {
    /// The runtime does not know the object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call(_, status) if status.code() == tonic::Code::NotFound)
    }

    /// The runtime is not reachable.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Call(_, status) if status.code() == tonic::Code::Unavailable)
    }
}

/// Name and version of the runtime.
#[derive(Clone, Debug, Default)]
pub struct RuntimeInfo {
    /// `containerd`.
    pub name: String,
    /// `1.6.20`.
    pub version: String,
    /// `v1`.
    pub api_version: String,
}

/// Handle on the container runtime; cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    timeout: Duration,
}

macro_rules! call {
    ($self:ident, $client:ident . $method:ident ( $request:expr ), $timeout:expr) => {{
        let mut client = $self.$client.clone();
        let timeout = $timeout;
        let begin = std::time::Instant::now();
        let answer = match tokio::time::timeout(timeout, client.$method($request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(RuntimeError::Call(stringify!($method), Box::new(status))),
            Err(_) => Err(RuntimeError::Timeout(stringify!($method), timeout)),
        };
        METRICS.called_runtime(stringify!($method), begin.elapsed(), answer.is_ok());
        answer
    }};
}

fn channel(endpoint: &str) -> Result<Channel, RuntimeError> {
    let path = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
    });
    Ok(Endpoint::try_from("http://localhost")
        .map_err(|error| RuntimeError::Endpoint(endpoint.to_owned(), error))?
        .connect_with_connector_lazy(connector))
}

impl Runtime {
    /// A client for `endpoint` (and `image_endpoint`, when that is another one). Connects on first use and again after
    /// a runtime restart.
    pub fn new(endpoint: &str, image_endpoint: &str, timeout: Duration) -> Result<Self, RuntimeError> {
        let runtime = channel(endpoint)?;
        let images = if image_endpoint.is_empty() { runtime.clone() } else { channel(image_endpoint)? };
        Ok(Self {
            runtime: RuntimeServiceClient::new(runtime).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(images).max_decoding_message_size(MAX_MESSAGE),
            timeout,
        })
    }

    /// Name and version.
    pub async fn version(&self) -> Result<RuntimeInfo, RuntimeError> {
        let request = cri::VersionRequest { version: "0.1.0".into() };
        let version = call!(self, runtime.version(request), self.timeout)?;
        Ok(RuntimeInfo {
            name: version.runtime_name,
            version: version.runtime_version,
            api_version: version.runtime_api_version,
        })
    }

    /// Conditions `RuntimeReady` and `NetworkReady`, handlers and features.
    pub async fn status(&self) -> Result<cri::StatusResponse, RuntimeError> {
        call!(self, runtime.status(cri::StatusRequest { verbose: false }), self.timeout)
    }

    /// The cgroup driver that the runtime uses, as the kubelet's configuration names it; `None` when it does not tell.
    pub async fn cgroup_driver(&self) -> Result<Option<&'static str>, RuntimeError> {
        match call!(self, runtime.runtime_config(cri::RuntimeConfigRequest {}), self.timeout) {
            Ok(answer) => Ok(answer.linux.map(|linux| match linux.cgroup_driver() {
                cri::CgroupDriver::Systemd => "systemd",
                cri::CgroupDriver::Cgroupfs => "cgroupfs",
            })),
            Err(RuntimeError::Call(_, status)) if status.code() == tonic::Code::Unimplemented => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells the runtime the node's pod CIDR.
    pub async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<(), RuntimeError> {
        let network_config = Some(cri::NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let runtime_config = Some(cri::RuntimeConfig { network_config });
        let request = cri::UpdateRuntimeConfigRequest { runtime_config };
        call!(self, runtime.update_runtime_config(request), self.timeout).map(|_| ())
    }

    /// All sandboxes, or those of one pod.
    pub async fn sandboxes(&self, uid: Option<&str>) -> Result<Vec<cri::PodSandbox>, RuntimeError> {
        let filter = uid.map(|uid| cri::PodSandboxFilter { label_selector: of_pod(uid), ..Default::default() });
        let request = cri::ListPodSandboxRequest { filter };
        Ok(call!(self, runtime.list_pod_sandbox(request), self.timeout)?.items)
    }

    /// All containers, or those of one pod.
    pub async fn containers(&self, uid: Option<&str>) -> Result<Vec<cri::Container>, RuntimeError> {
        let filter = uid.map(|uid| cri::ContainerFilter { label_selector: of_pod(uid), ..Default::default() });
        let request = cri::ListContainersRequest { filter };
        Ok(call!(self, runtime.list_containers(request), self.timeout)?.containers)
    }

    /// Everything the runtime holds for one pod.
    pub async fn pod(&self, uid: &str) -> Result<PodRuntime, RuntimeError> {
        let (sandboxes, containers) = tokio::try_join!(self.sandboxes(Some(uid)), self.containers(Some(uid)))?;
        let mut pod = PodRuntime::default();
        for sandbox in sandboxes {
            match self.sandbox_status(&sandbox.id).await {
                Ok(status) => pod.add_sandbox(status),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        for container in containers {
            match self.container_status(&container.id).await {
                Ok(status) => pod.add_container(status, &container.pod_sandbox_id),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        pod.sort();
        Ok(pod)
    }

    /// One sandbox.
    pub async fn sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus, RuntimeError> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        call!(self, runtime.pod_sandbox_status(request), self.timeout)?
            .status
            .ok_or(RuntimeError::Incomplete("pod_sandbox_status", "status"))
    }

    /// One container.
    pub async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus, RuntimeError> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        call!(self, runtime.container_status(request), self.timeout)?
            .status
            .ok_or(RuntimeError::Incomplete("container_status", "status"))
    }

    /// Makes and starts a sandbox; answers its id.
    pub async fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: &str) -> Result<String, RuntimeError> {
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        // The runtime may have to set up the network and pull the pause image: twice the usual patience.
        Ok(call!(self, runtime.run_pod_sandbox(request), self.timeout * 2)?.pod_sandbox_id)
    }

    /// Stops a sandbox and all in it; one that is gone is stopped.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(call!(self, runtime.stop_pod_sandbox(request), self.timeout).map(|_| ()))
    }

    /// Removes a stopped sandbox.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(call!(self, runtime.remove_pod_sandbox(request), self.timeout).map(|_| ()))
    }

    /// Creates a container; answers its id.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(call!(self, runtime.create_container(request), self.timeout)?.container_id)
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        call!(self, runtime.start_container(request), self.timeout).map(|_| ())
    }

    /// Stops a container: its stop signal, then KILL after `grace` seconds.
    pub async fn stop_container(&self, id: &str, grace: i64) -> Result<(), RuntimeError> {
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        let patience = self.timeout + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        gone_is_fine(call!(self, runtime.stop_container(request), patience).map(|_| ()))
    }

    /// Removes a stopped container.
    pub async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_fine(call!(self, runtime.remove_container(request), self.timeout).map(|_| ()))
    }

    /// Changes a running container's limits.
    pub async fn update_resources(&self, id: &str, linux: cri::LinuxContainerResources) -> Result<(), RuntimeError> {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        call!(self, runtime.update_container_resources(request), self.timeout).map(|_| ())
    }

    /// Writes a running container's state to an archive; `timeout` in seconds, 0 = the runtime's own.
    pub async fn checkpoint(&self, id: &str, location: &str, timeout: i64) -> Result<(), RuntimeError> {
        let request =
            cri::CheckpointContainerRequest { container_id: id.to_owned(), location: location.to_owned(), timeout };
        let seconds = Duration::from_secs(u64::try_from(timeout).unwrap_or(0));
        call!(self, runtime.checkpoint_container(request), self.timeout + seconds).map(|_| ())
    }

    /// Runs a command to its end (or `timeout`) and collects what it wrote.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<cri::ExecSyncResponse, RuntimeError> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd: command, timeout: seconds };
        let patience = if timeout.is_zero() { Duration::from_secs(24 * 3600) } else { self.timeout + timeout };
        call!(self, runtime.exec_sync(request), patience)
    }

    /// URL of the runtime's streaming server for an exec.
    pub async fn exec(&self, request: cri::ExecRequest) -> Result<String, RuntimeError> {
        Ok(call!(self, runtime.exec(request), self.timeout)?.url)
    }

    /// URL of the runtime's streaming server for an attach.
    pub async fn attach(&self, request: cri::AttachRequest) -> Result<String, RuntimeError> {
        Ok(call!(self, runtime.attach(request), self.timeout)?.url)
    }

    /// URL of the runtime's streaming server for a port-forward.
    pub async fn port_forward(&self, request: cri::PortForwardRequest) -> Result<String, RuntimeError> {
        Ok(call!(self, runtime.port_forward(request), self.timeout)?.url)
    }

    /// Makes the runtime open a container's log file anew (after rotation).
    pub async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
        call!(self, runtime.reopen_container_log(request), self.timeout).map(|_| ())
    }

    /// Usage of all containers.
    pub async fn container_stats(&self) -> Result<Vec<cri::ContainerStats>, RuntimeError> {
        let request = cri::ListContainerStatsRequest { filter: None };
        Ok(call!(self, runtime.list_container_stats(request), self.timeout)?.stats)
    }

    /// Stream of container events; `Unimplemented` with older runtimes.
    pub async fn events(&self) -> Result<tonic::Streaming<cri::ContainerEventResponse>, RuntimeError> {
        call!(self, runtime.get_container_events(cri::GetEventsRequest {}), self.timeout)
    }

    /// An image that is present.
    pub async fn image(&self, name: &str) -> Result<Option<cri::Image>, RuntimeError> {
        let request = cri::ImageStatusRequest { image: Some(image_spec(name)), verbose: false };
        Ok(call!(self, images.image_status(request), self.timeout)?.image)
    }

    /// All images that are present.
    pub async fn images(&self) -> Result<Vec<cri::Image>, RuntimeError> {
        Ok(call!(self, images.list_images(cri::ListImagesRequest { filter: None }), self.timeout)?.images)
    }

    /// Fetches an image; answers the reference to run it by.
    pub async fn pull_image(
        &self,
        name: &str,
        auth: Option<cri::AuthConfig>,
        sandbox_config: Option<cri::PodSandboxConfig>,
    ) -> Result<String, RuntimeError> {
        let request = cri::PullImageRequest { image: Some(image_spec(name)), auth, sandbox_config };
        Ok(call!(self, images.pull_image(request), PULL_TIMEOUT)?.image_ref)
    }

    /// Removes an image.
    pub async fn remove_image(&self, name: &str) -> Result<(), RuntimeError> {
        let request = cri::RemoveImageRequest { image: Some(image_spec(name)) };
        gone_is_fine(call!(self, images.remove_image(request), self.timeout).map(|_| ()))
    }

    /// Usage of the image file system.
    pub async fn image_fs(&self) -> Result<cri::ImageFsInfoResponse, RuntimeError> {
        call!(self, images.image_fs_info(cri::ImageFsInfoRequest {}), self.timeout)
    }
}

fn gone_is_fine(result: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

fn of_pod(uid: &str) -> HashMap<String, String> {
    HashMap::from([(POD_UID.to_owned(), uid.to_owned())])
}

fn image_spec(name: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: name.to_owned(), user_specified_image: name.to_owned(), ..Default::default() }
}
