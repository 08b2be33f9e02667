//! DynamicResources: devices for ResourceClaims (structured parameters, KEP-4381 and those built on it).
//!
//! PreFilter looks the pod's claims up and takes a snapshot of what is in use; Filter allocates node by node; Reserve makes the
//! chosen node's allocation count at once; PreBind writes it, reserves the claims for the pod, and waits for devices that must
//! be made ready.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use common::events::EventsV1Recorder;
use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{DeviceRequest, ResourceClaim, ResourceClaimStatus};
use parking_lot::Mutex;

pub mod allocator;
pub mod bind;
pub mod binding;
pub mod cel;
pub mod claims;
pub mod cluster;
pub mod cycle;
pub mod extended;
pub mod hints;
pub mod pod;

#[cfg(test)]
mod tests;

use self::allocator::Failure;
use self::binding::{Readiness, readiness, timed_out};
use self::claims::{allocation, uid};
use self::cluster::Devices;
use self::cycle::Cycle;
use crate::cache::snapshot::NodeView;
use crate::config::args::DynamicResourcesArgs;
use crate::framework::plugin::{
    CycleContext, EnqueueExtensions, Filter, Plugin, PostBind, PostFilter, PostFilterContext, PostFiltered, PreBind,
    PreEnqueue, PreFilter, PreFiltered, PreScore, PreScored, Reserve, Score, StateData, normalize_by_max, state_of,
};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};
use crate::plugins::registry::Services;

/// Upstream's name.
pub const NAME: &str = "DynamicResources";
/// What protects a claim that has devices.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// The plugin.
pub struct DynamicResources {
    devices: Arc<Devices>,
    client: Option<kube::Client>,
    recorder: Option<EventsV1Recorder>,
    /// For writes that nobody waits for; absent in tests of the decision alone.
    runtime: Result<tokio::runtime::Handle, tokio::runtime::TryCurrentError>,
    profile: String,
    filter_timeout: Option<Duration>,
    binding_timeout: Duration,
    /// The last pod's attempt, for what follows its filters.
    last: Mutex<Option<(Arc<str>, Arc<Cycle>)>>,
    /// Attempts of pods whose binding is under way, by uid.
    reserved: Mutex<HashMap<Arc<str>, Arc<Cycle>>>,
}

impl DynamicResources {
    /// With the profile's arguments.
    pub fn new(args: &DynamicResourcesArgs, profile: &str, services: &Services) -> Self {
        let devices = services.devices.clone();
        let timeout = args.filter_timeout().filter(|time| devices.features.filter_timeout && !time.is_zero());
        Self {
            devices,
            client: services.client.clone(),
            recorder: services.recorder.clone(),
            runtime: tokio::runtime::Handle::try_current(),
            profile: profile.to_owned(),
            filter_timeout: timeout,
            binding_timeout: args.binding_timeout(),
            last: Mutex::default(),
            reserved: Mutex::default(),
        }
    }

    fn last(&self, pod: &PodInfo) -> Option<Arc<Cycle>> {
        self.last.lock().as_ref().filter(|(uid, _)| *uid == pod.uid).map(|(_, cycle)| cycle.clone())
    }

    fn reserved(&self, pod: &PodInfo) -> Option<Arc<Cycle>> {
        self.reserved.lock().get(&pod.uid).cloned()
    }

    /// Upstream's checks of a claim that has to be allocated.
    fn check(&self, claim: &ResourceClaim) -> Verdict {
        let key = allocator::problem::key(claim);
        if self.devices.claims.pending(uid(claim)).is_some() {
            let reason = format!("resource claim {key} is in the process of being allocated");
            return Err(Status::unresolvable(NAME, reason));
        }
        let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
        requests.into_iter().try_for_each(|request| self.check_request(&key, request))
    }

    fn check_request(&self, key: &str, request: &DeviceRequest) -> Verdict {
        let name = &request.name;
        match (&request.exactly, request.first_available.as_deref().unwrap_or_default()) {
            (Some(exactly), _) => self.check_class(&exactly.device_class_name, name),
            (None, []) => {
                let reason = format!("resource claim {key}, request {name}: unknown request type");
                Err(Status::unresolvable(NAME, reason))
            }
            (None, _) if !self.devices.features.prioritized_list => {
                let reason = format!(
                    "resource claim {key}, request {name}: has subrequests, but the DRAPrioritizedList feature is disabled"
                );
                Err(Status::unresolvable(NAME, reason))
            }
            (None, choices) => choices
                .iter()
                .try_for_each(|choice| self.check_class(&choice.device_class_name, &format!("{name}/{}", choice.name))),
        }
    }

    fn check_class(&self, class: &str, request: &str) -> Verdict {
        if class.is_empty() {
            return Err(Status::error(NAME, format!("request {request}: unsupported request type")));
        }
        match self.devices.classes.get("", class) {
            Some(_) => Ok(()),
            None => {
                let reason = format!("request {request}: device class {class} does not exist");
                Err(Status::unresolvable(NAME, reason))
            }
        }
    }

