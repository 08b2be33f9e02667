//! A device plugin on its socket.

use std::path::Path;
use std::time::Duration;

use prost::Message;

use super::wire;
use crate::rpc::{RpcError, Socket};

/// How long a plugin may take to allocate or to prepare a device.
const PATIENCE: Duration = Duration::from_secs(30);

/// The client.
#[derive(Clone)]
pub(super) struct Plugin(Socket);

impl Plugin {
    pub(super) fn new(socket: &Path) -> Self {
        Self(Socket::new(socket))
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, RpcError>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.0.call(method, request, PATIENCE).await
    }

    pub(super) async fn options(&self) -> Result<wire::DevicePluginOptions, RpcError> {
        self.call(wire::OPTIONS, wire::Empty {}).await
    }

    /// The plugin's devices, again whenever they change.
    pub(super) async fn watch(&self) -> Result<tonic::Streaming<wire::ListAndWatchResponse>, RpcError> {
        self.0.stream(wire::LIST_AND_WATCH, wire::Empty {}).await
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
        let answer: wire::AllocateResponse =
            self.call(wire::ALLOCATE, request).await.map_err(|error| error.to_string())?;
        let first = answer.container_responses.into_iter().next();
        first.ok_or_else(|| "no containers return in allocation response".to_owned())
    }

    pub(super) async fn pre_start(&self, devices_ids: Vec<String>) -> Result<(), String> {
        let request = wire::PreStartContainerRequest { devices_ids };
        let answer: Result<wire::Empty, RpcError> = self.call(wire::PRE_START, request).await;
        answer.map(drop).map_err(|error| format!("device plugin PreStartContainer rpc failed with err: {error}"))
    }
}
