//! The server: shared state, filter chain, listener.

pub mod call;
pub mod chain;
mod deprecations;
mod edge;
pub(crate) mod follow;
pub mod impersonate;
mod inflight;
pub mod lookup;
pub mod metrics;
mod records;
pub mod registry;
pub mod response;
mod run;
mod setup;
mod trail;
mod upkeep;
mod well_known;

use std::sync::{Arc, OnceLock};

use common::serving::{Health, Ops};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use call::{Call, Session};
pub use registry::{Change, Mutation, Outcome, Registry, ResourceStore, Stored};
pub use run::{Running, start};

use crate::{
    admission::Chain,
    audit::Auditor,
    authn::{Authenticator, service_account::Issuer},
    authz::Authorizer,
    discovery::Discovery,
    flowcontrol::FlowControl,
    openapi::OpenApi,
    proxy::Backends,
    request::{ApiError, ApiResult},
    resources::alloc::{self, Allocators},
};

/// What all requests share.
pub struct ApiServer {
    /// Validated configuration.
    pub config: Arc<crate::options::Config>,
    /// Resources and their stores.
    pub registry: Arc<Registry>,
    /// Who.
    pub authenticator: Authenticator,
    /// May they.
    pub authorizer: Authorizer,
    /// Admission plugins.
    pub admission: Chain,
    /// Signs service-account tokens.
    pub issuer: Option<Issuer>,
    /// Discovery documents.
    pub discovery: Discovery,
    /// OpenAPI documents.
    pub openapi: OpenApi,
    /// How kubelets, pods and services are reached.
    pub backends: Backends,
    /// Health checks, more of which may be registered.
    pub health: Health,
    /// Operators' paths.
    pub ops: Ops,
    /// Auditing, if it is asked for.
    pub audit: Option<Arc<Auditor>>,
    /// Priority and fairness, unless it is turned off.
    pub flow_control: Option<Arc<FlowControl>>,
    inflight: inflight::Inflight,
    edge: edge::Edge,
    allocators: tokio::sync::OnceCell<Allocators>,
    /// The server is asked to end: background work stops, the port still answers.
    pub shutdown: CancellationToken,
    /// New requests are told to go elsewhere (`--shutdown-send-retry-after`).
    pub draining: CancellationToken,
    /// Requests under way are to finish: watches end.
    pub ending: CancellationToken,
    ended: OnceLock<Instant>,
    /// Nobody is served any more: caches stop.
    pub stopped: CancellationToken,
}

impl ApiServer {
    /// Returns when a watch has to end because the server does. Watches end spread over
    /// `--shutdown-watch-termination-grace-period`, so that not all clients look for another server at once; `share`
    /// (0 to 1) says where in that time this one does.
    pub async fn watch_must_end(&self, share: f64) {
        self.ending.cancelled().await;
        let grace = self.config.options.serving.shutdown_watch_termination_grace_period;
        tokio::time::sleep_until(*self.ended.get_or_init(Instant::now) + grace.mul_f64(share)).await;
    }

    /// The allocators of Service addresses and ports, started with their first use.
    ///
    /// # Errors
    /// The store is unavailable.
    pub async fn allocators(&self) -> ApiResult<&Allocators> {
        let start = async || {
            let (first, last) = self.config.node_ports;
            let config = alloc::Config { service_cidrs: self.config.service_ranges.clone(), node_ports: first..=last };
            let records = Arc::new(records::StoreRecords(Arc::clone(&self.registry)));
            Allocators::start(records, config).await.map_err(|e| ApiError::unavailable(e.to_string()))
        };
        self.allocators.get_or_try_init(start).await
    }
}
