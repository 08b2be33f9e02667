//! Start-up: checks what must be right, connects, and starts the tasks.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroups::{Cgroups, Limits, Version};
use crate::config::{Config, Options};
use crate::devices::{self, Devices};
use crate::dra::Claims;
use crate::events::Events;
use crate::images::{ImageManager, Providers};
use crate::node::{NodeState, lease, machine, object, oom, shutdown, status};
use crate::placement::Placement;
use crate::placement::topology::Topology;
use crate::pods::services::Services;
use crate::pods::{PodManager, api_source, housekeeping, static_source, status_manager, url_source};
use crate::runtime::{Runtime, RuntimeInfo, pleg, resources};
use crate::shared::Kubelet;
use crate::userns::UserNamespaces;
use crate::volumes::csi;
use crate::volumes::external::{self, VolumeManager};
use crate::volumes::objects::ObjectStore;
use crate::volumes::tokens::Tokens;
use crate::volumes::usage::{self, Usages};
use crate::{certificates, eviction, health, images, metrics, plugins, podresources, quantity, rotation, server};

/// How long the runtime may take to come up.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(120);

/// Runs the kubelet until `shutdown`. Containers keep running afterwards.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut config = Config::complete(&options)?;
    let rotation = rotation::Policy::new(&config.file)?;
    let thresholds = eviction::Thresholds::new(&config.file)?;
    let groups = shutdown::groups(&config.file)?;
    let mut cgroups = Cgroups::detect(&config.file).context("finding the mounted cgroup hierarchies")?;
    if cgroups.version() == Version::V1 && config.file.fail_cgroup_v1 {
        bail!(
            "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be removed in a future release (set failCgroupV1: false to run anyway)"
        );
    }
    cgroups.check_root().map_err(|error| anyhow::anyhow!(error))?;
    std::fs::create_dir_all(config.root_dir.join("pods"))
        .with_context(|| format!("making the root directory {}", config.root_dir.display()))?;
    let connection = certificates::connect(&config).await?;
    if connection.is_none() {
        tracing::info!("no --kubeconfig: running standalone, static pods only");
    }
    let client = connection.as_ref().map(|connection| connection.client.clone());
    let file = &config.file;
    let runtime =
        Runtime::new(&file.container_runtime_endpoint, &file.image_service_endpoint, file.runtime_request_timeout.0)?;
    let runtime_info = tokio::select! {
        info = wait_for_runtime(&runtime, &file.container_runtime_endpoint) => info?,
        () = shutdown.cancelled() => return Ok(()),
    };
    match runtime.cgroup_driver().await {
        Ok(Some(driver)) if driver != config.file.cgroup_driver => {
            tracing::info!(driver, "using the cgroup driver that the container runtime uses");
            config.file.cgroup_driver = driver.to_owned();
            cgroups = Cgroups::detect(&config.file).context("finding the mounted cgroup hierarchies")?;
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the container runtime does not tell its cgroup driver"),
    }
    let resources = ResourceManagers::new(&config, Arc::new(cgroups), Path::new("/sys"))?;
    let kubelet = assemble(config, resources, client, (runtime, runtime_info), shutdown.clone());
    prepare_cgroups(&kubelet)?;
    kubelet.events.node(false, "Starting", "Starting kubelet.");
    let health_port = health::bind(&kubelet).await?;
    let changed = Arc::new(tokio::sync::Notify::new());
    let tasks = spawn(&kubelet, thresholds, &changed, &shutdown);
    if let Some(groups) = groups {
        tasks.spawn(shutdown::run(kubelet.clone(), groups, changed.clone(), shutdown.clone()));
    }
    if let Some(connection) = connection {
        connection.spawn(&kubelet, &tasks, &shutdown);
    }
    if let Some(policy) = rotation {
        tasks.spawn(rotation::run(kubelet.clone(), policy, shutdown.clone()));
    }
    if let Some(listener) = health_port {
        tasks.spawn(health::serve(kubelet.clone(), listener, shutdown.clone()));
    }
    server::serve(&kubelet, &shutdown).await?;
    tasks.close();
    let _ = tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await;
    Ok(())
}

