//! What a cloud can do for a cluster. A provider offers the parts that it has; controllers without their part don't start.

pub mod local;

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc};

use async_trait::async_trait;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, NodeAddress, Service};

/// Why a provider could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The configuration file can't be read or makes no sense.
    #[error("cloud configuration {path}: {reason}")]
    Config {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// All addresses are taken.
    #[error("no free address is left in the load-balancer pools {0}")]
    Exhausted(String),
    /// The address that a Service wants is taken or outside of the pools.
    #[error("requested address {address} is not available: {reason}")]
    Unavailable {
        /// What was asked for.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The provider's own failure.
    #[error("{0}")]
    Other(String),
}

/// What a provider knows of a machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InstanceMetadata {
    /// `<provider>://<id>`.
    pub provider_id: String,
    /// Label node.kubernetes.io/instance-type; empty: unknown.
    pub instance_type: String,
    /// Addresses to write into the node's status.
    pub addresses: Vec<NodeAddress>,
    /// Label topology.kubernetes.io/zone; empty: unknown.
    pub zone: String,
    /// Label topology.kubernetes.io/region; empty: unknown.
    pub region: String,
    /// Further labels.
    pub labels: BTreeMap<String, String>,
}

/// Machines.
#[async_trait]
pub trait Instances: Send + Sync {
    /// Whether the machine still exists.
    async fn exists(&self, node: &Node) -> Result<bool, ProviderError>;
    /// Whether the machine is shut down.
    async fn is_shut_down(&self, node: &Node) -> Result<bool, ProviderError>;
    /// What is known of the machine.
    async fn metadata(&self, node: &Node) -> Result<InstanceMetadata, ProviderError>;
}

/// Load balancers.
#[async_trait]
pub trait LoadBalancer: Send + Sync {
    /// Whether the Service has a load balancer.
    async fn exists(&self, service: &Service) -> Result<bool, ProviderError>;
    /// Creates or updates the Service's load balancer. Called again with the same Service it answers the same.
    async fn ensure(&self, service: &Service, nodes: &[Arc<Node>]) -> Result<LoadBalancerStatus, ProviderError>;
    /// Tells the load balancer that the nodes changed.
    async fn update_nodes(&self, service: &Service, nodes: &[Arc<Node>]) -> Result<(), ProviderError>;
    /// Removes the Service's load balancer; one that is gone already is no error.
    async fn ensure_deleted(&self, service: &Service) -> Result<(), ProviderError>;
    /// Learns what exists, from the Services as they are when the controller starts.
    fn adopt(&self, services: &[Arc<Service>]);
}

/// A route to a node's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The provider's name of the route.
    pub name: String,
    /// The node that it leads to.
    pub node: String,
    /// The pods' addresses.
    pub destination: IpNet,
    /// The node's address; `None` leaves the choice to the provider.
    pub via: Option<IpAddr>,
}

/// Routes in the cloud's network.
#[async_trait]
pub trait Routes: Send + Sync {
    /// All routes of the cluster.
    async fn list(&self, cluster: &str) -> Result<Vec<Route>, ProviderError>;
    /// Creates a route.
    async fn create(&self, cluster: &str, route: &Route) -> Result<(), ProviderError>;
    /// Deletes a route.
    async fn delete(&self, cluster: &str, route: &Route) -> Result<(), ProviderError>;
}

/// A cloud.
pub trait CloudProvider: Send + Sync {
    /// Its name, as `--cloud-provider` has it.
    fn name(&self) -> &'static str;
    /// Its machines, if it knows any.
    fn instances(&self) -> Option<Arc<dyn Instances>>;
    /// Its load balancers, if it has them.
    fn load_balancer(&self) -> Option<Arc<dyn LoadBalancer>>;
    /// Its routes, if it manages them.
    fn routes(&self) -> Option<Arc<dyn Routes>>;
}

/// The provider that `--cloud-provider` names.
///
/// # Errors
/// When there is no such provider, or its configuration can't be used.
pub fn provider(name: &str, config: Option<&Path>) -> anyhow::Result<Arc<dyn CloudProvider>> {
    match name {
        "local" => Ok(Arc::new(local::Local::load(config)?)),
        "" => anyhow::bail!("--cloud-provider cannot be empty; there is: local"),
        other => anyhow::bail!("unknown cloud provider {other:?}; there is: local"),
    }
}
