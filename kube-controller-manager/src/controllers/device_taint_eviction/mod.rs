//! `device-taint-eviction-controller`: evicts pods that use a device whose taint they don't tolerate, when their time is over.
//! Taints come with ResourceSlices; DeviceTaintRules (off by default) are not looked at.

mod plan;

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::informer::{Event, Informer, InformerOptions, WorkQueue, object_key, run_workers, split_key};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::Client;
use parking_lot::Mutex;
use prometheus::IntCounter;

use crate::context::{Context, Task};
use crate::controllers::resource_claim::{BY_RESOURCE_CLAIM, claims_of};
use crate::events::{Events, reference};
use crate::shared::eviction::{Farewell, evict};
use crate::shared::meta::MetaExt;
use crate::shared::pods;

const BY_POOL: &str = "device-pool";
const WORKERS: usize = 8;
const FAREWELL: Farewell = Farewell {
    disruption: Some(("DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint")),
    fail: false,
    force: false,
};

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("device-taint-eviction-controller");
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "device-taint-eviction-controller"),
        client,
        pods: ctx.factory.informer(),
        claims: ctx.factory.informer(),
        slices: ctx.factory.informer_with(InformerOptions { transform: plan::trim, ..InformerOptions::default() }),
        queue: WorkQueue::new("device-taint-eviction"),
        scheduled: Mutex::default(),
    });
    controller.register();
    let (shutdown, queue) = (ctx.shutdown.clone(), controller.queue.clone());
    Ok(Box::pin(async move {
        run_workers("device-taint-eviction", queue, WORKERS, shutdown, move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        })
        .await;
    }))
}

struct Controller {
    client: Client,
    events: Events,
    pods: Arc<Informer<Pod>>,
    claims: Arc<Informer<ResourceClaim>>,
    slices: Arc<Informer<ResourceSlice>>,
    queue: Arc<WorkQueue<String>>,
    /// Pods whose eviction waits for its time.
    scheduled: Mutex<HashSet<String>>,
}

impl Controller {
    fn register(self: &Arc<Self>) {
        self.pods.add_index(BY_RESOURCE_CLAIM, |pod| claims_of(pod).collect());
        self.slices.add_index(BY_POOL, |slice| vec![plan::pool_of_slice(slice)]);
        self.claims.add_index(BY_POOL, |claim| plan::allocated(claim).iter().map(plan::pool_of).collect());
        let c = self.clone();
        self.slices.on_event(move |event: &Event<ResourceSlice>| {
            let slice = event.object();
            let before = matches!(event, Event::Updated { old, .. } if tainted(old));
            if before || tainted(slice) || c.waits() {
                c.claims.by_index(BY_POOL, &plan::pool_of_slice(slice)).iter().for_each(|claim| c.add_users(claim));
            }
        });
        let c = self.clone();
        self.claims.on_event(move |event: &Event<ResourceClaim>| {
            let claim = event.object();
            if c.waits() || c.slices_of(claim).iter().any(|slice| tainted(slice)) {
                c.add_users(claim);
            }
        });
        let c = self.clone();
        self.pods.on_event(move |event: &Event<Pod>| {
            let pod = event.object();
            let moved = match event {
                Event::Updated { old, new } => pods::node_name(old) != pods::node_name(new),
                _ => true,
            };
            if moved && claims_of(pod).next().is_some() {
                c.queue.add(object_key(&**pod));
            }
        });
    }

    fn waits(&self) -> bool {
        !self.scheduled.lock().is_empty()
    }

    fn add_users(&self, claim: &ResourceClaim) {
        let users = self.pods.by_index(BY_RESOURCE_CLAIM, &object_key(claim));
        users.iter().for_each(|pod| self.queue.add(object_key(&**pod)));
    }

    fn slices_of(&self, claim: &ResourceClaim) -> Vec<Arc<ResourceSlice>> {
        let pools: HashSet<String> = plan::allocated(claim).iter().map(plan::pool_of).collect();
        pools.iter().flat_map(|pool| self.slices.by_index(BY_POOL, pool)).collect()
    }

    /// When the pod has to go, if ever.
    fn eviction_time(&self, pod: &Pod) -> Option<Timestamp> {
        let reserved = |claim: &Arc<ResourceClaim>| {
            let consumers = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
            consumers.into_iter().any(|consumer| consumer.uid == pod.uid_str())
        };
        let claims = claims_of(pod).filter_map(|key| self.claims.get_by_key(&key)).filter(reserved);
        claims
            .filter_map(|claim| {
                let slices = self.slices_of(&claim);
                plan::eviction_time(&claim, slices.iter().map(|slice| &**slice))
            })
            .min()
    }

    async fn sync(&self, key: &str) -> Result<(), kube::Error> {
        let (namespace, name) = split_key(key);
        let live = |pod: &Arc<Pod>| !pod.is_deleting() && !pods::node_name(pod).is_empty();
        let Some(pod) = self.pods.get(namespace, name).filter(live) else {
            self.scheduled.lock().remove(key);
            return Ok(());
        };
        let Some(at) = self.eviction_time(&pod) else {
            if self.scheduled.lock().remove(key) {
                self.events.normal(&reference(&*pod), "DeviceTaintManagerEviction", "Cancelling deletion".into());
            }
            return Ok(());
        };
        let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
        if !left.is_zero() {
            self.scheduled.lock().insert(key.to_owned());
            self.queue.add_after(key.to_owned(), left);
            return Ok(());
        }
        self.scheduled.lock().remove(key);
        self.events.normal(&reference(&*pod), "DeviceTaintManagerEviction", "Marking for deletion".into());
        evict(&self.client, &pod, &FAREWELL).await?;
        counter().iter().for_each(|counter| counter.inc());
        Ok(())
    }
}

/// Whether anything is left of it after trimming.
fn tainted(slice: &ResourceSlice) -> bool {
    slice.spec.devices.as_ref().is_some_and(|devices| !devices.is_empty())
}

fn counter() -> Option<&'static IntCounter> {
    static COUNTER: OnceLock<Option<IntCounter>> = OnceLock::new();
    let name = "device_taint_eviction_controller_pod_deletions_total";
    let help = "Total number of Pods deleted by DeviceTaintEvictionController since its start.";
    COUNTER.get_or_init(|| IntCounter::new(name, help).ok().map(common::telemetry::register)).as_ref()
}