    /// Claims that are allocated, but not for this node, or whose devices will not become ready.
    fn unavailable(&self, cycle: &Cycle, node: &NodeView<'_>) -> Vec<usize> {
        let now = Timestamp::now();
        let claims = cycle.claims.lock();
        let reaches = |at: usize| {
            cycle.reach[at]
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|term| term.matches(node.name(), |key| node.label(key))))
        };
        let broken = |claim: &ResourceClaim| match readiness(claim) {
            Readiness::Failed(_) => true,
            Readiness::Waiting => timed_out(claim, self.binding_timeout, now),
            Readiness::Ready => false,
        };
        let allocated = claims.iter().enumerate().filter(|(_, claim)| allocation(claim).is_some());
        allocated
            .filter(|(at, claim)| !reaches(*at) || (self.devices.features.binding_conditions && broken(claim)))
            .map(|(at, _)| at)
            .collect()
    }

    fn allocate(&self, cycle: &Cycle, pod: &PodInfo, node: &NodeView<'_>, backed: Vec<Arc<str>>) -> Verdict {
        let Some(object) = &node.snapshot.nodes[node.slot as usize] else { return Ok(()) };
        let deadline = self.filter_timeout.map(|limit| Instant::now() + limit);
        let wrap = |error: String| Status::error(NAME, format!("running {NAME:?} filter plugin: {error}"));
        cycle.allocate(&self.devices, pod, object, backed, deadline).map_err(|failure| match failure {
            Failure::Unfit => Status::unresolvable(NAME, "cannot allocate all claims"),
            Failure::Because(reason) => Status::unresolvable(NAME, reason),
            Failure::TimedOut => wrap(format!("node {}: timed out trying to allocate devices", node.name())),
            Failure::Error(error) => wrap(error),
        })
    }
}

extension_points!(DynamicResources {
    as_pre_enqueue: PreEnqueue,
    as_pre_filter: PreFilter,
    as_filter: Filter,
    as_post_filter: PostFilter,
    as_pre_score: PreScore,
    as_score: Score,
    as_reserve: Reserve,
    as_pre_bind: PreBind,
    as_post_bind: PostBind,
    as_enqueue: EnqueueExtensions
});

impl PreEnqueue for DynamicResources {
    fn pre_enqueue(&self, pod: &PodInfo) -> Verdict {
        if pod.template.resource_claims.is_empty() {
            return Ok(());
        }
        let claims = pod::claims_of(pod, &self.devices.claims);
        claims.map(drop).map_err(|reason| Status::unresolvable(NAME, reason))
    }
}

impl PreFilter for DynamicResources {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        let (pod, devices) = (cx.pod, &self.devices);
        if pod.template.resource_claims.is_empty() && pod.template.extended.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        if self.client.is_some() && !devices.synced() {
            return Err(Status::error(NAME, "resource claims, slices and device classes are not all known yet"));
        }
        let claims = pod::claims_of(pod, &devices.claims).map_err(|reason| Status::unresolvable(NAME, reason))?;
        let special = extended::special(pod, devices);
        if claims.is_empty() && special.is_none() {
            return Ok(PreFiltered::Skip);
        }
        claims.iter().filter(|claim| allocation(claim).is_none()).try_for_each(|claim| self.check(claim))?;
        let cycle = Arc::new(Cycle::new(devices, claims, special));
        *self.last.lock() = Some((pod.uid.clone(), cycle.clone()));
        Ok(PreFiltered::with(cycle))
    }
}

impl Filter for DynamicResources {
    fn filter(&self, cx: &CycleContext<'_>, state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        let Some(cycle) = state_of::<Arc<Cycle>>(state) else { return Ok(()) };
        let mut backed = Vec::new();
        if let Some(special) = &cycle.special {
            if special.stale {
                return Err(Status::unresolvable(NAME, "cannot schedule extended resource claim"));
            }
            backed = extended::backed_on(cx.pod, node, &self.devices)
                .ok_or_else(|| Status::unresolvable(NAME, "cannot fit resource"))?;
            if backed.is_empty() && cycle.claims.lock().is_empty() {
                return Ok(());
            }
        }
        let unavailable = self.unavailable(cycle, node);
        if cycle.allocates() {
            self.allocate(cycle, cx.pod, node, backed)?;
        }
        if !unavailable.is_empty() {
            cycle.unavailable.lock().extend(unavailable);
            return Err(Status::unresolvable(NAME, "resourceclaim not available on the node"));
        }
        Ok(())
    }
}

