//! What all parts of the running kubelet hold in common.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::devices::Devices;
use crate::dra::Claims;
use crate::events::Events;
use crate::images::ImageManager;
use crate::node::NodeState;
use crate::placement::Placement;
use crate::plugins::Plugins;
use crate::pods::PodManager;
use crate::pods::services::Services;
use crate::pods::status_manager::StatusManager;
use crate::runtime::pleg::Pleg;
use crate::runtime::{Runtime, RuntimeInfo};
use crate::stats::Stats;
use crate::userns::UserNamespaces;
use crate::volumes::external::VolumeManager;
use crate::volumes::objects::ObjectStore;
use crate::volumes::tokens::Tokens;
use crate::volumes::usage::Usages;

/// The running kubelet: handles for workers and for the HTTPS server.
pub struct Kubelet {
    /// Validated configuration.
    pub config: Config,
    /// The container runtime.
    pub runtime: Runtime,
    /// Its name and version.
    pub runtime_info: RuntimeInfo,
    /// Pods on this node, their statuses and look-ups.
    pub pods: PodManager,
    /// Machine facts, conditions, addresses.
    pub node: NodeState,
    /// The apiserver, when there is one.
    pub client: Option<kube::Client>,
    /// Resource usage.
    pub stats: Stats,
    pub(crate) cgroups: Arc<Cgroups>,
    pub(crate) placement: Placement,
    pub(crate) users: UserNamespaces,
    pub(crate) devices: Arc<Devices>,
    pub(crate) claims: Claims,
    pub(crate) images: ImageManager,
    pub(crate) objects: Arc<ObjectStore>,
    pub(crate) tokens: Tokens,
    pub(crate) volumes: VolumeManager,
    pub(crate) usages: Usages,
    pub(crate) events: Arc<Events>,
    pub(crate) services: Services,
    pub(crate) status: StatusManager,
    pub(crate) pleg: Arc<Pleg>,
    pub(crate) plugins: Arc<Plugins>,
    /// Cancelled when the daemon ends.
    pub shutdown: CancellationToken,
}
