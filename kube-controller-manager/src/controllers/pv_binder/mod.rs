//! `persistentvolume-binder-controller`: brings claims and volumes together and takes released volumes back.
//!
//! A pair is made in four writes (volume, its phase, claim, its phase), each safe to repeat: whoever finds half a pair completes
//! it. Volumes are written with their resourceVersion, so no two claims get the same one.

mod claim;
mod matching;
mod objects;
mod volume;
mod writes;

#[cfg(test)]
mod model_tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use self::claim::Step as ClaimStep;
use crate::context::{Context, Task};
use crate::events::Events;
use crate::shared::meta::MetaExt;
use crate::shared::overlay::Overlay;
use crate::shared::volumes::{
    BIND_COMPLETED, claim_phase, claim_ref, class_of_claim, class_of_volume, index_pods, phase, pods_of, volume_name,
};
use crate::shared::{apierr, pods};

/// Index of free volumes by class (`class:`), and of reserved and bound ones by claim (`claim:`).
const CANDIDATES: &str = "pv-candidates";
/// Index of claims that are not bound, by class, and all of them under [`ANY`].
const OPEN: &str = "open-claims";
/// No name of a class.
const ANY: &str = "*";
/// Index of volumes that may have to be taken back again.
const UNSETTLED: &str = "unsettled-volumes";
const WORKERS: usize = 4;

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("persistent-volume-binder");
    let flags = &ctx.options.volumes;
    if flags.enable_hostpath_provisioner {
        tracing::warn!("--enable-hostpath-provisioner has no effect: no provisioner is built in");
    }
    let pods = ctx.factory.informer::<Pod>();
    index_pods(&pods);
    let binder = Arc::new(Binder {
        events: ctx.events(&client, "persistentvolume-controller"),
        client,
        volumes: Overlay::new(ctx.factory.informer()),
        claims: Overlay::new(ctx.factory.informer()),
        classes: ctx.factory.informer(),
        pods,
        claim_queue: WorkQueue::new("claims"),
        volume_queue: WorkQueue::new("volumes"),
        taken: Mutex::default(),
        provisioning: flags.enable_dynamic_provisioning,
        shutdown: ctx.shutdown.clone(),
    });
    binder.register();
    let period = flags.pvclaimbinder_sync_period;
    Ok(Box::pin(async move {
        let (c, v) = (binder.clone(), binder.clone());
        let (claims, volumes) = (binder.claim_queue.clone(), binder.volume_queue.clone());
        let claims = run_workers("claims", claims, WORKERS, binder.shutdown.clone(), move |key: String| {
            let binder = c.clone();
            async move { binder.sync_claim(&key).await }
        });
        let volumes = run_workers("volumes", volumes, WORKERS, binder.shutdown.clone(), move |name: String| {
            let binder = v.clone();
            async move { binder.sync_volume(&name).await }
        });
        tokio::join!(claims, volumes, binder.look_again(period));
    }))
}

struct Binder {
    client: Client,
    events: Events,
    volumes: Overlay<PersistentVolume>,
    claims: Overlay<PersistentVolumeClaim>,
    classes: Arc<Informer<StorageClass>>,
    pods: Arc<Informer<Pod>>,
    claim_queue: Arc<WorkQueue<String>>,
    volume_queue: Arc<WorkQueue<String>>,
    /// Volumes that a claim is being bound to this moment, so that the other workers choose others.
    taken: Mutex<HashSet<String>>,
    provisioning: bool,
    shutdown: CancellationToken,
}

/// Why a run has to be repeated.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("{0}")]
    Undecided(String),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

fn candidate_keys(volume: &PersistentVolume) -> Vec<String> {
    vec![match claim_ref(volume) {
        Some((claim, _)) => format!("claim:{claim}"),
        None => format!("class:{}", class_of_volume(volume)),
    }]
}

fn is_open(claim: &PersistentVolumeClaim) -> bool {
    claim.annotation(BIND_COMPLETED).is_none() || claim_phase(claim) != "Bound"
}

impl Binder {
    fn register(self: &Arc<Self>) {
        self.volumes.informer().add_index(CANDIDATES, candidate_keys);
        self.volumes.informer().add_index(UNSETTLED, |volume| match phase(volume) {
            "Released" | "Failed" if volume::reclaim(volume) != volume::Reclaim::Leave => vec![String::new()],
            _ => Vec::new(),
        });
        self.claims.informer().add_index(OPEN, |claim| match is_open(claim) {
            true => vec![class_of_claim(claim).to_owned(), ANY.to_owned()],
            false => Vec::new(),
        });
        let b = self.clone();
        self.volumes.informer().on_event(move |event: &Event<PersistentVolume>| {
            let volume = event.object();
            b.volume_queue.add(object_key(&**volume));
            match (event, claim_ref(volume)) {
                (Event::Deleted(_), Some((claim, _))) => b.claim_queue.add(claim),
                (Event::Deleted(_), None) => {}
                (_, None) if phase(volume) == "Available" => b.look_at_open(class_of_volume(volume)),
                _ => {}
            }
            if matches!(event, Event::Added(_)) {
                // Somebody may wait for a volume of that name.
                b.look_at_waiting_for(volume.name_str());
            }
        });
        let b = self.clone();
        self.claims.informer().on_event(move |event: &Event<PersistentVolumeClaim>| {
            let claim = event.object();
            b.claim_queue.add(object_key(&**claim));
            // Its volume learns that the claim is bound, or gone.
            if !volume_name(claim).is_empty() {
                b.volume_queue.add(volume_name(claim).to_owned());
            }
            if matches!(event, Event::Deleted(_)) {
                let of = b.volumes.informer().by_index(CANDIDATES, &format!("claim:{}", object_key(&**claim)));
                of.iter().for_each(|volume| b.volume_queue.add(object_key(&**volume)));
            }
        });
        let b = self.clone();
        self.classes.on_event(move |event: &Event<StorageClass>| {
            if !matches!(event, Event::Deleted(_)) {
                b.look_at_open(event.object().name_str());
                b.look_at_open("");
            }
        });
    }