impl PostFilter for DynamicResources {
    /// Gives back a claim that is allocated where the pod cannot run, if nobody else uses it; one at a time.
    fn post_filter(&self, cx: &PostFilterContext<'_>) -> Result<PostFiltered, Arc<Status>> {
        let pod = cx.cycle.pod;
        let said = |message: &str| Ok(PostFiltered { message: message.into(), ..PostFiltered::default() });
        let Some(cycle) = self.last(pod) else { return said("no new claims to deallocate") };
        let idle = |claim: &ResourceClaim| {
            let reserved = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
            reserved.into_iter().all(|consumer| *consumer.uid == *pod.uid)
        };
        let claims = cycle.claims.lock().clone();
        let unavailable = cycle.unavailable.lock().clone();
        if let Some(claim) = unavailable.iter().filter_map(|at| claims.get(*at)).find(|claim| idle(claim)) {
            let mut claim = (**claim).clone();
            let status = claim.status.get_or_insert_with(ResourceClaimStatus::default);
            (status.allocation, status.reserved_for, status.devices) = (None, None, None);
            self.spawn(|client| bind::replace_status(client, claim));
            return said("deallocation of ResourceClaim completed");
        }
        if let Some(special) = cycle.special.as_ref().filter(|special| special.stale) {
            let claim = special.claim.clone();
            self.spawn(|client| bind::delete(client, claim));
            return said("deletion of ResourceClaim completed");
        }
        said("still not schedulable")
    }
}

impl PreScore for DynamicResources {
    fn pre_score(&self, cx: &CycleContext<'_>, _nodes: &[u32]) -> Result<PreScored, Arc<Status>> {
        let alternatives = |claim: &Arc<ResourceClaim>| {
            let mut requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
            requests.any(|request| request.first_available.is_some())
        };
        match self.last(cx.pod) {
            Some(cycle) if self.devices.features.prioritized_list && cycle.claims.lock().iter().any(alternatives) => {
                Ok(PreScored::Continue(Some(Box::new(cycle))))
            }
            _ => Ok(PreScored::Skip),
        }
    }
}

impl Score for DynamicResources {
    fn score(
        &self,
        cx: &CycleContext<'_>,
        state: Option<&dyn StateData>,
        nodes: &[u32],
        scores: &mut [i64],
    ) -> Result<(), Arc<Status>> {
        let cycle = state_of::<Arc<Cycle>>(state);
        for (slot, score) in nodes.iter().zip(scores) {
            *score = cycle.map_or(0, |cycle| cycle.score(&cx.snapshot.names[*slot as usize]));
        }
        Ok(())
    }

    fn normalize(&self, _cx: &CycleContext<'_>, _state: Option<&dyn StateData>, _nodes: &[u32], scores: &mut [i64]) {
        normalize_by_max(scores, false);
    }
}

impl Reserve for DynamicResources {
    fn reserve(&self, _cx: &CycleContext<'_>, pod: &PodInfo, node: &NodeView<'_>) -> Verdict {
        let Some(cycle) = self.last(pod) else { return Ok(()) };
        *self.last.lock() = None;
        self.reserved.lock().insert(pod.uid.clone(), cycle.clone());
        let found = cycle.found.lock().get(node.name()).cloned();
        let claims = cycle.claims.lock().clone();
        let Some(found) = found else {
            // Fine when the node itself has the extended resources that were all there was to allocate.
            return match claims.iter().any(|claim| allocation(claim).is_none()) {
                true => Err(Status::error(NAME, "claim allocation not found for node")),
                false => Ok(()),
            };
        };
        for (at, result) in &found.results {
            let special = found.plan.special.as_ref().map(|(claim, _)| claim);
            let Some(claim) = claims.get(*at).or(special) else { continue };
            let mut claim = (**claim).clone();
            let finalizers = claim.metadata.finalizers.get_or_insert_default();
            if !finalizers.iter().any(|known| known == FINALIZER) {
                finalizers.push(FINALIZER.into());
            }
            claim.status.get_or_insert_default().allocation = Some(result.clone());
            let claim = Arc::new(claim);
            self.devices.claims.reserve(claim.clone());
            cycle.decided.lock().push((*at, claim));
        }
        Ok(())
    }

    fn unreserve(&self, pod: &PodInfo, _node: &str) {
        let Some(cycle) = self.reserved(pod) else { return };
        for (_, claim) in cycle.decided.lock().drain(..) {
            self.devices.claims.release(&claim);
        }
        if !cycle.binding.load(Ordering::Acquire) {
            self.reserved.lock().remove(&pod.uid);
        }
    }
}

#[async_trait]
impl PreBind for DynamicResources {
    async fn pre_bind(&self, pod: &PodInfo, node: &str) -> Verdict {
        let Some(cycle) = self.reserved(pod) else { return Ok(()) };
        cycle.binding.store(true, Ordering::Release);
        self.bind(pod, node, &cycle).await.map_err(|error| Status::error(NAME, error))
    }

    async fn undo(&self, pod: &PodInfo, _node: &str) {
        let cycle = self.reserved.lock().remove(&pod.uid);
        if let Some(cycle) = cycle {
            self.unbind(pod, &cycle).await;
        }
    }
}

#[async_trait]
impl PostBind for DynamicResources {
    async fn post_bind(&self, pod: &PodInfo, _node: &str) {
        self.reserved.lock().remove(&pod.uid);
    }
}
