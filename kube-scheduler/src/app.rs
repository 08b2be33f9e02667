//! Wiring: configuration, informers, the secure port, leader election, and the scheduling loop in a thread of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::controlplane::ControlPlane;
use common::events::EventsV1Recorder;
use common::informer::{Factory, Informer, InformerOptions};
use common::serving::Health;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::cycle::Scheduler;
use crate::cycle::api::{ApiOutlet, slim};
use crate::cycle::decide::Decider;
use crate::cycle::listers::InformerListers;
use crate::extender::Extenders;
use crate::framework::events::Resource;
use crate::framework::groups::Groups;
use crate::framework::profiles::Profiles;
use crate::metrics;
use crate::options::{Config, Options};
use crate::plugins::dynamic_resources::cluster::Devices;
use crate::plugins::registry::{self, Services};
use crate::queue::SchedulingQueue;
use crate::queue::backoff::Backoff;
use crate::queue::clock::SystemClock;
use crate::storage::Storage;

/// The secure port's default.
const PORT: u16 = 10259;
/// How long scheduling waits for the lists that it could do without.
const OTHERS_SYNC: Duration = Duration::from_secs(10);
/// Pods that ended need no room.
const UNFINISHED: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// Back-offs end on whole seconds.
const BACKOFF_TICK: Duration = Duration::from_secs(1);
/// Every so many ticks, pods that waited too long are flushed.
const FLUSH_TICKS: u32 = 30;

/// Runs the scheduler until shutdown.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = options.complete()?;
    if let Some(path) = &options.write_config_to {
        let text = serde_json::to_string_pretty(&config.component)?;
        return std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()));
    }
    metrics::register_all();
    tracing::info!(version = common::config::version::GIT_VERSION, "starting kube-scheduler");
    tracing::warn!(plugins = ?registry::NOT_YET, "known to profiles but not built yet: they take no part in decisions");
    let plane = ControlPlane::connect("kube-scheduler", &config.client, &config.leader_election).await?;
    let client = plane.client.clone();
    let others = Factory::new(client.clone());
    let factory = Factory::new(client.clone());
    // Extenders are shown pods as they are.
    let whole = !config.component.extenders.is_empty();
    let pods = factory.informer_with::<Pod>(InformerOptions {
        field_selector: Some(UNFINISHED.into()),
        transform: if whole { InformerOptions::default().transform } else { slim },
        ..InformerOptions::default()
    });
    let nodes = factory.informer::<Node>();
    let storage = Arc::new(Storage::new(&others));
    let devices = Arc::new(Devices::new(&others, config.devices));
    let groups = match config.groups {
        true => Arc::new(Groups::new(factory.informer::<PodGroup>())),
        false => Arc::default(),
    };
    let extenders = Extenders::new(&config.component.extenders, pods.clone()).map_err(anyhow::Error::msg);
    let extenders = Arc::new(extenders.context("couldn't build extenders")?);
    let services = Services {
        client: Some(client.clone()),
        listers: Arc::new(InformerListers::new(&others)),
        storage: storage.clone(),
        devices: devices.clone(),
        groups: groups.clone(),
        extenders: extenders.clone(),
        declared_features: config.declared_features,
        nodes: Some(nodes.clone()),
        pods: Some(pods.clone()),
        recorder: Some(EventsV1Recorder::new(client.clone(), "default-scheduler", "default-scheduler")),
        activate: Arc::default(),
    };
    let profiles = build_profiles(&config, &services)?;
    let names: Vec<_> = profiles.iter().map(|profile| profile.name.clone()).collect();
    let outlet = Arc::new(ApiOutlet::new(client, pods.clone(), &names));
    let mut scheduler = assemble(&config, &options, profiles, outlet);
    scheduler.extenders = extenders;
    scheduler.groups = groups;
    let scheduler = Arc::new(scheduler);
    let weak = Arc::downgrade(&scheduler);
    let _ = services.activate.set(Box::new(move |uids| {
        if let Some(scheduler) = weak.upgrade() {
            scheduler.queue.activate(uids);
        }
    }));
    observe(&scheduler, &nodes, &pods);
    observe_storage(&scheduler, &storage);
    observe_devices(&scheduler, &devices);
    if let Some(informer) = &scheduler.groups.informer {
        const LABELS: [&str; 3] =
            ["scheduling.k8s.io/PodGroupAdd", "scheduling.k8s.io/PodGroupUpdate", "scheduling.k8s.io/PodGroupDelete"];
        let this = scheduler.clone();
        informer.on_event(move |event| this.on_object(Resource::PodGroup, LABELS, event));
    }

    tokio::spawn(dump_on_signal(scheduler.clone(), nodes.clone(), pods.clone(), shutdown.clone()));
    register_checks(&plane.health, &nodes, &pods);
    let component = serde_json::to_value(&config.component)?;
    let configz = serde_json::json!({"kubescheduler.config.k8s.io": component});
    factory.start(&shutdown);
    others.start(&shutdown);

    let percentage = config.component.percentage_of_nodes_to_score.unwrap_or(0);
    let work = |stop: CancellationToken| async move {
        // Nothing is decided before every node and every bound pod is known.
        if factory.wait_for_sync(&stop).await {
            // Defaults of spreading and budgets of preemption are worth a moment, not an outage.
            if tokio::time::timeout(OTHERS_SYNC, others.wait_for_sync(&stop)).await.is_err() {
                tracing::warn!(missing = ?others.unsynced(), "scheduling without these lists for now");
            }
            schedule(scheduler, percentage, stop).await?;
        }
        Ok(())
    };
    plane.run(&options.serving, (PORT, configz), shutdown, work).await
}