    /// Queues the claims of a class that wait for a volume.
    fn look_at_open(&self, class: &str) {
        let open = self.claims.informer().by_index(OPEN, class);
        open.iter().for_each(|claim| self.claim_queue.add(object_key(&**claim)));
    }

    fn look_at_waiting_for(&self, volume: &str) {
        let Some((claim, _)) = self.volumes.informer().get("", volume).as_deref().and_then(claim_ref) else { return };
        self.claim_queue.add(claim);
    }

    /// What no event tells: pods that begin to wait, a volume that could not be removed.
    async fn look_again(&self, period: Duration) {
        let mut every = tokio::time::interval(period.max(Duration::from_secs(1)));
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                _ = every.tick() => {}
            }
            self.look_at_open(ANY);
            for volume in self.volumes.informer().by_index(UNSETTLED, "") {
                self.volume_queue.add(object_key(&*volume));
            }
        }
    }

    async fn sync_claim(&self, key: &str) -> Result<(), SyncError> {
        let Some(mut claim) = self.claims.get(key) else { return Ok(()) };
        if let Some(noted) = objects::migrated_claim(&claim) {
            claim = self.write_claim(noted).await?;
        }
        let (step, taken) = {
            // Chosen and reserved at once.
            let mut taken = self.taken.lock();
            let view = Seen { binder: self, taken: &taken };
            let step = claim::step(&claim, &view, self.provisioning).map_err(SyncError::Undecided)?;
            let name = match &step {
                ClaimStep::Bind(volume) => Some(volume.name_str().to_owned()),
                _ => None,
            };
            let inserted = name.filter(|name| taken.insert(name.clone()));
            (step, inserted)
        };
        let result = self.do_for_claim(&claim, step).await;
        if let Some(name) = taken {
            self.taken.lock().remove(&name);
        }
        match result {
            // The object is gone or newer than we know: its event brings the claim back.
            Err(SyncError::Api(error)) if apierr::is_not_found(&error) => Ok(()),
            other => other,
        }
    }

    /// The claim that a volume names, if it lives. Before a volume is given up the server is asked.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<Arc<PersistentVolumeClaim>>, kube::Error> {
        let Some((key, uid)) = claim_ref(volume).filter(|(_, uid)| !uid.is_empty()) else { return Ok(None) };
        let cached = self.claims.get(&key);
        if let Some(claim) = cached.as_ref().filter(|claim| claim.uid_str() == uid) {
            return Ok(Some(claim.clone()));
        }
        if cached.is_none() && matches!(phase(volume), "Released" | "Failed") {
            return Ok(None);
        }
        let (namespace, name) = split_key(&key);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        Ok(api.get_opt(name).await?.filter(|claim| claim.uid_str() == uid).map(Arc::new))
    }

    async fn sync_volume(&self, name: &str) -> Result<(), SyncError> {
        let Some(mut volume) = self.volumes.get(name) else { return Ok(()) };
        if let Some(noted) = objects::migrated_volume(&volume) {
            volume = self.write_volume(noted).await?;
        }
        let claim = self.claim_of(&volume).await?;
        match self.do_for_volume(volume.clone(), claim.as_deref(), volume::step(&volume, claim.as_deref())).await {
            Err(SyncError::Api(error)) if apierr::is_not_found(&error) => Ok(()),
            other => other,
        }
    }
}

/// The world as the decision about a claim sees it.
struct Seen<'a> {
    binder: &'a Binder,
    taken: &'a HashSet<String>,
}

impl claim::View for Seen<'_> {
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.binder.volumes.get(name)
    }

    fn candidates(&self, claim: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>> {
        let volumes = self.binder.volumes.informer();
        let mut found = volumes.by_index(CANDIDATES, &format!("claim:{}", object_key(claim)));
        found.extend(volumes.by_index(CANDIDATES, &format!("class:{}", class_of_claim(claim))));
        found.retain(|volume| !self.taken.contains(volume.name_str()));
        found.into_iter().filter_map(|volume| self.binder.volumes.get(volume.name_str())).collect()
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.binder.classes.get("", name)
    }

    fn classes(&self) -> Vec<Arc<StorageClass>> {
        self.binder.classes.list()
    }

    fn unscheduled_pods(&self, claim: &PersistentVolumeClaim) -> Vec<String> {
        let all = pods_of(&self.binder.pods, &object_key(claim));
        let waiting = all.iter().filter(|pod| !pods::is_terminal(pod) && pods::node_name(pod).is_empty());
        waiting.map(|pod| pod.name_str().to_owned()).collect()
    }
}
