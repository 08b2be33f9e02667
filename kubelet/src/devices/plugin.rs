//! A device plugin on its socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use super::wire;

/// How long a plugin may take to allocate or to prepare a device.
const PATIENCE: Duration = Duration::from_secs(30);

/// The client.
#[derive(Clone)]
pub(super) struct Plugin(Channel);

fn told(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

impl Plugin {
    pub(super) fn new(socket: &Path) -> Self {
        let path = PathBuf::from(socket);
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
        });
        Self(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector))
    }

    async fn client(&self) -> Result<tonic::client::Grpc<Channel>, String> {
        let mut client = tonic::client::Grpc::new(self.0.clone());
        client.ready().await.map_err(|error| format!("rpc error: code = Unavailable desc = {error}"))?;
        Ok(client)
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, String>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let ask = async {
            let codec = ProstCodec::<Q, A>::default();
            let path = http::uri::PathAndQuery::from_static(path);
            let answer = self.client().await?.unary(tonic::Request::new(request), path, codec).await;
            answer.map(tonic::Response::into_inner).map_err(|status| told(&status))
        };
        match tokio::time::timeout(PATIENCE, ask).await {
            Ok(answer) => answer,
            Err(_) => Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".into()),
        }
    }

    pub(super) async fn options(&self) -> Result<wire::DevicePluginOptions, String> {
        self.call(wire::OPTIONS, wire::Empty {}).await
    }

    /// The plugin's devices, again whenever they change.
    pub(super) async fn watch(&self) -> Result<tonic::Streaming<wire::ListAndWatchResponse>, String> {
        let codec = ProstCodec::<wire::Empty, wire::ListAndWatchResponse>::default();
        let path = http::uri::PathAndQuery::from_static(wire::LIST_AND_WATCH);
        let request = tonic::Request::new(wire::Empty {});
        let answer = self.client().await?.server_streaming(request, path, codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| told(&status))
    }

    /// Which of the available devices the plugin would take.
    pub(super) async fn preferred(
        &self,
        available: Vec<String>,
        must_include: Vec<String>,
        size: usize,
    ) -> Result<Vec<String>, String> {
        let allocation_size = i32::try_from(size).unwrap_or(i32::MAX);
        let request = wire::ContainerPreferredAllocationRequest { available, must_include, allocation_size };
        let request = wire::PreferredAllocationRequest { container_requests: vec![request] };
        let answer: wire::PreferredAllocationResponse = self
            .call(wire::PREFERRED, request)
            .await
            .map_err(|error| format!("device plugin GetPreferredAllocation rpc failed with err: {error}"))?;
        Ok(answer.container_responses.into_iter().next().unwrap_or_default().device_ids)
    }

    /// What a container needs to have these devices.
    pub(super) async fn allocate(&self, devices_ids: Vec<String>) -> Result<wire::ContainerAllocateResponse, String> {
        let request =
            wire::AllocateRequest { container_requests: vec![wire::ContainerAllocateRequest { devices_ids }] };
        let answer: wire::AllocateResponse = self.call(wire::ALLOCATE, request).await?;
        let first = answer.container_responses.into_iter().next();
        first.ok_or_else(|| "no containers return in allocation response".to_owned())
    }

    pub(super) async fn pre_start(&self, devices_ids: Vec<String>) -> Result<(), String> {
        let request = wire::PreStartContainerRequest { devices_ids };
        let answer: Result<wire::Empty, String> = self.call(wire::PRE_START, request).await;
        answer.map(drop).map_err(|error| format!("device plugin PreStartContainer rpc failed with err: {error}"))
    }
}