async fn wait_for_runtime(runtime: &Runtime, endpoint: &str) -> anyhow::Result<RuntimeInfo> {
    let deadline = tokio::time::Instant::now() + RUNTIME_PATIENCE;
    let mut told = false;
    loop {
        match runtime.version().await {
            Ok(info) if info.api_version == "v1" || info.api_version.is_empty() => {
                tracing::info!(name = info.name, version = info.version, "container runtime");
                return Ok(info);
            }
            Ok(info) => {
                bail!("the container runtime at {endpoint} speaks CRI {:?}; this kubelet needs v1", info.api_version)
            }
            Err(error) if tokio::time::Instant::now() > deadline => {
                return Err(error).with_context(|| format!("validate CRI v1 runtime API for endpoint {endpoint:?}"));
            }
            Err(error) => {
                if !told {
                    tracing::warn!(endpoint, %error, "the container runtime does not answer yet, waiting for it");
                    told = true;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// Who gives pods their share of the machine.
struct ResourceManagers {
    cgroups: Arc<Cgroups>,
    devices: Arc<Devices>,
    claims: Claims,
    placement: Placement,
    users: UserNamespaces,
    providers: Providers,
}

impl ResourceManagers {
    fn new(config: &Config, cgroups: Arc<Cgroups>, sys: &Path) -> anyhow::Result<Self> {
        let topology = Topology::read(sys).context("discovering the machine's topology")?;
        let devices = Arc::new(Devices::new(&config.root_dir, topology.nodes.keys().copied()));
        let placement = Placement::new(config, topology, vec![devices.clone()])?;
        let users = UserNamespaces::new(config)?;
        let providers = match &config.credential_providers {
            Some((config, programs)) => Providers::load(config, programs)?,
            None => Providers::default(),
        };
        let claims = Claims::new(&config.root_dir)?;
        Ok(Self { cgroups, devices, claims, placement, users, providers })
    }
}

/// Wakes what depends on devices.
struct DeviceNews {
    kubelet: Weak<Kubelet>,
    capacity: Arc<tokio::sync::Notify>,
}

impl devices::Listener for DeviceNews {
    fn pod_changed(&self, uid: &str) {
        if let Some(kubelet) = self.kubelet.upgrade() {
            kubelet.pods.look(uid);
        }
    }

    fn capacity_changed(&self) {
        self.capacity.notify_one();
    }
}

fn assemble(
    config: Config,
    managers: ResourceManagers,
    client: Option<kube::Client>,
    (runtime, runtime_info): (Runtime, RuntimeInfo),
    shutdown: CancellationToken,
) -> Arc<Kubelet> {
    let recorder = client.clone().map(|client| common::events::Recorder::new(client, "kubelet", &config.node_name));
    let events = Arc::new(Events::new(recorder, &config.node_name));
    let services = match &client {
        Some(client) => Services::watch(client.clone(), shutdown.clone()),
        None => Services::default(),
    };
    let node = NodeState::new(&config, machine::detect(), managers.cgroups.version() == Version::V2);
    let images = ImageManager::new(&config.file, managers.providers);
    let kubelet = Arc::new_cyclic(|weak: &Weak<Kubelet>| {
        let weak = weak.clone();
        let wake = move |uid: &str| {
            if let Some(kubelet) = weak.upgrade() {
                kubelet.pods.look(uid);
            }
        };
        Kubelet {
            objects: ObjectStore::new(client.clone(), wake),
            tokens: Tokens::new(client.clone()),
            volumes: VolumeManager::new(client.is_some()),
            usages: Usages::default(),
            pods: PodManager::default(),
            status: status_manager::StatusManager::default(),
            pleg: Arc::default(),
            plugins: Arc::default(),
            stats: crate::stats::Stats::default(),
            config,
            runtime,
            runtime_info,
            node,
            client,
            cgroups: managers.cgroups,
            placement: managers.placement,
            devices: managers.devices,
            claims: managers.claims,
            users: managers.users,
            images,
            events,
            services,
            shutdown,
        }
    });
    kubelet.pods.attach(&kubelet);
    if let Err(error) = metrics::watch(&kubelet) {
        tracing::warn!(%error, "no metrics of pods");
    }
    kubelet.plugins.handle("DRAPlugin", kubelet.claims.drivers.clone());
    kubelet.plugins.handle("CSIPlugin", Arc::new(csi::Registration(Arc::downgrade(&kubelet))));
    external::reconstruct(&kubelet);
    kubelet
}

fn prepare_cgroups(kubelet: &Kubelet) -> anyhow::Result<()> {
    let bound = crate::node::object::unreserved(&kubelet.config, &kubelet.node.capacity());
    let limits = Limits {
        cpu_shares: Some(resources::shares(quantity::milli_of(Some(&bound), "cpu"))),
        memory: kubelet
            .config
            .file
            .enforce_node_allocatable
            .iter()
            .any(|level| level == "pods")
            .then(|| quantity::of(Some(&bound), "memory")),
        ..Limits::default()
    };
    kubelet.cgroups.ensure_node(&limits).context("making the cgroups of pods")?;
    enforce_reservations(kubelet)?;
    if !kubelet.config.file.enforce_node_allocatable.is_empty() {
        kubelet.events.node(false, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods");
    }
    Ok(())
}

/// Holds the system and Kubernetes' daemons to what is reserved for them, where that is asked for.
fn enforce_reservations(kubelet: &Kubelet) -> anyhow::Result<()> {
    let file = &kubelet.config.file;
    for (name, title, cgroup, reserved) in [
        ("system-reserved", "system", &file.system_reserved_cgroup, &file.system_reserved),
        ("kube-reserved", "kube", &file.kube_reserved_cgroup, &file.kube_reserved),
    ] {
        let enforced = |level: &str| file.enforce_node_allocatable.iter().any(|asked| asked == level);
        let compressible = enforced(&format!("{name}-compressible"));
        if !compressible && !enforced(name) {
            continue;
        }
        let limits = object::reservation(reserved, compressible);
        if let Err(error) = kubelet.cgroups.limit_reserved(cgroup, &limits) {
            let message = format!("Failed to enforce {title} reserved Cgroup Limits on {cgroup:?}: {error}");
            kubelet.events.node(true, "FailedNodeAllocatableEnforcement", &message);
            bail!(message);
        }
        let message = format!("Updated limits on {title} reserved cgroup {cgroup}");
        kubelet.events.node(false, "NodeAllocatableEnforced", &message);
    }
    Ok(())
}

fn spawn(
    kubelet: &Arc<Kubelet>,
    thresholds: eviction::Thresholds,
    changed: &Arc<tokio::sync::Notify>,
    shutdown: &CancellationToken,
) -> TaskTracker {
    let tasks = TaskTracker::new();
    let changed = changed.clone();
    let of = || (kubelet.clone(), shutdown.clone());
    let pods = Arc::downgrade(kubelet);
    let notify = move |uid: &str| {
        if let Some(kubelet) = pods.upgrade() {
            kubelet.pods.look(uid);
        }
    };
    tasks.spawn(pleg::run(kubelet.pleg.clone(), kubelet.runtime.clone(), notify, shutdown.clone()));
    let (k, s) = of();
    tasks.spawn(status::watch_runtime(k, changed.clone(), s));
    let (k, s) = of();
    tasks.spawn(static_source::run(k, s));
    let (k, s) = of();
    tasks.spawn(url_source::run(k, s));
    let (k, s) = of();
    tasks.spawn(housekeeping::run(k, s));
    let (k, s) = of();
    tasks.spawn(crate::placement::run(k, s));
    let (k, s) = of();
    tasks.spawn(podresources::run(k, s));
    let (k, s) = of();
    tasks.spawn(oom::run(k, s));
    let news = DeviceNews { kubelet: Arc::downgrade(kubelet), capacity: changed.clone() };
    tasks.spawn(devices::run(kubelet.devices.clone(), Box::new(news), shutdown.clone()));
    let (k, s) = of();
    tasks.spawn(images::gc::run(k, s));
    let (k, s) = of();
    tasks.spawn(eviction::run(k, thresholds, changed.clone(), s));
    let registry = kubelet.config.root_dir.join("plugins_registry");
    tasks.spawn(plugins::run(kubelet.plugins.clone(), registry, shutdown.clone()));
    let (k, s) = of();
    tasks.spawn(external::run_janitor(k, s));
    let (k, s) = of();
    tasks.spawn(usage::run(k, s));
    if let Some(client) = kubelet.client.clone() {
        let (k, s) = of();
        tasks.spawn(api_source::run(k, client.clone(), s));
        let (k, s) = of();
        tasks.spawn(status_manager::run(k, client.clone(), s));
        let (k, s) = of();
        tasks.spawn(status::run(k, client.clone(), changed, s));
        let (k, s) = of();
        tasks.spawn(csi::watch_allocatable(k, s));
        let (k, s) = of();
        tasks.spawn(async move {
            tokio::select! {
                () = csi::initialize(k) => {}
                () = s.cancelled() => {}
            }
        });
        let (k, s) = of();
        tasks.spawn(lease::run(k, client, s));
    }
    tasks
}
