//! The server: shared state, filter chain, listener.

pub mod call;
pub mod chain;
mod follow;
pub mod impersonate;
mod inflight;
pub mod lookup;
pub mod registry;
pub mod response;
mod run;
mod setup;
mod well_known;

use std::sync::Arc;

use common::serving::{Health, Ops};
use tokio_util::sync::CancellationToken;

pub use call::Call;
pub use registry::{Change, Mutation, Outcome, Registry, ResourceStore, Stored};
pub use run::{Running, start};

use crate::{
    admission::Chain,
    authn::{Authenticator, service_account::Issuer},
    authz::Authorizer,
    discovery::Discovery,
    openapi::OpenApi,
    proxy::Backends,
};

/// What all requests share.
pub struct ApiServer {
    /// Validated configuration.
    pub config: Arc<crate::options::Config>,
    /// Resources and their stores.
    pub registry: Registry,
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
    inflight: inflight::Inflight,
    /// Ends the server.
    pub shutdown: CancellationToken,
}