fn build_profiles(config: &Config, services: &Services) -> anyhow::Result<Arc<Profiles>> {
    let built: Result<Vec<_>, String> =
        config.component.profiles.iter().map(|profile| registry::profile(profile, services)).collect();
    let profiles = built.and_then(Profiles::new).map_err(anyhow::Error::msg)?;
    Ok(Arc::new(profiles))
}

fn assemble(config: &Config, options: &Options, profiles: Arc<Profiles>, outlet: Arc<ApiOutlet>) -> Scheduler {
    let seconds = |value: Option<i64>, default| Duration::from_secs(value.unwrap_or(default).max(0) as u64);
    let backoff = Backoff {
        initial: seconds(config.component.pod_initial_backoff_seconds, 1),
        max: seconds(config.component.pod_max_backoff_seconds, 10),
    };
    let queue = SchedulingQueue::new(
        profiles.clone(),
        Arc::new(SystemClock::default()),
        backoff,
        options.pod_max_in_unschedulable_pods_duration,
    );
    Scheduler::new(Cache::new(Duration::ZERO), queue, profiles, outlet)
}

fn observe(scheduler: &Arc<Scheduler>, nodes: &Arc<Informer<Node>>, pods: &Arc<Informer<Pod>>) {
    let this = scheduler.clone();
    nodes.on_event(move |event| this.on_node(event));
    let this = scheduler.clone();
    pods.on_event(move |event| this.on_pod(event));
}

/// Tells the queue of storage objects, by upstream's labels.
fn observe_storage(scheduler: &Arc<Scheduler>, storage: &Storage) {
    macro_rules! tell {
        ($informer:expr, $resource:ident, $label:literal) => {
            let this = scheduler.clone();
            let labels = [concat!($label, "Add"), concat!($label, "Update"), concat!($label, "Delete")];
            $informer.on_event(move |event| this.on_object(Resource::$resource, labels, event));
        };
    }
    tell!(storage.claims.informer, PersistentVolumeClaim, "PersistentVolumeClaim");
    tell!(storage.volumes.informer, PersistentVolume, "PersistentVolume");
    tell!(storage.classes, StorageClass, "storage.k8s.io/StorageClass");
    tell!(storage.csi_nodes, CsiNode, "storage.k8s.io/CSINode");
    tell!(storage.csi_drivers, CsiDriver, "storage.k8s.io/CSIDriver");
    tell!(storage.capacities, CsiStorageCapacity, "storage.k8s.io/CSIStorageCapacity");
    tell!(storage.attachments, VolumeAttachment, "storage.k8s.io/VolumeAttachment");
}

