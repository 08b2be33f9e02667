//! A container runtime that runs nothing: CRI v1 over a unix socket, with scripted containers and a record of all calls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::stream::BoxStream;
use k8s_cri::v1::image_service_server::{ImageService, ImageServiceServer};
use k8s_cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use k8s_cri::v1::*;
use parking_lot::{Mutex, MutexGuard};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::cri_state::{self as state, Script, State, now, selected};

/// The runtime. Its containers outlive its server, as a real one's do.
pub struct FakeRuntime {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    /// Of its own, so that its end closes the connections too.
    server: Option<tokio::runtime::Runtime>,
}

impl FakeRuntime {
    /// Serves on a socket.
    pub fn start(socket: &Path) -> Self {
        let mut runtime = Self { socket: socket.to_owned(), state: Arc::default(), server: None };
        runtime.come_back();
        runtime
    }

    pub fn come_back(&mut self) {
        let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let inside = server.enter();
        let listener = UnixListenerStream::new(UnixListener::bind(&self.socket).unwrap());
        let service = Service(self.state.clone());
        let serving = tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(service.clone()))
            .add_service(ImageServiceServer::new(service))
            .serve_with_incoming(listener);
        tokio::spawn(serving);
        drop(inside);
        self.server = Some(server);
    }

    /// The socket and all connections are gone.
    pub fn go_away(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
        let _ = std::fs::remove_file(&self.socket);
    }

    /// How containers of that name behave from now on.
    pub fn script(&self, container: &str, script: Script) {
        self.state.lock().scripts.insert(container.to_owned(), script);
    }

    /// The exit code of commands that begin with `word`.
    pub fn exec_code(&self, word: &str, code: i32) {
        self.state.lock().exec_codes.insert(word.to_owned(), code);
    }

    /// Pulls of that image fail.
    pub fn break_image(&self, image: &str, message: &str) {
        self.state.lock().bad_images.insert(image.to_owned(), message.to_owned());
    }

    pub fn mend_image(&self, image: &str) {
        self.state.lock().bad_images.remove(image);
    }

    /// All calls so far that begin with one of these words.
    pub fn calls(&self, words: &[&str]) -> Vec<String> {
        let state = self.state.lock();
        let wanted = |call: &&String| words.iter().any(|word| call.split(' ').next() == Some(word));
        state.calls.iter().filter(wanted).cloned().collect()
    }

    /// Ids of running containers of that name.
    pub fn running(&self, name: &str) -> Vec<String> {
        let mut state = self.state.lock();
        state.advance();
        let of_name = state.containers.iter().filter(|(_, container)| container.name() == name);
        of_name.filter(|(_, c)| c.state() == ContainerState::ContainerRunning).map(|(id, _)| id.clone()).collect()
    }

    /// Ends a running container as if its process had ended.
    pub fn exit(&self, name: &str, code: i32) {
        for id in self.running(name) {
            self.state.lock().containers.get_mut(&id).unwrap().end(now(), code);
        }
    }

    /// The configuration of the newest container of that name.
    pub fn config(&self, name: &str) -> Option<ContainerConfig> {
        let state = self.state.lock();
        let of_name = state.containers.values().filter(|container| container.name() == name);
        of_name.max_by_key(|container| container.created_at).map(|container| container.config.clone())
    }

    /// The log file of the newest container of that name.
    pub fn log(&self, name: &str) -> PathBuf {
        let state = self.state.lock();
        let of_name = state.containers.values().filter(|container| container.name() == name);
        of_name.max_by_key(|container| container.created_at).map(|c| PathBuf::from(&c.log_path)).unwrap()
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.containers.is_empty() && state.sandboxes.is_empty()
    }
}

