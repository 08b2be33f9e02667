//! VolumeBinding: bound volumes must be within reach of the node; claims that wait for their first consumer get a volume
//! that is there or one that can be made, together with the pod's node.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use parking_lot::Mutex;

use self::binder::Binder;
use self::search::{Found, Refusal, Search};
use crate::cache::snapshot::NodeView;
use crate::config::args::VolumeBindingArgs;
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::plugin::{
    CycleContext, EnqueueExtensions, Filter, Plugin, PreBind, PreFilter, PreFiltered, Reserve, StateData, state_of,
};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Code, Status, Verdict};
use crate::metrics;
use crate::plugins::registry::Services;
use crate::storage::{Storage, check_owner, claim_name, facts, uses_claim};

pub mod binder;
pub mod search;

#[cfg(test)]
mod tests;

/// Upstream's name.
pub const NAME: &str = "VolumeBinding";
const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";

static IMMEDIATE: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unresolvable(NAME, "pod has unbound immediate PersistentVolumeClaims"));

/// The plugin.
pub struct VolumeBinding {
    storage: Arc<Storage>,
    binder: Binder,
    /// The last pod's search, for its Reserve.
    last: Mutex<Option<(Arc<str>, Arc<Search>)>>,
    /// What was assumed for pods whose binding is under way.
    reserved: Mutex<HashMap<Arc<str>, Found>>,
}

impl VolumeBinding {
    /// With the profile's arguments.
    pub fn new(args: &VolumeBindingArgs, services: &Services) -> Self {
        let binder = Binder {
            storage: services.storage.clone(),
            client: services.client.clone(),
            nodes: services.nodes.clone(),
            pods: services.pods.clone(),
            timeout: Duration::from_secs(args.bind_timeout_seconds.max(0) as u64),
        };
        Self { storage: services.storage.clone(), binder, last: Mutex::default(), reserved: Mutex::default() }
    }

    /// The pod's claims, if all are there and alive.
    fn claims(&self, pod: &PodInfo) -> Result<Vec<Arc<PersistentVolumeClaim>>, String> {
        let mut claims = Vec::with_capacity(pod.template.volumes.claims.len());
        for claim in &pod.template.volumes.claims {
            let (name, generated) = claim_name(pod, claim);
            let found = self.storage.claim(pod.namespace(), &name).ok_or_else(|| match generated {
                true => format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"),
                false => format!("persistentvolumeclaim {name:?} not found"),
            })?;
            if found.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
                let volume = facts::volume_name(&found);
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            if found.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if generated {
                check_owner(pod, &found)?;
            }
            claims.push(found);
        }
        Ok(claims)
    }

    /// Whether an unbound claim waits for the scheduler (as opposed to the controller).
    fn delayed(&self, claim: &PersistentVolumeClaim) -> Result<bool, String> {
        let name = facts::claim_class(claim);
        let Some(class) = self.storage.classes.get("", name) else { return Ok(false) };
        let waits = facts::waits_for_consumer(&class)
            .ok_or_else(|| format!("VolumeBindingMode not set for StorageClass {name:?}"))?;
        Ok(waits && facts::volume_name(claim).is_empty())
    }

    fn search(&self, pod: &PodInfo) -> Result<Search, Arc<Status>> {
        let claims = self.claims(pod).map_err(|reason| Status::unresolvable(NAME, reason))?;
        let (bound, open): (Vec<_>, Vec<_>) = claims.into_iter().partition(|claim| facts::fully_bound(claim));
        for claim in &open {
            if !self.delayed(claim).map_err(|error| Status::error(NAME, error))? {
                return Err(IMMEDIATE.clone());
            }
        }
        Ok(Search::new(&self.storage, &bound, &open))
    }
}

fn refused(refusal: Refusal) -> Arc<Status> {
    match refusal {
        Refusal::Reasons(reasons) => Arc::new(Status {
            code: Code::UnschedulableAndUnresolvable,
            plugin: NAME,
            reasons: reasons.into_iter().map(Into::into).collect(),
        }),
        Refusal::Error(error) => {
            metrics::VOLUME_ERRORS.with_label_values(&["predicate"]).inc();
            Status::error(NAME, error)
        }
    }
}

extension_points!(VolumeBinding {
    as_pre_filter: PreFilter,
    as_filter: Filter,
    as_reserve: Reserve,
    as_pre_bind: PreBind,
    as_enqueue: EnqueueExtensions
});