/// Tells the queue of claims (those just written included), slices and classes.
fn observe_devices(scheduler: &Arc<Scheduler>, devices: &Devices) {
    const LABELS: [[&str; 3]; 3] = [
        [
            "resource.k8s.io/ResourceClaimAdd",
            "resource.k8s.io/ResourceClaimUpdate",
            "resource.k8s.io/ResourceClaimDelete",
        ],
        [
            "resource.k8s.io/ResourceSliceAdd",
            "resource.k8s.io/ResourceSliceUpdate",
            "resource.k8s.io/ResourceSliceDelete",
        ],
        ["resource.k8s.io/DeviceClassAdd", "resource.k8s.io/DeviceClassUpdate", "resource.k8s.io/DeviceClassDelete"],
    ];
    let this = scheduler.clone();
    devices.claims.listen(move |event| this.on_object(Resource::ResourceClaim, LABELS[0], event));
    let this = scheduler.clone();
    devices.slices.on_event(move |event| this.on_object(Resource::ResourceSlice, LABELS[1], event));
    let this = scheduler.clone();
    devices.classes.on_event(move |event| this.on_object(Resource::DeviceClass, LABELS[2], event));
}

/// Upstream's check for "every node and pod of the first lists was seen".
fn register_checks(health: &Health, nodes: &Arc<Informer<Node>>, pods: &Arc<Informer<Pod>>) {
    let (nodes, pods) = (nodes.clone(), pods.clone());
    health.register_ready("sched-handler-sync", move || match nodes.has_synced() && pods.has_synced() {
        true => Ok(()),
        false => Err("handlers are not fully synchronized".into()),
    });
}

/// The scheduling loop in its thread, and the queue's timers beside it.
async fn schedule(scheduler: Arc<Scheduler>, percentage: i32, stop: CancellationToken) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Handle::current();
    let worker = scheduler.clone();
    let (done, ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("scheduling".into()).spawn(move || {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let mut decider = Decider::new(percentage, seed).extended(worker.extenders.clone());
        worker.run(&mut decider, &runtime);
        let _ = done.send(());
    })?;
    let timers = async {
        let mut ticks = tokio::time::interval(BACKOFF_TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for tick in 1u32.. {
            ticks.tick().await;
            scheduler.queue.flush_backoff();
            if tick % FLUSH_TICKS == 0 {
                scheduler.queue.flush_unschedulable();
                for pod in scheduler.cache.expire(Instant::now()) {
                    tracing::warn!(pod = pod.key(), "assumed pod was never confirmed, giving up its room");
                }
            }
            publish_sizes(&scheduler);
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = timers => {}
        _ = ended => anyhow::bail!("the scheduling loop ended"),
    }
    scheduler.queue.close();
    scheduler.drain().await;
    Ok(())
}

/// SIGUSR2: cache and queue into the log.
async fn dump_on_signal(
    scheduler: Arc<Scheduler>,
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    shutdown: CancellationToken,
) {
    let mut signals = match signal(SignalKind::user_defined2()) {
        Ok(signals) => signals,
        Err(error) => return tracing::warn!(%error, "SIGUSR2 will not dump the cache"),
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            received = signals.recv() => if received.is_none() { return },
        }
        for (kind, mismatch) in scheduler.compare(&nodes.list(), &pods.list()) {
            if !mismatch.is_empty() {
                tracing::info!(kind, missed = ?mismatch.missed, redundant = ?mismatch.redundant, "Cache mismatch");
            }
        }
        scheduler.dump();
    }
}

fn publish_sizes(scheduler: &Scheduler) {
    for (queue, size) in scheduler.queue.sizes() {
        metrics::PENDING_PODS.with_label_values(&[queue]).set(size as i64);
    }
    let (nodes, pods, assumed) = scheduler.cache.sizes();
    for (kind, size) in [("nodes", nodes), ("pods", pods), ("assumed_pods", assumed)] {
        metrics::CACHE_SIZE.with_label_values(&[kind]).set(size as i64);
    }
}
