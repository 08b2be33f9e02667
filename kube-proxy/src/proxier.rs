//! The loop: something changed -> route it -> write the difference -> tell the health servers and conntrack.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    backend::{Applied, Backend, BackendError, ServiceChange, Surroundings},
    conntrack,
    health::HealthState,
    metrics::Metrics,
    model::{Change, Family, Protocol, Routed, ServiceKey},
    sources::Sources,
};

/// Everything is written anew after this time, whatever is known.
const FULL_SYNC: Duration = Duration::from_secs(3600);
/// Clusters with more endpoints are spared that in iptables mode.
pub(crate) const LARGE_CLUSTER: usize = 1000;
/// The first wait after a failed sync.
const RETRY: Duration = Duration::from_millis(200);

/// One family's rules.
struct FamilyProxy {
    family: Family,
    backend: Option<Box<dyn Backend>>,
    /// The next sync must write everything.
    needs_full: bool,
    last_full: Instant,
    /// Service ports with a local policy and no endpoint here: traffic inside and from outside.
    no_local: HashMap<ServiceKey, (usize, usize)>,
}

/// How often the loop does what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Periods {
    pub min_sync: Duration,
    pub sync: Duration,
    /// Large clusters are not written anew every hour.
    pub spare_large: bool,
}

/// Owns what was programmed last.
pub(crate) struct Proxier {
    periods: Periods,
    sources: Sources,
    health: Arc<HealthState>,
    metrics: Metrics,
    families: Vec<FamilyProxy>,
}

/// What one sync of one family does.
enum Work {
    Full(Vec<Routed>),
    Partial(Vec<ServiceChange>),
}

impl Proxier {
    pub(crate) fn new(
        periods: Periods,
        sources: Sources,
        health: Arc<HealthState>,
        metrics: Metrics,
        backends: Vec<(Family, Box<dyn Backend>)>,
    ) -> Self {
        let families = backends.into_iter().map(|(family, backend)| FamilyProxy {
            family,
            backend: Some(backend),
            needs_full: true,
            last_full: Instant::now(),
            no_local: HashMap::new(),
        });
        Self { periods, sources, health, metrics, families: families.collect() }
    }

    /// Runs until cancelled; the rules stay, so that traffic flows on while we are away.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let changed = self.sources.changed.clone();
        let mut retry = RETRY;
        let mut check = tokio::time::interval(self.periods.sync);
        check.tick().await;
        loop {
            let failed = self.sync().await;
            let pause = if failed {
                retry = (retry * 2).min(self.periods.sync);
                retry.max(self.periods.min_sync)
            } else {
                retry = RETRY;
                self.periods.min_sync
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if failed {
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = changed.notified() => {}
                _ = check.tick() => {
                    if !self.look_after().await {
                        continue;
                    }
                }
            }
        }
    }

    /// Whether there is something to do: rules that somebody removed, or an hour is over.
    async fn look_after(&mut self) -> bool {
        let mut needed = false;
        for proxy in &mut self.families {
            let Some(mut backend) = proxy.backend.take() else { continue };
            let Ok((backend, intact)) = tokio::task::spawn_blocking(move || {
                let intact = backend.is_intact();
                (backend, intact)
            })
            .await
            else {
                continue;
            };
            proxy.backend = Some(backend);
            if !intact {
                tracing::warn!(family = proxy.family.as_str(), "somebody removed rules of ours; writing them anew");
                proxy.needs_full = true;
            }
            needed |= proxy.needs_full || proxy.last_full.elapsed() > FULL_SYNC;
        }
        needed
    }

    /// Writes what changed, in all families. True when a family failed.
    async fn sync(&mut self) -> bool {
        let (changes, all, service_cidrs) = {
            let mut world = self.sources.world.lock();
            let all = std::mem::take(&mut world.all_changed);
            (world.model.take_changes(), all, world.service_cidrs.clone())
        };
        self.metrics.taken();
        let mut failed = false;
        for at in 0..self.families.len() {
            self.families[at].needs_full |= all;
            let around = Surroundings { service_cidrs: service_cidrs.clone(), endpoints: self.endpoints(at) };
            failed |= !self.sync_family(at, &changes, around).await;
        }
        failed
    }

    fn endpoints(&self, at: usize) -> usize {
        // Only iptables mode wants to know.
        if self.periods.spare_large {
            self.sources.world.lock().model.endpoint_count(self.families[at].family)
        } else {
            0
        }
    }