impl Drop for FakeRuntime {
    fn drop(&mut self) {
        self.go_away();
    }
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock();
        state.advance();
        state
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn ok<T>(answer: T) -> Answer<T> {
    Ok(Response::new(answer))
}

fn unknown(id: &str) -> Status {
    Status::not_found(format!("{id:?}: not found"))
}

/// The service with the given methods; all others answer `Unimplemented`.
macro_rules! runtime_service {
    ({ $($here:tt)* } absent: $($method:ident($request:ty) -> $answer:ty;)*) => {
        #[tonic::async_trait]
        impl RuntimeService for Service {
            type GetContainerEventsStream = BoxStream<'static, Result<ContainerEventResponse, Status>>;
            $($here)*
            $(async fn $method(&self, _: Request<$request>) -> Answer<$answer> {
                Err(Status::unimplemented(stringify!($method)))
            })*
        }
    };
}

runtime_service! {
    {
        async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
            ok(VersionResponse {
                version: "0.1.0".into(),
                runtime_name: "fake".into(),
                runtime_version: "1.0".into(),
                runtime_api_version: "v1".into(),
            })
        }

        async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
            let condition = |name: &str| RuntimeCondition { r#type: name.into(), status: true, ..Default::default() };
            let conditions = vec![condition("RuntimeReady"), condition("NetworkReady")];
            ok(StatusResponse { status: Some(RuntimeStatus { conditions }), ..Default::default() })
        }

        async fn update_runtime_config(
            &self,
            _: Request<UpdateRuntimeConfigRequest>,
        ) -> Answer<UpdateRuntimeConfigResponse> {
            ok(UpdateRuntimeConfigResponse {})
        }

        async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
            let config = request.into_inner().config.unwrap_or_default();
            let mut state = self.state();
            let id = state.id("sandbox");
            state.calls.push(format!("sandbox {}", config.metadata.clone().unwrap_or_default().name));
            state.sandboxes.insert(id.clone(), state::Sandbox { config, ready: true, created_at: now() });
            ok(RunPodSandboxResponse { pod_sandbox_id: id })
        }