impl PreFilter for VolumeBinding {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        if cx.pod.template.volumes.claims.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        let search = Arc::new(self.search(cx.pod)?);
        *self.last.lock() = Some((cx.pod.uid.clone(), search.clone()));
        Ok(PreFiltered::with(search))
    }
}

impl Filter for VolumeBinding {
    fn filter(&self, _cx: &CycleContext<'_>, state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        let Some(search) = state_of::<Arc<Search>>(state) else { return Ok(()) };
        search.on(node).map(|_| ()).map_err(refused)
    }
}

impl Reserve for VolumeBinding {
    fn reserve(&self, cx: &CycleContext<'_>, pod: &PodInfo, node: &NodeView<'_>) -> Verdict {
        if cx.pod.template.volumes.claims.is_empty() {
            return Ok(());
        }
        let last = self.last.lock().take().filter(|(uid, _)| *uid == pod.uid);
        let search = match last {
            Some((_, search)) => search,
            None => Arc::new(self.search(pod)?),
        };
        let found = search.on(node).map_err(refused)?;
        if found.bindings.is_empty() && found.provisions.is_empty() {
            return Ok(());
        }
        let assumed = self.binder.assume(&found, node.name()).map_err(|error| {
            metrics::VOLUME_ERRORS.with_label_values(&["assume"]).inc();
            Status::error(NAME, error)
        })?;
        self.reserved.lock().insert(pod.uid.clone(), assumed);
        Ok(())
    }

    fn unreserve(&self, pod: &PodInfo, _node: &str) {
        if let Some(assumed) = self.reserved.lock().remove(&pod.uid) {
            self.binder.revert(&assumed);
        }
    }
}

#[async_trait]
impl PreBind for VolumeBinding {
    async fn pre_bind(&self, pod: &PodInfo, node: &str) -> Verdict {
        // From here on the binder takes back what it did not get through.
        let Some(assumed) = self.reserved.lock().remove(&pod.uid) else { return Ok(()) };
        self.binder.bind(pod, node, assumed).await.map_err(|error| {
            metrics::VOLUME_ERRORS.with_label_values(&["bind"]).inc();
            Status::error(NAME, error)
        })
    }
}

impl EnqueueExtensions for VolumeBinding {
    fn interests(&self) -> Vec<Interest> {
        use action::{ADD, NODE_LABEL, UPDATE};
        [
            (Resource::StorageClass, ADD | UPDATE),
            (Resource::PersistentVolumeClaim, ADD | UPDATE),
            (Resource::PersistentVolume, ADD | UPDATE),
            (Resource::Node, ADD | NODE_LABEL),
            (Resource::CsiNode, ADD | UPDATE),
            (Resource::CsiDriver, UPDATE),
            (Resource::CsiStorageCapacity, ADD | UPDATE),
        ]
        .map(|(resource, action)| Interest { resource, action })
        .into()
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        let queue = match event.resource {
            Resource::StorageClass => match event.objects_of::<StorageClass>() {
                (Some(old), Some(new)) => old.allowed_topologies != new.allowed_topologies,
                _ => true,
            },
            Resource::PersistentVolumeClaim => {
                event.objects_of::<PersistentVolumeClaim>().1.is_none_or(|claim| uses_claim(pod, claim))
            }
            Resource::CsiNode => match event.objects_of::<CSINode>() {
                (Some(old), Some(new)) => {
                    facts::annotation(&old.metadata, MIGRATED) != facts::annotation(&new.metadata, MIGRATED)
                }
                _ => true,
            },
            Resource::CsiDriver => match event.objects_of::<CSIDriver>() {
                (Some(old), Some(new)) => {
                    let name = new.metadata.name.as_deref().unwrap_or_default();
                    let counts = |driver: &CSIDriver| driver.spec.storage_capacity == Some(true);
                    pod.template.volumes.inline_drivers.iter().any(|driver| driver == name)
                        && counts(old)
                        && !counts(new)
                }
                _ => true,
            },
            Resource::CsiStorageCapacity => match event.objects_of::<CSIStorageCapacity>() {
                (Some(old), Some(new)) => facts::volume_limit(new) > facts::volume_limit(old),
                _ => true,
            },
            _ => true,
        };
        if queue { Hint::Queue } else { Hint::Skip }
    }
}