    async fn sync_family(&mut self, at: usize, changes: &HashMap<ServiceKey, Change>, around: Surroundings) -> bool {
        let started = Instant::now();
        let proxy = &mut self.families[at];
        let family = proxy.family;
        let spared = self.periods.spare_large && around.endpoints > LARGE_CLUSTER;
        let full = proxy.needs_full || (proxy.last_full.elapsed() > FULL_SYNC && !spared);
        let work = {
            let world = self.sources.world.lock();
            if full {
                Work::Full(world.model.route_all(family))
            } else {
                Work::Partial(differences(changes, |key| world.model.route(key, family), family))
            }
        };
        if matches!(&work, Work::Partial(changes) if changes.is_empty()) {
            self.health.applied(family);
            return true;
        }
        proxy.count_without_local(&work);
        let udp = udp_services(&work);
        let result = proxy.apply(work, around).await;
        let applied = result.as_ref().ok().copied();
        self.metrics.synced(family, full, started.elapsed(), applied);
        if let Err(error) = result {
            proxy.needs_full = true;
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(family = family.as_str(), error, "cannot write the rules; retrying");
            return false;
        }
        tracing::debug!(family = family.as_str(), full, elapsed = ?started.elapsed(), "rules are written");
        proxy.needs_full = applied.is_some_and(|applied| applied.cleanup_failed && !full);
        if full {
            proxy.last_full = Instant::now();
        }
        let (internal, external) =
            proxy.no_local.values().fold((0, 0), |sum, (inside, outside)| (sum.0 + inside, sum.1 + outside));
        self.metrics.without_local_endpoints(family, internal, external);
        for (_, since) in changes.values().flat_map(|change| &change.triggers).filter(|trigger| trigger.0 == family) {
            self.metrics.programmed(family, *since);
        }
        self.health.applied(family);
        let checks = self.sources.world.lock().model.health_checks(family);
        self.health.set_services(family, checks);
        self.clean_conntrack(family, full, udp).await;
        true
    }

    /// Flows of UDP services whose endpoints changed.
    async fn clean_conntrack(&self, family: Family, full: bool, udp: BTreeSet<ServiceKey>) {
        if udp.is_empty() {
            return;
        }
        let serving = self.sources.world.lock().model.udp_endpoints(family, (!full).then_some(&udp));
        let started = Instant::now();
        match tokio::task::spawn_blocking(move || conntrack::clean(family, &serving)).await {
            Ok(Ok(deleted)) => self.metrics.conntrack(family, started.elapsed(), deleted),
            Ok(Err(error)) => tracing::warn!(%error, "cannot list the kernel's flows: stale UDP flows stay"),
            Err(error) => tracing::warn!(%error, "looking through flows was cut short"),
        }
    }
}

impl FamilyProxy {
    async fn apply(&mut self, work: Work, around: Surroundings) -> Result<Applied, BackendError> {
        let Some(mut backend) = self.backend.take() else { return Err(BackendError::Lost) };
        let done = tokio::task::spawn_blocking(move || {
            let result = match &work {
                Work::Full(all) => backend.full(all, &around),
                Work::Partial(changed) => backend.partial(changed, &around),
            };
            (backend, result)
        });
        let (backend, result) = done.await.map_err(|_| BackendError::Lost)?;
        self.backend = Some(backend);
        result
    }

    fn count_without_local(&mut self, work: &Work) {
        let count = |ports: &[Routed]| {
            let any = ports.iter().filter(|routed| routed.choice.any);
            let inside = any.clone().filter(|routed| !routed.has_internal()).count();
            (inside, any.filter(|routed| routed.service.is_external() && !routed.has_external()).count())
        };
        let mut note = |service: &ServiceKey, ports: &[Routed]| match count(ports) {
            (0, 0) => drop(self.no_local.remove(service)),
            some => drop(self.no_local.insert(service.clone(), some)),
        };
        match work {
            Work::Full(all) => {
                all.chunk_by(|one, other| one.name.service == other.name.service)
                    .for_each(|ports| note(&ports[0].name.service, ports));
            }
            Work::Partial(changed) => changed.iter().for_each(|change| note(&change.service, &change.new)),
        }
    }
}

/// Services whose routing in this family is not what it was.
fn differences(
    changes: &HashMap<ServiceKey, Change>,
    route: impl Fn(&str) -> Vec<Routed>,
    family: Family,
) -> Vec<ServiceChange> {
    // In order, so that the first of several claimants is always the same.
    let sorted: BTreeMap<&ServiceKey, &Change> = changes.iter().collect();
    let all = sorted.into_iter().map(|(service, change)| ServiceChange {
        service: service.clone(),
        old: change.old[family as usize].clone(),
        new: route(service),
    });
    all.filter(|change| change.old != change.new).collect()
}

fn udp_services(work: &Work) -> BTreeSet<ServiceKey> {
    let udp = |ports: &[Routed]| {
        let udp = ports.iter().filter(|routed| routed.name.protocol == Protocol::Udp);
        udp.map(|routed| routed.name.service.clone()).collect::<BTreeSet<_>>()
    };
    match work {
        Work::Full(all) => udp(all),
        Work::Partial(changed) => changed.iter().flat_map(|change| udp(&change.new)).collect(),
    }
}