        async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
            let id = request.into_inner().pod_sandbox_id;
            let mut state = self.state();
            state.sandboxes.get_mut(&id).ok_or_else(|| unknown(&id))?.ready = false;
            for container in state.containers.values_mut().filter(|container| container.sandbox == id) {
                container.end(now(), 137);
            }
            ok(StopPodSandboxResponse {})
        }

        async fn remove_pod_sandbox(
            &self,
            request: Request<RemovePodSandboxRequest>,
        ) -> Answer<RemovePodSandboxResponse> {
            let id = request.into_inner().pod_sandbox_id;
            let mut state = self.state();
            state.containers.retain(|_, container| container.sandbox != id);
            state.sandboxes.remove(&id);
            ok(RemovePodSandboxResponse {})
        }

        async fn pod_sandbox_status(
            &self,
            request: Request<PodSandboxStatusRequest>,
        ) -> Answer<PodSandboxStatusResponse> {
            let id = request.into_inner().pod_sandbox_id;
            let state = self.state();
            let sandbox = state.sandboxes.get(&id).ok_or_else(|| unknown(&id))?;
            ok(PodSandboxStatusResponse { status: Some(sandbox.status(&id)), ..Default::default() })
        }

        async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
            let selector = request.into_inner().filter.unwrap_or_default().label_selector;
            let state = self.state();
            let listed = state.sandboxes.iter().filter(|(_, sandbox)| selected(&sandbox.config.labels, &selector));
            ok(ListPodSandboxResponse { items: listed.map(|(id, sandbox)| sandbox.listed(id)).collect() })
        }

        async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
            let request = request.into_inner();
            let config = request.config.unwrap_or_default();
            let name = config.metadata.clone().unwrap_or_default().name;
            let mut state = self.state();
            if let Some(message) = state.script(&name).create_error {
                return Err(Status::unknown(message));
            }
            let id = state.id("container");
            let log_path = format!("{}/{}", request.sandbox_config.unwrap_or_default().log_directory, config.log_path);
            state.calls.push(format!("create {name}"));
            let container = state::Container {
                sandbox: request.pod_sandbox_id,
                config,
                log_path,
                created_at: now(),
                started_at: 0,
                finished_at: 0,
                exit_code: 0,
            };
            state.containers.insert(id.clone(), container);
            ok(CreateContainerResponse { container_id: id })
        }

        async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
            let id = request.into_inner().container_id;
            let mut state = self.state();
            let container = state.containers.get_mut(&id).ok_or_else(|| unknown(&id))?;
            container.started_at = now();
            let line = format!("{} stdout F hello from {id}\n", jiff::Timestamp::now());
            std::fs::write(&container.log_path, line)?;
            let name = container.name();
            state.calls.push(format!("start {name}"));
            ok(StartContainerResponse {})
        }

        async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
            let StopContainerRequest { container_id: id, timeout } = request.into_inner();
            let needs = {
                let mut state = self.state();
                let name = state.containers.get(&id).ok_or_else(|| unknown(&id))?.name();
                state.calls.push(format!("stop {name} {timeout}"));
                state.script(&name).stops_after
            };
            let patience = std::time::Duration::from_secs(u64::try_from(timeout).unwrap_or_default());
            tokio::time::sleep(needs.min(patience)).await;
            if let Some(container) = self.state().containers.get_mut(&id) {
                container.end(now(), if needs > patience { 137 } else { 143 });
            }
            ok(StopContainerResponse {})
        }

        async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
            self.state().containers.remove(&request.into_inner().container_id);
            ok(RemoveContainerResponse {})
        }

        async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
            let selector = request.into_inner().filter.unwrap_or_default().label_selector;
            let state = self.state();
            let listed = state.containers.iter().filter(|(_, container)| selected(&container.config.labels, &selector));
            ok(ListContainersResponse { containers: listed.map(|(id, container)| container.listed(id)).collect() })
        }

        async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
            let id = request.into_inner().container_id;
            let state = self.state();
            let container = state.containers.get(&id).ok_or_else(|| unknown(&id))?;
            ok(ContainerStatusResponse { status: Some(container.status(&id)), ..Default::default() })
        }

        async fn update_container_resources(
            &self,
            request: Request<UpdateContainerResourcesRequest>,
        ) -> Answer<UpdateContainerResourcesResponse> {
            let request = request.into_inner();
            let mut state = self.state();
            let container = state.containers.get_mut(&request.container_id).ok_or_else(|| unknown(&request.container_id))?;
            let name = container.name();
            let linux = request.linux.unwrap_or_default();
            let call = format!("update {name} shares={} quota={} memory={}", linux.cpu_shares, linux.cpu_quota, linux.memory_limit_in_bytes);
            container.config.linux.get_or_insert_default().resources = Some(linux);
            state.calls.push(call);
            ok(UpdateContainerResourcesResponse {})
        }

        async fn reopen_container_log(
            &self,
            request: Request<ReopenContainerLogRequest>,
        ) -> Answer<ReopenContainerLogResponse> {
            let id = request.into_inner().container_id;
            let mut state = self.state();
            let container = state.containers.get(&id).ok_or_else(|| unknown(&id))?;
            std::fs::write(&container.log_path, "")?;
            let name = container.name();
            state.calls.push(format!("reopen {name}"));
            ok(ReopenContainerLogResponse {})
        }

        async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
            let request = request.into_inner();
            let mut state = self.state();
            let name = state.containers.get(&request.container_id).ok_or_else(|| unknown(&request.container_id))?.name();
            let word = request.cmd.first().cloned().unwrap_or_default();
            let exit_code = state.exec_codes.get(&word).copied().unwrap_or_default();
            state.calls.push(format!("exec {name} {}", request.cmd.join(" ")));
            ok(ExecSyncResponse { stdout: Vec::new(), stderr: Vec::new(), exit_code })
        }

        async fn list_container_stats(
            &self,
            _: Request<ListContainerStatsRequest>,
        ) -> Answer<ListContainerStatsResponse> {
            ok(ListContainerStatsResponse::default())
        }
    }
    absent:
    exec(ExecRequest) -> ExecResponse;
    attach(AttachRequest) -> AttachResponse;
    port_forward(PortForwardRequest) -> PortForwardResponse;
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
    checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
    get_container_events(GetEventsRequest) -> Self::GetContainerEventsStream;
    list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
    list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
    runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        ok(ListImagesResponse { images: self.state().images.values().cloned().collect() })
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        ok(ImageStatusResponse { image: self.state().images.get(&name).cloned(), ..Default::default() })
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let mut state = self.state();
        state.calls.push(format!("pull {name}"));
        if let Some(message) = state.bad_images.get(&name) {
            return Err(Status::not_found(message.clone()));
        }
        let image = Image { id: name.clone(), repo_tags: vec![name.clone()], size: 1000, ..Default::default() };
        state.images.insert(name.clone(), image);
        ok(PullImageResponse { image_ref: name })
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        self.state().images.remove(&request.into_inner().image.unwrap_or_default().image);
        ok(RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        ok(ImageFsInfoResponse::default())
    }
}
